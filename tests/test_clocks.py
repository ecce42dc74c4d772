"""Deadlines and intervals are those of monotonic clocks: that of the day may jump."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("launchers", "trainer/engines", "trainer/training", "trainer/run_folder")
FILES = [path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
WALL = ("time.time", "datetime.now", "datetime.utcnow", "datetime.today", "time.CLOCK_REALTIME")
# Times that are written down or shown, and compared with others that were; no wait ends by them.
WRITTEN = {
    "launchers/plan.py",
    "launchers/submit.py",
    "trainer/run_folder/heartbeat_file.py",
    "trainer/run_folder/lock_file.py",
    "trainer/run_folder/run_status.py",
    "trainer/training/preflight.py",
    "trainer/training/run.py",
}


def clocks_of_the_day(source: str) -> list[int]:
    """The lines of a source that name such a clock, also as what was imported from its module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node).endswith(WALL):
            found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and {f"{node.module}.{alias.name}" for alias in node.names} & set(WALL):
            found.append(node.lineno)
    return sorted(found)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_what_is_written_has_the_time_of_day(path: Path) -> None:
    found = clocks_of_the_day((ROOT / path).read_text(encoding="utf-8"))
    assert bool(found) == (str(path) in WRITTEN), f"lines {found}"


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("import time\nuntil = time.time() + 5", True),
        ("from time import time\nuntil = time() + 5", True),
        ("import datetime\nuntil = datetime.datetime.now()", True),
        ("clock = time.time", True),
        ("import time\nuntil = time.monotonic() + 5", False),
        ("from time import monotonic, perf_counter", False),
    ],
)
def test_clocks_of_the_day_are_found(source: str, is_found: bool) -> None:
    assert bool(clocks_of_the_day(source)) is is_found
