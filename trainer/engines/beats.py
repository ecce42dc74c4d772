"""What the ranks tell each other of their progress, and what follows: which of them hang, and which is slowest."""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple, get_args

import torch.distributed as dist

from trainer.engine import Phase

_ORDER = {phase: number for number, phase in enumerate(get_args(Phase))}
_SHOWN_RANKS = 4


class Beat(NamedTuple):
    """The state that a rank publishes to the others."""

    rank: int
    host: str
    pulse: int
    step: int
    phase: Phase
    in_phase_s: float
    steps: int
    """Begun since the start."""
    data_s: float
    forward_s: float
    """In all since the start: what a rank does without waiting for another."""

    def silent_for(self, seconds: float) -> str:
        """Description of a rank without a pulse."""
        return (
            f"rank {self.rank} on {self.host} has given no sign of life for {seconds:.0f} s, since phase "
            f"{self.phase} of step {self.step} or soon after"
        )

    def stuck(self) -> str:
        """Description of a rank that is alive but has made no progress for too long."""
        return (
            f"rank {self.rank} on {self.host} has made no progress in phase {self.phase} of step {self.step} for "
            f"{self.in_phase_s:.0f} s"
        )


class Slowest(NamedTuple):
    """The rank that takes longest for its own work: by how many seconds per step it exceeds the median rank, and in
    which phase most of all."""

    rank: int
    lag_s: float
    phase: Literal["data", "forward"]


def read_beats(store: dist.Store, ranks: Iterable[int]) -> dict[int, Beat]:
    """The beats of the ranks that have published one."""
    names = [str(rank) for rank in ranks]
    if not store.check(names):
        names = [name for name in names if store.check([name])]
    beats = [Beat(*json.loads(text)) for text in store.multi_get(names)] if names else []
    return {beat.rank: beat for beat in beats}


def who_hangs(beats: Mapping[int, Beat], silent: Sequence[int], idle_s: float, world_size: int) -> str:
    """Which ranks hang, and where, as text: the `silent` ones, without a pulse for `idle_s`, or else those furthest
    behind."""
    absent = [rank for rank in range(world_size) if rank not in beats]
    behind = min((_place(beat) for beat in beats.values()), default=(0, 0))
    culprits = list(silent) or [rank for rank, beat in beats.items() if _place(beat) == behind and not absent]
    if len(culprits) == len(beats) and not absent:
        where = beats[0]
        stuck_in = f"phase {where.phase} of step {where.step} for {idle_s:.0f} s"
        return f"all ranks have waited in {stuck_in}; look at the network"
    lines = [beats[rank].silent_for(idle_s) if silent else beats[rank].stuck() for rank in culprits[:_SHOWN_RANKS]]
    lines += [f"rank {rank} was never heard from" for rank in absent[:_SHOWN_RANKS]]
    more = len(culprits) + len(absent) - len(lines)
    return "; ".join(lines) + (f"; and {more} more ranks" if more else "")


def slowest_rank(now: Mapping[int, Beat], before: Mapping[int, Beat]) -> Slowest | None:
    """The slowest of all ranks, by their beats `now` and `before`, {} for none; None unless each has begun a step
    since."""
    own = {}
    for rank, beat in now.items():
        old = before.get(rank)
        steps = beat.steps - (old.steps if old else 0)
        if steps <= 0:
            return None
        data_s, forward_s = (beat.data_s, beat.forward_s) if old is None else (
            beat.data_s - old.data_s, beat.forward_s - old.forward_s
        )  # fmt: skip
        own[rank] = (data_s / steps, forward_s / steps)
    rank = max(own, key=lambda rank: sum(own[rank]))
    usual = [median(part) for part in zip(*own.values(), strict=True)]
    excess = [mine - theirs for mine, theirs in zip(own[rank], usual, strict=True)]
    return Slowest(
        rank,
        lag_s=sum(own[rank]) - median(map(sum, own.values())),
        phase="data" if excess[0] >= excess[1] else "forward",
    )


def _place(beat: Beat) -> tuple[int, int]:
    return beat.step, _ORDER[beat.phase]
