"""A val loss that has been rising for a third of the run is warned of, once, at the end."""

import pytest

from trainer.config import Config, DataConfig, ModelConfig
from trainer.training.rising_val_loss import RisingValLoss


def told(
    losses: list[float],
    capsys: pytest.CaptureFixture[str],
    model: ModelConfig | None = None,
    steps_per_epoch: float = 1.0,
) -> list[str]:
    config = Config(data=DataConfig(sets=("some",)), model=model or ModelConfig())
    rising = RisingValLoss(config, len(losses), steps_per_epoch)
    lines = []
    for done, loss in enumerate(losses, 1):
        rising.observe(done, loss)
        lines.append(capsys.readouterr().err)
    return lines


@pytest.mark.parametrize(
    ("losses", "is_told"),
    [
        ([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0], True),
        ([3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 2.6, 2.7, 2.6], False),
        ([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.9, 1.0], False),
        ([3.0, 0.0, 0.0, 0.0, 1e-9, 1e-8, 1e-8, 1e-7, 1e-6], False),
        ([9.0, 2.0, 2.0, 2.0, 2.001, 2.002, 2.003, 2.004, 2.005], False),
    ],
)
def test_a_val_loss_that_rises_for_long_is_told(
    losses: list[float], is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    *before, last = told(losses, capsys)
    assert not any(before)
    assert ("val loss was lowest at step" in last) == is_told


def test_no_image_is_overfitted_before_it_is_seen_again(capsys: pytest.CaptureFixture[str]) -> None:
    rising = [1.0, 2.0, 3.0, 4.0]
    assert ["val loss" in told(rising, capsys, None, steps)[-1] for steps in (2.9, 3.0, 4.0)] == [True, False, False]


def test_the_remedies_are_those_that_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    rising = [1.0, 2.0, 2.0, 2.0]
    large = told(rising, capsys)[-1]
    assert "--data.randaugment-ops 2" in large
    assert "--model.pretrained" in large
    assert "--model.name r14x0.5" in large
    assert "smaller" not in told(rising, capsys, ModelConfig("r14x0.5"))[-1]
    assert "pre-trained" not in told(rising, capsys, ModelConfig("r26x1", pretrained="runs/some"))[-1]
