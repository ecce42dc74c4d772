"""The simulation of false warnings writes what it counted."""

import json
from pathlib import Path

import pytest

from benchmarks import shift_errors
from benchmarks.shift_errors import Design, ShiftErrors
from data_pipelines.common.errors import InputError


def test_designs_are_counted_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    designs = (Design(3, 60, 1, -1.0), Design(3, 90, 1, -1.0, moved="calibration", by=4.0))
    monkeypatch.setattr(shift_errors, "DESIGNS", designs)
    out = tmp_path / "new" / "shifts.json"
    monkeypatch.setattr("sys.argv", ["shift_errors.py", "--sets", "4", "--resamples", "100", "--out", str(out)])
    shift_errors.main()
    nothing, moved = json.loads(out.read_text())["designs"]
    assert (nothing["sets"], nothing["named"], moved["sets"]) == (4, None, 1)
    assert (moved["warned"], moved["named"]) == (1, 1)
    assert "| calibration, by 4 in log odds | 100.0% | 100.0% |" in out.with_suffix(".md").read_text()


def test_too_few_are_refused() -> None:
    with pytest.raises(InputError, match="--sets must be at least 1, --resamples at least 100"):
        ShiftErrors(sets=0)
