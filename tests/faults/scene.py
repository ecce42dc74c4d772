"""What a fault is given: the run that it strikes, and when; and what it says of it."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.run import PROGRESS_S, Run, Started, wait_until


class MissedError(Exception):
    """The run was over before the fault could strike; nothing was tried."""


@dataclass
class Struck:
    """What a fault did: to which start, when, what the process was doing, and what went otherwise than it should."""

    start: int
    time: float
    phase: str
    wrong: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    repair: Callable[[], None] | None = None  # what the next start cannot do without, where it should


@dataclass(frozen=True)
class Moment:
    """A share of the time from an undisturbed run's first step to the end of its processes, or, of its start."""

    share: float
    while_starting: bool = False

    def wait(self, run: Run, timeline: list[float]) -> Started:
        """Until then. `timeline`: seconds from the start of an undisturbed run to each of its steps, and to its end."""
        started = run.go_on()
        if self.while_starting:
            time.sleep(max(0.0, started.spawned + self.share * timeline[0] - time.time()))
            wait_until(lambda: not started.is_running or started.note(0), "a rank", PROGRESS_S)
        else:
            at = timeline[0] + self.share * (timeline[-1] - timeline[0])
            step = max(i for i, seconds in enumerate(timeline[:-1]) if seconds <= at)
            wait_until(
                lambda: not started.is_running or started.note(0).get("step", -1) >= step, f"step {step}", PROGRESS_S
            )
            time.sleep(at - timeline[step])
        if not started.is_running:
            raise MissedError
        return started


@dataclass
class Scene:
    """A run, the moment to strike, and what else is random about it."""

    run: Run
    moment: Moment
    timeline: list[float]
    draws: random.Random
    checkpoint_bytes: int

    def arrive(self) -> Started:
        """Wait for the moment."""
        return self.moment.wait(self.run, self.timeline)
