"""Status of a run: writes `status.json`, and reads it with the rest of a run folder."""

import csv
import os
import platform
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipelines.common.files import read_json, write_json
from data_pipelines.common.messages import logger
from trainer.run_files import CHECKPOINTS, CONFIG, HEARTBEAT, LOGS, PROFILE, RANKS, RESULT, STATUS, TENSORBOARD
from trainer.run_folder.lock_file import holder_of
from trainer.run_folder.run_lock import taken_over

State = Literal["running", "stalled", "resumable", "failed", "finished", "unknown"]
_STALLED_AFTER_S = 900.0
_DEEPEST = 6  # folders below the one that is given: a sweep's is out/source/target/run
_OWN_FOLDERS = {CHECKPOINTS, LOGS, PROFILE, TENSORBOARD}  # of a run, where no other is


@dataclass(frozen=True)
class RunStatus:
    """Status of a run. `left_s`: seconds to its end at its present speed; `silent_s`: since its last sign of life;
    `reason`: why it ended, or what it is at; `command`: resumes it; `holder`: the process that is running it, where and
    since when; `ranks`: how many an elastic run has, once some have left or joined, and how that came. None:
    unknown."""

    run: str
    state: State
    step: int
    total_steps: int | None
    left_s: float | None
    silent_s: float | None
    reason: str
    command: str | None
    holder: str | None
    ranks: str | None = None

    @property
    def progress(self) -> str:
        """ "step 19 of 345"; of a run that lacks what follows its last step, also that."""
        if self.total_steps is None:
            return f"step {self.step:,}"
        lacks = ", its evaluation is missing" if self.step >= self.total_steps else ""
        return f"step {self.step:,} of {self.total_steps:,}{lacks}"

    @property
    def remedy(self) -> str:
        """What to do about a run that is not finished, to end a sentence; empty where that is not known."""
        if self.state == "running":
            return "; it is running: wait until it has ended"
        return f"; resume it with: {self.command}" if self.command else ""


def unfinished(run_dir: Path) -> RunStatus | None:
    """The status of a run that is not finished; None of one that is, and of what is no run folder."""
    if (run_dir / RESULT).is_file() or not (run_dir / STATUS).is_file():
        return None
    return run_status(run_dir, _STALLED_AFTER_S, time.time())


def write_status(run_dir: Path, rank: int, state: str, step: int, total_steps: int, reason: str = "") -> None:
    """Write the status of a run: "running", "finished", "resumable" or "failed". Rank 0 only."""
    if rank == 0 and not taken_over(run_dir):
        status = {"state": state, "step": step, "total_steps": total_steps, "reason": reason, "time": time.time()}
        try:
            write_json(run_dir / STATUS, status)
        except OSError as error:  # a full disk is no reason to stop
            logger.warning(f"{run_dir / STATUS} cannot be written ({error})")


def run_folders(folder: Path, depth: int = _DEEPEST) -> Iterator[Path]:
    """The run folders at or below a folder, by name; a run may have fine-tunings below it. Links are not followed."""
    try:
        is_run = (folder / CONFIG).is_file() or (folder / STATUS).is_file()
        inside = sorted(path for path in folder.iterdir() if path.is_dir()) if depth else []
        inside = [path for path in inside if not path.is_symlink() and not (is_run and path.name in _OWN_FOLDERS)]
    except OSError as error:
        logger.warning(f"{folder} cannot be read ({error.strerror}); what runs are in it is not known")
        return
    if is_run:
        yield folder
    for path in inside:
        yield from run_folders(path, depth - 1)


def run_status(run_dir: Path, stalled_after_s: float, now: float) -> RunStatus:
    """Status of a run, from whatever is readable in its folder."""
    status, beat = _mapping(run_dir / STATUS), _mapping(run_dir / HEARTBEAT)
    signs = [time for time in (_number(status, "time"), _number(beat, "time")) if time is not None]
    silent_s = max(0.0, now - max(signs)) if signs else None
    step, total = int(_number(status, "step") or 0), _number(status, "total_steps")
    state: Any = status.get("state")
    reason = str(status.get("reason") or "")
    if state == "running":
        step = max(step, int(_number(beat, "step") or 0))
        state, reason = _state_of_running(beat, silent_s, stalled_after_s, reason)
    if state == "finished" and not (run_dir / RESULT).is_file():
        state, reason = "resumable", f"{RESULT} is gone"
    if state is None and _is_starting(run_dir, stalled_after_s, now):
        state, reason = "running", "starting"
    if state not in ("running", "stalled", "resumable", "failed", "finished"):
        state, reason = "unknown", reason or f"{run_dir / STATUS} cannot be read"
    step_s = _number(beat, "step_s")
    left = None if total is None or step_s is None or state == "finished" else (total - step) * step_s
    return RunStatus(
        run=str(run_dir),
        state=state,
        step=step,
        total_steps=None if total is None else int(total),
        left_s=left,
        silent_s=silent_s,
        reason=reason,
        command=None if state in ("running", "finished") else _command(beat),
        holder=_holder(run_dir, state, beat),
        ranks=_ranks(run_dir),
    )


def _ranks(run_dir: Path) -> str | None:
    try:
        with (run_dir / RANKS).open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
    except OSError:
        return None
    if not rows:
        return None
    changes, last = Counter(row["change"] for row in rows), rows[-1]
    why = f" ({last['why']})" if last["why"] else ""
    return (
        f"{last['ranks']} rank{'s' * (last['ranks'] != '1')}; {changes['left']} left and {changes['joined']} joined, "
        f"the last at step {last['step']}: {last['rank']} {last['change']}{why}"
    )


def _is_starting(run_dir: Path, stalled_after_s: float, now: float) -> bool:
    """Whether a process holds the folder and has not written a status yet."""
    holder = holder_of(run_dir)
    if holder is None or (run_dir / STATUS).exists():
        return False
    lives = holder.lives(run_dir)
    if lives is not None:
        return lives
    return holder.since is not None and now - holder.since < stalled_after_s


def _holder(run_dir: Path, state: str, beat: dict[str, Any]) -> str | None:
    holder = holder_of(run_dir)
    if holder is None or state == "finished":
        return None
    lives = holder.process.lives() if holder.process is not None and holder.is_here else None
    if not (state in ("running", "stalled") if lives is None else lives):
        return None
    number, written = _number(beat, "pid"), _number(beat, "time") or 0.0
    is_other = holder.process is None or (holder.host, holder.process.number) != (beat.get("host"), number)
    if number is None or not is_other or holder.since is None or written <= holder.since:
        return holder.summary()
    # An earlier version, which knows no lock.
    return f"{holder.summary()}, and process {number:.0f} on {beat.get('host')} as well: stop one of them"


def _state_of_running(
    beat: dict[str, Any], silent_s: float | None, stalled_after_s: float, reason: str
) -> tuple[str, str]:
    if beat.get("host") == platform.node() and not _is_alive(_number(beat, "pid")):
        return "resumable", reason or "its process is gone without a word: killed, or out of memory"
    if silent_s is None or silent_s > stalled_after_s:
        return "stalled", reason or "no sign of life"
    return "running", reason


def _is_alive(pid: float | None) -> bool:
    if pid is None or pid < 1:
        return True  # not known
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def _command(beat: dict[str, Any]) -> str | None:
    command, folder = beat.get("command"), beat.get("folder")
    if not isinstance(command, str) or not isinstance(folder, str):
        return None
    return command if folder == os.getcwd() else f"cd {shlex.quote(folder)} && {command}"


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def _number(content: dict[str, Any], name: str) -> float | None:
    value = content.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
    return value if is_number else None
