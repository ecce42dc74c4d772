"""A loss that is no number stops the run within a step, and says which images it came from."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_pipelines.common.errors import RunError
from data_pipelines.loading.sampler import BatchSampler
from trainer.config import RuntimeConfig
from trainer.engine import Update
from trainer.run_files import SKIPPED_STEPS
from trainer.training.step_monitor import FEWEST_STEPS, WINDOW_STEPS, SpikeDetector, StepMonitor
from trainer.training.step_report import RankSums, StepReport

ORDER = BatchSampler(num_samples=50, global_batch_size=8, seed=3)
STEP, LR = 11, 0.125


def update(grad_norm: float = 1.0, skipped: bool | None = None) -> Update:
    flag = None if skipped is None else torch.tensor(skipped)
    return Update(torch.tensor(grad_norm), torch.tensor(0.5), flag)


def report_of(
    step: int, losses: list[float], update: Update, lr: float = LR, num_stopping: int = 0, num_overdue: int = 0
) -> StepReport:
    stopping, overdue = torch.tensor(float(num_stopping)), torch.tensor(float(num_overdue))
    sums = RankSums(torch.tensor(losses), stopping, torch.tensor(0.0), overdue)
    return StepReport(step, lr, sums, update)


def monitor_of(
    folder: Path, first_step: int = 0, precision: str = "fp32", warmup_steps: int = 0, **runtime: object
) -> StepMonitor:
    train = SimpleNamespace(keys=lambda samples: [f"image-{sample}" for sample in samples])
    config = SimpleNamespace(runtime=RuntimeConfig(**runtime), precision=precision)
    job = SimpleNamespace(
        train=train,
        order=ORDER,
        run_dir=folder,
        config=config,
        total_steps=1000,
        steps_per_epoch=10,
        schedule=lambda step: min(step, warmup_steps),
    )
    return StepMonitor(
        job,
        SimpleNamespace(rank=0, world_size=2, sum=lambda tensor: tensor, gather=lambda value: [value, []]),
        first_step,
    )


@pytest.fixture
def monitor(tmp_path: Path) -> StepMonitor:
    return monitor_of(tmp_path)


def keys_of(rank: int, world_size: int = 2) -> list[str]:
    return [f"image-{sample}" for sample in ORDER.request(STEP, rank, world_size).samples]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_loss_stops_the_next_step_and_names_rank_and_images(
    monitor: StepMonitor, tmp_path: Path, bad: float
) -> None:
    monitor.observe(report_of(STEP, [1.0, bad], update()))
    with pytest.raises(RunError) as stopped:
        monitor.observe(report_of(STEP + 1, [1.0, 1.0], update(), lr=0.5))
    message = str(stopped.value)
    assert "the loss of step 11 is not finite at learning rate 0.125, on rank 1;" in message
    assert all(key in message for key in keys_of(1))
    assert not any(f"{key}," in message for key in keys_of(0))
    assert "lower the learning rate" in message
    (path,) = tmp_path.iterdir()
    assert str(path) in message
    assert json.loads(path.read_text()) == {"step": STEP, "lr": LR, "keys_by_rank": {"1": keys_of(1)}}


def test_flush_checks_at_once(monitor: StepMonitor) -> None:
    monitor.observe(report_of(STEP, [math.nan, math.nan], update()))
    with pytest.raises(RunError, match=r"step 11 is not finite .* on rank 0, 1;"):
        monitor.flush()


def test_finite_losses_pass(monitor: StepMonitor, tmp_path: Path) -> None:
    monitor.flush()
    for step in range(3):
        monitor.observe(report_of(step, [1e30, -1.0], update()))
    monitor.flush()
    monitor.flush()
    assert list(tmp_path.iterdir()) == []


def test_asked_to_stop_is_read_one_step_late(monitor: StepMonitor) -> None:
    monitor.observe(report_of(STEP, [1.0, 1.0], update(), num_stopping=1))
    assert not monitor.stop_asked
    monitor.observe(report_of(STEP + 1, [1.0, 1.0], update(), num_stopping=2))
    assert monitor.stop_asked


def test_a_save_is_asked_for_once(monitor: StepMonitor) -> None:
    """Rank 0 finds the checkpoint too old in two reports, before the loop has heard of it and saved."""
    asked = []
    for step, num_overdue in enumerate([0, 1, 1, 0, 0]):
        monitor.observe(report_of(step, [1.0, 1.0], update(), num_overdue=num_overdue))
        asked.append(monitor.save_asked)
        if monitor.save_asked:
            monitor.flush()
    assert asked == [False, False, True, False, False]


def test_gradient_that_is_not_finite_stops_too(monitor: StepMonitor) -> None:
    monitor.observe(report_of(STEP, [1.0, 1.0], update(math.nan)))
    with pytest.raises(RunError, match=r"the gradient of step 11 is not finite .*--non-finite skip"):
        monitor.flush()


def test_infinite_fp16_gradient_is_left_to_the_loss_scaler(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path, precision="fp16")
    monitor.observe(report_of(STEP, [1.0, 1.0], update(math.inf)))
    monitor.flush()


def observe(monitor: StepMonitor, step: int, bad: bool) -> None:
    losses = [1.0, math.nan if bad else 1.0]
    ruined = monitor.is_nonfinite(torch.tensor(losses))
    assert ruined is not None
    monitor.observe(report_of(step, losses, update(skipped=bool(ruined))))


def test_skipped_steps_are_counted_over_a_resume_and_bounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = monitor_of(tmp_path, non_finite="skip", max_skipped_steps=2)
    for step in range(14):
        observe(monitor, step, bad=step in (STEP, 13))
    monitor.flush()
    assert "the loss of step 11 is not finite; the update is left out, as 1 of at most 2" in capsys.readouterr().err
    first, *rows = csv.reader((tmp_path / SKIPPED_STEPS).open())
    assert first == ["step", "lr", "why", "rank", "key"]
    assert [row for row in rows if row[0] == "11"] == [["11", "0.125", "loss", "1", key] for key in keys_of(1)]

    resumed = monitor_of(tmp_path, first_step=13, non_finite="skip", max_skipped_steps=2)
    assert resumed.num_skipped == 1  # step 13 is done again
    assert len(list(csv.reader((tmp_path / SKIPPED_STEPS).open()))) == 1 + len(keys_of(1))
    observe(resumed, 13, bad=True)
    observe(resumed, 14, bad=True)
    with pytest.raises(RunError, match=r"3 steps had .* more than --max-skipped-steps 2"):
        resumed.flush()


def test_gradient_alone_names_the_images_of_all_ranks(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path, non_finite="skip")
    monitor.observe(report_of(STEP, [1.0, 1.0], update(skipped=True)))
    monitor.flush()
    rows = list(csv.reader((tmp_path / SKIPPED_STEPS).open()))[1:]
    assert [row[2:] for row in rows] == [["gradient", str(rank), key] for rank in (0, 1) for key in keys_of(rank)]


def test_spike_is_seen_once_and_noise_is_not() -> None:
    draws = np.random.default_rng(0)
    falling = 5 - np.arange(400) * 0.005 + draws.normal(0, 0.1, 400)
    detector = SpikeDetector()
    assert all(detector.observe(float(loss)) is None for loss in falling)
    assert detector.observe(9.0) == pytest.approx(float(np.median(falling[-100:])), abs=0.1)
    assert detector.observe(9.0) is None  # the same spike
    assert detector.observe(float(falling[-1])) is None
    assert detector.observe(math.nan) is None
    assert detector.observe(9.0) is not None


def test_no_spike_before_a_full_window_nor_among_equal_losses() -> None:
    detector = SpikeDetector()
    assert [detector.observe(loss) for loss in [1.0] * (FEWEST_STEPS - 1) + [50.0]] == [None] * FEWEST_STEPS
    assert detector.observe(1.05) is None


def test_a_rise_among_tiny_losses_is_no_spike() -> None:
    detector = SpikeDetector()
    assert [detector.observe(loss) for loss in [3e-6] * WINDOW_STEPS + [3e-5, 0.05]] == [None] * (WINDOW_STEPS + 2)
    assert detector.observe(0.2) == pytest.approx(3e-6)


def test_spike_is_warned_of(monitor: StepMonitor, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(FEWEST_STEPS + 1):
        monitor.observe(report_of(step, [1.0 if step < FEWEST_STEPS else 40.0, 1.0], update()))
    monitor.flush()
    assert f"the loss of step {FEWEST_STEPS} jumps to 41, where 2 is usual" in capsys.readouterr().err


def test_no_spike_is_warned_of_in_the_warm_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = monitor_of(tmp_path, warmup_steps=FEWEST_STEPS + 1)
    for step in range(FEWEST_STEPS + 1):
        monitor.observe(report_of(step, [1.0 if step < FEWEST_STEPS else 40.0, 1.0], update()))
    monitor.flush()
    assert "leaps" not in capsys.readouterr().err
