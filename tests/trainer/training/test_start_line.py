"""A run says what it does before it does it, and which GPUs it leaves idle."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.training import start_line
from trainer.training.job import Job, RunOutput
from trainer.training.run import LaunchOptions, run
from trainer.training.start import summary


def config_of(data: Path) -> Config:
    return Config(
        name="small",
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=(str(data),), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=4, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1),
    )


class BegunError(Exception):
    """Training has begun."""


def begin(job: Job, engine: Engine) -> RunOutput:
    raise BegunError


@pytest.mark.parametrize("preflight_only", [False, True])
def test_a_run_says_what_it_does_before_it_trains(
    preflight_only: bool,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, start = config_of(phantoms), LaunchOptions(tmp_path / "run", preflight_only=preflight_only)
    engine = ENGINES["ddp"](config.runtime, "fp32")
    monkeypatch.setattr("trainer.training.run.preflight", lambda *_: None)
    if preflight_only:
        run(config, start, engine, {"kind": "pretrain"}, begin)
        assert "r14x0.5" not in capsys.readouterr().err
        return
    with pytest.raises(BegunError):
        run(config, start, engine, {"kind": "pretrain"}, begin)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("pretrain small: r14x0.5 in fp32 on cpu (")
    assert f" images of {phantoms} at 32 px, 4 steps of 8, peak learning rate 0.1, in {tmp_path / 'run'}" in first


def idle(count: int, kind: str, monkeypatch: pytest.MonkeyPatch, *argv: str, **engine: Any) -> str | None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    on_gpu = SimpleNamespace(**{"world_size": 1, "device": torch.device("cuda")} | engine)
    return start_line.idle_gpus(on_gpu, kind, ["pretrain.py", *argv])  # type: ignore[arg-type]


def test_idle_gpus_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(start_line.__file__).parents[2])
    assert idle(1, "pretrain", monkeypatch, "embedded") is None
    assert idle(4, "pretrain", monkeypatch, "embedded", world_size=4) is None
    assert idle(4, "pretrain", monkeypatch, "embedded", device=torch.device("cpu")) is None
    line = idle(4, "pretrain", monkeypatch, "embedded", "--out", "it's")
    words = "launchers/torchrun.sh --nproc 4 -- embedded --out " + shlex.quote("it's")
    assert line == f"3 more GPUs are idle; all 4: {words}"
    line = idle(2, "transfer", monkeypatch, "transfer", "--target", "digits")
    words = "torchrun --standalone --nproc-per-node 2 trainer/transfer.py --target digits"
    assert line == f"1 more GPU is idle; all 2: {words}"


def test_a_metric_that_is_not_defined_is_said_in_words() -> None:
    auc = {"val": {"auc": float("nan"), "images": 1}, "test": {"auc": 0.5, "images": 20}}
    line = summary({"run": "runs/a", "metric": "auc", "task": "multi_label", "checkpoint": "best.safetensors", **auc})
    assert "val mean AUC unknown, as nothing has both positives and negatives (1 image), test mean AUC 50.00%" in line
