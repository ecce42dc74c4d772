"""Copies each rank's output to `RUN/logs/<host>-<rank>.log`; an error that many ranks have is printed once.

Only what Python prints is kept there, and the stacks of a crash: what C libraries write goes to the terminal alone. The
streams are copied, not just the records of `logging`: other libraries print, and their warnings and tracebacks are what
a log is read for.
"""

import faulthandler
import hashlib
import os
import platform
import re
import secrets
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from data_pipelines.common import cli, streams
from data_pipelines.common.messages import logger
from trainer.run_files import LOGS
from trainer.run_folder.resume_command import resume_command
from trainer.run_folder.run_lock import Ranks

WAIT_S, _POLL_S = 2.0, 0.05  # for the other ranks to have the same error, or for one of them to tell it
_KEPT_CHARACTERS = 1 << 20  # said before the run folder is known


class _Log:
    """The log file of this process, once it is known; earlier output goes first."""

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._before: list[str] = []
        self._kept = 0
        self.folder: Path | None = None
        self.start = ""

    def write(self, text: str) -> None:
        if text.startswith("\r"):  # a progress bar
            return
        if self._file is None:
            self._kept += len(text)
            if self._kept <= _KEPT_CHARACTERS:
                self._before.append(text)
            return
        with suppress(OSError, ValueError):  # a full disk is no reason to stop
            self._file.write(text)

    def follow(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        former = self._file
        self._file = (folder / name).open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
        self.folder = folder
        self._file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S %z')} process {os.getpid()}\n")
        faulthandler.enable(self._file)
        if former is not None:
            former.close()
        before, self._before = self._before, []
        for text in before:
            self.write(text)


class _Tee(streams.Stream):
    """A stream whose text is also written to the log."""

    def __init__(self, stream: TextIO, log: _Log) -> None:
        super().__init__(stream)
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text)
        return super().write(text)


_log: _Log | None = None


def install_rank_log() -> None:
    """From now on, keep what this process prints, and print errors together with the other ranks. For programs, at
    their start."""
    global _log
    if not isinstance(sys.stderr, _Tee):
        streams.guard()
        streams.outlive_readers()
        _log = _Log()
        sys.stdout, sys.stderr = _Tee(sys.stdout, _log), _Tee(sys.stderr, _log)  # type: ignore[assignment]
        sys.excepthook = _tell_exception
        cli.tell = tell_error


def open_rank_log(run_dir: Path, engine: Ranks) -> None:
    """Write the output so far and from now on to this run's log; errors are then printed once for all nodes.
    Collective. Without `install_rank_log`, nothing is written."""
    resume_command(run_dir)  # looks for the launcher, which may be gone when the command is needed
    start = engine.gather(secrets.token_hex(7))[0]
    if _log is not None:
        _log.start = start
        try:
            name = f"{engine.rank}" if engine.rank >= 0 else f"joined-{os.getpid()}"
            _log.follow(run_dir / LOGS, f"{platform.node()}-{name}.log")
        except OSError as error:
            logger.warning(f"{run_dir / LOGS} cannot be written ({error}); there will be no log")


def keep_in_log(text: str) -> None:
    """Write a text to this rank's log and not to the terminal."""
    if _log is not None:
        _log.write(f"{text}\n")


def tell_error(message: str) -> None:
    """Print an error once for all ranks that end with it: at once for a single process, else by the first of them.

    torchelastic's `@record` is no alternative: it hands the error to the agent that started the rank, which srun,
    horovodrun and deepspeed do not have; every rank prints its traceback all the same; and each node's agent reports
    its own ranks.
    """
    rank, world_size = os.environ.get("RANK", "0"), cli.world_size()
    if world_size == 1:
        print(message, file=sys.stderr, flush=True)
        return
    try:
        count = _with_others(message, rank, world_size)
    except OSError:
        count = 1
    line = f"[rank {rank}] {message}" if count == 1 else f"{count} ranks: {message}"
    if count:
        print(line, file=sys.stderr, flush=True)
    else:
        keep_in_log(f"[rank {rank}] {message}")


def _with_others(message: str, rank: str, world_size: int) -> int:
    """How many ranks have this error, on the rank that is to print it; 0 on the others, once it has been printed."""
    alike = hashlib.sha256(re.sub(r"\d+", "#", message).encode()).hexdigest()[:16]
    folder = _meeting_place() / alike
    folder.mkdir(parents=True, exist_ok=True)
    (folder / rank).touch()
    try:
        (folder / "teller").touch(exist_ok=False)
        tells = True
    except FileExistsError:
        tells = False
    patience = time.monotonic() + (WAIT_S if tells else 2 * WAIT_S)
    while time.monotonic() < patience:
        known = {path.name for path in folder.iterdir()}
        if tells and len(known - {"teller", "told"}) == world_size:
            break
        if not tells and "told" in known:
            return 0
        time.sleep(_POLL_S)
    if not tells:
        return 1  # who was to tell it is gone
    (folder / "told").touch()
    return len({path.name for path in folder.iterdir()} - {"teller", "told"})


def _meeting_place() -> Path:
    """A folder for this start only: beside the logs, or shared by the ranks of this node while the logs' folder is not
    known."""
    if _log is not None and _log.start and _log.folder is not None:
        return _log.folder / f".errors-{_log.start}"
    launcher, since = os.getppid(), "0"
    with suppress(OSError, IndexError):  # a later launcher may have the same number
        since = (
            Path(f"/proc/{launcher}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    folder = Path(tempfile.gettempdir()) / f"bitscale-{os.getuid()}-{launcher}-{since}-{attempt}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} was made by somebody else")
    return folder


def _tell_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace)).rstrip()
    keep_in_log(text)
    tell_error(text)
