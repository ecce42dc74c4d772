"""Progress of long work on standard error, by time: a bar on a terminal, elsewhere a line at least every 30 s, also
while a single step of it takes longer."""

import sys
import threading
import time
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from data_pipelines.common.messages import is_rank_0
from data_pipelines.common.printable import printable

LINE_EVERY_S = 30.0
_REFRESH_S = 2.0  # of a bar, whose clock should be seen to run
_BAR_AFTER_S = 1.0
_WITHOUT_TOTAL = "{desc}  {elapsed}"
_open: list["Progress"] = []  # the innermost last, which speaks for those around it


class Progress:
    """Progress of some work, a context; does nothing on ranks other than 0.

    `total`, and `initial` which was done before, count units, a word in the singular; without a unit only time is
    shown. `options` are passed to tqdm.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "", initial: int = 0, **options: Any) -> None:
        self.what, self.total, self.n = printable(what), total, initial
        self._unit, self._initial = unit, initial
        self._started = self._shown_at = time.monotonic()
        self._enabled = is_rank_0()
        self.has_bar = self._enabled and sys.stderr.isatty()
        """Whether there is a terminal for a bar."""
        if not unit:
            options = {"bar_format": _WITHOUT_TOTAL, "leave": False} | options
        self._bar = tqdm(
            desc=self.what,
            total=total,
            initial=initial,
            unit=unit,
            disable=not self.has_bar,
            **{"delay": _BAR_AFTER_S} | options,
        )
        self._lock, self._ended = threading.Lock(), threading.Event()
        if self._enabled:
            _open.append(self)
            threading.Thread(target=self._tick, name="progress", daemon=True).start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """So many more units are done."""
        self.n += count
        self._bar.update(count)

    def show_beside_bar(self, text: str) -> None:
        """Show a text behind the bar of a terminal."""
        self._bar.set_postfix_str(text)

    def say(self, line: str) -> None:
        """Print a line, beside the bar of a terminal."""
        self._shown_at = time.monotonic()
        if self._enabled:
            tqdm.write(line, file=sys.stderr)

    def line(self) -> str:
        """How far it is, and the time left at its speed so far."""
        elapsed_s = time.monotonic() - self._started
        if not self._unit:
            return f"{self.what}  {tqdm.format_interval(int(elapsed_s))} so far"
        of_all = "" if self.total is None else f"/{self.total:,}"
        line = f"{self.what}  {self._unit} {self.n:,}{of_all}"
        done = self.n - self._initial
        if self.total is None or not done:
            return f"{line}  {tqdm.format_interval(int(elapsed_s))} so far"
        return f"{line}  {tqdm.format_interval(int(elapsed_s / done * (self.total - self.n)))} left"

    def _tick(self) -> None:
        every_s = min(_REFRESH_S, LINE_EVERY_S) if self.has_bar else LINE_EVERY_S
        wait_s = every_s
        while not self._ended.wait(wait_s):
            since_s = time.monotonic() - self._shown_at
            is_due = self.has_bar or since_s >= every_s
            wait_s = every_s if is_due else every_s - since_s
            if is_due and _open[-1:] == [self]:
                self._show()

    def _show(self) -> None:
        with self._lock, suppress(OSError, ValueError):  # nobody reads it any more
            if self._ended.is_set():
                return
            if self.has_bar:
                self._bar.refresh()
            else:
                self.say(self.line())

    def close(self) -> None:
        """Say nothing more, and restore the terminal."""
        with self._lock:
            self._ended.set()
        if self in _open:
            _open.remove(self)
            if _open:
                _open[-1]._shown_at = time.monotonic()
        self._bar.close()
