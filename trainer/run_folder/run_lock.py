"""The lock of a run folder: one start at a time; others are refused, or wait.

The start that has the folder touches `lock.json` there every ten seconds. Another one takes it over when that process
is gone, as can be seen on its own machine, or has been silent for long, some of it before its eyes. Ages go by the
clock of the file system, as those of hosts differ.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGTERM
from typing import Any, Literal, Protocol

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.messages import logger
from trainer.run_files import ENVIRONMENT, LOCK
from trainer.run_folder.lock_file import (
    Found,
    Holder,
    after,
    chain_of,
    clock_ns,
    create,
    id_of,
    put_first,
    this_start,
    touch,
)

BEAT_S, POLL_S = 10.0, 1.0
_MISSED_BEATS = 3  # a disk may be slow
ENDING_S = 45.0  # that a start of the same job, or one whose launcher is gone, may take to save and end
BRIEFLY_S = 1.0  # that training may wait for the thread of the lock
PATIENCE_S = 30.0  # from asking this start to end until it is ended
Verdict = Literal["free", "wait", "busy"]


def _clock() -> float:
    """Seconds on a monotonic clock, including suspended time where the system counts it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def elsewhere() -> str:
    """Advice for a run folder that cannot be used."""
    return f"choose another {flag('--out')}"


class Ranks(Protocol):
    """The part of an engine that locking needs."""

    rank: int

    def gather(self, value: Any) -> list[Any]: ...


class _Attempt:
    """One start's attempts to take the lock of a folder. words: description of its holder."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder, self._timeout_s, self.me = folder, timeout_s, this_start(folder)
        self._watched: Found | None = None
        self._since = self._moved = 0.0  # monotonic: when it was first seen, and when it was last seen to move
        self.words = ""

    def take(self, inherits: bool = False) -> Verdict:
        """Try once. free: the lock is taken; wait: its holder may be gone soon; busy: its holder is alive. `inherits`:
        it is this start's own, of a rank that no longer takes part. Raises OSError."""
        chain = chain_of(self._folder)
        verdict = "free" if inherits else self.judge(chain)
        if verdict != "free":
            return verdict
        path = after(self._folder, chain[-1].holder) if chain else self._folder / LOCK
        if not create(path, self.me):
            return "wait"
        try:
            chain = chain_of(self._folder)
            is_last = bool(chain) and chain[-1].holder.token == self.me.token
            if is_last:
                put_first(chain)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        if not is_last:  # somebody else had come after that holder, and the chain begins anew
            path.unlink(missing_ok=True)
        return "free" if is_last else "wait"

    def judge(self, chain: list[Found]) -> Verdict:
        """Whether the last lock of a chain may be taken over. Raises OSError."""
        if not chain:
            return "free"
        found, now, before = chain[-1], time.monotonic(), self._watched
        is_new = before is None or before.holder.token != found.holder.token
        moves = before is not None and not is_new and before.sign != found.sign
        self._watched, self._since = found, now if is_new else self._since
        self._moved = now if is_new or moves else self._moved
        of_this_job = found.holder.job is not None and found.holder.job == self.me.job
        may_end = now - self._since < ENDING_S
        lives = found.holder.lives(self._folder)
        if lives is False or (found.holder.is_here and found.holder.process == self.me.process):
            return "free"
        if lives:
            return self._judge_here(found.holder, may_end and (of_this_job or found.holder.may_be_ending))
        if moves and not (of_this_job and may_end):
            self.words = f"{self._in_use(found.holder)}, and gives signs of life. {self._remedy(found.holder)}"
            return "busy"
        return self._judge_silence(found, of_this_job)

    def _judge_here(self, holder: Holder, may_end: bool) -> Verdict:
        if may_end:
            self.words = f"{self._in_use(holder)}, which may be about to end; waiting up to {ENDING_S:.0f} s for that"
            return "wait"
        self.words = f"{self._in_use(holder)}. {self._remedy(holder)}"
        return "busy"

    def _judge_silence(self, found: Found, of_this_job: bool) -> Verdict:
        # Where clocks differ after all, its age may be wrong by any amount; what was waited for is not.
        watched_s = time.monotonic() - self._moved
        silent_s = max(watched_s, (clock_ns(self._folder) - found.touched_ns) / 1e9)
        least_s = _MISSED_BEATS * BEAT_S
        limit_s = least_s if of_this_job else max(self._timeout_s, least_s)
        self.words = (
            f"{self._in_use(found.holder)}, silent for {silent_s:.0f} s; waiting until it ends, or that is "
            f"{limit_s:.0f} s ({flag('--timeout-s')}), at least {least_s:.0f} s of it from now"
        )
        return "free" if silent_s >= limit_s and watched_s >= least_s else "wait"

    def _in_use(self, holder: Holder) -> str:
        return f"{self._folder} is in use by {holder.summary()}"

    def _remedy(self, holder: Holder) -> str:
        return f"Wait for it, {elsewhere()}, or {holder.how_to_stop()}"


