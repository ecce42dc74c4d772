"""Show the state of runs: bitscale status RUNS

RUNS are run folders, or folders of them, such as that of a sweep. Reads what the runs leave in their folders, so it
works from any machine that sees these.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import json
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import tyro

from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.printable import printable
from trainer.run_files import STATUS
from trainer.run_folder import RunStatus, run_folders, run_status

_LINE, _INDENT = 104, " " * 4


@dataclass(frozen=True)
class Status:
    """Which runs to look at."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Run folders, or folders of them."""
    stalled_after_s: float = 900.0
    """Seconds without a sign after which a running one counts as stalled; more than an evaluation takes."""
    json: bool = False
    """Print JSON instead of a table."""


def table(runs: Sequence[RunStatus]) -> str:
    """One line for each run, below it why it ended and the command that resumes it."""
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
        notes = _reason(run) if run.reason and run.state != "finished" else []
        notes += [f"    {printable(run.holder)}"] if run.holder else []
        notes += [f"    {printable(run.ranks)}"] if run.ranks else []
        notes += [f"    resume with: {printable(run.command)}"] if run.command else []
        lines[i] = "\n".join([lines[i], *notes])
    counts = {state: sum(run.state == state for run in runs) for state in dict.fromkeys(run.state for run in runs)}
    lines.append(", ".join(f"{count} {state}" for state, count in counts.items()))
    return "\n".join(lines)


def _reason(run: RunStatus) -> list[str]:
    """The first line of why a run ended, with its remedy, in lines that fit."""
    first, *others = run.reason.splitlines()
    text = printable(first) + (f" ({STATUS} has more)" if others else "")
    return textwrap.wrap(text, _LINE, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(min(seconds, 1e9))))


@entry_point
def main() -> None:
    """Print how the runs stand."""
    settings = parse(Status, __doc__)
    absent = [str(folder) for folder in settings.runs if not folder.is_dir()]
    if absent:
        raise InputError(f"{', '.join(absent)} is not a folder; name run folders, or folders of them")
    found = dict.fromkeys(run for folder in settings.runs for run in run_folders(folder))
    runs = [run_status(run, settings.stalled_after_s, time.time()) for run in found]
    if not runs:
        raise InputError(f"there are no runs in {', '.join(map(str, settings.runs))}")
    if settings.json:  # `error` is the name that `reason` had in version 0.1
        print(json.dumps([asdict(run) | {"error": run.reason} for run in runs], indent=1))
    else:
        print(table(runs))


if __name__ == "__main__":
    main()
