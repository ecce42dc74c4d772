"""An elastic run as a user starts it, and what its ranks note: for drills that take ranks from it."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.run import PATIENCE, PROGRESS_S, ROOT, processes_with, wait_until

EVAL_EVERY, SAVE_EVERY, LOG_EVERY, BATCH_SIZE = 40, 20, 10, 16
TIMEOUT_S = round(8 * PATIENCE)
_COORDINATOR = "launchers/coordinator.py"
_STARTED = 19  # in /proc/PID/stat, counted after the name: when the process, or the thread, was started


@dataclass(frozen=True)
class Note:
    """What a rank's process is at, or was when it ended."""

    pid: int
    started: int
    slot: int
    rank: int
    round: int
    step: int
    doing: str


class ElasticRun:
    """A run on `ranks` ranks of this machine, on a prepared set; `folder` gets the run and the notes of its ranks."""

    def __init__(
        self, ranks: int, steps: int, data: Path, folder: Path, *, float64: bool = False, step_s: float = 0.04,
        device: str = "cpu", options: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.ranks, self.steps, self.run_dir, self.notes = ranks, steps, folder / "run", folder / "notes"
        self.notes.mkdir(parents=True)
        self._settings = {"notes": str(self.notes), "step_s": step_s, "float64": float64}
        settings: dict[str, Any] = {
            "data.sets": data, "data.image-size": 32, "data.resize": 32, "schedule.steps": steps,
            "schedule.warmup-steps": 4, "optim.base-lr": 0.05, "global-batch-size": BATCH_SIZE, "device": device,
            "threads": 1, "eval-every": EVAL_EVERY, "save-every": SAVE_EVERY, "log-every": LOG_EVERY,
            "timeout-s": TIMEOUT_S, "out": self.run_dir,
        }  # fmt: skip
        trainer = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        launcher = [str(ROOT / "launchers/torchrun.sh"), "--elastic", "--nproc", str(ranks), "--max-restarts", "1000"]
        self.command = [*launcher, "--", "embedded", *trainer, *options]
        self.log = self.notes / "log.txt"

    def start(self) -> None:
        """Start it."""
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "VIRTUAL_ENV": sys.prefix,
            "PYTHONPATH": f"{Path(__file__).parent / 'on_elastic_path'}:{ROOT}",
            "BITSCALE_ELASTIC_FAULTS": json.dumps(self._settings),
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("a") as log:
            self.launcher = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def is_running(self) -> bool:
        return self.launcher.poll() is None

    @property
    def is_finished(self) -> bool:
        return (self.run_dir / "result.json").is_file()

    def live(self) -> list[Note]:
        """The ranks' processes that are alive, by slot."""
        notes = []
        for path in self.notes.glob("note-*-*[0-9]"):
            with suppress(OSError, ValueError):
                note = Note(**json.loads(path.read_bytes()))
                if is_alive(note):
                    notes.append(note)
        return sorted(notes, key=lambda note: note.slot)

    def is_whole(self, above: int = 0) -> bool:
        """Whether all ranks train in one round, of a number above this."""
        live = self.live()
        rounds = {note.round for note in live}
        return len(live) == self.ranks and len(rounds) == 1 and min(rounds) > above and live[0].step >= 0

    def await_whole(self, above: int = 0) -> None:
        """Wait until all ranks train in one round, of a number above this."""
        wait_until(lambda: not self.is_running or self.is_whole(above), "all ranks in one round", PROGRESS_S, 0.02)

    def coordinator(self) -> int:
        """The process of the coordinator."""
        found = [pid for pid in processes_with(str(self.notes)) if _COORDINATOR in _command(pid)]
        return found[0]

    def agent_of(self, pid: int) -> int:
        """The agent that started a rank."""
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    def rows(self) -> list[dict[str, Any]]:
        """The lines of all ranks' ledgers, by time."""
        rows = []
        for path in self.notes.glob("ledger-*.jsonl"):
            for line in path.read_text().splitlines():
                with suppress(ValueError):  # killed in the middle of a line
                    rows.append(json.loads(line))
        return sorted(rows, key=lambda row: row["time"])

    def steps_left(self) -> int:
        """Steps that have not begun on any rank."""
        return self.steps - 1 - max((note.step for note in self.live()), default=self.steps)

    def kill(self) -> None:
        """End all that is left of it."""
        for pid in processes_with(str(self.notes)):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.launcher.wait()

    def output(self) -> str:
        """Everything its processes printed."""
        return self.log.read_text(errors="replace")

    def await_end(self, seconds: float) -> None:
        """Wait until it has ended by itself."""
        wait_until(lambda: not self.is_running, "the end of the run", seconds, 0.05)


def is_alive(note: Note) -> bool:
    """Whether the process that wrote the note lives. Its number may be that of another by now, or of a thread: a signal
    to a thread's number goes to the whole process."""
    with suppress(OSError):
        fields = Path(f"/proc/{note.pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] not in "ZX" and int(fields[_STARTED]) == note.started
    return False


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
