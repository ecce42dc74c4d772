"""The rows of a table of predictions, those of earlier commands among them."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipelines.image_files.image_verification import FLAT
from trainer.evaluation.predicting.earlier_table import EarlierTable
from trainer.evaluation.predicting.judged_inputs import InputJudge, JudgedInput
from trainer.evaluation.predicting.kept_outputs import Judged, KeptOutputs
from trainer.evaluation.predicting.prediction_table import Table

if TYPE_CHECKING:
    from trainer.evaluation.predicting.explain_predictions import MapWriter

GONE = "gone"
"""The remark on an image that had a row and is not in INPUT any more."""


class RowWriter:
    """Writes the rows of all inputs, then those of images that are gone, and maps of the first.

    earlier: the table that is there. gone: names in it of images that are not among the inputs.
    """

    def __init__(
        self, table: Table, judge: InputJudge, kept: KeptOutputs, earlier: EarlierTable | None, gone: Sequence[str]
    ) -> None:
        self._table, self._judge, self._kept, self._earlier, self._gone = table, judge, kept, earlier, gone
        self._header = table.header()

    def write(self, path: Path, chunks: Iterable[list[JudgedInput]], maps: "MapWriter | None") -> Counter[str]:
        """Write the table. Returns how many were "read", of these "kept" from an earlier command, "unlike" the training
        images and "flat", "unreadable", and "gone"."""
        counts: Counter[str] = Counter()
        is_unlike = self._header.index("unlike training")
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            lines = csv.writer(file)
            lines.writerow(self._header)
            for chunk in chunks:
                rows = [*self._rows([(each.item.name, each.judged) for each in chunk])]
                if self._earlier is not None and not self._kept.table_is_of_these_weights:
                    self._earlier.require_same(rows, self._header)
                lines.writerows(rows)
                counts.update("unreadable" if each.judged.error else "read" for each in chunk)
                counts.update("kept" for each in chunk if each.is_kept and not each.judged.error)
                counts.update("flat" for each in chunk if FLAT in each.judged.remark)
                counts.update("unlike" for row in rows if row[is_unlike] == 1)
                if maps is not None:
                    predicted = [each for each in chunk if not each.judged.error][: maps.left]
                    maps.add(self._judge.with_images(predicted), _logits([each.judged for each in predicted]))
            for row in self._of_gone():
                lines.writerow(row)
                counts["gone"] += 1
        return counts

    def _rows(self, named: Sequence[tuple[str, Judged]]) -> Iterator[list[Any]]:
        """A row for each name and what its image was found to be."""
        judged = [found for _, found in named if not found.error]
        novelty = [found.novelty for found in judged if found.novelty is not None]
        of_novelty = np.array(novelty, dtype=np.float32) if novelty else None
        rows = self._table.rows(_logits(judged), of_novelty) if judged else iter(())
        for name, found in named:
            if found.error:
                yield self._table.unreadable(name, found.error)
            else:
                yield [name, "", found.remark, *next(rows)]

    def _of_gone(self) -> Iterator[list[Any]]:
        found = ((name, self._kept.of_name(name)) for name in self._gone)
        for row in self._rows([(name, judged) for name, judged in found if judged is not None]):
            row[2] = "; ".join(filter(None, (GONE, row[2])))
            yield row


def _logits(judged: Sequence[Judged]) -> np.ndarray:
    return np.array([found.logits for found in judged], dtype=np.float32)
