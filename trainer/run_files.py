"""Names of the files and folders in a run folder, and the run that was meant where there is none.

Without PyTorch, so that a name is refused before that is loaded.
"""

from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from data_pipelines.common.errors import InputError

CONFIG = "config.json"
"""The settings of the run."""
ENVIRONMENT = "environment.json"
"""Where its last start was made, and by which job."""
LOCK = "lock.json"
"""Which process has the folder."""
STATUS = "status.json"
HEARTBEAT = "heartbeat.json"
RESULT = "result.json"
"""Written last: a run that has one is finished."""

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
LOGS = "logs"
PROFILE = "profile"
SWEEP_LOG = "run.log"
"""What the process of a sweep prints that makes the run."""

CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions.npz"
SUBSET = "subset.csv"
"""The training images of a few-shot run."""

UNSEEN = "unseen.csv"
"""Each time that a training image could not be shown."""
QUARANTINE = "quarantine.csv"
"""Each training image whose own bytes are at fault, once."""
UNJUDGED = "unjudged.csv"
"""The images of an evaluation that could not be read."""
RANKS = "ranks.csv"
"""Of an elastic run: who left and joined, when and why."""
NONFINITE = "nonfinite_step_{step:08d}.json"
"""The images of the step whose loss or gradient ended the run."""
SKIPPED_STEPS = "skipped_steps.csv"

_DEEPEST = 4  # folders below: of a sweep's, out/source/target/run
_LEAST_ALIKE = 0.5


def require_run(source: Path) -> None:
    """Raise InputError, naming the nearest, where neither a run folder nor a checkpoint can be, as nothing is there."""
    if not source.is_dir() and not source.is_file():
        raise InputError(f"{source} is neither a run folder nor a checkpoint{meant_instead(source)}")


def require_place(place: Path) -> None:
    """Raise InputError, naming the nearest, unless a place to look for results is a folder or a CSV file."""
    if not place.is_dir() and not (place.is_file() and place.suffix == ".csv"):
        meant = "" if place.exists() else meant_instead(place)
        raise InputError(f"{place} is neither a folder of runs nor a CSV file{meant}")


def meant_instead(folder: Path) -> str:
    """The end of an error message: "; did you mean ...?", with the first run with checkpoints below this folder or,
    where it is not there, the folder beside it with the nearest name; "" without one."""
    with suppress(OSError):
        found = next(_with_checkpoints(folder), None) if folder.is_dir() else _beside(folder)
        return f"; did you mean {found}?" if found else ""
    return ""


def _with_checkpoints(folder: Path) -> Iterator[Path]:
    for depth in range(1, _DEEPEST + 1):
        yield from (path.parent for path in sorted(folder.glob(f"{'*/' * depth}{CHECKPOINTS}")))


def _beside(folder: Path) -> Path | None:
    names = [path.name for path in folder.parent.glob("[!.]*") if path.is_dir()]
    close = get_close_matches(folder.name, names, n=1, cutoff=_LEAST_ALIKE)
    return folder.with_name(close[0]) if close else None
