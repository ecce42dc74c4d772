"""The page of the measurements has a row for every result that is kept."""

import re
from fnmatch import fnmatch
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def patterns(page: str) -> set[str]:
    """The files and folders of the page's first table, without suffix: "throughput_*", "scaling"."""
    rows = re.findall(r"^\| (`.+?) \|", page.partition("| file |")[2].partition("\n\n")[0], re.MULTILINE)
    return {name.split(".")[0].strip("/") for row in rows for name in re.findall(r"`(.+?)`", row)}


def test_every_result_has_a_row_and_every_row_a_result() -> None:
    named = patterns((RESULTS / "README.md").read_text(encoding="utf-8"))
    kept = {path.name.split(".")[0] for path in RESULTS.iterdir() if path.name != "README.md"}
    assert {name for name in kept if not any(fnmatch(name, pattern) for pattern in named)} == set()
    assert {pattern for pattern in named if not any(fnmatch(name, pattern) for name in kept)} == set()
