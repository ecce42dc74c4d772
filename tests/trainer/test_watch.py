"""A loss that is no number stops the run within a step, and says which images it came from."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_pipelines.errors import RunError
from data_pipelines.order import Order
from trainer.watch import LossWatch

ORDER = Order(num_samples=50, global_batch_size=8, seed=3)
STEP, LR = 11, 0.125


@pytest.fixture
def watch(tmp_path: Path) -> LossWatch:
    train = SimpleNamespace(keys=lambda samples: [f"image-{sample}" for sample in samples])
    return LossWatch(SimpleNamespace(train=train, order=ORDER, run_dir=tmp_path))


def keys_of(rank: int, world_size: int = 2) -> list[str]:
    return [f"image-{sample}" for sample in ORDER.step(STEP, rank, world_size).samples]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_loss_stops_the_next_step_and_names_rank_step_rate_and_images(
    watch: LossWatch, tmp_path: Path, bad: float
) -> None:
    watch.see(STEP, LR, torch.tensor([1.0, bad, 0.0]))
    with pytest.raises(RunError) as stopped:
        watch.see(STEP + 1, 0.5, torch.tensor([1.0, 1.0, 0.0]))
    message = str(stopped.value)
    assert "the loss of step 11 is not finite at learning rate 0.125, on rank 1;" in message
    assert all(key in message for key in keys_of(1))
    assert not any(f"{key}," in message for key in keys_of(0))
    assert "lower the learning rate" in message
    (path,) = tmp_path.iterdir()
    assert str(path) in message
    assert json.loads(path.read_text()) == {"step": STEP, "lr": LR, "keys_by_rank": {"1": keys_of(1)}}


def test_settle_checks_at_once(watch: LossWatch) -> None:
    watch.see(STEP, LR, torch.tensor([math.nan, math.nan, 0.0]))
    with pytest.raises(RunError, match=r"step 11 is not finite .* on rank 0, 1;"):
        watch.settle()


def test_finite_losses_pass(watch: LossWatch, tmp_path: Path) -> None:
    watch.settle()
    for step in range(3):
        watch.see(step, LR, torch.tensor([1e30, -1.0, 0.0, 0.0]))
    watch.settle()
    watch.settle()
    assert list(tmp_path.iterdir()) == []


def test_asked_to_stop_is_read_one_step_late(watch: LossWatch) -> None:
    watch.see(STEP, LR, torch.tensor([1.0, 1.0, 1.0]))
    assert not watch.stop_asked
    watch.see(STEP + 1, LR, torch.tensor([1.0, 1.0, 2.0]))
    assert watch.stop_asked
