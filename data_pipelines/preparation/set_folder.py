"""The temporary folder a set is made in, its lock, and the atomic move to the final name."""

import fcntl
import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from data_pipelines.common.advice import quoted
from data_pipelines.common.earlier_output import refuse_to_replace
from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import MANIFEST
from data_pipelines.preparation.quarantine import all_refused_files

PATIENCE = 10.0  # seconds that tasks of an array job wait for another to look at the plan


def partial_of(out: Path) -> Path:
    """The folder in which a set is made."""
    return out.with_name(f".{out.name}.partial")


def keymap_of(out: Path) -> Path:
    """The file that maps the keys of a set of patients back to files."""
    return out.with_name(f"{out.name}.keymap.csv")


@contextmanager
def held(out: Path, is_shared: bool) -> Iterator[None]:
    """Hold a lock against other processes that prepare the same set; is_shared: those that also share it are let in.

    Without effect on file systems that have no locks. Raises InputError where another process holds it, and OSError.
    """
    path = partial_of(out).with_name(f"{partial_of(out).name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + (PATIENCE if is_shared else 0)
    while True:
        lock = path.open("a+b")
        try:
            is_ours = _locks(lock, is_shared)
            if is_ours and _is_at(path, lock):
                break
        except BaseException:
            lock.close()
            raise
        lock.close()
        if not is_ours and time.monotonic() >= deadline:
            raise InputError(
                f"{out} is being prepared by another process; wait until that has ended, and repeat the command, or "
                f"choose another --out (if none works there, as after a machine went down: rm {quoted(path)})"
            )
        time.sleep(0.05)
    with lock:
        try:
            yield
        finally:
            if _locks(lock, is_shared=False):  # else another task needs it still
                path.unlink(missing_ok=True)


def _locks(lock: BufferedRandom, is_shared: bool) -> bool:
    """Whether no other process holds it."""
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not every file system of a cluster has locks
        return True
    return True


def _is_at(path: Path, lock: BufferedRandom) -> bool:
    """Whether the open file still has this name: its former holder may have removed it since."""
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False


def require_free(out: Path, force: bool) -> None:
    """Raise InputError unless `out` is absent, empty, or a prepared set that may be replaced."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise InputError(
            f"{out} is something else than a prepared set; --force does not delete it, choose another --out"
        )
    if not force:
        refuse_to_replace(out, "exists")


def put_in_place(folder: Path, out: Path) -> None:
    """Move a finished set to its name. If this is interrupted, a whole set remains, and the next call completes the
    move."""
    former = _former(out)
    if out.exists():
        shutil.rmtree(former, ignore_errors=True)
        out.rename(former)
    folder.rename(out)


def tidy(out: Path) -> None:
    """Remove leftovers of the preparation of a set that is in place, and of earlier refused ones."""
    former, partial = _former(out), partial_of(out)
    unfinished = (path for path in out.parent.glob(f".{glob.escape(keymap_of(out).name)}.*.tmp"))
    for path in (*all_refused_files(out), *unfinished):
        path.unlink(missing_ok=True)
    if former.exists():
        shutil.rmtree(former)
    if partial.exists():
        partial.rename(former)  # so that what the set was made of is there whole, or not at all
        shutil.rmtree(former)


def _former(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced")
