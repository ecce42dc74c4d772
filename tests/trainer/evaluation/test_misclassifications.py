"""Which errors are called the most confident."""

import numpy as np
import pytest

from trainer.evaluation.assessment.misclassifications import most_confident
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.statistics.predictions import Predictions


def log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))


@pytest.mark.parametrize(
    ("shares", "order"),
    [
        ((0.25, 0.1, 0.9), [2, 1, 0]),  # a miss close to its threshold of 0.26 is no confident one
        ((0.2, 0.01, 0.3), [1, 0, 2]),
    ],
)
def test_findings_far_from_their_threshold_come_first(shares: tuple[float, ...], order: list[int]) -> None:
    """The first two are missed, the last one is a false alarm."""
    logits = np.array([[log_odds(share)] for share in shares], dtype=np.float32)
    labels = np.array([[1], [1], [0]], dtype=np.float32)
    predictions = Predictions(("x",), ("a", "b", "c"), logits, labels, np.full(3, -1))
    found, count = most_confident(predictions, OperatingPoints(thresholds={"x": log_odds(0.26)}))
    assert count == 3
    assert [error.row for error in found] == order
