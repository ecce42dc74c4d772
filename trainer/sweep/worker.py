"""Worker process of a sweep, which fine-tunes one run after the other; started by `transfer.py sweep`.

Standard input has a line of JSON for each run: its arguments, its log file, and whether to wait where another start is
at work in its folder. Its end, which is also that of a sweep that was killed, means to stop: what is under way is
saved, to be resumed. Standard output has a line of JSON when the process is ready, and for each run that ended or was
not begun.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from data_pipelines.common import advice
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.messages import logger
from trainer.finetuning.command_line import read_transfer
from trainer.finetuning.finetune import fine_tune
from trainer.run_folder import in_use, install_rank_log
from trainer.sweep.options import Sweep


class _Tasks:
    """The lines of standard input, read by a thread so that its end is noticed in the middle of a run."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self.is_busy = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._waiting.put(json.loads(line))
        self._waiting.put(None)
        if self.is_busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def next(self) -> dict[str, Any] | None:
        """The next run; None when there are no more."""
        self.is_busy.clear()
        task = self._waiting.get()
        self.is_busy.set()
        return task


def execute(arguments: list[str]) -> tuple[str | None, bool]:
    """Execute one run. Returns why it failed, or None, and whether this process can execute another."""
    try:
        fine_tune(read_transfer(arguments))
    except (InputError, RunError) as error:
        logger.error(error)
        return str(error), True
    except Exception as error:  # after which a GPU may be in any state
        traceback.print_exc()
        return f"{type(error).__name__}: {error}", False
    return None, True


def log_to(path: Path) -> None:
    """Append this process's output from now on, including that of C libraries, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)


def main() -> None:
    """Execute runs until there are none left."""
    install_rank_log()
    advice.belong_to(Sweep)  # which is what the user typed
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the log of the first run, which the sweep opened
    _tell(events, event="ready")
    tasks = _Tasks()
    while task := tasks.next():
        log_to(Path(task["log"]))
        if not task["waits"] and (held := in_use(Path(task["folder"]), task["timeout_s"])):
            tasks.is_busy.clear()
            _tell(events, event="held", reason=held)
            continue
        reason, can_go_on = execute(task["arguments"])
        tasks.is_busy.clear()
        _tell(events, event="ended", reason=reason, is_last=not can_go_on)
        if not can_go_on:
            sys.exit(1)


def _tell(events: TextIO, **event: Any) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


if __name__ == "__main__":
    main()
