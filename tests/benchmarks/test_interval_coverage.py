"""The simulation behind the promise of 95%."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import interval_coverage
from benchmarks.interval_coverage import METRICS, Coverage, Design, cover, true_values
from data_pipelines.common.errors import InputError


def test_truth_is_that_of_two_normal_distributions() -> None:
    design = Design(10, 0.3, 1.0, 0.0, 1)
    truth = true_values(design.draw(np.random.default_rng(0), 200_000), 0.5)
    sensitivity = stats.norm.sf(0.5 - 1.0)
    false_alarms = stats.norm.sf(0.5)
    expected = {
        "auc": stats.norm.cdf(1 / np.sqrt(2)),
        "sensitivity": sensitivity,
        "specificity": 1 - false_alarms,
        "ppv": 0.3 * sensitivity / (0.3 * sensitivity + 0.7 * false_alarms),
        "npv": 0.7 * (1 - false_alarms) / (0.7 * (1 - false_alarms) + 0.3 * (1 - sensitivity)),
    }
    assert {name: truth[name] for name in expected} == pytest.approx(expected, abs=5e-3)


def test_images_of_a_patient_are_alike() -> None:
    drawn = Design(10, 0.5, 0.0, 0.8, 2).draw(np.random.default_rng(0), 20_000)
    first = np.flatnonzero(np.diff(drawn.patients) == 0)
    assert np.corrcoef(drawn.logits[first, 0], drawn.logits[first + 1, 0])[0, 1] == pytest.approx(0.8, abs=0.02)
    assert np.bincount(drawn.patients, minlength=20_000).min() == 1


@pytest.mark.slow
def test_intervals_hold_the_truth_mostly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cover(Design(80, 0.3, 1.0, 0.3, 2), Coverage(sets=60, resamples=200))
    assert set(found["coverage"]) == set(METRICS)
    assert all(0.87 <= share <= 1 for share in found["coverage"].values()), found["coverage"]
    assert found["sets_with_an_interval"]["auc"] == 60

    monkeypatch.setattr(interval_coverage, "DESIGNS", (Design(12, 0.05, 1.0, 0.3, 1),))
    out = tmp_path / "new" / "coverage.json"
    monkeypatch.setattr("sys.argv", ["interval_coverage.py", "--sets", "2", "--resamples", "20", "--out", str(out)])
    interval_coverage.main()
    assert json.loads(out.read_text())["designs"][0]["coverage"]["auc"] is None  # too few positives
    assert "| – |" in out.with_suffix(".md").read_text()


def test_no_sets_are_refused() -> None:
    with pytest.raises(InputError, match="--sets is 0"):
        Coverage(sets=0)
