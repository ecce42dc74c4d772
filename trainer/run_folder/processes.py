"""Process identities that stay distinct across machines, containers and reboots."""

import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_ANCESTORS = 4  # a rank's launcher may itself be the child of one, behind a shell
_BOOT, _PID_NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


class Process(NamedTuple):
    """A process of one machine. started: clock ticks since boot, so that a reused process id is not taken for the same
    process; None where the system does not say."""

    number: int
    started: int | None

    def lives(self) -> bool | None:
        """Whether it still runs, asked on its own machine; None where the system does not show it, and its number may
        have been reused."""
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):  # somebody else's, or no number of a process
            pass
        known = _stat(self.number)
        if known is None:
            return None
        if known.state in "ZX":
            return False
        return None if self.started is None else self.started == known.started

    def is_suspended(self) -> bool:
        """Whether it is stopped, as by Ctrl-Z, so that a signal to end takes effect only once it continues."""
        known = _stat(self.number)
        return known is not None and known.state in "Tt"


class _Stat(NamedTuple):
    state: str
    parent: int
    started: int


def _stat(number: int) -> _Stat | None:
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
        words = text.rpartition(")")[2].split()  # the name before it may hold anything
        return _Stat(words[0], int(words[1]), int(words[19]))
    return None


def this_process() -> Process:
    """The calling process."""
    return _process(os.getpid())


def ancestors() -> list[Process]:
    """Its parent, grandparent and so on: the nearest few."""
    found: list[Process] = []
    known = _stat(os.getpid())
    while known is not None and known.parent > 0 and len(found) < _ANCESTORS:
        found.append(_process(known.parent))
        known = _stat(known.parent)
    return found


def _process(number: int) -> Process:
    known = _stat(number)
    return Process(number, None if known is None else known.started)


def parsed(value: Any) -> Process | None:
    """A process from JSON; None for anything else."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    number, started = value
    if type(number) is not int or number < 1 or not (started is None or type(started) is int):
        return None
    return Process(number, started)


@cache
def machine() -> str:
    """Identifies a machine's process id namespace until it restarts: containers may share a host name, and a machine
    may have several such namespaces."""
    try:
        return f"{_BOOT.read_text(encoding='utf-8').strip()} {_PID_NAMESPACE.stat().st_ino}"
    except OSError:
        return platform.node()
