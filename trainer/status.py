"""How runs stand: python -m trainer.status RUNS

RUNS are run folders, or folders of them, such as that of a sweep. Reads what the runs leave in their folders, so it
works from any machine that sees these.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json
from data_pipelines.common.printable import printable
from trainer.run_folder.heartbeat import HEARTBEAT
from trainer.run_folder.lock_file import holder_of

CONFIG, STATUS, RESULT = "config.json", "status.json", "result.json"
State = Literal["running", "stalled", "resumable", "failed", "finished", "unknown"]
_DEEPEST = 6  # folders below the one that is given: a sweep's is out/source/target/run
_ERROR_CHARACTERS = 100


@dataclass(frozen=True)
class Standing:
    """Of one run. `left_s`: seconds to its end at its present speed; `silent_s`: since it last gave a sign; `command`:
    what goes on with it; `holder`: which process is at work on it, where and since when. None: not known."""

    run: str
    state: State
    step: int
    total_steps: int | None
    left_s: float | None
    silent_s: float | None
    error: str
    command: str | None
    holder: str | None


@dataclass(frozen=True)
class Status:
    """Which runs to look at."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Run folders, or folders of them."""
    stalled_after_s: float = 900.0
    """Seconds without a sign after which a running one counts as stalled; more than an evaluation takes."""
    json: bool = False
    """Print JSON instead of a table."""


def run_folders(folder: Path, depth: int = _DEEPEST) -> Iterator[Path]:
    """The run folders at or below a folder, by name. Links are not followed."""
    try:
        is_run = (folder / CONFIG).is_file() or (folder / STATUS).is_file()
        inside = [] if is_run or not depth else sorted(path for path in folder.iterdir() if path.is_dir())
        inside = [path for path in inside if not path.is_symlink()]
    except OSError as error:
        print(f"warning: {folder} cannot be read ({error.strerror}); what runs are in it is not known", file=sys.stderr)
        return
    if is_run:
        yield folder
    for path in inside:
        yield from run_folders(path, depth - 1)


def standing(run_dir: Path, stalled_after_s: float, now: float) -> Standing:
    """How one run stands, from whatever is readable of what it left."""
    status, beat = _mapping(run_dir / STATUS), _mapping(run_dir / HEARTBEAT)
    signs = [time for time in (_number(status, "time"), _number(beat, "time")) if time is not None]
    silent_s = max(0.0, now - max(signs)) if signs else None
    step, total = int(_number(status, "step") or 0), _number(status, "total_steps")
    state: Any = status.get("state")
    error = str(status.get("reason") or "")
    if state == "running":
        step = max(step, int(_number(beat, "step") or 0))
        state, error = _state_of_running(beat, silent_s, stalled_after_s, error)
    if state == "finished" and not (run_dir / RESULT).is_file():
        state, error = "resumable", f"{RESULT} is gone"
    if state not in ("running", "stalled", "resumable", "failed", "finished"):
        state, error = "unknown", error or f"{run_dir / STATUS} cannot be read"
    step_s = _number(beat, "step_s")
    left = None if total is None or step_s is None or state == "finished" else (total - step) * step_s
    return Standing(
        run=str(run_dir),
        state=state,
        step=step,
        total_steps=None if total is None else int(total),
        left_s=left,
        silent_s=silent_s,
        error=error,
        command=None if state in ("running", "finished") else _command(beat),
        holder=_holder(run_dir, state, beat),
    )


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
        return holder.in_words()
    # An earlier version, which knows no lock.
    return f"{holder.in_words()}, and process {number:.0f} on {beat.get('host')} as well: stop one of them"


def _state_of_running(
    beat: dict[str, Any], silent_s: float | None, stalled_after_s: float, error: str
) -> tuple[str, str]:
    if beat.get("host") == platform.node() and not _is_alive(_number(beat, "pid")):
        return "resumable", error or "its process is gone without a word: killed, or out of memory"
    if silent_s is None or silent_s > stalled_after_s:
        return "stalled", error or "no sign of life"
    return "running", error


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


def table(runs: Sequence[Standing]) -> str:
    """One line for each run, below it what ails it and what goes on with it."""
    rows = [("run", "state", "step", "left", "last sign")]
    rows += [
        (
            printable(run.run),
            run.state,
            f"{run.step}/{'?' if run.total_steps is None else run.total_steps}",
            "" if run.left_s is None or run.state == "failed" else _duration(run.left_s),
            "" if run.silent_s is None else f"{_duration(run.silent_s)} ago",
        )
        for run in runs
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for i, run in enumerate(runs, 1):
        notes = [f"    {_first_line(run.error)}"] if run.error and run.state != "finished" else []
        notes += [f"    {printable(run.holder)}"] if run.holder else []
        notes += [f"    goes on by: {printable(run.command)}"] if run.command else []
        lines[i] = "\n".join([lines[i], *notes])
    counts = {state: sum(run.state == state for run in runs) for state in dict.fromkeys(run.state for run in runs)}
    lines.append(", ".join(f"{count} {state}" for state, count in counts.items()))
    return "\n".join(lines)


def _first_line(text: str) -> str:
    line = printable((text.splitlines() or [""])[0])
    return line if len(line) <= _ERROR_CHARACTERS else f"{line[: _ERROR_CHARACTERS - 3]}..."


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(min(seconds, 1e9))))


@entry_point
def main() -> None:
    """Print how the runs stand."""
    settings = parse(Status, __doc__)
    absent = [str(folder) for folder in settings.runs if not folder.is_dir()]
    if absent:
        raise InputError(f"{', '.join(absent)} is no folder; name run folders, or folders of them")
    found = dict.fromkeys(run for folder in settings.runs for run in run_folders(folder))
    runs = [standing(run, settings.stalled_after_s, time.time()) for run in found]
    if not runs:
        raise InputError(f"there are no runs in {', '.join(map(str, settings.runs))}")
    print(json.dumps([asdict(run) for run in runs], indent=1) if settings.json else table(runs))


if __name__ == "__main__":
    main()
