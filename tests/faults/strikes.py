"""The faults: each strikes a run that is under way, and leaves it so that the same command may be given again."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.judge import last_checkpoint
from tests.faults.run import LEFT_S, PATIENCE, PROGRESS_S, TIMEOUT_S, Started, TimedOutError, wait_until
from tests.faults.scene import MissedError, Scene, Struck

SMALL_DISK_MB = 120
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_FAILED_SAVES_S = 20.0 * PATIENCE
_ORPHANED_S = 2.0 * PATIENCE
_NOTICED_S = (
    3 * TIMEOUT_S + 15 * PATIENCE
)  # the first steps may take three times as long, and asking who it is some more
_UNSAVED = f"cannot be saved ({os.strerror(errno.ENOSPC)}"
_UNWRITTEN = f"{os.strerror(errno.ENOSPC)}); make room"


def _phase(note: dict[str, Any]) -> str:
    return note.get("disk") or note.get("doing") or "starting"


def _strike(started: Started, rank: int, pid: int, number: signal.Signals) -> Struck:
    note = started.note(rank)
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise MissedError from None
    return Struck(started.number, time.time(), _phase(note), facts={"signal": number.name})


def _must_end(started: Started, struck: Struck) -> Struck:
    """All of its processes must go by themselves."""
    if not started.wait_for_end():
        struck.wrong.append(f"processes were left {LEFT_S:.0f} s later")
    struck.facts["ended_after_s"] = round(time.time() - struck.time, 2)
    struck.facts["exit_code"] = started.launcher.returncode
    return struck


def kill_rank(scene: Scene) -> Struck:
    """kill -9 of a rank."""
    started = scene.arrive()
    rank = scene.draws.choice(scene.run.ranks)
    pid = started.note(rank).get("pid")
    if pid is None:
        raise MissedError
    return _must_end(started, _strike(started, rank, pid, signal.SIGKILL))


def kill_launcher(scene: Scene) -> Struck:
    """kill -9 of the launcher; the command is given again at once, whatever the ranks do."""
    started = scene.arrive()
    struck = _strike(started, 0, started.launcher.pid, signal.SIGKILL)
    started.launcher.wait()
    scene.run.start()
    try:
        started.require_end(LEFT_S)
    except TimedOutError:
        struck.wrong.append(f"the ranks were still there {LEFT_S:.0f} s after their launcher died")
        started.kill()
    struck.facts["ended_after_s"] = round(time.time() - struck.time, 2)
    orphaned = [row for row in started.ledger(0) if row["time"] > struck.time + _ORPHANED_S]
    if orphaned:
        struck.wrong.append(
            f"the ranks made {len(orphaned)} steps more than {_ORPHANED_S:.0f} s after their launcher died"
        )
    return struck


def send_signal(scene: Scene) -> Struck:
    """SIGTERM, SIGINT or SIGUSR1 to a rank or to the launcher: the step is finished and saved."""
    started = scene.arrive()
    number = scene.draws.choice(_SIGNALS)
    rank = scene.draws.choice([None, *scene.run.ranks])
    pid = started.launcher.pid if rank is None else started.note(rank)["pid"]
    struck = _must_end(started, _strike(started, rank or 0, pid, number))
    struck.facts["to"] = "launcher" if rank is None else "rank"
    state = scene.run.status().get("state")
    if state not in ("resumable", "finished"):
        struck.wrong.append(f"status.json says {state!r} after {number.name} to the {struck.facts['to']}")
    if struck.facts["exit_code"] and state == "finished" and not scene.run.is_finished:
        struck.wrong.append("status.json says finished, but there is no result")
    return struck


def kill_in_save(scene: Scene) -> Struck:
    """Rank 0 dies inside a write, an fsync or a rename."""
    phase = scene.draws.choice(["write", "write", "fsync", "rename"])
    death: dict[str, Any] = {"phase": phase, "after": scene.draws.random() < 0.5}
    if phase == "write":
        death["bytes"] = scene.draws.randrange(1 << 18, scene.checkpoint_bytes)
    else:
        death["nth"] = scene.draws.randint(1, 4)
    started = scene.arrive()
    path = scene.run.notes / ".die"
    path.write_text(json.dumps(death))
    path.rename(scene.run.notes / "die-0.json")
    pid = started.note(0)["pid"]

    def gone() -> bool:
        stat = Path(f"/proc/{pid}/stat")
        try:
            return stat.read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return True

    wait_until(gone, "death in a save", PROGRESS_S)
    struck = Struck(started.number, time.time(), _phase(started.note(0)), facts=death)
    _must_end(started, struck)
    if phase == "write":
        cut = [p for p in scene.run.folder.rglob("*") if p.is_file() and p.stat().st_size == death["bytes"]]
        struck.phase = "write" if cut else struck.phase
    if struck.phase != phase:
        raise MissedError
    return struck


def stop_rank(scene: Scene) -> Struck:
    """SIGSTOP of a rank for longer than the others wait for it: they say who is missing, and end."""
    started = scene.arrive()
    rank = scene.draws.choice(scene.run.ranks)
    pid = started.note(rank)["pid"]
    struck = _strike(started, rank, pid, signal.SIGSTOP)
    others = [started.note(other)["pid"] for other in scene.run.ranks if other != rank]
    try:
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "", _NOTICED_S)
        struck.facts["noticed_after_s"] = round(time.time() - struck.time, 2)
    except TimedOutError:
        struck.wrong.append(f"the other ranks were still there {_NOTICED_S:.0f} s later")
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    _must_end(started, struck)
    if scene.run.is_finished and not struck.wrong:  # the others had no need of it any more
        raise MissedError
    if f"rank {rank}" not in scene.run.status().get("reason", "") + started.output():
        struck.wrong.append(f"nobody said that it was rank {rank}")
    return struck


def disk_full(scene: Scene) -> Struck:
    """No byte is left while the run saves, then there is room again: it goes on all the time."""
    started = scene.arrive()
    before = started.output().count(_UNSAVED)
    filler = scene.run.folder.parent / "filler"
    _fill(filler)
    struck = Struck(started.number, time.time(), _phase(started.note(0)))
    with suppress(TimedOutError):
        wait_until(
            lambda: not started.is_running or started.output().count(_UNSAVED) > before,
            "a save that fails",
            _FAILED_SAVES_S,
        )
    filler.unlink()
    ended = not started.is_running and not scene.run.is_finished
    if ended and last_checkpoint(scene.run.folder).is_file() and _UNWRITTEN in started.output():
        _must_end(started, struck)  # nothing was left to learn, only its result to write
        return struck
    if started.output().count(_UNSAVED) == before:
        if scene.run.is_finished:
            raise MissedError
        struck.wrong.append("nobody said that the disk was full")
    if ended:
        struck.wrong.append("the run ended instead of going on without a save")
        _must_end(started, struck)
    return struck


def _fill(path: Path) -> None:
    """Leave no byte to others."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    for size in (1 << 20, 1 << 12, 1):
        with suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    os.close(descriptor)


