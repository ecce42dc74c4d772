"""What a protocol changes, from results that were made up."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.protocol_effect import compare
from data_pipelines.common.errors import InputError
from tests.trainer.made_results import seeds, write_results


def made(folder: Path, values: tuple[float, ...], **changes: Any) -> Path:
    results = [result | changes for result in seeds("big", values, target="lungs", shots="5")]
    return write_results(folder, results)


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    plain = made(tmp_path / "plain", (0.5, 0.6, 0.7), departures={})
    head = {"model.head_init": {"used": "torch", "protocol": "zero"}}
    other = made(tmp_path / "other", (0.52, 0.61, 0.73), departures=head)
    result, table = compare((plain, other))
    (cell,) = result["cells"]
    (name,) = cell.keys() - {"mode", "source", "model", "target", "shots", "default", "seeds"}
    assert "initial head" in name
    assert cell[name]["points"] == [2.0, 1.0, 3.0]
    assert cell[name]["mean_and_95%"] == "+2.00 [-0.48, +4.48]"  # t of 2 degrees of freedom: 4.303 / sqrt(3)
    assert "| lungs | 5 | 60.00 ± 10.00 | +2.00 [-0.48, +4.48] |" in table


def test_refused_without_runs_that_differ(tmp_path: Path) -> None:
    plain = made(tmp_path / "plain", (0.5, 0.6), departures={})
    with pytest.raises(InputError, match="made in one way"):
        compare((plain,))
    with pytest.raises(InputError, match="made like the runs to compare with"):
        compare((plain, made(tmp_path / "again", (0.5, 0.6), departures={})))
    with pytest.raises(InputError, match="no fine-tuning without --match-authors"):
        compare((made(tmp_path / "authors", (0.5, 0.6), protocol="authors", departures={}),))
