"""A run that goes on for long: whether its memory and its open files grow, and what saving costs it."""

import json
import os
import signal
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.run import LEFT_S, PROGRESS_S, ROOT, Started, environment_of, wait_until
from trainer.run_folder.metric_logger import read_metrics

RANKS, SAVE_EVERY = 2, 100
_SAMPLE_S = 5.0
_WARM_UP_SHARE = 0.2
_WINDOW_SHARE = 0.1  # at the beginning, after the warm-up, and at the end, which are compared
_MAX_GROWTH, _MAX_STALL = 0.01, 0.01


def soak(folder: Path, minutes: float) -> dict[str, Any]:
    """Let the demo recipe run on two ranks, then stop it by a signal; memory in MB, of both ranks together."""
    notes, run_dir = folder / "notes", folder / "run"
    notes.mkdir(parents=True)
    command = [
        str(ROOT / "launchers/torchrun.sh"),
        "--nproc",
        str(RANKS),
        "--",
        "embedded",
        "--schedule.steps",
        "10000000",
    ]
    command += ["--device", "cpu", "--threads", "1", "--save-every", str(SAVE_EVERY), "--out", str(run_dir)]
    started = Started(0, notes, command, environment_of(notes, 0, run_dir, 0.0))
    try:
        wait_until(lambda: started.note(RANKS - 1).get("step", -1) >= 0, "the first step", PROGRESS_S)
        samples = _sampled(started, time.monotonic() + 60 * minutes)
        stopped_at = started.note(0)["step"]
        os.kill(started.launcher.pid, signal.SIGTERM)
        ended = started.wait_for_end(LEFT_S)
    finally:
        started.kill()
    status = json.loads((run_dir / "status.json").read_text())
    found = _judged(samples) | _saving(run_dir)
    found |= {"minutes": minutes, "ranks": RANKS, "steps": stopped_at + 1, "state_after_sigterm": status["state"]}
    found["passed"] = bool(
        ended
        and status["state"] == "resumable"
        and found["memory_growth"] <= _MAX_GROWTH
        and found["open_files"]["first"] == found["open_files"]["last"]
        and (found["stall_share"] is None or found["stall_share"] <= _MAX_STALL)
    )
    return found


def _sampled(started: Started, until: float) -> list[dict[str, int]]:
    pids = [started.note(rank)["pid"] for rank in range(RANKS)]
    samples = []
    while time.monotonic() < until:
        samples.append({"kb": sum(map(resident_kb, pids)), "files": sum(map(open_files, pids))})
        time.sleep(min(_SAMPLE_S, max(0.0, until - time.monotonic())))
    return samples


def resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _judged(samples: list[dict[str, int]]) -> dict[str, Any]:
    warm = samples[int(len(samples) * _WARM_UP_SHARE) :]
    window = max(1, int(len(warm) * _WINDOW_SHARE))
    first, last = warm[:window], warm[-window:]
    memory = [median(sample["kb"] for sample in part) / 1024 for part in (first, last)]
    files = [median(sample["files"] for sample in part) for part in (first, last)]
    return {
        "memory_mb": {"first": round(memory[0], 1), "last": round(memory[1], 1)},
        "memory_growth": round(memory[1] / memory[0] - 1, 5),
        "open_files": {
            "first": files[0],
            "last": files[1],
            "least": min(sample["files"] for sample in warm),
            "most": max(sample["files"] for sample in warm),
        },
    }


def _saving(run_dir: Path) -> dict[str, Any]:
    """The share of the time between checkpoints in which training stood still to save."""
    rows = read_metrics(run_dir)
    stalls = [row["save/stall_s"] for row in rows if row.get("save/stall_s") is not None]
    rates = [row["train/images_per_s"] for row in rows if "train/images_per_s" in row]
    if not stalls or not rates:
        return {"saves": None, "stall_s": None, "stall_share": None}
    batch_size = json.loads((run_dir / "config.json").read_text())["global_batch_size"]
    between_s = SAVE_EVERY * batch_size / median(rates)
    return {
        "saves": len(stalls),
        "stall_s": round(median(stalls), 5),
        "s_between_saves": round(between_s, 2),
        "stall_share": round(median(stalls) / between_s, 5),
    }
