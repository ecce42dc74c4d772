"""Batches are halved until they fit on every rank, and what is learnt does not depend on it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from run_ranks import run_ranks
from tiny_sets import tiny_set
from torch import nn

from data_pipelines.common.errors import RunError
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.models.bit import BiTResNet
from trainer.training.memory import _fits
from trainer.training.run import LaunchOptions, run

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
]


def config_of(data: Path, batch: int = 12, mixup_alpha: float = 0.0, **runtime: Any) -> Config:
    return Config(
        global_batch_size=batch,
        precision="fp32",
        data=DataConfig(sets=(str(data),), image_size=32, resize=32, eval_view="squash", mixup_alpha=mixup_alpha),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.05, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=2, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, **runtime),
    )


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("sets") / "animals", [0, 1] * 10, ("cat", "dog"), splits=("train", "test"))


def limit_memory(training: int, evaluation: int = 99, error: Exception = OUT_OF_MEMORY[0]) -> list[int]:
    """Models then hold so many images at a time; the sizes of the batches they see are added to the list."""
    forward: Callable[..., torch.Tensor] = BiTResNet.__dict__.get("_unlimited", BiTResNet.forward)
    BiTResNet._unlimited = forward
    seen: list[int] = []

    def limited(model: BiTResNet, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > (training if torch.is_grad_enabled() else evaluation):
            raise error
        return forward(model, images)

    BiTResNet.forward = limited  # type: ignore[method-assign]
    return seen


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BiTResNet, "forward", BiTResNet.forward)  # put back afterwards


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.best_or_latest(run_dir)).state["model"]


@pytest.mark.slow
def test_halved_until_it_fits(animals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    seen = limit_memory(training=5, evaluation=7)
    run(config_of(animals, micro_batch_size="auto", eval_batch_size=16), LaunchOptions(tmp_path / "auto"), engine, {})
    # To get ready, trials of training and of evaluation, the dry run, two steps, and the test set.
    assert seen == [1, 12, 6, 3, 16, 8, 4, 3] + 8 * [3] + 5 * [4]
    line = "--micro-batch-size auto: 3 images per rank in one pass, 4 of them make a step; 4 in evaluation"
    assert line in capsys.readouterr().err
    given = config_of(animals, micro_batch_size=3, eval_batch_size=4)
    run(given, LaunchOptions(tmp_path / "given"), engine, {})
    found, expected = weights_of(tmp_path / "auto"), weights_of(tmp_path / "given")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_what_fits_is_not_halved_and_pairs_stay_together(animals: Path, tmp_path: Path) -> None:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    seen = limit_memory(training=12)
    run(config_of(animals, micro_batch_size="auto"), LaunchOptions(tmp_path / "all"), engine, {})
    assert seen == [1, 12, 20, 12, 12, 12, 20]  # no split has more than 20 images
    seen = limit_memory(training=5)
    run(config_of(animals, 20, mixup_alpha=0.2, micro_batch_size="auto"), LaunchOptions(tmp_path / "mixed"), engine, {})
    assert seen == [2, 20, 10, 6, 4, 20] + 11 * [4] + [20]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_what_is_taken_for_lack_of_memory(error: Exception) -> None:
    def attempt() -> None:
        raise error

    engine: Any = SimpleNamespace(model=nn.Linear(1, 1), device=torch.device("cpu"))
    assert not _fits(attempt, engine)


@pytest.mark.slow
def test_not_even_one_image(animals: Path, tmp_path: Path) -> None:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    limit_memory(training=99, evaluation=0)
    with pytest.raises(RunError, match=r"not even 1 image of 32 pixels fit into memory; take a smaller model"):
        run(config_of(animals, micro_batch_size="auto"), LaunchOptions(tmp_path / "run"), engine, {})


def test_other_errors_are_not_taken_for_it(animals: Path, tmp_path: Path) -> None:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    limit_memory(training=5, error=RuntimeError("a fault"))
    with pytest.raises(RuntimeError, match="a fault"):
        run(config_of(animals, micro_batch_size="auto"), LaunchOptions(tmp_path / "run"), engine, {})


def sizes_on_rank(data: Path, run_dir: Path) -> list[int]:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    seen = limit_memory(training=99 if engine.rank == 0 else 2)
    config = config_of(data)
    run(replace(config, runtime=replace(config.runtime, micro_batch_size="auto")), LaunchOptions(run_dir), engine, {})
    engine.close()
    return seen


@pytest.mark.slow
def test_the_fullest_rank_decides_for_all(animals: Path, tmp_path: Path) -> None:
    for seen in run_ranks(2, sizes_on_rank, animals, tmp_path / "run"):
        assert seen[:5] == [1, 6, 3, 2, 10]
        assert seen[5:12] == [2] * 7
