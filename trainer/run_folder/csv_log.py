"""Append-only CSV files of a run, written by rank 0; the first column is the step.

Rows are on the disk before the checkpoint of a later step is. A run that is resumed drops those of the steps that it
will do again.
"""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipelines.common.files import write_atomically
from data_pipelines.common.messages import logger

Row = Sequence[str | int | float]


class CsvLog:
    """An append-only CSV file; does nothing on ranks other than 0. Disk errors give a warning."""

    def __init__(self, path: Path, columns: Sequence[str], enabled: bool) -> None:
        self.path, self._columns, self._enabled = path, tuple(columns), enabled
        self._waiting: list[Row] = []

    def truncate(self, first_step: int) -> list[list[str]]:
        """Drop the rows from `first_step` on, and lines left unfinished by a kill; returns the remaining rows."""
        if not self._enabled or not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            found = list(csv.reader(file))
        lines = [line for line in found if len(line) == len(self._columns)]
        kept = [line for line in lines if line[0].isdecimal() and int(line[0]) < first_step]
        if found in ([], [list(self._columns), *kept]):  # a full disk need not keep a run from regrouping
            return kept

        def write(temporary: Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                csv.writer(file).writerows([self._columns, *kept])

        write_atomically(self.path, write)
        return kept

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows and flush them to disk; rows that fail to be written are retried with the next call."""
        self._waiting += rows
        if not self._enabled or not self._waiting:
            self._waiting = []
            return
        try:
            with self.path.open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
                size = file.tell()
                try:
                    csv.writer(file).writerows(self._waiting if size else [self._columns, *self._waiting])
                    file.flush()
                except OSError:
                    os.truncate(file.fileno(), size)  # no half of a row
                    raise
                os.fsync(file.fileno())
            self._waiting = []
        except OSError as error:
            logger.warning(f"{self.path} cannot be written ({error}); its rows wait")
