"""The benchmarks of proximity run, in small sizes; the truth that one of them compares with is right."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import proximity_coverage, proximity_memory
from benchmarks.proximity_coverage import DESIGNS, Design


def run(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", *map(str, arguments)])
    main()


def test_closed_form_is_what_many_draws_give() -> None:
    rng, design = np.random.default_rng(0), Design(3000, 3000, 0.3)
    one, other = (each.astype(np.float64) for each in design.draw(rng))

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        return float(((x @ y.T / 16 + 1) ** 3).mean())

    first, second = design.draw(rng)
    estimate = mean(one, first) + mean(other, second) - mean(one, second) - mean(other, first)
    assert design.truth() == pytest.approx(estimate, rel=0.05)
    assert Design(5, 5, 0.0).truth() == 0


def test_coverage_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proximity_coverage, "DESIGNS", DESIGNS[:2])
    run(proximity_coverage.main, monkeypatch, "--samples", 5, "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert [row["truth"] for row in result["designs"]] == [0.0, Design(20, 60, 0.1).truth()]
    assert len((tmp_path / "out.md").read_text().splitlines()) == 4


def test_memory_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(proximity_memory.main, monkeypatch, "--images", 60, "--width", 8, "--out", tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["measure"] for row in rows][-1] == "measures with labels"
    assert all(row["gib"] >= 0 for row in rows)
