"""A table of predictions that is there already: what it must be for the same command to go on with it."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.earlier_output import refuse_to_replace
from data_pipelines.common.message_parts import some_of
from data_pipelines.common.tasks import Task
from trainer.evaluation.predicting.prediction_table import as_written, earlier_headers, header_of

_TOLERANCE = 0.05  # of logits, relative and absolute: those of another device or precision are as close


@dataclass(frozen=True)
class EarlierTable:
    """rows: by the name of their image."""

    path: Path
    header: list[str]
    rows: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> "EarlierTable | None":
        """The table at this path, without a row that was cut off; None if there is nothing. One that cannot be read has
        no header."""
        if not path.exists():
            return None
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = [*csv.reader(file)] or [[]]
        except (OSError, ValueError, csv.Error):
            return cls(path, [], {})
        return cls(path, header, {row[0]: row for row in rows if row and len(row) == len(header)})

    def require_of(self, classes: Sequence[str], task: Task) -> None:
        """Raise InputError unless it has the columns of predictions of these classes."""
        if self.header not in (header_of(classes, task), *earlier_headers(classes)):
            refuse_to_replace(self.path, "is not a table of this run's predictions")

    def without(self, names: Iterable[str]) -> list[str]:
        """The images that it has predictions of, in its order, but for some: their names as it writes them."""
        others = {as_written(name) for name in names}
        return [name for name, row in self.rows.items() if name not in others and not row[1]]

    def require_none(self, lost: Sequence[str], source: str, differing: Sequence[str]) -> None:
        """Raise InputError where there are images of which predictions would be lost. differing: with which all images
        would have to be predicted anew."""
        if lost:
            why = f", and so cannot be predicted anew with other values of {some_of(differing)}" if differing else ""
            refuse_to_replace(self.path, f"has predictions of images that are not in {source} ({len(lost)}){why}")

    def require_same(self, rows: Iterable[Sequence[Any]], header: Sequence[str]) -> None:
        """Raise InputError where these rows, with this header, are of another model than its own."""
        old, new = (
            [place for place, name in enumerate(each) if name.endswith(" logit")] for each in (self.header, header)
        )
        for row in rows:
            before = self.rows.get(as_written(row[0]))
            if before is None or before[1] or row[1]:  # not predicted, now or then
                continue
            try:
                was = np.array([before[place] for place in old], dtype=np.float64)
            except ValueError:
                refuse_to_replace(self.path, f"has logits of {row[0]} that are no numbers")
            now = np.array([row[place] for place in new], dtype=np.float64)
            if not np.allclose(was, now, rtol=_TOLERANCE, atol=_TOLERANCE):
                refuse_to_replace(self.path, f"has other predictions of {row[0]}: it is of another run")
