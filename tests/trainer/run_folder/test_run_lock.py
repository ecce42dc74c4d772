"""Who gets the folder of a run: one start at a time, whatever becomes of the others."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import InputError, RunError
from trainer.run_files import ENVIRONMENT, LOCK
from trainer.run_folder import lock_file, processes, run_lock
from trainer.run_folder.lock_file import Holder, chain_of, create, holder_of, job_name, this_start
from trainer.run_folder.processes import Process
from trainer.run_folder.run_lock import Verdict, _Attempt, in_use, locked, release, require_lock, taken_over

BEAT_S = 0.05
NO_TIMEOUT = 1000.0
TIMEOUT_S = 0.4


class OneRank:
    rank = 0

    def gather(self, value: Any) -> list[Any]:
        return [json.loads(json.dumps(value))]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_S", BEAT_S)
    monkeypatch.setattr(run_lock, "_POLL_S", 0.01)
    monkeypatch.setattr(run_lock, "ENDING_S", 0.4)
    for name in ("BITSCALE_JOB", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Is set by SIGTERM to this process."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    yield asked
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this machine, alive."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


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


def at_once(folder: Path, timeout_s: float = NO_TIMEOUT) -> Verdict:
    return _Attempt(folder, timeout_s).take()


def test_a_folder_is_one_starts_and_then_anybodys(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    have(folder)
    assert list(folder.iterdir()) == []
    with suppress(RuntimeError), locked(folder, OneRank(), NO_TIMEOUT):
        assert [path.name for path in folder.iterdir()] == [LOCK]
        raise RuntimeError
    assert list(folder.iterdir()) == []


def test_another_start_of_this_machine_is_refused_at_once(
    tmp_path: Path, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left(tmp_path, of(other, tmp_path, host="here", job="torchrun 5"), age_s=9000)
    before = path.read_bytes(), path.stat().st_mtime_ns
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("nothing to wait for"))
    with pytest.raises(
        InputError,
        match=rf"in use by process {other.pid} on here since \d+-\d+-\d+ [\d:]+ \(torchrun 5\)\. .*kill {other.pid}$",
    ):
        have(tmp_path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [each.name for each in tmp_path.iterdir()] == [LOCK]
    other.kill()
    other.wait()
    have(tmp_path)


def test_a_number_that_was_given_again_is_no_holder(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    holder = of(other, tmp_path)
    assert holder.process is not None
    left(tmp_path, replace(holder, process=holder.process._replace(started=1)))
    assert at_once(tmp_path) == "free"


def test_a_process_that_nobody_has_waited_for_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as zombie:
        holder = of(zombie, tmp_path)
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        left(tmp_path, holder)
        assert at_once(tmp_path) == "free"


@pytest.mark.parametrize("missing", ["the process", "its start"])
def test_an_ambiguous_process_is_judged_by_its_silence(
    missing: str, tmp_path: Path, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others' processes may not be shown; their numbers may have been given again."""
    holder = of(other, tmp_path)
    if missing == "the process":
        monkeypatch.setattr(processes, "_stat", lambda _: None)
    else:
        holder = replace(holder, process=Process(other.pid, None))
    path = left(tmp_path, holder, age_s=60)
    touching = threading.Timer(BEAT_S, path.touch)
    touching.start()
    with pytest.raises(InputError, match="gives signs of life"):
        have(tmp_path)
    touching.join()
    assert at_once(tmp_path) == "wait"
    left(tmp_path, holder, age_s=60)
    have(tmp_path, TIMEOUT_S)


@pytest.mark.parametrize(
    ("stops", "launched", "job", "remedy"),
    [
        (False, False, None, "kill {0}"),
        (True, False, None, "kill {0}; kill -CONT {0}"),
        (False, True, "torchrun 5e1f", "kill {1}"),
        (True, True, None, "kill {1}; kill -CONT {0}"),
        (True, False, "SLURM job 7_2 of jwb", "scancel 7_2"),
        (False, False, "SLURM job 7; rm x", "kill {0}"),
    ],
)
def test_the_remedy_ends_it_for_good(
    stops: bool, launched: bool, job: str | None, remedy: str, tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    """torchrun would start its rank again, and SLURM its job; what is stopped takes note of nothing."""
    if stops:
        other.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, other.pid, os.WSTOPPED)
    left(tmp_path, of(other, tmp_path, job=job, launcher=processes.this_process() if launched else None))
    with pytest.raises(InputError) as refused:
        have(tmp_path)
    assert str(refused.value).endswith(f"have it save and end with: {remedy.format(other.pid, os.getpid())}")