def damage_checkpoint(scene: Scene) -> Struck:
    """The newest checkpoint is cut short, emptied, or has a wrong bit, in its header or anywhere."""
    struck = kill_rank(scene)
    found = scene.run.checkpoints()
    if not found or scene.run.is_finished:
        raise MissedError
    newest = found[-1]
    size = newest.stat().st_size
    damage = scene.draws.choice(["cut", "empty", "header", "bit", "bit"])
    if damage in ("cut", "empty"):
        os.truncate(newest, 0 if damage == "empty" else scene.draws.randrange(1, size))
    else:
        place = scene.draws.randrange(8, 1000) if damage == "header" else scene.draws.randrange(1000, size)
        with newest.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0] ^ (1 << scene.draws.randrange(8))
            file.seek(place)
            file.write(bytes([byte]))
    struck.facts |= {"damage": damage, "file": newest.name}
    struck.repair = partial(newest.unlink, missing_ok=True)
    return struck


def damage_shard(scene: Scene) -> Struck:
    """A shard that is read is cut short, emptied of images, or gone. The run ends and names it, or did without; then it
    is put back."""
    started = scene.arrive()
    shard = scene.draws.choice(sorted(scene.run.data.glob("train/*.tar")))
    whole = shard.with_suffix(".whole")
    shutil.copy2(shard, whole)
    damage = scene.draws.choice(["cut", "zeros", "gone"])
    struck = Struck(started.number, time.time(), _phase(started.note(0)), facts={"damage": damage, "file": shard.name})
    if damage == "cut":
        os.truncate(shard, shard.stat().st_size // 2)
    elif damage == "zeros":
        with shard.open("r+b") as file:
            file.write(bytes(shard.stat().st_size))
    else:
        shard.unlink()
    if started.wait_for_end() and not scene.run.is_finished and shard.name not in started.output():
        struck.wrong.append(f"it ended without a word on {shard.name}")
    whole.replace(shard)
    struck.facts["ended_after_s"] = round(time.time() - struck.time, 2)
    return struck


STRIKES: dict[str, Callable[[Scene], Struck]] = {
    "kill-rank": kill_rank,
    "kill-launcher": kill_launcher,
    "kill-in-save": kill_in_save,
    "signal": send_signal,
    "stop-rank": stop_rank,
    "disk-full": disk_full,
    "damage-checkpoint": damage_checkpoint,
    "damage-shard": damage_shard,
}


def small_disk(folder: Path) -> bool:
    """Mount a file system of few megabytes; False where that is not allowed."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m", "bitscale-faults", str(folder)],
        capture_output=True,
        check=False,
    )
    return mounted.returncode == 0


def unmount(folder: Path) -> None:
    """Undo `small_disk`."""
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)
