"""One contender's timed pass over the images. Standard library only, as other interpreters run it too."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lib.processes import run_module

SIZE = 224  # side of the square that every contender hands over, pixels

Run = Callable[[int], int]  # a whole pass over at least so many images; returns how many it handed over


@dataclass(frozen=True)
class Setting:
    """What a contender is told. `folder` holds `raw`, class folders of JPEG files, and `prepared`, those prepared."""

    folder: Path
    num_images: int
    batch_size: int
    threads: int

    def to_json(self) -> str:
        """For the command line of `run_contender`."""
        return json.dumps({**vars(self), "folder": str(self.folder)})


def run_apart(name: str, setting: Setting, interpreter: Path, module: str) -> dict[str, Any]:
    """What `run_contender` in a process of its own says, or "not_run" and why."""
    limit_s = 600 + setting.num_images  # FFCV's writer waits for ever when one of its workers has failed
    try:
        finished = run_module(module, name, setting.to_json(), interpreter=str(interpreter), timeout_s=limit_s)
    except subprocess.TimeoutExpired:
        return {"not_run": f"had not ended after {limit_s} s"}
    except OSError as error:
        return {"not_run": str(error)}
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        return {"not_run": lines[-1]}
    result: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return result


def cpu_seconds() -> float:
    """CPU time of this process, its threads, and its children that have ended; user and system."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(warm_up: Run, run: Run, setting: Setting) -> dict[str, float]:
    """The cost of one whole pass, after a warm-up: nothing is in flight when it begins or ends, and workers that it
    started have ended, so that all of its work is counted and no other."""
    warm_up(2 * setting.batch_size)
    started, started_cpu = time.perf_counter(), cpu_seconds()
    images = run(setting.num_images)
    return {
        "images": images,
        "images_per_cpu_s": images / (cpu_seconds() - started_cpu),
        "images_per_s": images / (time.perf_counter() - started),
    }


def run_contender(measurements: dict[str, Callable[[Setting], dict[str, Any]]]) -> None:
    """The main program of a contender's process: its name and a Setting as JSON come on the command line, its last line
    of output is a JSON object, with "not_run" and the reason if a package is missing."""
    name, setting = sys.argv[1], json.loads(sys.argv[2])
    try:
        result = measurements[name](Setting(**{**setting, "folder": Path(setting["folder"])}))
    except ImportError as error:
        result = {"not_run": f"{type(error).__name__}: {error}"}
    print(json.dumps(result))
