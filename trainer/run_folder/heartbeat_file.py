"""`heartbeat.json` of a run, for `trainer.status` and later starts: rank 0's last step and time, seconds of training so
far, and the command that resumes the run."""

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from data_pipelines.common.files import read_json
from trainer.run_files import HEARTBEAT
from trainer.run_folder.resume_command import resume_command
from trainer.run_folder.run_lock import taken_over

EVERY_S = 10.0


class HeartbeatFile:
    """Written at the start and then at most every ten seconds, so the cost per step is negligible."""

    def __init__(self, run_dir: Path, first_step: int) -> None:
        self._path = run_dir / HEARTBEAT
        self._about = {
            "host": platform.node(),
            "pid": os.getpid(),
            "folder": os.getcwd(),
            "command": resume_command(run_dir),
        }
        self._step, self._first_step, self._started = first_step, first_step, time.monotonic()
        self._earlier_s = _trained_s(self._path)
        self._written = -EVERY_S
        self.beat(first_step)

    @property
    def trained_s(self) -> float:
        """Seconds of training over all starts; the last of one that was killed, and those of versions that did not keep
        them, are not known."""
        return self._earlier_s + time.monotonic() - self._started

    def advance(self) -> None:
        """One update done."""
        self._step += 1
        if time.monotonic() - self._written >= EVERY_S:
            self.beat(self._step)

    def close(self) -> None:
        """Training has ended, here or for good."""
        self.beat(self._step)

    def beat(self, step: int) -> None:
        """Write now, unless another start has taken over the folder. A full disk is ignored."""
        self._written = time.monotonic()
        if taken_over(self._path.parent):
            return
        done = step - self._first_step
        content = {
            "step": step,
            "time": time.time(),
            "step_s": (self._written - self._started) / done if done else None,
            "trained_s": self.trained_s,
            **self._about,
        }
        temporary = self._path.with_name(f".{HEARTBEAT}.tmp")  # not `write_json`: its fsync would hold up training
        with suppress(OSError):
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(self._path)


def _trained_s(path: Path) -> float:
    content = read_json(path)
    seconds = content.get("trained_s") if isinstance(content, dict) else None
    return float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < 1e12 else 0.0
