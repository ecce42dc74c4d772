"""Who has a run folder: a start is refused, waits, or takes over from one that is gone."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from locked_folders import BEAT_S, NO_TIMEOUT, TIMEOUT_S, OneRank, elsewhere, have, left, of

from data_pipelines.common.errors import InputError
from trainer.run_files import LOCK
from trainer.run_folder import lock_file, processes, run_lock
from trainer.run_folder.lock_file import Holder, create, holder_of, job_name, this_start
from trainer.run_folder.processes import Process
from trainer.run_folder.run_lock import Verdict, _Attempt, locked

pytestmark = pytest.mark.usefixtures("fast_locks")


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