class _Lock:
    """The lock of a folder held by this process; a thread keeps it fresh."""

    def __init__(self, folder: Path, me: Holder, attempt: _Attempt | None = None) -> None:
        self._folder, self._me = folder, me
        self._attempt = attempt  # that failed for now, as the disk is full
        self.lost: str | None = None
        """Who has it now, if this process no longer does."""
        self._seen = _clock()  # to be its own
        self._touched_ns = 0
        self._guard, self._released = threading.Lock(), threading.Event()
        threading.Thread(target=self._keep, name="run lock", daemon=True).start()

    def _keep(self) -> None:
        while not self._released.wait(BEAT_S):
            self._beat()
            if self.lost is not None:
                os.kill(os.getpid(), SIGTERM)  # so that all ranks end as they would by that
                if not self._released.wait(PATIENCE_S):
                    logger.error(self.lost)
                    os.kill(os.getpid(), SIGTERM)
                    if not self._released.wait(PATIENCE_S):  # the main thread is where no signal reaches it
                        os._exit(1)
                return

    def is_lost(self) -> str | None:
        """`lost`, checked now: a process that was suspended for long must check before it writes."""
        if _clock() - self._seen > 2 * BEAT_S:
            self._beat()
        return self.lost

    def _beat(self) -> None:
        with self._guarded(BRIEFLY_S) as has, suppress(OSError):  # a disk that fails is no reason to stop
            if not has or self._released.is_set() or self.lost is not None:
                return
            if self._attempt is not None:
                self._attempt.take(inherits=True)
                self._attempt = None
            chain = chain_of(self._folder)
            if id_of(self._folder)[1:] != (self._me.folder_id or [])[1:]:  # moved away, or no longer mounted
                return
            if not chain:
                self._recreate()
            elif chain[-1].holder.token == self._me.token:
                self._seen, self._touched_ns = _clock(), chain[-1].touched_ns
                touch(chain[-1].path)
            elif chain[-1].is_readable:
                self.lost = self._taken_over(f"by {chain[-1].holder.summary()}")

    def _recreate(self) -> None:
        """Recreate the lock if somebody has deleted it, unless another start had taken over the folder and has ended
        since."""
        began = self._folder / ENVIRONMENT
        was_silent = _clock() - self._seen > _MISSED_BEATS * BEAT_S
        if was_silent and began.exists() and began.stat().st_mtime_ns > self._touched_ns:
            self.lost = self._taken_over("by another start, which has ended")
        elif create(self._folder / LOCK, self._me):
            self._seen = _clock()

    @contextmanager
    def _guarded(self, timeout_s: float) -> Iterator[bool]:
        """Acquire the guard, with a time limit: the other thread that holds it may hang on the disk."""
        has = self._guard.acquire(timeout=timeout_s)
        try:
            yield has
        finally:
            if has:
                self._guard.release()

    def _taken_over(self, by: str) -> str:
        return (
            f"{self._folder} was taken over {by}, while this start gave no sign of life; this one ends, and writes "
            "nothing more there"
        )

    def release(self) -> None:
        """Leave the folder to others."""
        with self._guarded(BEAT_S) as has, suppress(OSError):
            was_released = self._released.is_set()
            self._released.set()
            if was_released or not has:
                return
            chain = chain_of(self._folder)
            if chain and chain[-1].holder.token == self._me.token:
                chain[-1].path.unlink(missing_ok=True)


