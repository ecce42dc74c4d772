"""Locks of a run folder that another process, or another machine, has left."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.run_files import LOCK
from trainer.run_folder import lock_file, processes
from trainer.run_folder.lock_file import Holder, holder_of, this_start
from trainer.run_folder.processes import Process
from trainer.run_folder.run_lock import locked

BEAT_S = 0.05


NO_TIMEOUT = 1000.0


TIMEOUT_S = 0.4


class OneRank:
    rank = 0

    def gather(self, value: Any) -> list[Any]:
        return [json.loads(json.dumps(value))]


def of(process: subprocess.Popen[bytes], folder: Path, **changes: Any) -> Holder:
    known = {"process": processes._process(process.pid), "launcher": None}
    return replace(this_start(folder), **known | changes)


def elsewhere(folder: Path, **changes: Any) -> Holder:
    known = {"host": "node7", "machine": "another", "process": Process(12, 5), "since": 0.0}
    return replace(this_start(folder), **known | changes)


def left(folder: Path, holder: Holder, age_s: float = 0.0) -> Path:
    """A folder with the lock of a holder, touched so long ago."""
    path = folder / LOCK
    path.write_bytes(lock_file.to_bytes(holder))
    touched_ns = lock_file.clock_ns(folder) - int(age_s * 1e9)
    os.utime(path, ns=(touched_ns, touched_ns))
    return path


def have(folder: Path, timeout_s: float = NO_TIMEOUT) -> None:
    """Take the lock and leave it."""
    with locked(folder, OneRank(), timeout_s):
        held = holder_of(folder)
        assert held is not None
        assert held.process == processes.this_process()
