"""The columns of `predictions.csv`, and the row of an image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipelines.common.tasks import Task
from data_pipelines.shards.columns import Array
from trainer.evaluation.calibration.conformal import SetRule
from trainer.evaluation.calibration.novelty import PARTS
from trainer.evaluation.calibration.operating import (
    OperatingPoints,
    above_thresholds,
    calibrated_thresholds,
    probabilities,
)

BEGINNING = ("file", "error", "remark", "predicted")
NOVELTY = ("novelty", "unlike training", "unlike in")
OF_SET = ("set", "set size")
OF_CLASS = ("probability", "threshold", "above threshold", "logit")


def header_of(classes: Sequence[str], task: Task) -> list[str]:
    """The titles of the columns. Classes share a set, findings have one each."""
    is_single = task == "single_label"
    of_class = OF_CLASS if is_single else (*OF_CLASS, *OF_SET)
    shared = OF_SET if is_single else ()
    return [*BEGINNING, *NOVELTY, *shared, *_of_each(classes, of_class)]


def earlier_headers(classes: Sequence[str]) -> list[list[str]]:
    """Those that earlier versions wrote: without sets and novelty, and before that without thresholds."""
    without = [OF_CLASS, tuple(kind for kind in OF_CLASS if kind != "threshold")]
    return [[*BEGINNING, *_of_each(classes, kinds)] for kinds in without]


def as_written(name: str) -> str:
    """The name of an image as the table has it: bytes that are no text by their number."""
    return name.encode(errors="backslashreplace").decode()


def _of_each(classes: Iterable[str], kinds: Sequence[str]) -> list[str]:
    return [f"{name} {kind}" for name in classes for kind in kinds]


@dataclass(frozen=True, eq=False)
class Table:
    """What turns outputs into rows."""

    classes: Sequence[str]
    task: Task
    points: OperatingPoints
    sets: SetRule

    def header(self) -> list[str]:
        return header_of(self.classes, self.task)

    def unreadable(self, name: str, reason: str) -> list[Any]:
        """The row of an input without an image."""
        return [name, reason, *[""] * (len(self.header()) - 2)]

    def rows(self, logits: Array, novelty: Array | None) -> Iterator[list[Any]]:
        """For each image what follows its remark. logits: float32 [N, C]. novelty: float32 [N, 3], None without."""
        calibrated = probabilities(logits, self.task, self.points.temperature)
        least = calibrated_thresholds(logits, self.task, self.points, self.classes)
        above = above_thresholds(logits, self.task, self.points, self.classes)
        sets = self.sets.sets_of(logits)
        for row in range(len(logits)):
            values = (calibrated[row], least[row], above[row].astype(int), logits[row])
            of_class = [list(each) for each in zip(*(each.tolist() for each in values), strict=True)]
            shared = set_columns(sets[row].get("")) if self.task == "single_label" else []
            if self.task == "multi_label":
                names = zip(of_class, self.classes, strict=True)
                of_class = [[*each, *set_columns(sets[row].get(name))] for each, name in names]
            beyond = ["", "", ""] if novelty is None else novelty_columns(novelty[row])
            predicted = self._predicted(logits[row], above[row])
            yield [predicted, *beyond, *shared, *(value for each in of_class for value in each)]

    def _predicted(self, logits: Array, above: Array) -> str:
        if self.task == "single_label":
            return self.classes[int(logits.argmax())]
        return "; ".join(name for name, called in zip(self.classes, above, strict=True) if called)


def set_columns(found: Sequence[str] | None) -> list[Any]:
    """A set, of classes or of a finding, and its size; empty texts where there is none."""
    return ["", ""] if found is None else ["; ".join(found), len(found)]


def novelty_columns(novelty: Array) -> list[Any]:
    """How unlike the training images an image is, whether more than 95% of val are, and in what; novelty [3]."""
    most = float(novelty.max())
    return [most, int(most > 1), "; ".join(parts_beyond(novelty))]


def parts_beyond(novelty: Array) -> tuple[str, ...]:
    """In what an image is unlike the training images; novelty [3]."""
    return tuple(part for part, value in zip(PARTS, novelty, strict=True) if value > 1)