def test_torchrun_is_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_start(tmp_path).launcher is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    holder = this_start(tmp_path)
    assert holder.launcher == processes.ancestors()[0]
    assert create(tmp_path / LOCK, holder)
    assert holder_of(tmp_path) == holder


def test_what_is_printed_of_a_holder_has_no_terminal_codes(tmp_path: Path) -> None:
    words = elsewhere(tmp_path, host="a\x1b[2J", job="torchrun \nerror").summary()
    assert words.isprintable()


def test_another_machine_is_waited_for_by_the_clock_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left(tmp_path, elsewhere(tmp_path), age_s=TIMEOUT_S - 0.2)
    for name, wrong in (("time", 9e9), ("time_ns", 9 * 10**18)):  # of this host
        monkeypatch.setattr(time, name, lambda wrong=wrong: wrong)
    started = time.monotonic()
    have(tmp_path, TIMEOUT_S)
    assert time.monotonic() - started > 0.15
    error = capfd.readouterr().err
    assert error.count("in use by process 12 on node7") == 1
    assert "silent for 0 s; waiting until it ends, or that is 0 s (--timeout-s)" in error


@pytest.mark.parametrize("job", [None, "SLURM job 77"])
def test_an_old_lock_is_watched_before_it_is_taken_over(
    job: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files may be dated by a clock that is slow: its start lives."""
    monkeypatch.setenv("BITSCALE_JOB", "SLURM job 77")
    left(tmp_path, elsewhere(tmp_path, job=job), age_s=9000)
    assert at_once(tmp_path, TIMEOUT_S) == "wait"
    started = time.monotonic()
    have(tmp_path, TIMEOUT_S)
    assert time.monotonic() - started >= 3 * BEAT_S


def test_heartbeats_are_seen_where_the_clock_of_the_disk_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left(tmp_path, elsewhere(tmp_path))
    attempt = _Attempt(tmp_path, NO_TIMEOUT)
    for _ in range(3):
        at = path.stat().st_mtime_ns
        assert attempt.take() in ("wait", "busy")
        lock_file.touch(path)
        os.utime(path, ns=(at, at))
        assert attempt.take() == "busy"
    held = holder_of(tmp_path)
    assert held is not None
    assert held.host == "node7"


def test_a_time_to_come_is_waited_for_no_longer(tmp_path: Path) -> None:
    left(tmp_path, elsewhere(tmp_path), age_s=-9000)
    started = time.monotonic()
    have(tmp_path, TIMEOUT_S)
    assert time.monotonic() - started >= TIMEOUT_S


def test_several_beats_may_be_missed_whatever_the_timeout(tmp_path: Path) -> None:
    left(tmp_path, elsewhere(tmp_path), age_s=2 * BEAT_S)
    assert at_once(tmp_path, 0.001) == "wait"


def test_a_sign_of_life_ends_the_waiting(tmp_path: Path) -> None:
    path = left(tmp_path, elsewhere(tmp_path), age_s=60)
    touching = threading.Timer(0.1, path.touch)
    touching.start()
    with pytest.raises(InputError, match=r"process 12 on node7 .*, and gives signs of life. .*stop it there"):
        have(tmp_path)
    touching.join()


def test_a_holder_that_ends_is_followed(tmp_path: Path) -> None:
    path = left(tmp_path, elsewhere(tmp_path))
    ending = threading.Timer(0.1, path.unlink)
    ending.start()
    have(tmp_path)
    ending.join()


def test_the_same_job_goes_on_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a requeue. But two starts of one job may live as well."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    left(tmp_path, elsewhere(tmp_path, job="SLURM job 77"), age_s=4 * BEAT_S)
    have(tmp_path)

    path = left(tmp_path, elsewhere(tmp_path, job="SLURM job 77"))
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(BEAT_S / 2):
            path.touch()

    beating = threading.Thread(target=beat)
    beating.start()
    started = time.monotonic()
    try:
        with pytest.raises(InputError, match="signs of life"):
            have(tmp_path)
    finally:
        stopped.set()
        beating.join()
    assert time.monotonic() - started >= run_lock.ENDING_S


def launcher_gone(folder: Path, other: subprocess.Popen[bytes]) -> Holder:
    with subprocess.Popen(["true"]) as launcher:
        pass
    return of(other, folder, ancestors=(processes.this_process(), Process(launcher.pid, 1)))


def of_one_job(folder: Path, other: subprocess.Popen[bytes]) -> Holder:
    return of(other, folder, job=job_name())


@pytest.mark.parametrize("which", [launcher_gone, of_one_job])
def test_what_may_be_ending_gets_some_time(
    which: Callable[..., Holder],
    tmp_path: Path,
    other: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "5e1f")
    left(tmp_path, which(tmp_path, other))
    started = time.monotonic()
    with pytest.raises(InputError, match=f"kill {other.pid}"):
        have(tmp_path)
    assert time.monotonic() - started >= run_lock.ENDING_S
    assert "which may be about to end; waiting" in capfd.readouterr().err
    ending = threading.Timer(0.1, other.kill)
    ending.start()
    have(tmp_path)
    ending.join()


def test_a_copy_of_a_folder_has_no_holder(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    (tmp_path / "run").mkdir()
    left(tmp_path / "run", of(other, tmp_path / "run"))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert at_once(tmp_path / "copy") == "free"
    (tmp_path / "link").symlink_to("run")
    assert at_once(tmp_path / "link") == "busy"
    (tmp_path / "run").rename(tmp_path / "moved")
    assert at_once(tmp_path / "moved") == "busy"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"token": "../x", "process": [true, "7"], "since": 1e99}'])
def test_a_damaged_lock_is_waited_for(content: bytes, tmp_path: Path) -> None:
    path = left(tmp_path, elsewhere(tmp_path))
    path.write_bytes(content)
    assert at_once(tmp_path) == "wait"
    have(tmp_path, TIMEOUT_S)
    assert list(tmp_path.iterdir()) == []


def test_damaged_locks_in_a_row_are_waited_for(tmp_path: Path) -> None:
    path = left(tmp_path, elsewhere(tmp_path))
    path.write_bytes(b"")
    lock_file.after(tmp_path, chain_of(tmp_path)[0].holder).write_bytes(b"")
    assert len(chain_of(tmp_path)) == 2
    have(tmp_path, TIMEOUT_S)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_starts_have_left_is_deleted(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / f".lock-{name}.tmp").touch()
    os.utime(tmp_path / ".lock-old.tmp", (0, 0))
    have(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock-new.tmp"]


RACERS, ROUNDS = 4, 8


def race(folders: list[Path], start: Path) -> bytes:
    """What a process gets of each folder: 1 where the lock is its own."""
    while not start.exists():
        time.sleep(0.001)
    won = []
    for folder in folders:
        attempt = _Attempt(folder, TIMEOUT_S)
        while (verdict := attempt.take()) == "wait":
            time.sleep(0.001)
        won.append(verdict == "free")
    return bytes(won)


@pytest.mark.parametrize("kind", ["none", "dead", "silent", "chain"])
def test_of_many_starts_one_has_the_folder(kind: str, tmp_path: Path) -> None:
    folders = [tmp_path / f"{number}" for number in range(ROUNDS)]
    with subprocess.Popen(["true"]) as dead:
        pass
    for folder in folders:
        folder.mkdir()
        if kind == "silent":
            left(folder, elsewhere(folder), age_s=60)
        elif kind != "none":
            first = of(dead, folder)
            left(folder, first)
            if kind == "chain":
                assert create(lock_file.after(folder, first), of(dead, folder))
    start, ends, racers = tmp_path / "start", [], []
    for _ in range(RACERS):
        reader, writer = os.pipe()
        racers.append(os.fork())
        if not racers[-1]:
            try:
                os.write(writer, race(folders, start))
                time.sleep(60)  # alive, until the others have looked
            finally:
                os._exit(1)
        os.close(writer)
        ends.append(reader)
    start.touch()
    won = [os.read(end, ROUNDS) for end in ends]
    for racer, end in zip(racers, ends, strict=True):
        os.kill(racer, signal.SIGKILL)
        os.waitpid(racer, 0)
        os.close(end)
    assert [sum(by_folder) for by_folder in zip(*won, strict=True)] == [1] * ROUNDS
    for number, folder in enumerate(folders):
        held = holder_of(folder)
        assert held is not None
        assert held.process is not None
        assert won[racers.index(held.process.number)][number]
        assert [path.name for path in folder.iterdir()] == [LOCK]


def watched(folder: Path) -> _Attempt:
    """An attempt that has seen enough of the lock in the folder."""
    attempt = _Attempt(folder, TIMEOUT_S)
    assert attempt.take() == "wait"
    attempt._moved -= 3 * BEAT_S
    return attempt


def test_a_start_that_was_slow_does_not_win_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its judgement and its deed another start takes over; or takes over and ends."""
    faster = elsewhere(tmp_path)
    left(tmp_path, elsewhere(tmp_path), age_s=60)

    def later(path: Path, holder: Holder) -> bool:
        left(tmp_path, faster)
        return create(path, holder)

    monkeypatch.setattr(run_lock, "create", later)
    assert watched(tmp_path).take() == "wait"
    assert holder_of(tmp_path) == faster
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]

    def later_still(path: Path, holder: Holder) -> bool:
        (tmp_path / LOCK).unlink()
        return create(path, holder)

    left(tmp_path, elsewhere(tmp_path), age_s=60)
    monkeypatch.setattr(run_lock, "create", later_still)
    assert watched(tmp_path).take() == "wait"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["link", "nothing"])
