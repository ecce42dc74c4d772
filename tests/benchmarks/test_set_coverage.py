"""The simulation behind the promised coverage of prediction sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import set_coverage
from benchmarks.set_coverage import Design, SetCoverage, most_expected, simulate
from data_pipelines.common.errors import InputError
from trainer.evaluation.calibration.conformal import thresholds_of
from trainer.evaluation.calibration.coverages import COVERAGE, LEVELS


@pytest.mark.parametrize(("patients", "most_images"), [(12, 1), (60, 1), (60, 4)])
def test_the_mean_coverage_is_as_high_as_proven(patients: int, most_images: int) -> None:
    """Of scores that are normally distributed, so that the coverage of a threshold is known."""
    rng, found = np.random.default_rng(patients), []
    for _ in range(800):
        owner = np.repeat(np.arange(patients), rng.integers(1, most_images + 1, patients))
        scores = 0.7 * rng.normal(size=patients)[owner] + 0.51**0.5 * rng.normal(size=len(owner))
        found.append(stats.norm.sf(thresholds_of(scores, owner).thresholds[LEVELS.index(COVERAGE)]))
    error, most = 4 * np.std(found) / len(found) ** 0.5, most_expected(patients, most_images)
    least = most if most_images == 1 else COVERAGE
    assert least - error < np.mean(found) < most + error


def test_images_of_a_patient_are_alike() -> None:
    drawn = Design(20_000, 2, 0, 0.3, 0.8).draw(np.random.default_rng(0), 20_000)
    first = np.flatnonzero(np.diff(drawn.patients) == 0)
    noise = drawn.logits - 1.5 * drawn.labels
    assert np.corrcoef(noise[first, 0], noise[first + 1, 0])[0, 1] == pytest.approx(0.8, abs=0.02)
    assert drawn.labels.mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.slow
def test_simulations_are_counted_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = simulate(Design(60, 2, 3), SetCoverage(simulations=40))
    assert COVERAGE - 4 * row["standard_error"] < row["coverage"] < row["most"] + 4 * row["standard_error"]
    assert (row["units"], row["most"]) == (60, pytest.approx(most_expected(60, 2)))

    monkeypatch.setattr(set_coverage, "DESIGNS", (Design(30, 1, 0, 0.5), Design(30, 2, 3)))
    out = tmp_path / "new" / "sets.json"
    monkeypatch.setattr("sys.argv", ["set_coverage.py", "--simulations", "2", "--out", str(out)])
    set_coverage.main()
    labels = [design["label"] for design in json.loads(out.read_text())["designs"]]
    assert labels == ["finding absent", "finding present", "all classes"]
    assert f"| {most_expected(30, 2):.2%} |" in out.with_suffix(".md").read_text()


def test_one_simulation_is_refused() -> None:
    with pytest.raises(InputError, match="--simulations is 1; it must be at least 2"):
        SetCoverage(simulations=1)
