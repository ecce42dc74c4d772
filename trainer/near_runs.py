"""What a mistyped run folder may have been meant to be."""

from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from trainer.run_files import CHECKPOINTS

_DEEPEST = 4  # folders below: of a sweep's, out/source/target/run
_LEAST_ALIKE = 0.5


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
    names = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    close = get_close_matches(folder.name, names, n=1, cutoff=_LEAST_ALIKE)
    return folder.with_name(close[0]) if close else None
