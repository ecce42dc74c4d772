"""Every case of an evaluation as a table: each image and class or finding, with its outcome at the threshold."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trainer.evaluation.calibration.operating import (
    OperatingPoints,
    above_thresholds,
    calibrated_thresholds,
    probabilities,
)
from trainer.evaluation.statistics.predictions import Predictions

MOST_CLASSES = 20
"""Of more classes true negatives are left out, or the table would grow with images times classes."""


def write_cases(path: Path, predictions: Predictions, points: OperatingPoints) -> None:
    """Write a CSV file with a row for each image and labelled finding, or each image and class. Raises OSError."""
    is_single = predictions.task == "single_label"
    titles = ["key", "class" if is_single else "finding", "label", "probability", "threshold", "outcome"]
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(titles + ["most probable"] * is_single)
        table.writerows(_rows(predictions, points))


def _rows(predictions: Predictions, points: OperatingPoints) -> Iterator[list[Any]]:
    task, classes = predictions.task, predictions.classes
    calibrated = probabilities(predictions.logits, task, points.temperature)
    thresholds = calibrated_thresholds(predictions.logits, task, points, classes)
    above = above_thresholds(predictions.logits, task, points, classes)
    positive, negative = (np.stack(each, axis=1) for each in zip(*predictions.known(), strict=True))
    shown = positive | negative
    best = predictions.logits.argmax(axis=1)
    if task == "single_label" and len(classes) > MOST_CLASSES:
        shown &= positive | above
    for row, column in np.argwhere(shown).tolist():
        is_above, is_positive = above[row, column], positive[row, column]
        outcome = ("T" if is_above == is_positive else "F") + ("P" if is_above else "N")
        numbers = [int(is_positive), float(calibrated[row, column]), float(thresholds[row, column])]
        most = [int(best[row] == column)] if task == "single_label" else []
        yield [predictions.keys[row], classes[column], *numbers, outcome, *most]
