"""What no engine does in a step: read from the device, for which a GPU would have to wait, with the loss scaler or
without; and round the head's products."""

import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import flat
from engine_runs import INSTALLED, VARIANT_ROWS, VARIANTS, to_start
from run_ranks import run_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Progress
from trainer.engines import ENGINES
from trainer.models.bit import BiTResNet
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.run_folder.metric_logger import MetricLogger
from trainer.training.job import make_job
from trainer.training.loop import train

STEPS = 4
READS = {
    torch.ops.aten._local_scalar_dense.default,  # item(), float(), int(), bool(), if
    torch.ops.aten.nonzero.default,  # whose size the host must know
    torch.ops.aten.equal.default,
    torch.ops.aten.masked_select.default,
}
# What the watch reads was copied in the step before, behind an event.
READ_LATE = ("step_report.py", "read")


class Reads(TorchDispatchMode):
    """Who reads, by the innermost file and function outside torch."""

    def __init__(self) -> None:
        super().__init__()
        self.by: Counter[tuple[str, str]] = Counter()
        self.counts = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS and self.counts:
            frames = [frame for frame in traceback.extract_stack()[:-1] if "/torch/" not in frame.filename]
            self.by[Path(frames[-1].filename).name, frames[-1].name] += 1
        return func(*args, **(kwargs or {}))


class Enough(Exception):  # noqa: N818 - nothing is wrong
    """Ends the loop before it logs and saves."""


class Steps(MetricLogger):
    """Of a rank that writes nothing; ends the loop. What is read before the first step does not count."""

    def __init__(self, run_dir: Path, reads: Reads) -> None:
        super().__init__(run_dir, 1, 0, STEPS, "test")
        self.left, self.reads = STEPS, reads
        reads.counts = False

    def advance(self) -> None:
        self.reads.counts = True
        self.left -= 1
        if not self.left:
            raise Enough


def on_rank(names: list[str], data: str, folder: Path) -> dict[str, Any]:
    """Of each variant and precision: who read in some steps, and what the loss scaler did."""
    seen, engine = {}, None
    for name in names:
        if engine is not None and engine._runtime.engine == VARIANTS[name].engine:
            engine._runtime = VARIANTS[name]
        else:
            if engine is not None:
                engine.close()
            engine = ENGINES[VARIANTS[name].engine](VARIANTS[name], "fp32")
        for scales in (False, True):
            engine._scales_loss = scales  # as fp16 does, which needs a GPU
            seen[name, scales] = reads_of(engine, data, folder / name / str(scales))
        seen[name] = (scaled(engine, ["", "overflow", ""]), scaled(engine, ["", ""]))
        engine._scales_loss, engine._amp_dtype = False, torch.bfloat16
        seen[name, "bf16"] = products_of(engine)
        engine._amp_dtype = None
    if engine is not None:
        engine.close()
    return seen


class Products(TorchDispatchMode):
    """The types of what matrix products take."""

    def __init__(self) -> None:
        super().__init__()
        self.of: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.of |= {argument.dtype for argument in args}
        return func(*args, **(kwargs or {}))


def products_of(engine: Any) -> set[torch.dtype]:
    """In the forward and backward pass of a step in bf16; the head alone has any."""
    prepared(engine, 3, 3)
    with Products() as products, engine.accumulate(last=True):
        logits = engine.model(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
        engine.backward(logits.square().mean(), 1)
    engine.step()
    return products.of


def reads_of(engine: Any, data: str, folder: Path) -> dict[tuple[str, str], int]:
    config = Config(
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=(data,), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=100, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, micro_batch_size=2, log_every=1000, save_every=1000),
    )
    job = replace(make_job(config, folder), val=None)
    prepared(engine, job.train.num_classes, job.train.channels)
    with pytest.raises(Enough), Reads() as reads:
        train(job, engine, Steps(folder, reads), Progress(0))
    return dict(reads.by)


def prepared(engine: Any, num_classes: int, channels: int) -> BiTResNet:
    torch.manual_seed(0)
    model = BiTResNet((1,), 0.5, num_classes, "fan_in")
    optimizer = SGDAGC(param_groups(model, num_classes, 0.01), lr=0.1, momentum=0.9)
    engine.prepare(model, optimizer, torch.zeros(2, channels, 32, 32, dtype=torch.uint8))
    return model


def scaled(engine: Any, steps: list[str]) -> list[dict[str, Any]]:
    """Weights, momentum, scale and norm after each step; "overflow": of the gradients of the last rank alone."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    model, after = prepared(engine, 3, 3), []
    engine.set_lr(0.1)
    for what in steps:
        with engine.accumulate(last=True):
            logits = engine.model(images + engine.rank)
            overflows = what == "overflow" and engine.rank == engine.world_size - 1
            engine.backward(logits.square().mean() * (3e38 if overflows else 1.0), engine.world_size)
        with Reads() as reads:
            update = engine.step()
        state = engine.state_dict()
        after.append(
            {
                "weights": flat(dict(model.named_parameters())),
                "momentum": flat(state["momentum"]) if state["momentum"] else np.zeros(0),
                "scale": state["loss_scaler"]["scale"],
                "norm": float(update.grad_norm),
                "reads": dict(reads.by),
            }
        )
    return after


@pytest.fixture(scope="module")
def seen(
    phantoms: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> list[dict[Any, Any]]:
    return run_ranks(2, on_rank, to_start(request), str(phantoms), tmp_path_factory.mktemp("reads"))


def require_installed(name: str) -> None:
    if name not in INSTALLED:
        pytest.skip(f"{VARIANTS[name].engine} is not installed")


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("name", VARIANT_ROWS)
def test_a_step_reads_nothing_from_the_device(name: str, scales: bool, seen: list[dict[Any, Any]]) -> None:
    require_installed(name)
    for rank in seen:
        assert rank[name, scales].keys() == {READ_LATE}
        assert rank[name, scales][READ_LATE] >= STEPS - 1


@pytest.mark.parametrize("name", VARIANT_ROWS)
def test_the_head_is_fp32_in_both_passes_under_autocast(name: str, seen: list[dict[Any, Any]]) -> None:
    require_installed(name)
    assert [rank[name, "bf16"] for rank in seen] == [{torch.float32}] * 2


@pytest.mark.parametrize("name", VARIANT_ROWS)
def test_an_overflow_on_one_rank_is_left_out_on_all(name: str, seen: list[dict[Any, Any]]) -> None:
    require_installed(name)
    for rank in seen:
        (before, overflowed, after), undisturbed = rank[name]
        assert np.isfinite(before["norm"])
        assert not np.isfinite(overflowed["norm"])
        for part in ("weights", "momentum"):
            assert np.array_equal(overflowed[part], before[part])
            assert np.array_equal(after[part], undisturbed[1][part])
            assert not np.array_equal(after[part], before[part])
        assert [one["scale"] for one in (before, overflowed, after)] == [2.0**16, 2.0**15, 2.0**15]
        assert before["reads"] == overflowed["reads"] == after["reads"] == {}
        for part in ("weights", "momentum"):
            assert np.array_equal(after[part], seen[0][name][0][2][part])
