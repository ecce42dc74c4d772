"""Which faults strike which runs when: all of it follows from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.run import LAUNCHERS, Layout
from tests.faults.scene import Moment

# Of 100 rounds.
SHARES = {
    "kill-rank": 20,
    "kill-launcher": 9,
    "kill-in-save": 27,
    "kill-prepare": 9,
    "damage-checkpoint": 9,
    "stop-rank": 7,
    "disk-full": 7,
    "damage-shard": 7,
    "signal": 5,
}
FAULTS_PER_RUN = 5
_FEW_RANKS = 2  # more of them take the longest to start: each such layout is tried once, and the others again
_STARTING_SHARE = 1 / 8  # of the kills, before the first step
# Where in a run a fault makes sense: damage needs two checkpoints, a failing save one that is still to come.
_SHARE_OF_RUN = {"damage-checkpoint": (0.35, 0.9), "kill-in-save": (0.0, 0.8), "disk-full": (0.0, 0.7)}
_LONG = (0.0, 0.8)  # for what takes some steps to be noticed


@dataclass(frozen=True)
class Blow:
    """One fault to come."""

    fault: str
    moment: Moment
    seed: int


@dataclass(frozen=True)
class PlannedRun:
    """A run and the faults that strike it, in this order."""

    layout: Layout
    blows: tuple[Blow, ...]


def counts(rounds: int, faults: Sequence[str]) -> dict[str, int]:
    """How many rounds each fault has: by its share, and one at least if there are enough."""
    total = sum(SHARES[fault] for fault in faults)
    given = dict.fromkeys(faults, int(rounds >= len(faults)))
    while sum(given.values()) < rounds:
        most = max(faults, key=lambda fault: rounds * SHARES[fault] / total - given[fault])
        given[most] += 1
    return given


def deal(rounds: int, seed: int, faults: Sequence[str], layouts: Sequence[Layout]) -> tuple[list[PlannedRun], int]:
    """Runs with their faults, and how many preparations to kill."""
    draws = random.Random(seed)
    given = counts(rounds, faults)
    prepares = given.pop("kill-prepare", 0)
    names = [name for name, count in given.items() for _ in range(count)]
    draws.shuffle(names)
    return [*_runs(names, draws, layouts)], prepares


def _runs(names: list[str], draws: random.Random, layouts: Sequence[Layout]) -> list[PlannedRun]:
    several = [layout for layout in layouts if layout.ranks > 1]
    # Stopping the only rank is noticed by nobody: these faults go to runs of several.
    for_many = [name for name in names if name == "stop-rank"] if len(several) < len(layouts) else []
    others = [name for name in names if name not in for_many]
    if for_many and not several:
        raise SystemExit("stop-rank needs runs on several ranks")
    order = draws.sample(layouts, len(layouts))
    runs = []
    while others or for_many:
        if not order:
            few = [layout for layout in layouts if layout.ranks <= _FEW_RANKS]
            again = layouts if for_many or not few else few
            order = draws.sample(again, len(again))
        layout = order.pop()
        chosen = [for_many.pop()] if for_many and layout.ranks > 1 else []
        while others and len(chosen) < FAULTS_PER_RUN:
            chosen.append(others.pop())
        if chosen:
            runs.append(PlannedRun(layout, tuple(_blows(chosen, draws))))
    return runs


def _blows(names: list[str], draws: random.Random) -> list[Blow]:
    blows = []
    for name in names:
        low, high = _SHARE_OF_RUN.get(name, _LONG if name in ("stop-rank", "damage-shard") else (0.0, 1.0))
        starting = name in ("kill-rank", "kill-launcher") and draws.random() < _STARTING_SHARE
        share = draws.random() if starting else draws.uniform(low, high)
        blows.append(Blow(name, Moment(share, starting), draws.randrange(1 << 32)))
    return sorted(blows, key=lambda blow: -1.0 if blow.moment.while_starting else blow.moment.share)


def all_layouts(engines: Sequence[str] = tuple(LAUNCHERS), ranks: Sequence[int] = (1, 2, 3, 4)) -> list[Layout]:
    """Every engine on every number of ranks."""
    return [Layout(engine, number) for engine in engines for number in ranks]
