"""Split conformal prediction: sets of classes, or of absent and present, that hold the truth as often as promised.

A label is in the set of an image where its log odds are at least a threshold, which val decides. Of one class per image
that is the least ambiguous set of Sadinle et al., arXiv:1609.00451, and the promise holds over all classes together. Of
a finding the images with it decide on "present" and those without it on "absent", so that the promise holds for each
(label-conditional: Vovk, arXiv:1209.2673), however rare the finding is.

Images of one patient are not exchangeable with those of others; patients are. Each patient has the same weight, shared
by its images, and a further patient lies beyond all scores: the hierarchical conformal prediction of Lee, Barber and
Willett, arXiv:2306.06342. So a random image of a new patient is covered as promised; with one image per patient it is
plain split conformal prediction. An image of an unknown patient counts as a patient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import number
from data_pipelines.common.printable import printable
from data_pipelines.common.tasks import Task
from data_pipelines.shards.columns import Array
from trainer.evaluation.calibration.coverages import COVERAGE, LEVELS, ROUNDING, fewest_units, most_covered
from trainer.evaluation.statistics.bootstrap import Bools, Floats, Ints, clusters_of
from trainer.evaluation.statistics.predictions import Predictions, scores_of

ABSENT, PRESENT = "absent", "present"
_ANY_CLASS = "its class"


@dataclass(frozen=True)
class Calibrated:
    """What val says of the log odds of a true label. units: patients with it, or images of unknown patients.
    thresholds: for the first of `LEVELS`, as far as so many units can promise them."""

    units: int
    thresholds: list[float]


def weights_of(clusters: Ints) -> Floats:
    """A weight for each image [N], of which those of each cluster add up to 1."""
    return np.asarray(1 / np.bincount(clusters)[clusters])


def thresholds_of(scores: Floats, patients: Ints) -> Calibrated:
    """The thresholds at or above which a new score lies as often as `LEVELS` say. scores [N]: of val, higher is more
    usual. patients: int64 [N], -1 for unknown."""
    if not len(scores):
        return Calibrated(0, [])
    clusters = clusters_of(patients)
    units = int(clusters.max()) + 1
    order = np.argsort(-scores, kind="stable")
    mass = np.cumsum(weights_of(clusters)[order]) / (units + 1)
    places = np.searchsorted(mass, np.array(LEVELS) - ROUNDING)
    return Calibrated(units, scores[order[places[places < len(order)]]].tolist())


def labels_of(classes: Sequence[str], task: Task) -> list[tuple[str, str]]:
    """The labels that a set may hold, each as its class or finding and, of findings, whether it is there."""
    if task == "single_label":
        return [(name, "") for name in classes]
    return [(name, kind) for name in classes for kind in (ABSENT, PRESENT)]


def key_of(name: str, kind: str) -> str:
    """The name of a label among what was calibrated: all classes share one."""
    return f"{name} {kind}" if kind else _ANY_CLASS


def log_odds_of(logits: Array, task: Task, temperature: float) -> Floats:
    """Log odds of each label of `labels_of`, float64 [N, L], of logits [N, C]."""
    scores = scores_of(np.asarray(logits, dtype=np.float64) / temperature, task).T
    if task == "single_label":
        return np.asarray(scores)
    return np.stack([-scores, scores], axis=2).reshape(len(scores), -1)


def true_labels(predictions: Predictions) -> Bools:
    """Which labels of `labels_of` are true of each image, bool [N, L]; of an unlabelled finding neither."""
    positive, negative = (np.stack(each, axis=1) for each in zip(*predictions.known(), strict=True))
    if predictions.task == "single_label":
        return positive
    return np.stack([negative, positive], axis=2).reshape(len(positive), -1)


def calibrate(val: Predictions, temperature: float) -> dict[str, Calibrated]:
    """What val says of each label, by `key_of`; nothing where logits are not finite."""
    if not np.isfinite(val.logits).all():
        return {}
    odds, is_true = log_odds_of(val.logits, val.task, temperature), true_labels(val)
    if val.task == "single_label":
        rows = np.flatnonzero(is_true.any(axis=1))
        return {_ANY_CLASS: thresholds_of(odds[is_true], val.patients[rows])}
    labels = enumerate(labels_of(val.classes, val.task))
    return {
        key_of(*label): thresholds_of(odds[is_true[:, place], place], val.patients[is_true[:, place]])
        for place, label in labels
    }


@dataclass(frozen=True, eq=False)
class SetRule:
    """Which labels are in the set of an image. labels: L of them, as from `labels_of`. thresholds: of their log odds,
    float64 [L], NaN where val is too small for this coverage. units: the fewest patients that one of these was taken
    from. missing: by class or finding, why it has no sets."""

    coverage: float
    task: Task
    temperature: float
    units: int
    labels: Sequence[tuple[str, str]]
    thresholds: Floats
    missing: dict[str, str]

    @property
    def has_sets(self) -> Bools:
        """Whether each label has a threshold, and so has its finding's other one, bool [L]."""
        return np.array([name not in self.missing for name, _ in self.labels], dtype=bool)

    def members(self, logits: Array) -> Bools:
        """Which labels are in the sets of images, bool [N, L]; none of those without sets."""
        return np.asarray(log_odds_of(logits, self.task, self.temperature) >= self.thresholds) & self.has_sets

    def sets_of(self, logits: Array) -> list[dict[str, list[str]]]:
        """The sets of each image: of findings by their names, holding `ABSENT`, `PRESENT`, both or neither; of classes
        by "". Those that there are not are left out. logits: [N, C]."""
        known = dict.fromkeys(name if kind else "" for name, kind in self.labels if name not in self.missing)
        found = []
        for row in self.members(logits):
            sets: dict[str, list[str]] = {name: [] for name in known}
            for (name, kind), is_in in zip(self.labels, row, strict=True):
                if is_in:
                    sets[name if kind else ""].append(kind or name)
            found.append(sets)
        return found


