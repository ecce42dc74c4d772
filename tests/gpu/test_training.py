"""Training on a GPU: in three precisions without waiting for it, as CUDA graphs, resumed, and over NCCL."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from small_runs import STEPS, config_of, difference, train
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer import checkpoint
from trainer.config import Precision
from trainer.engines import ENGINES
from trainer.engines.ddp import DDPEngine, init_process_group
from trainer.engines.ranks import RankInfo
from trainer.run_folder.metric_logger import MetricLogger, read_metrics

WATCHED = ("exchange", "forward", "backward", "update")
FIRST_WATCHED = 2  # before that, tables that stay on the GPU are made


def refuse_to_wait(refuses: bool) -> None:
    """From now on whatever waits for the GPU raises."""
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("error" if refuses else "default")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[DDPEngine], Counter[str]]:
    """Lets an engine's steps refuse to wait between data and log; counts the phases in which they did."""

    def watch(engine: DDPEngine) -> Counter[str]:
        phases: Counter[str] = Counter()
        enter, advance, step_now = engine.heartbeat.enter, MetricLogger.advance, -1

        def entered(phase: Any, step: int | None = None) -> None:
            nonlocal step_now
            step_now = step_now if step is None else step
            refuses = phase in WATCHED and step_now >= FIRST_WATCHED
            enter(phase, step)
            refuse_to_wait(refuses)
            phases[phase] += refuses

        def advanced(metric_logger: MetricLogger) -> None:
            refuse_to_wait(False)  # what is logged is read
            advance(metric_logger)

        monkeypatch.setattr(engine.heartbeat, "enter", entered)
        monkeypatch.setattr(MetricLogger, "advance", advanced)
        return phases

    return watch


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(
    device: torch.device,
    precision: Precision,
    phantoms: Path,
    tmp_path: Path,
    watched: Callable[[DDPEngine], Counter[str]],
) -> None:
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("a CPU does not train in fp16")
    config = config_of(phantoms, device, precision)
    engine = ENGINES["ddp"](config.runtime, precision)
    phases = watched(cast(DDPEngine, engine))
    try:
        weights = train(config, tmp_path / "run", engine)
    finally:
        refuse_to_wait(False)
        engine.close()
    steps = STEPS - FIRST_WATCHED
    assert {phase: count for phase, count in phases.items() if count} == {
        "exchange": steps,
        "forward": 2 * steps,
        "backward": 2 * steps,
        "update": steps,
    }
    assert all(tensor.isfinite().all() for tensor in weights.values())
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "run") if "train/loss" in row]
    assert len(losses) == STEPS
    assert all(0 < loss < 10 for loss in losses)


def test_what_waits_is_refused(device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("nothing waits for a CPU")
    scalar = torch.ones((), device=device)
    refuse_to_wait(True)
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            scalar.item()
    finally:
        refuse_to_wait(False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_agree(device: torch.device, precision: Precision, phantoms: Path, tmp_path: Path) -> None:
    """With the CPU's float32, after six updates."""
    expected = train(config_of(phantoms, torch.device("cpu")), tmp_path / "cpu")
    found = train(config_of(phantoms, device, precision, tf32=False), tmp_path / "found")
    assert difference(found, expected) <= {"fp32": 1e-3, "bf16": 3e-2}[precision]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [True, "graphs"])
def test_compiled_units_and_graphs_train_as_eager_mode_does(
    compiled: bool | str, phantoms: Path, tmp_path: Path
) -> None:
    device = torch.device("cuda", 0)
    expected = train(config_of(phantoms, device, "bf16"), tmp_path / "eager")
    found = train(config_of(phantoms, device, "bf16", compile=compiled), tmp_path / "compiled")
    assert difference(found, expected) <= 1e-2


class KillError(Exception):
    """Stands for a kill: it passes every handler of the run."""


def train_with_a_kill(config: Any, run_dir: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    advance, done = MetricLogger.advance, 0

    def counted(metric_logger: MetricLogger) -> None:
        nonlocal done
        done += 1
        advance(metric_logger)
        if done == after:
            raise KillError

    with monkeypatch.context() as patch:
        patch.setattr(MetricLogger, "advance", counted)
        with pytest.raises(KillError):
            train(config, run_dir)
    assert checkpoint.numbered(run_dir)
    assert not checkpoint.path_of(run_dir, STEPS).exists()
    return train(config, run_dir)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_is_bit_equal(
    device: torch.device, precision: Precision, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config = config_of(phantoms, device, precision)
    whole, again = train(config, tmp_path / "whole"), train(config, tmp_path / "again")
    if not all(torch.equal(whole[name], again[name]) for name in whole):
        pytest.skip("two whole runs differ on this device, so a resumed one may")
    resumed = train_with_a_kill(config, tmp_path / "resumed", after=5, monkeypatch=monkeypatch)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


class OneRank(DDPEngine):
    """A rank by itself that exchanges all the same, with NCCL on a GPU and Gloo on a CPU."""

    def _connect(self, rank_info: RankInfo) -> None:
        class Met:
            store = dist.HashStore()

        init_process_group(rank_info, self.device, cast(Any, Met), 60)

    def _wrap(self, model: nn.Module) -> nn.Module:
        self.world_size = 2  # or nothing would be wrapped
        try:
            return super()._wrap(model)
        finally:
            self.world_size = 1

    def close(self) -> None:
        super().close()
        dist.destroy_process_group()


@pytest.mark.slow
def test_one_rank_over_nccl(device: torch.device, phantoms: Path, tmp_path: Path) -> None:
    config = config_of(phantoms, device)
    expected = train(config, tmp_path / "alone")
    engine = OneRank(config.runtime, "fp32")
    try:
        assert dist.get_backend() == ("nccl" if device.type == "cuda" else "gloo")
        found = train(config, tmp_path / "exchanged", engine)
        assert isinstance(engine.model, DistributedDataParallel)
        assert engine._all_reduce(torch.full((3,), 2.0, device=device)).tolist() == [2.0] * 3
    finally:
        engine.close()
    assert difference(found, expected) <= 1e-5
