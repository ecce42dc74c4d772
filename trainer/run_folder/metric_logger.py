"""Metrics of a run for TensorBoard and metrics.jsonl, and its progress line."""

import json
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from data_pipelines.common.files import utf8_path, write_atomically
from data_pipelines.common.printable import printable
from data_pipelines.common.progress import Progress
from trainer.run_files import METRICS, TENSORBOARD
from trainer.run_folder.heartbeat_file import HeartbeatFile

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricLogger:
    """Writes the metrics of a run on rank 0; on other ranks every method does nothing.

    Steps count finished updates. What an earlier start wrote beyond `first_step` is cut off, as those steps are
    repeated.
    """

    def __init__(self, run_dir: Path, rank: int, first_step: int, total_steps: int, title: str) -> None:
        self.enabled = rank == 0
        self._total_steps = total_steps
        self._started = time.monotonic()
        if not self.enabled:
            return
        self._run_dir = run_dir
        self._written = {_kind_of(row) for row in _truncate(run_dir / METRICS, first_step)}
        self._metrics = _Rows(run_dir / METRICS)
        self._board: SummaryWriter | None = None
        self._kept_open = ExitStack()
        self._purge_step: int | None = first_step + 1
        self._progress = Progress(title, total_steps, "step", first_step, delay=0, ncols=100)
        self._title, self._first_step = title, first_step
        self._heartbeat = HeartbeatFile(run_dir, first_step)

    @property
    def trained_s(self) -> float:
        """Seconds of training: on rank 0 over all starts of the run, elsewhere of this one."""
        return self._heartbeat.trained_s if self.enabled else time.monotonic() - self._started

    def advance(self) -> None:
        """One update done."""
        if self.enabled:
            self._progress.update()
            self._heartbeat.advance()

    def started(self, step: int, how: dict[str, Any]) -> None:
        """Record a start of the run after `step` updates, such as its loader and number of ranks."""
        if self.enabled:
            self._write({"step": step, **how})

    def scalars(self, step: int, values: dict[str, float], words: Mapping[str, str] = MappingProxyType({})) -> None:
        """Record scalars named like "train/loss" after `step` updates; the text fields go to metrics.jsonl only. Does
        nothing if it has those of this kind and step."""
        if not self.enabled or _kind_of({"step": step, **values}) in self._written:
            return
        self._written.add(_kind_of({"step": step, **values}))
        self._draw(step, values)
        # JSON knows no NaN; an AUC without positives has no value.
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._write({"step": step, **plain, **words})
        self._show(step, values)

    def _write(self, row: dict[str, Any]) -> None:
        error = self._metrics.write(row)
        if error is not None:
            self.say(f"warning: {METRICS} cannot be written ({error}); its rows wait for the next time")

    def _draw(self, step: int, values: dict[str, float]) -> None:
        try:
            if self._board is None:
                self._board, self._purge_step = self._open_board(), None
            for name, value in values.items():
                self._board.add_scalar(printable(name), value, step)
        except OSError as error:  # of its own thread, some rows late, which are lost
            self._board = None
            self.say(f"warning: TensorBoard's files cannot be written ({error})")

    def _open_board(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # on rank 0, with its first row

        folder = self._kept_open.enter_context(utf8_path(self._run_dir / TENSORBOARD))
        return SummaryWriter(folder, purge_step=self._purge_step)

    def _show(self, step: int, values: dict[str, float]) -> None:
        shown = "  ".join(
            f"{name.removeprefix('train/')} {value:.4g}"
            for name, value in values.items()
            if name.count("/") == 1 and name.startswith(("train/", "val/"))
        )
        if self._progress.has_bar and any(name.startswith("train/") for name in values):
            self._progress.show_beside_bar(
                f"loss {values['train/loss']:.3f}, {values['train/images_per_s']:.0f} images/s"
            )
            return
        elapsed = time.monotonic() - self._started
        left = elapsed / max(1, step - self._first_step) * (self._total_steps - step)
        self.say(f"{self._title}  step {step:,}/{self._total_steps:,}  {shown}  {tqdm.format_interval(int(left))} left")

    def say(self, line: str) -> None:
        """Print a line beside the progress bar."""
        if self.enabled:
            self._progress.say(line)

    def close(self) -> None:
        """Flush and close the files."""
        if self.enabled:
            self._progress.close()
            with suppress(OSError):
                if self._board is not None:
                    self._board.close()
            self._kept_open.close()
            self._metrics.close()
            self._heartbeat.close()


class _Rows:
    """Appends JSON lines to a file. Rows that a full disk refuses are kept, and written with the next row."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._waiting = b""

    def write(self, row: dict[str, Any]) -> OSError | None:
        """Add a row; returns the error, if any."""
        self._waiting += json.dumps(row).encode() + b"\n"
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        self._file.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without a last line left unfinished by a kill."""
    path = run_dir / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return rows


def _kind_of(row: Mapping[str, Any]) -> tuple[int, str]:
    """Step, and "train", "val", or "" for a row about a start."""
    return row["step"], next((name.partition("/")[0] for name in row if "/" in name), "")


def _truncate(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop the rows of later steps, and a line left unfinished; returns the others."""
    rows = [row for row in read_metrics(path.parent) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:  # or a full disk would end a run that regroups
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return rows