def set_rule(
    calibrated: dict[str, Calibrated],
    why_none: str,
    classes: Sequence[str],
    task: Task,
    temperature: float,
    coverage: float | None,
) -> SetRule:
    """The rule for a coverage; None: 0.9. why_none: why nothing was calibrated.

    Raises InputError where a coverage is asked for that val can promise for no class or finding.
    """
    wanted = COVERAGE if coverage is None else coverage
    labels = labels_of(classes, task)
    missing: dict[str, str] = {}
    place = min(range(len(LEVELS)), key=lambda at: abs(LEVELS[at] - wanted))
    thresholds = np.full(len(labels), math.nan)
    for row, (name, kind) in enumerate(labels):
        found = calibrated.get(key_of(name, kind))
        if found is not None and place < len(found.thresholds):
            thresholds[row] = found.thresholds[place]
        else:
            missing.setdefault(name, why_none if found is None else _too_few(found.units, name, kind, wanted))
    if coverage is not None and len(missing) == len(classes):
        raise InputError(f"no prediction sets: {next(iter(missing.values()))}{_remedy(calibrated, wanted)}")
    deciding = [calibrated[key_of(*label)].units for label in labels if label[0] not in missing]
    return SetRule(wanted, task, temperature, min(deciding, default=0), labels, thresholds, missing)


def _too_few(units: int, name: str, kind: str, coverage: float) -> str:
    of = {PRESENT: f" with {printable(name)}", ABSENT: f" without {printable(name)}"}.get(kind, "")
    have = f"val has {number(units, 'image')}{of}, each patient counted once"
    return f"{have}, and a coverage of {coverage:g} needs {fewest_units(coverage)}"


def _remedy(calibrated: dict[str, Calibrated], coverage: float) -> str:
    """What may be asked for instead, at the end of an error message."""
    best = max((each.units for each in calibrated.values()), default=0)
    most = most_covered(best)
    if most is None or most >= coverage:
        return "; leave out --coverage"
    return f"; take --coverage {most:g} or less, or train with a larger val"
