"""A start keeps its run folder while the disk hangs or is away, and ends when another took over."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from locked_folders import BEAT_S, NO_TIMEOUT, OneRank, elsewhere, left, of

from data_pipelines.common.errors import InputError, RunError
from trainer.run_files import ENVIRONMENT, LOCK
from trainer.run_folder import lock_file, processes, run_lock
from trainer.run_folder.lock_file import holder_of
from trainer.run_folder.run_lock import locked, release, require_lock, taken_over

pytestmark = pytest.mark.usefixtures("fast_locks")


@pytest.fixture
def asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Is set by SIGTERM to this process."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    yield asked
    signal.signal(signal.SIGTERM, before)


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
        lock = run_lock._locks[tmp_path]
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
        lock = run_lock._locks[tmp_path]
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
        lock = run_lock._locks[tmp_path]
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
