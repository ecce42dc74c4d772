"""Ages come in bands, and an accuracy stands beside that of always the same answer."""

import numpy as np
import pytest

from trainer.document.text import plain
from trainer.evaluation.assessment.assess import assess
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.pages.page import summary
from trainer.evaluation.statistics.predictions import Predictions, age_band


@pytest.mark.parametrize(
    ("age", "band"),
    [("0", "00-17"), ("17.9", "00-17"), ("18", "18-39"), ("79", "60-79"), ("80", "80+"), ("90", "80+"), ("", ""),
     ("-3", ""), ("old", ""), ("nan", "")],
)  # fmt: skip
def test_age_bands(age: str, band: str) -> None:
    assert age_band(age) == band


@pytest.mark.parametrize(
    ("right", "beside"),
    [(70, ""), (62, " (always answering the most common class, cat, gives 0.600)"), (50, "gives 0.600")],
)
def test_accuracy_stands_beside_that_of_one_answer(right: int, beside: str) -> None:
    """Unless its interval lies above."""
    labels = np.arange(400) % 10 // 6  # six of ten are cats
    answers = np.where(np.arange(400) * 37 % 400 < 4 * right, labels, 1 - labels)
    keys = tuple(map(str, range(400)))
    predictions = Predictions(("cat", "dog"), keys, np.eye(2)[answers], labels, np.full(400, -1))
    text = plain(summary(assess(predictions, OperatingPoints(), 200)))
    assert text.startswith("400 images, 2 classes: accuracy 0.")
    assert ("always" in text) == bool(beside)
    assert beside in text
    assert predictions.most_common() == ("cat", 0.6)