def test_file_systems_without_links(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError("Operation not permitted")

    if missing == "link":
        monkeypatch.setattr(os, "link", refused)
    assert create(tmp_path / LOCK, elsewhere(tmp_path))
    before = (tmp_path / LOCK).read_bytes()
    assert not create(tmp_path / LOCK, elsewhere(tmp_path))
    assert (tmp_path / LOCK).read_bytes() == before
    assert json.loads(before)["host"] == "node7"


def test_a_full_disk_leaves_no_part_of_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written"):
        have(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        lock_file._write_new(tmp_path / LOCK, elsewhere(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_kept_fresh_whatever_the_disk_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals: list[int] = []

    def sometimes(path: Path) -> None:
        if len(refusals) < 3:
            refusals.append(1)
            raise OSError("no space left")
        lock_file.touch(path)

    with locked(tmp_path, OneRank(), NO_TIMEOUT):
        path = tmp_path / LOCK
        os.utime(path, (0, 0))
        monkeypatch.setattr(run_lock, "touch", sometimes)
        patience = time.monotonic() + 20
        while path.stat().st_mtime == 0:
            assert time.monotonic() < patience
            time.sleep(0.01)
        assert len(refusals) == 3
        assert taken_over(tmp_path) is None
        path.unlink()  # by somebody who tidies up
        while not path.exists():
            assert time.monotonic() < patience
            time.sleep(0.01)
        assert taken_over(tmp_path) is None


def test_a_start_that_was_taken_for_dead_ends(tmp_path: Path, asked_to_stop: threading.Event) -> None:
    with locked(tmp_path, OneRank(), NO_TIMEOUT):
        path = left(tmp_path, elsewhere(tmp_path))
        assert asked_to_stop.wait(20)
        with pytest.raises(RunError, match=r"taken over by process 12 on node7 since .*; this one ends"):
            require_lock(tmp_path, OneRank())
        release(tmp_path)
        assert "process 12 on node7" in str(taken_over(tmp_path))
    assert path.exists()
    assert taken_over(tmp_path) is None


def test_a_start_that_stood_still_looks_before_it_writes(
    tmp_path: Path, asked_to_stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread has not come to it yet; and whoever took over may have ended in between."""
    with locked(tmp_path, OneRank(), NO_TIMEOUT):
        (lock,) = run_lock._locks.values()
        monkeypatch.setattr(lock, "_keep", lambda: None)
        monkeypatch.setattr(run_lock, "BEAT_S", 1000.0)
        lock._seen = run_lock._clock() - 4000
        (tmp_path / LOCK).unlink()
        (tmp_path / ENVIRONMENT).touch()
        assert "by another start, which has ended" in str(taken_over(tmp_path))
        assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("what", ["moved", "unmounted", "deleted", "damaged"])
def test_a_folder_that_is_away_for_a_while_is_not_taken_over(
    what: str, tmp_path: Path, asked_to_stop: threading.Event
) -> None:
    folder, away = tmp_path / "run", tmp_path / "away"
    with locked(folder, OneRank(), NO_TIMEOUT):
        (folder / ENVIRONMENT).touch()
        time.sleep(2 * BEAT_S)
        if what == "deleted":
            time.sleep(2 * BEAT_S)
            (folder / LOCK).unlink()
        elif what == "damaged":
            content = (folder / LOCK).read_bytes()
            (folder / LOCK).write_bytes(b"{")
        else:
            folder.rename(away)
        if what == "unmounted":
            folder.mkdir()
            left(folder, elsewhere(folder))
        assert not asked_to_stop.wait(6 * BEAT_S)
        assert taken_over(folder) is None
        if what == "unmounted":
            (folder / LOCK).unlink()
            folder.rmdir()
        if what in ("moved", "unmounted"):
            away.rename(folder)
        elif what == "damaged":
            (folder / LOCK).write_bytes(content)
        assert not asked_to_stop.wait(4 * BEAT_S)
        held = holder_of(folder)
        assert held is not None
        assert held.process == processes.this_process()
    assert [path.name for path in folder.iterdir()] == [ENVIRONMENT]


def test_a_disk_without_heartbeats_is_not_read_at_each_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> None:
        raise OSError("read-only file system")

    with locked(tmp_path, OneRank(), NO_TIMEOUT):
        (lock,) = run_lock._locks.values()
        monkeypatch.setattr(run_lock, "touch", refused)
        monkeypatch.setattr(run_lock, "BEAT_S", 1000.0)
        lock._seen = run_lock._clock() - 4000
        assert taken_over(tmp_path) is None
        with monkeypatch.context() as patch:
            patch.setattr(run_lock, "chain_of", lambda _: pytest.fail("read again"))
            assert taken_over(tmp_path) is None


def test_a_disk_that_hangs_holds_up_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BRIEFLY_S", 0.01)
    with locked(tmp_path, OneRank(), NO_TIMEOUT):
        (lock,) = run_lock._locks.values()
        with lock._guard:
            lock._seen = run_lock._clock() - 4000
            assert taken_over(tmp_path) is None
            release(tmp_path)


def test_a_start_that_was_taken_over_ends_without_a_signal(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    number = os.fork()
    if not number:
        try:
            for each in (signal.SIGTERM, signal.SIGALRM):
                signal.signal(each, signal.SIG_IGN)
            os.dup2(writer, 2)
            run_lock.PATIENCE_S = 0.1
            with locked(tmp_path, OneRank(), NO_TIMEOUT):
                left(tmp_path, elsewhere(tmp_path))
                time.sleep(60)
        finally:
            os._exit(70)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 1
    os.close(reader)


class Ranks:
    """Two ranks that are threads."""

    def __init__(self) -> None:
        self._barrier, self._values = threading.Barrier(2), [None, None]

    def of(self, rank: int) -> Any:
        ranks = self

        class Rank(OneRank):
            def gather(self, value: Any) -> list[Any]:
                ranks._values[rank] = value
                ranks._barrier.wait(20)
                values = list(ranks._values)
                ranks._barrier.wait(20)
                return values

        mine = Rank()
        mine.rank = rank
        return mine


def test_all_ranks_are_refused_with_the_same_words(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    left(tmp_path, of(other, tmp_path))
    ranks, messages = Ranks(), [""] * 2

    def begin(rank: int) -> None:
        try:
            with locked(tmp_path, ranks.of(rank), NO_TIMEOUT):
                pass
        except InputError as error:
            messages[rank] = str(error)

    threads = [threading.Thread(target=begin, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert f"process {other.pid}" in messages[0]
    assert messages[0] == messages[1]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/run cannot be written \(.*\); choose another --out"):
        have(tmp_path / "file" / "run")


def test_looking_takes_nothing(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    assert in_use(tmp_path / "absent", NO_TIMEOUT) is None
    assert in_use(tmp_path, NO_TIMEOUT) is None
    left(tmp_path, of(other, tmp_path))
    assert f"process {other.pid}" in str(in_use(tmp_path, NO_TIMEOUT))
    left(tmp_path, elsewhere(tmp_path))
    assert "process 12 on node7" in str(in_use(tmp_path, NO_TIMEOUT))
    assert holder_of(tmp_path) == chain_of(tmp_path)[0].holder
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    holder = this_start(tmp_path)
    assert create(tmp_path / LOCK, holder)
    assert holder_of(tmp_path) == holder
    assert holder.is_here
    assert not holder.may_be_ending
    assert holder.ancestors[0].number == os.getppid()
    assert asdict(holder)["process"] == processes.this_process()


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        ({"TORCHELASTIC_RUN_ID": "bitscale"}, None),
        ({"TORCHELASTIC_RUN_ID": "5e1f"}, "torchrun 5e1f"),
        ({"SLURM_JOB_ID": "7", "TORCHELASTIC_RUN_ID": "7-0"}, "SLURM job 7"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, "SLURM job 7_2"),
        ({"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "jwb"}, "SLURM job 7 of jwb"),
        ({"BITSCALE_JOB": "SLURM job 7", "TORCHELASTIC_RUN_ID": "5e1f"}, "SLURM job 7"),
    ],
)
def test_names_of_jobs(environ: dict[str, str], name: str | None) -> None:
    assert job_name(environ) == name