_locks: dict[Path, _Lock] = {}


@contextmanager
def locked(run_dir: Path, engine: Ranks, timeout_s: float) -> Iterator[None]:
    """Lock the folder of a run, creating it if needed; rank 0 takes the lock for all ranks. Collective.

    Waits while another start may have died there, and at most until it has been silent for `timeout_s`. Raises
    InputError, on every rank, if a live start holds it, and if the folder cannot be written.
    """
    key = run_dir.absolute()
    # A rank that joins an elastic run writes nothing yet.
    me = None if engine.rank < 0 else _take(run_dir, engine, timeout_s)
    if me is not None:
        _locks[key] = _Lock(run_dir, me)
    try:
        yield
    finally:
        if key in _locks:  # maybe by `take_over`
            _locks.pop(key).release()


def take_over(run_dir: Path) -> None:
    """Take the lock over from the rank 0 that an elastic run has lost; does nothing where this process has it. A disk
    that is full now is tried again later. Raises RunError if a start of another job has been faster."""
    key = run_dir.absolute()
    if key in _locks:
        return
    attempt, failed = _Attempt(run_dir, 0.0), None
    try:
        if attempt.take(inherits=True) != "free":
            raise RunError(f"{run_dir} was taken over by another start when rank 0 was lost; this one ends")
    except OSError as error:
        failed = attempt
        logger.warning(f"{run_dir} cannot be locked ({error}); training goes on, and it will be tried again")
    _locks[key] = _Lock(run_dir, attempt.me, failed)


def _take(run_dir: Path, engine: Ranks, timeout_s: float) -> Holder | None:
    """Wait for the lock; returns its holder, on rank 0."""
    attempt: _Attempt | None = None
    announced: str | None = None
    while True:
        outcome: list[str] = []
        if engine.rank == 0:
            try:
                run_dir.mkdir(parents=True, exist_ok=True)
                attempt = attempt or _Attempt(run_dir, timeout_s)
                outcome = [attempt.take(), attempt.words]
            except OSError as error:
                outcome = ["failed", f"{run_dir} cannot be written ({error}); {elsewhere()}"]
        # All ranks go round together: a single long wait would be longer than they wait for each other.
        verdict, words = engine.gather(outcome)[0]
        if verdict == "free":
            return None if attempt is None else attempt.me
        if verdict != "wait":
            raise InputError(words)
        if attempt is not None:
            if words.partition(", ")[0] != announced:
                announced = words.partition(", ")[0]
                logger.info(words)
            time.sleep(POLL_S)


def in_use(run_dir: Path, timeout_s: float) -> str | None:
    """Description of who may be using the folder of a run; None if the lock would be taken at once, or there is no
    folder."""
    with suppress(OSError):
        attempt = _Attempt(run_dir, timeout_s)
        return None if attempt.judge(chain_of(run_dir)) == "free" else attempt.words
    return None


def release(run_dir: Path) -> None:
    """Leave a folder before `locked` ends."""
    lock = _locks.get(run_dir.absolute())
    if lock is not None:
        lock.release()


def taken_over(run_dir: Path) -> str | None:
    """Why this process must no longer write to the folder of a run; None while it may."""
    lock = _locks.get(run_dir.absolute())
    return None if lock is None else lock.is_lost()


def require_lock(run_dir: Path, engine: Ranks) -> None:
    """Raise RunError on every rank if another start has taken over the folder. Collective."""
    lost = engine.gather(taken_over(run_dir))[0]
    if lost is not None:
        raise RunError(lost)
