"""Of many starts one has the run folder, on any file system, and damaged disks leave no part of a lock."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from locked_folders import BEAT_S, TIMEOUT_S, elsewhere, have, left, of

from data_pipelines.common.errors import InputError
from trainer.run_files import LOCK
from trainer.run_folder import lock_file, run_lock
from trainer.run_folder.lock_file import Holder, create, holder_of
from trainer.run_folder.run_lock import _Attempt

pytestmark = pytest.mark.usefixtures("fast_locks")


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


@pytest.mark.slow
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
