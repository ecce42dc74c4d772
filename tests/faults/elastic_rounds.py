"""Rounds of faults in elastic runs: take ranks from a run, wait until they are back, and compare in the end."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import elastic_judge as judge
from tests.faults.elastic_run import TIMEOUT_S, ElasticRun, Note
from tests.faults.run import PATIENCE, PROGRESS_S, TimedOutError, wait_until

STEPS, ROUNDS_PER_RUN = 500, 5
PHASES = ("data", "forward", "backward", "update", "evaluation", "saving")
# Of 100 rounds.
SHARES = {"kill": 60, "kill-two": 8, "term": 10, "kill-agent": 5, "silence": 7, "kill-joiner": 5, "kill-coordinator": 5}
_PHASE_S = 15.0 * PATIENCE
_SETTLED_STEPS = 3


@dataclass
class ElasticRound:
    """What became of one fault. Seconds: from it to the next update, and between updates when ranks came back."""

    fault: str
    ranks: int
    phase: str
    rank: int
    wrong: list[str] = field(default_factory=list)
    next_step_s: float | None = None
    rejoin_pause_s: float | None = None
    steps_lost: int | None = None

    @property
    def survived(self) -> bool:
        return not self.wrong


def deal(rounds: int, seed: int) -> list[str]:
    """The faults in random order, by their shares."""
    faults = [fault for fault, share in SHARES.items() for _ in range(max(1, round(rounds * share / 100)))]
    random.Random(seed).shuffle(faults)
    return (faults + ["kill"] * rounds)[:rounds]


def disturb(run: ElasticRun, faults: list[str], draws: random.Random) -> Iterator[ElasticRound]:
    """Let faults strike a run that is started, one after the other, each when all ranks are back; yields what became of
    each so far. Ends early if the run ends."""
    run.await_whole()
    for fault in faults:
        number = run.live()[0].round if run.is_whole() else 0
        with suppress(TimedOutError):
            wait_until(lambda number=number: not run.is_running or _done_in(run, number) >= _SETTLED_STEPS * run.ranks,
                       "steps of this round", PROGRESS_S, 0.05)  # fmt: skip
        if not run.is_running or run.steps_left() < 60:
            return
        yield _strike(run, fault, draws)


def _done_in(run: ElasticRun, number: int) -> int:
    return sum(row["kind"] == "done" and row["round"] == number for row in run.rows())


def _strike(run: ElasticRun, fault: str, draws: random.Random) -> ElasticRound:
    phase, rank = draws.choice(PHASES), draws.randrange(run.ranks)
    if fault in ("silence", "kill-joiner", "kill-coordinator"):
        phase = draws.choice(PHASES[:4])
    number = run.live()[0].round
    victim = _when_in(run, rank, phase)
    if victim is None:
        return ElasticRound(fault, run.ranks, phase, rank, ["its rank was not there"])
    found = ElasticRound(fault, run.ranks, victim.doing, rank)
    struck = time.time()
    try:
        _STRIKES[fault](run, victim)
        limit = PROGRESS_S + (TIMEOUT_S if fault == "silence" else 0)
        wait_until(
            lambda: not run.is_running or _first_done_after(run, number) is not None, "the next step", limit, 0.02
        )
        if fault == "silence":
            os.kill(victim.pid, signal.SIGCONT)
        if fault == "kill-joiner":
            _kill_joiner(run, victim.slot)
        run.await_whole(number)
        wait_until(
            lambda: not run.is_running or _done_in(run, run.live()[0].round) >= run.ranks, "its steps", PROGRESS_S, 0.05
        )
    except (TimedOutError, IndexError, ProcessLookupError) as error:
        found.wrong.append(str(error))
        return found
    if not run.is_running and not run.is_finished:
        found.wrong.append("the run has ended")
        return found
    _measure(run, found, number, struck)
    return found


def _when_in(run: ElasticRun, rank: int, phase: str) -> Note | None:
    """The rank once it is in this phase; after a while, as it is."""
    end, note = time.monotonic() + _PHASE_S, None
    while time.monotonic() < end:
        note = next((each for each in run.live() if each.rank == rank), None)
        if note is not None and note.doing == phase:
            break
    return note


def _kill_two(run: ElasticRun, victim: Note) -> None:
    for note in [*[note for note in run.live() if note.pid != victim.pid][:1], victim]:
        os.kill(note.pid, signal.SIGKILL)


def _kill_coordinator(run: ElasticRun, victim: Note) -> None:
    os.kill(run.coordinator(), signal.SIGKILL)
    os.kill(victim.pid, signal.SIGKILL)


def _kill_joiner(run: ElasticRun, slot: int) -> None:
    """Kill the process that comes in a rank's place while it joins, or as near to that as can be seen."""

    def joiner() -> Note | None:
        return next((note for note in run.live() if note.slot == slot and note.doing == "regrouping"), None)

    with suppress(TimedOutError, ProcessLookupError):
        wait_until(lambda: joiner() is not None, "a rank that joins", PROGRESS_S, 0.0)
        os.kill(joiner().pid, signal.SIGKILL)  # type: ignore[union-attr]
        time.sleep(0.5)


_STRIKES: dict[str, Callable[[ElasticRun, Note], None]] = {
    "kill": lambda run, victim: os.kill(victim.pid, signal.SIGKILL),
    "kill-two": _kill_two,
    "term": lambda run, victim: os.kill(victim.pid, signal.SIGTERM),
    "kill-agent": lambda run, victim: os.kill(run.agent_of(victim.pid), signal.SIGKILL),
    "silence": lambda run, victim: os.kill(victim.pid, signal.SIGSTOP),
    "kill-joiner": lambda run, victim: os.kill(victim.pid, signal.SIGKILL),
    "kill-coordinator": _kill_coordinator,
}


def _first_done_after(run: ElasticRun, number: int) -> dict[str, Any] | None:
    return next((row for row in run.rows() if row["kind"] == "done" and row["round"] > number), None)


def _measure(run: ElasticRun, found: ElasticRound, number: int, struck: float) -> None:
    done = [row for row in run.rows() if row["kind"] == "done"]
    after = [row for row in done if row["round"] > number]
    before = [row for row in done if row["round"] <= number]
    found.next_step_s = round(after[0]["time"] - struck, 2)
    found.steps_lost = max(0, max(row["step"] for row in before) + 1 - min(row["step"] for row in after))
    last = max(row["round"] for row in after)
    former = [row["time"] for row in done if row["round"] < last]
    if last > after[0]["round"]:
        found.rejoin_pause_s = round(min(row["time"] for row in after if row["round"] == last) - max(former), 2)


def drill(data: Path, folder: Path, faults: list[str], seed: int, ranks: int, float64: bool,
          references: "judge.References", say: Callable[[ElasticRound], None]) -> list[ElasticRound]:  # fmt: skip
    """One run with its faults, brought to its end and judged; what is wrong with it counts for each of its rounds.
    Raises RuntimeError for a run that ends before the first."""
    run = ElasticRun(
        ranks, references.steps, data, folder, float64=float64, step_s=references.step_s, device=references.device
    )
    rounds: list[ElasticRound] = []
    run.start()
    try:
        for each in disturb(run, faults, random.Random(seed)):
            rounds.append(each)
            say(each)
        with suppress(TimedOutError):
            run.await_end(3 * PROGRESS_S)
        wrong = judge.faults_of(run, references, float64)
    finally:
        run.kill()
    if not rounds:
        raise RuntimeError(f"a run has ended before any fault:\n{run.output()[-2000:]}")
    for each in rounds:
        each.wrong += wrong
    return rounds
