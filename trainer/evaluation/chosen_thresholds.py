"""Thresholds of the user's choice: at a fixed sensitivity or specificity on val, or from a file."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import logit

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest, some_of
from data_pipelines.common.printable import printable
from data_pipelines.common.tasks import Task
from data_pipelines.datasets.table import read_table
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.calibration.threshold_settings import ThresholdChoice
from trainer.evaluation.runs import Run
from trainer.evaluation.statistics.bootstrap import Bools, Floats
from trainer.evaluation.statistics.predictions import Predictions, load_predictions, saved_splits, scores_of

_NAME, _THRESHOLD = "name", "threshold"  # columns of the file
_ROUNDING = 1e-9


def points_of(run: Run, choice: ThresholdChoice, classes: tuple[str, ...], task: Task) -> OperatingPoints:
    """The run's operating points with the thresholds of the user's choice, for log odds after the temperature.

    Raises InputError where val's predictions are needed and not there, or the file does not hold what it must.
    """
    points = run.points()
    if choice.thresholds is not None:
        return _of_file(points, choice.thresholds, classes, task)
    if choice.at_sensitivity is not None:
        return fixed(points, _val_of(run, "--at-sensitivity"), "sensitivity", choice.at_sensitivity)
    if choice.at_specificity is not None:
        return fixed(points, _val_of(run, "--at-specificity"), "specificity", choice.at_specificity)
    return points


def fixed(points: OperatingPoints, val: Predictions, kind: str, share: float) -> OperatingPoints:
    """The same temperature, and on val the highest thresholds of a sensitivity of at least `share`, or the lowest of
    such a specificity. kind: "sensitivity" or "specificity"."""
    scores = scores_of(np.asarray(val.logits, dtype=np.float64) / points.temperature, val.task)
    thresholds, unfitted = {}, {}
    for name, row, (positive, negative) in zip(val.classes, scores, val.known(), strict=True):
        counted = positive if kind == "sensitivity" else negative
        if not counted.any():
            unfitted[name] = f"val has no {'positives' if kind == 'sensitivity' else 'negatives'} of it"
        elif not np.isfinite(row[positive | negative]).all():
            unfitted[name] = "some logits for val are not finite"
        elif kind == "sensitivity":
            thresholds[name] = at_sensitivity(row, positive, negative, share)
        else:
            thresholds[name] = -at_sensitivity(-row, negative, positive, share)
    rule = f"chosen on val (a {kind} of at least {share:g})"
    return replace(
        points,
        thresholds=thresholds,
        unfitted=unfitted,
        after_temperature=True,
        rules=dict.fromkeys(val.classes, rule),
    )


def at_sensitivity(scores: Floats, positive: Bools, negative: Bools, share: float) -> float:
    """The highest threshold at or above which at least this share of the positives lies, put halfway to the next lower
    score. scores: float64 [N]; images that are neither positive nor negative do not count."""
    ordered = np.sort(scores[positive])[::-1]
    last = ordered[max(1, math.ceil(share * len(ordered) - _ROUNDING)) - 1]
    below = scores[(positive | negative) & (scores < last)]
    return float((last + below.max()) / 2) if len(below) else float(last - 1)


def _val_of(run: Run, flag: str) -> Predictions:
    if run.trained_on == "train+val":
        raise InputError(f"{flag} needs a val split that the run was not trained on; give --thresholds instead")
    if "val" not in saved_splits(run.folder):
        raise InputError(
            f"{flag} needs the run's predictions for val, and {run.folder} holds none; name the run folder, or give "
            "--thresholds instead"
        )
    val = load_predictions(run.folder, "val")
    return val if run.head is None else val.of_head(run.head)


def _of_file(points: OperatingPoints, path: Path, classes: tuple[str, ...], task: Task) -> OperatingPoints:
    """The thresholds of a file; findings that it does not name keep those that there are."""
    given = read_thresholds(path, classes)
    if missing := [name for name in classes if name not in given]:
        if task == "single_label" and len(classes) > 2:
            raise InputError(f"--thresholds {path} does not name {some_of(missing)}; of classes, it must name all")
        # Of findings, or two classes, the temperature keeps the order of images.
        scale = 1 if points.after_temperature else points.temperature
        given |= {name: points.thresholds[name] / scale for name in missing if name in points.thresholds}
    named = set(classes).difference(missing)
    rules = {name: f"given in {printable(path.name)}" for name in classes if name in named}
    return replace(points, thresholds=given, after_temperature=True, rules=rules)


def read_thresholds(path: Path, classes: tuple[str, ...]) -> dict[str, float]:
    """The log odds of the probabilities in a CSV file with columns name and threshold.

    Raises InputError for a name that is none of the classes or stands there twice, and for what is no number between 0
    and 1."""
    table = read_table(path, [_NAME, _THRESHOLD], "--thresholds")
    found: dict[str, float] = {}
    for row, (name, text) in enumerate(zip(table.cells[_NAME], table.cells[_THRESHOLD], strict=True)):
        if name not in classes:
            raise InputError(f"{table.at(row)}: {printable(name)!r} is no label of the run{nearest(name, classes)}")
        if name in found:
            raise InputError(f"{table.at(row)}: {printable(name)!r} stands there twice; leave one row")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < 1:
            raise InputError(f"{table.at(row)}: the threshold is {printable(text)!r}; write a number between 0 and 1")
        found[name] = float(logit(value))
    return found
