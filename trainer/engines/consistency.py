"""Checks that all ranks of a job agree, naming the hosts that differ."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN_PLACES = 4
_CLOCK_SPREAD_S = 60.0
Facts = Mapping[str, Any]
"""About one rank, as plain JSON types. "host" is always there."""


def disagreements(by_rank: Sequence[Facts], same: Sequence[str]) -> list[str]:
    """One line per fact of `same` that is not the same on all ranks, naming the hosts that differ from most."""
    lines = []
    for name in same:
        values = [str(facts.get(name)) for facts in by_rank]
        (usual, _), *others = Counter(values).most_common()
        for value, _ in others:
            where = _places([rank for rank, found in enumerate(values) if found == value], by_rank)
            lines.append(f"{name}: {value} on {where}, {usual} on the others")
    return lines


def shared_gpus(by_rank: Sequence[Facts]) -> list[str]:
    """One line per GPU that more than one rank uses."""
    users: dict[tuple[str, str], list[int]] = {}
    for rank, facts in enumerate(by_rank):
        if facts.get("gpu"):
            users.setdefault((facts["host"], facts["gpu"]), []).append(rank)
    return [
        f"ranks {', '.join(map(str, ranks))} on {host} share the GPU {gpu}; start as many ranks per node as it has GPUs"
        for (host, gpu), ranks in users.items()
        if len(ranks) > 1
    ]


def wrong_clocks(by_rank: Sequence[Facts]) -> list[str]:
    """One line per rank whose clock is more than a minute off the median."""
    clocks = [float(facts["clock_s"]) for facts in by_rank]
    middle = sorted(clocks)[len(clocks) // 2]
    off = [rank for rank, clock in enumerate(clocks) if abs(clock - middle) > _CLOCK_SPREAD_S]
    return [f"clock: {clocks[rank] - middle:+.0f} s on {_places([rank], by_rank)}" for rank in off]


def _places(ranks: Sequence[int], by_rank: Sequence[Facts]) -> str:
    shown = [f"{by_rank[rank]['host']} (rank {rank})" for rank in ranks[:_SHOWN_PLACES]]
    more = f" and {len(ranks) - len(shown)} more ranks" if len(ranks) > len(shown) else ""
    return ", ".join(shown) + more
