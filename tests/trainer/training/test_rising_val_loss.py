"""A val loss that has been rising for a third of the run is warned of, once and at the end."""

import pytest

from trainer.training.rising_val_loss import RisingValLoss


@pytest.mark.parametrize(
    ("losses", "told_at"),
    [
        ([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0], [6, 9]),
        ([3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 2.6, 2.7, 2.6], []),
        ([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.9, 1.0], [6]),
    ],
)
def test_a_val_loss_that_rises_for_long_is_told(
    losses: list[float], told_at: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    rising, told = RisingValLoss(len(losses)), []
    for done, loss in enumerate(losses, 1):
        rising.observe(done, loss)
        told += [done] * ("val loss was lowest at step" in capsys.readouterr().err)
    assert told == told_at
