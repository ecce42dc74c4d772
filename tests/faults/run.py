"""A run of the trainer as a user starts it, in processes of its own, that notes what it does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = {"ddp": "torchrun", "deepspeed": "deepspeed", "horovod": "horovod"}
STEPS, SAVE_EVERY, EVAL_EVERY, BATCH_SIZE = 40, 5, 20, 16
# A busy machine takes longer to do the same.
PATIENCE = float(os.environ.get("BITSCALE_FAULTS_PATIENCE", "1"))
TIMEOUT_S = ceil(8 * PATIENCE)  # after which a rank that says nothing counts as lost
LEFT_S = 45.0 * PATIENCE  # that processes have to end by themselves after a fault
PROGRESS_S = 120.0 * PATIENCE
_STEP_S = 0.04
_LOOK_S = 0.1  # at all processes of the machine, which takes a while


@dataclass(frozen=True)
class Layout:
    """What moves the gradients, and between how many ranks."""

    engine: str
    ranks: int

    def __str__(self) -> str:
        return f"{self.engine} on {self.ranks}"

    @property
    def zero_stage(self) -> int:
        """Momentum, and DeepSpeed's gradients, are parted on some numbers of ranks, so that this is tried as well."""
        return {("ddp", 4): 1, ("deepspeed", 2): 1, ("deepspeed", 4): 2}.get((self.engine, self.ranks), 0)


class TimedOutError(AssertionError):
    """What should have happened by now has not."""


def wait_until(happened: Callable[[], Any], what: str, seconds: float, every_s: float = 0.002) -> None:
    """Look again and again."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimedOutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every_s)


class Started:
    """One start of a run, or of a preparation: its launcher and its ranks."""

    def __init__(self, number: int, notes: Path, command: list[str], environment: dict[str, str]) -> None:
        self.number, self.notes = number, notes
        self.log = notes / f"log-{number}.txt"
        self.spawned = time.time()
        with self.log.open("w") as log:
            self.launcher = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def note(self, rank: int) -> dict[str, Any]:
        """What a rank is, or was, at: pid, step, doing, disk; empty before it says so."""
        with suppress(OSError, ValueError):
            note: dict[str, Any] = json.loads((self.notes / f"note-{self.number}-{rank}").read_bytes())
            return note
        return {}

    def ledger(self, rank: int) -> list[dict[str, Any]]:
        """The steps that a rank took up, in order."""
        path = self.notes / f"ledger-{self.number}-{rank}.jsonl"
        rows = []
        for line in path.read_text().splitlines() if path.exists() else []:
            with suppress(ValueError):  # killed in the middle of a line
                rows.append(json.loads(line))
        return rows

    @property
    def is_running(self) -> bool:
        return self.launcher.poll() is None

    def left(self) -> list[int]:
        """Its processes that are still there, the launcher among them."""
        self.launcher.poll()
        return processes_with(f'"notes": "{self.notes}", "start": {self.number},')

    def wait_for_end(self, seconds: float = LEFT_S) -> bool:
        """Whether all of its processes ended by themselves in this time; what is left is killed."""
        try:
            self.require_end(seconds)
        except TimedOutError:
            self.kill()
            return False
        return True

    def require_end(self, seconds: float) -> None:
        """Wait until nothing of it is left. Raises TimedOutError."""
        wait_until(lambda: not self.is_running and not self.left(), "end of all processes", seconds, _LOOK_S)

    def kill(self) -> None:
        """End all that is left of it."""
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.launcher.wait()

    def output(self) -> str:
        """Everything its processes printed."""
        return self.log.read_text(errors="replace")


def processes_with(text: str) -> list[int]:
    """Processes, not yet dead, in whose environment this stands."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            if text.encode() in (folder / "environ").read_bytes():
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(folder.name)] if state not in "ZX" else []
    return found


class Run:
    """A run in `folder`, on a prepared set of its own; `notes` is where it is observed."""

    def __init__(self, layout: Layout, folder: Path, data: Path, notes: Path) -> None:
        self.layout, self.folder, self.data, self.notes = layout, folder, data, notes
        self.starts: list[Started] = []
        notes.mkdir(parents=True)

    @property
    def command(self) -> list[str]:
        """What the user types, each time the same."""
        engine = self.layout.engine
        options: dict[str, Any] = {
            "data.sets": self.data,
            "data.image-size": 32,
            "data.resize": 32,
            "schedule.steps": STEPS,
            "schedule.warmup-steps": 4,
            "optim.base-lr": 0.4,
            "global-batch-size": BATCH_SIZE,
            "device": "cpu",
            "threads": 1,
            "eval-every": EVAL_EVERY,
            "save-every": SAVE_EVERY,
            "log-every": SAVE_EVERY,
            "timeout-s": TIMEOUT_S,
            "connect-timeout-s": ceil(60 * PATIENCE),
            "run-dir": self.folder,
        }
        if engine == "deepspeed":
            options["engine"] = engine
        if engine == "horovod":
            options["bucket-mb"] = 0  # which gradients travel together depends on the moment, and so do the last bits
        if self.layout.zero_stage:
            options["zero-stage"] = self.layout.zero_stage
        launcher = [
            str(ROOT / f"launchers/{LAUNCHERS[engine]}.sh"),
            "--nproc",
            str(self.layout.ranks),
            "--",
            "embedded",
        ]
        return [*launcher, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]

    def start(self) -> Started:
        """The same command again."""
        number = len(self.starts)
        for left in self.notes.glob("die-*.json"):  # of a death that never came
            left.unlink()
        environment = environment_of(self.notes, number, self.folder, _STEP_S)
        self.starts.append(Started(number, self.notes, self.command, environment))
        return self.starts[-1]

    def go_on(self) -> Started:
        """The start that is running, or a new one."""
        return self.starts[-1] if self.starts and self.starts[-1].is_running else self.start()

    @property
    def ranks(self) -> range:
        return range(self.layout.ranks)

    @property
    def is_finished(self) -> bool:
        return (self.folder / "result.json").is_file()

    def status(self) -> dict[str, Any]:
        """What status.json says; empty where there is none."""
        with suppress(OSError, ValueError):
            status: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
            return status
        return {}

    def checkpoints(self) -> list[Path]:
        """Of the steps, oldest first."""
        return sorted((self.folder / "checkpoints").glob("step_*.safetensors"))


def environment_of(notes: Path, number: int, watched: Path, step_s: float | None) -> dict[str, str]:
    """The environment of a start that is observed."""
    settings = {"notes": str(notes), "start": number, "step_s": step_s, "watched": str(watched)}
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": f"{Path(__file__).parent / 'on_path'}:{ROOT}",
        "BITSCALE_FAULTS": json.dumps(settings),
        "OMP_NUM_THREADS": "1",
    }


def steps_taken(run: Run) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Every line of the ledger: start, rank and row, starts in order."""
    for started in run.starts:
        for rank in run.ranks:
            for row in started.ledger(rank):
                yield started.number, rank, row
