"""An elastic run that goes on for long while ranks are killed: whether memory, files and threads of one grow."""

import os
import random
import signal
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.elastic_run import ElasticRun, Note
from tests.faults.run import LEFT_S, TimedOutError
from tests.faults.soak import open_files, resident_kb

RANKS, EVERY_S = 4, 30.0
_SAMPLE_S, _WARM_UP_SHARE, _WINDOW_SHARE, _MAX_GROWTH = 5.0, 0.2, 0.1, 0.02


def soak(data: Path, folder: Path, minutes: float) -> dict[str, Any]:
    """Kill one of the other ranks every 30 s; memory in MB of the first rank's process, which is never killed."""
    run = ElasticRun(RANKS, 10_000_000, data, folder, step_s=0.2)
    run.start()
    try:
        run.await_whole()
        survivor = run.live()[0]
        samples, kills, lost = _sampled(run, survivor, time.monotonic() + 60 * minutes)
        last = run.live()
        os.kill(run.launcher.pid, signal.SIGTERM)
        try:
            run.await_end(LEFT_S)
            ended = True
        except TimedOutError:
            ended = False
    finally:
        run.kill()
    found = judged(samples) | {
        "minutes": minutes,
        "ranks": RANKS,
        "kills": kills,
        "rounds": max(n.round for n in last),
    }
    passed = ended and not lost and found["passed"]
    return found | {"steps": max(note.step for note in last) + 1, "lost": lost, "passed": passed}


def _sampled(run: ElasticRun, survivor: Note, until: float) -> tuple[list[dict[str, int]], int, str]:
    """Samples of the survivor, the number of kills, and what was seen of its end should it end too early."""
    draws, samples, kills, next_kill = random.Random(0), list[dict[str, int]](), 0, time.monotonic() + EVERY_S
    while time.monotonic() < until:
        live = run.live()
        if survivor.pid not in {note.pid for note in live}:
            return samples, kills, f"process {survivor.pid} is gone after {kills} kills; {run.log} says more"
        if time.monotonic() > next_kill:
            os.kill(draws.choice([note for note in live if note.pid != survivor.pid]).pid, signal.SIGKILL)
            kills, next_kill = kills + 1, next_kill + EVERY_S
        elif run.is_whole():  # with ranks away, it has fewer connections
            threads = len(os.listdir(f"/proc/{survivor.pid}/task"))
            samples.append({"kb": resident_kb(survivor.pid), "files": open_files(survivor.pid), "threads": threads})
        time.sleep(_SAMPLE_S)
    return samples, kills, ""


def judged(samples: list[dict[str, int]]) -> dict[str, Any]:
    """Memory in MB, files and threads, and whether they were steady once warm. samples: their kB and numbers."""
    warm = samples[int(len(samples) * _WARM_UP_SHARE) :]
    window = max(1, int(len(warm) * _WINDOW_SHARE))
    first, last = warm[:window], warm[-window:]
    found: dict[str, Any] = {
        name: {"first": median(each[name] for each in first), "last": median(each[name] for each in last),
               "least": min(each[name] for each in warm), "most": max(each[name] for each in warm)}
        for name in ("kb", "files", "threads")
    }  # fmt: skip
    found["memory_mb"] = {name: round(value / 1024, 1) for name, value in found.pop("kb").items()}
    parts = [samples[start : start + window] for start in range(0, len(samples), window)]
    found["memory_mb"]["over_time"] = [round(median(each["kb"] for each in part) / 1024, 1) for part in parts]
    growth = found["memory_mb"]["last"] / found["memory_mb"]["first"] - 1
    steady = all(found[name]["first"] == found[name]["last"] for name in ("files", "threads"))
    return found | {"memory_growth": round(growth, 5), "passed": growth <= _MAX_GROWTH and steady}
