"""Stopping a run from outside: the step is finished and saved first, on all ranks, whichever of them got the signal."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_SAME_KEYSTROKE_S = 2.0  # within which a launcher may hand on a Ctrl-C that the terminal has sent already


class StopSignals:
    """What this rank has been asked to do. Without `listening`, nothing ever."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator["StopSignals"]:
        """Take note of SIGTERM, SIGINT and SIGUSR1 instead of dying of them; a later second SIGINT still interrupts."""
        previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.received is signal.SIGINT and number == signal.SIGINT
        if again and time.monotonic() - self._since > _SAME_KEYSTROKE_S:
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self._since = signal.Signals(number), time.monotonic()


NEVER = StopSignals()


class Stopped(SystemExit):
    """The run is saved after `step` updates and goes on from there when it is started again.

    The exit code is 0 after SIGUSR1, which asks for nothing else, and on ranks that only heard of it: under torchrun
    any other would start the ranks again. It is 128 + the signal's number where SIGTERM or SIGINT came.
    """

    def __init__(self, step: int, received: signal.Signals | None) -> None:
        super().__init__(128 + received if received in (signal.SIGTERM, signal.SIGINT) else 0)
        self.step, self.received = step, received
