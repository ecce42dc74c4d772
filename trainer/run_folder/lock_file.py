"""`lock.json` in a run folder: which process of which job holds it, and its successors.

Only one start can make the file `.lock-TOKEN.json`, and so come after the one with that token; it then puts its own
lock in the place of the old one. One that is killed in between leaves a chain of such files, whose last one counts.
No `flock`: some parallel file systems lack it, and others keep it to one host.
"""

import errno
import json
import os
import platform
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.common.files import write_atomically
from data_pipelines.common.printable import printable
from trainer.run_files import LOCK
from trainer.run_folder.processes import Process, ancestors, machine, parsed, this_process

JOB_VARIABLE = "BITSCALE_JOB"
"""Names the job of a process that cannot see it for itself: of a sweep's workers."""
_TOKEN_CHARACTERS = 32
_NAMELESS = ("none", "", "bitscale")  # run ids of torchrun, and of launchers/torchrun.sh, that are nobody's
_SLURM_JOB = re.compile(r"SLURM job (\d+(?:_\d+)?)(?: of .*)?")
_UNREADABLE = "unreadable"  # begins the token of a damaged lock
_LEFT_AFTER_S = 60.0  # from which a file that only lives for moments is one that was left behind


def job_name(environ: Mapping[str, str] = os.environ) -> str | None:
    """The job of this process, unchanged by a restart or a requeue; None outside of jobs."""
    if JOB_VARIABLE in environ:
        return environ[JOB_VARIABLE]
    if "SLURM_JOB_ID" in environ:
        array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
        number = f"{array}_{task}" if array and task else environ["SLURM_JOB_ID"]
        cluster = environ.get("SLURM_CLUSTER_NAME")
        return f"SLURM job {number}" + (f" of {cluster}" if cluster else "")
    run = environ.get("TORCHELASTIC_RUN_ID", "")
    return None if run in _NAMELESS else f"torchrun {run}"


@dataclass(frozen=True)
class Holder:
    """The process that holds a folder. launcher: torchrun, which may restart it; since: seconds since the epoch, by
    its clock; folder, folder_id: path and (device, inode), to recognise a copy. Fields missing in a damaged file are
    None."""

    token: str
    host: str | None
    process: Process | None
    ancestors: tuple[Process, ...]
    machine: str | None
    job: str | None
    folder: str | None
    folder_id: list[int] | None
    since: float | None
    launcher: Process | None = None

    def summary(self) -> str:
        """Process, host, start time and job as text."""
        number = "unknown" if self.process is None else self.process.number
        words = f"process {number} on {printable(self.host or 'an unknown host')}"
        if self.since is not None:
            words += f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}"
        return words if self.job is None else f"{words} ({printable(self.job)})"

    def how_to_stop(self) -> str:
        """How to end it for good so that it saves first: a command where one is known."""
        job = _SLURM_JOB.fullmatch(self.job or "")
        if job is not None:
            return f"have it save and end with: scancel {job[1]}"
        if self.process is None or not self.is_here:
            return "stop it there"
        first = self.launcher if self.launcher is not None and self.launcher.lives() else self.process
        still = [each.number for each in dict.fromkeys((first, self.process)) if each.is_suspended()]
        wake = f"; kill -CONT {' '.join(map(str, still))}" if still else ""
        return f"have it save and end with: kill {first.number}{wake}"

    @property
    def is_here(self) -> bool:
        """Whether this machine can tell if the process lives."""
        return self.process is not None and self.machine == machine()

    def lives(self, folder: Path) -> bool | None:
        """Whether the process runs and holds this folder, not one that this was copied from; None if unknown."""
        if self.process is None or not self.is_here:
            return None
        return False if self._is_copied_to(folder) else self.process.lives()

    @property
    def may_be_ending(self) -> bool:
        """For a process on this machine: whether its launcher is gone, so that it will end too."""
        return any(process.lives() is False for process in self.ancestors)

    def _is_copied_to(self, folder: Path) -> bool:
        with suppress(OSError):
            if self.folder is not None and self.folder_id != id_of(folder):
                return not os.path.samefile(self.folder, folder)
        return False


def id_of(folder: Path) -> list[int]:
    """Device and inode. Raises OSError."""
    status = folder.stat()
    return [status.st_dev, status.st_ino]


