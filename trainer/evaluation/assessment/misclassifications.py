"""The most confident errors and the most certain hits on a test set, with their images."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.common.printable import printable
from data_pipelines.shards.index import Index
from trainer.evaluation.calibration.operating import (
    OperatingPoints,
    above_thresholds,
    calibrated_thresholds,
    probabilities,
    probability_text,
)
from trainer.evaluation.statistics.predictions import Predictions

MOST = 24
_SIDE = 160  # pixels of a thumbnail


@dataclass(frozen=True, eq=False)
class Misclassification:
    """row, finding: its image and its class or finding in the predictions. error: what is wrong, and the numbers.
    pixels: a thumbnail, uint8 [H, W] or [H, W, 3]."""

    row: int
    finding: int
    key: str
    error: tuple[str, str]
    pixels: npt.NDArray[np.uint8] | None = None


def most_confident(
    predictions: Predictions, points: OperatingPoints, most: int = MOST
) -> tuple[list[Misclassification], int]:
    """Wrong classes by the probability of the predicted class; wrong findings by how far their probability is from the
    threshold, as a share of the way to 0 or 1. At most one per image. Also the number of images with an error."""
    calibrated = probabilities(predictions.logits, predictions.task, points.temperature)
    if predictions.task == "single_label":
        taken = predictions.logits.argmax(axis=1)
        sure = np.where(taken != predictions.labels, calibrated.max(axis=1), -1.0)
        wrong: Any = taken
    else:
        called = above_thresholds(predictions.logits, predictions.task, points, predictions.classes)
        is_wrong = (called & (predictions.labels == 0)) | (~called & (predictions.labels == 1))
        thresholds = calibrated_thresholds(predictions.logits, predictions.task, points, predictions.classes)
        with np.errstate(invalid="ignore", divide="ignore"):  # a threshold of 0 or 1, beyond which nothing is
            beyond = np.where(called, (calibrated - thresholds) / (1 - thresholds), 1 - calibrated / thresholds)
        each = np.where(is_wrong, np.nan_to_num(np.clip(beyond, 0, 1)), -1.0)
        wrong, sure = each.argmax(axis=1), each.max(axis=1)
    rows = np.argsort(-sure, kind="stable")[:most]
    found = [
        _described(predictions, points, int(row), int(wrong[row]), float(calibrated[row, wrong[row]]))
        for row in rows
        if sure[row] >= 0
    ]
    return found, int((sure >= 0).sum())


def _described(
    predictions: Predictions, points: OperatingPoints, row: int, finding: int, probability: float
) -> Misclassification:
    name = printable(predictions.classes[finding])
    if predictions.task == "single_label":
        label = printable(predictions.classes[int(predictions.labels[row])])
        texts = (f"label {label}:", f"predicted {name} {probability:.2f}")
        return Misclassification(row, finding, predictions.keys[row], texts)
    logits, classes = predictions.logits[row][None], predictions.classes
    threshold = calibrated_thresholds(logits, predictions.task, points, classes)[0, finding]
    what = "missed" if predictions.labels[row, finding] == 1 else "false alarm,"
    numbers = f"probability {probability_text(probability)}, threshold {probability_text(threshold)}"
    return Misclassification(row, finding, predictions.keys[row], (f"{what} {name}:", numbers))


def most_certain(predictions: Predictions, points: OperatingPoints, most: int) -> list[tuple[int, int]]:
    """Row and class of the hits with the largest probability: images whose most probable class is right, or findings
    that are there and above their threshold. At most one per image."""
    calibrated = probabilities(predictions.logits, predictions.task, points.temperature)
    if predictions.task == "single_label":
        is_hit = np.eye(len(predictions.classes), dtype=bool)[predictions.logits.argmax(axis=1)]
        is_hit &= np.arange(len(predictions.classes)) == np.asarray(predictions.labels)[:, None]
    else:
        thresholds = np.array([points.threshold(name) for name in predictions.classes])
        is_hit = (predictions.scores() >= thresholds[:, None]).T & (predictions.labels == 1)
    each = np.where(is_hit, calibrated, -1.0)
    rows = np.argsort(-each.max(axis=1, initial=-1.0), kind="stable")[:most]
    return [(int(row), int(each[row].argmax())) for row in rows if each[row].max() >= 0]


def with_pixels(errors: Sequence[Misclassification], index: Index, keys: Sequence[str]) -> list[Misclassification]:
    """The same with thumbnails, from the index that was predicted. Raises InputError if it is another."""
    if len(index) != len(keys) or any(index.keys([m.row]) != [m.key] for m in errors):
        raise InputError("the data set was prepared again since the run was tested")
    return [replace(error, pixels=_thumbnail(index, error.row)) for error in errors]


def _thumbnail(index: Index, row: int) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(index.encoded(row).tobytes())) as picture:
        small = picture.convert("L" if index.channels == 1 else "RGB")
        small.thumbnail((_SIDE, _SIDE))
        return np.asarray(small)