def this_start(folder: Path) -> Holder:
    """This process as the holder of a folder. Raises OSError."""
    above = tuple(ancestors())
    return Holder(
        token=secrets.token_hex(_TOKEN_CHARACTERS // 2),
        host=platform.node(),
        process=this_process(),
        ancestors=above,
        machine=machine(),
        job=job_name(),
        folder=str(folder.resolve()),
        folder_id=id_of(folder),
        since=time.time(),
        launcher=above[0] if above and "TORCHELASTIC_RUN_ID" in os.environ else None,
    )


def _holder(content: Any, unreadable: str) -> Holder:
    """unreadable: the token of one whose own cannot be read."""
    known = content if isinstance(content, dict) else {}
    text = {name: value for name, value in known.items() if isinstance(value, str)}
    token, since, above = text.get("token", ""), known.get("since"), known.get("ancestors")
    found = [parsed(each) for each in above] if isinstance(above, list) else []
    return Holder(
        token if token.isalnum() and len(token) <= _TOKEN_CHARACTERS else unreadable,
        text.get("host"),
        parsed(known.get("process")),
        tuple(each for each in found if each is not None),
        text.get("machine"),
        text.get("job"),
        text.get("folder"),
        known.get("folder_id"),
        since if isinstance(since, (int, float)) and abs(since) < 1e11 else None,
        parsed(known.get("launcher")),
    )


class Found(NamedTuple):
    """A lock file. touched_ns: modification time, set by its holder as a sign of life, by the file system's clock;
    last: its last byte, which changes too, as the clocks of some servers stand still."""

    holder: Holder
    touched_ns: int
    last: bytes
    path: Path

    @property
    def sign(self) -> tuple[int, bytes]:
        """A value that changes with each sign of life."""
        return self.touched_ns, self.last

    @property
    def is_readable(self) -> bool:
        """Whether it names its holder."""
        return not self.holder.token.startswith(_UNREADABLE)


def _read(path: Path) -> Found | None:
    """The lock in a file; None if there is none."""
    try:
        with path.open("rb") as file:  # which makes NFS ask its server; looking at the file's times alone does not
            text, status = file.read(), os.fstat(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    unreadable = f"{_UNREADABLE}{status.st_ino:x}x{status.st_mtime_ns:x}"
    return Found(_holder(content, unreadable), status.st_mtime_ns, text[-1:], path)


def chain_of(folder: Path) -> list[Found]:
    """The lock of a folder and its successors; the last one counts. Raises OSError."""
    chain: list[Found] = []
    found = _read(folder / LOCK)
    while found is not None and all(found.holder.token != before.holder.token for before in chain):
        chain.append(found)
        found = _read(after(folder, found.holder))
    return chain


def after(folder: Path, holder: Holder) -> Path:
    """The lock file of a holder's successor."""
    return folder / f".lock-{holder.token}.json"


def holder_of(folder: Path) -> Holder | None:
    """The holder of a run folder, alive or not; None if there is none, or it cannot be read."""
    with suppress(OSError):
        chain = chain_of(folder)
        return chain[-1].holder if chain else None
    return None


def create(path: Path, holder: Holder) -> bool:
    """Create a lock file unless it exists; returns whether it was created. Raises OSError."""
    temporary = _temporary(path.parent)
    try:
        _write_new(temporary, holder)
        try:
            os.link(temporary, path)  # so that it comes with its content
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            with suppress(FileExistsError):
                _write_new(path, holder)
    finally:
        temporary.unlink(missing_ok=True)
    made = _read(path)  # over NFS, what is said to have failed may have been done
    return made is not None and made.holder.token == holder.token


def _write_new(path: Path, holder: Holder) -> None:
    with path.open("xb") as file:
        try:
            file.write(to_bytes(holder))
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def touch(path: Path) -> None:
    """Give a sign of life in a lock file. Raises OSError."""
    with path.open("r+b", buffering=0) as file:
        at = max(0, os.fstat(file.fileno()).st_size - 1)
        file.seek(at)
        last = file.read(1)
        file.seek(at)
        file.write(b" " if last == b"\n" else b"\n")
    os.utime(path)  # a file system may put off the time of what is written


def _temporary(folder: Path) -> Path:
    return folder / f".lock-{secrets.token_hex(8)}.tmp"


def put_first(chain: list[Found]) -> None:
    """Make the last lock of a chain the only one, and delete leftovers of killed starts. Raises OSError."""
    *_, last = chain
    if last.path.name != LOCK:
        first = chain[0].path
        write_atomically(first, lambda temporary: temporary.write_bytes(to_bytes(last.holder)))
    for found in chain[1:]:
        found.path.unlink(missing_ok=True)
    with suppress(OSError):
        for path in last.path.parent.glob(".lock-*"):
            if path.stat().st_mtime_ns < last.touched_ns - _LEFT_AFTER_S * 1e9:
                path.unlink()


def to_bytes(holder: Holder) -> bytes:
    """The content of a lock file."""
    return json.dumps(asdict(holder), indent=1).encode() + b"\n"


def clock_ns(folder: Path) -> int:
    """The time now, by the clock that dates the files of a folder. Raises OSError."""
    probe = _temporary(folder)
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink(missing_ok=True)
