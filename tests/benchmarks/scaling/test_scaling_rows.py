"""The rows, figures and page that the scaling benchmark makes of what was measured and predicted."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.network.predict import Scenario, predictions, sync_of, with_changes
from benchmarks.lib.network.profile import Workload, load_profile
from benchmarks.lib.scaling import run as runs
from benchmarks.lib.scaling.figure import draw, series_of
from benchmarks.lib.scaling.point import Point
from benchmarks.lib.scaling.report import markdown
from benchmarks.lib.scaling.rows import PREDICTED, Row, measured_rows, predicted_rows
from benchmarks.lib.scaling.run import Measured

R50 = Workload("r50x1", 1000, 224, 32)


def measured(ranks: int, rate: float, **others: Any) -> Measured:
    details: dict[str, Any] = {"model": "r50x1", "hardware": "A100", "commit": "abc", **others}
    return Measured("ddp", ranks, (0.9 * rate, rate, 1.2 * rate), **details)


def test_a_failed_count_leaves_a_gap_and_the_others(tmp_path: Path) -> None:
    rows = measured_rows([measured(1, 100.0), Measured("ddp", 2, failed="out of memory"), measured(4, 380.0)])
    assert [row.efficiency for row in rows] == [100.0, None, pytest.approx(95.0)]
    assert "out of memory" in rows[1].note
    assert rows[2].efficiency_low == pytest.approx(100 * 0.9 * 380 / (4 * 1.2 * 100))
    assert rows[2].efficiency_high == pytest.approx(100 * 1.2 * 380 / (4 * 0.9 * 100))
    (points,) = series_of(rows).values()
    assert [row.gpus for row in points] == [1, 2, 4]
    assert all(path.is_file() for path in draw(rows, tmp_path, None))


def test_without_one_gpu_the_smallest_count_is_the_base(tmp_path: Path) -> None:
    rows = measured_rows([measured(4, 400.0), measured(8, 760.0)])
    assert [(row.efficiency, row.base) for row in rows] == [(100.0, 4), (pytest.approx(95.0), 4)]
    draw(rows, tmp_path, None)
    assert "relative to 4 ranks" in _texts(tmp_path / "figure4b.svg", rows)


def _texts(path: Path, rows: list[Row]) -> str:
    """The text of a figure; matplotlib writes it into comments where glyphs are drawn."""
    assert rows
    return path.read_text()


@pytest.mark.slow
def test_strong_scaling_keeps_the_global_batch(tmp_path: Path) -> None:
    template = Point(run_dir=tmp_path, global_batch_size=64)
    assert [runs.point_at(template, tmp_path, n, strong=True).global_batch_size for n in (1, 64)] == [64, 64]
    assert [runs.point_at(template, tmp_path, n, strong=False).global_batch_size for n in (1, 64)] == [64, 4096]
    profile = load_profile("juwels-booster")
    scenarios = (Scenario(replace(R50, images=256), (1, 64), strong) for strong in (True, False))
    strong, weak = (predictions(scenario, profile, {"ddp": {}}, "")[0][0].points[1] for scenario in scenarios)
    assert strong.efficiency < weak.efficiency - 10  # 4 images a rank hide nothing


def test_predictions_start_from_what_was_measured() -> None:
    profile = load_profile("dgx-a100")
    rates = {1: (100.0,) * 3, 8: (700.0,) * 3}
    (plain, slower), about = predictions(Scenario(R50, (1, 8, 64)), profile, {"ddp": rates}, "net_gb_s=2")
    assert plain.points[0].images_per_s == pytest.approx(100.0, rel=1e-6)
    assert plain.points[1].images_per_s == pytest.approx(700.0, rel=0.02)
    assert about["ddp"]["calibrated_on"].startswith("measured points of 1, 8")
    assert slower.points[2].images_per_s < plain.points[2].images_per_s
    assert (plain.note, slower.note) == ("", "what if net_gb_s=2")


def test_predicted_rows_say_where_a_step_waits() -> None:
    found, _ = predictions(Scenario(R50, (2, 8)), load_profile("dgx-a100"), {"horovod": {}}, "")
    rows = predicted_rows(found[0], "dgx-a100", "r50x1")
    assert [(row.kind, row.engine, row.gpus, row.base) for row in rows] == [
        (PREDICTED, "horovod", n, 2) for n in (2, 8)
    ]
    step = found[0].points[1].step
    assert rows[1].exposed_share == step.exposed_s / step.seconds
    assert rows[1].images_per_s == found[0].points[1].images_per_s


def test_thousands_of_images_are_written_in_digits() -> None:
    profile = load_profile("dgx-a100")
    found, how = predictions(Scenario(R50, (1, 1024)), profile, {"ddp": {}}, "")
    about = {"commit": "1a2b3c", "machine": {"cpu": "EPYC", "gpu": None}, "plan": None, "predictions": how}
    page = markdown(predicted_rows(found[0], "dgx-a100", "r50x1"), about, profile)
    (last,) = [line for line in page.splitlines() if "| 1024 |" in line]
    assert re.search(r"\| \d+,[\d,]+ \([\d,]+ to [\d,]+\) \|", last), last


def test_what_if_changes_what_it_names() -> None:
    machine = load_profile("dgx-a100").machine
    sync, other = with_changes("bucket_mb=100, compression=bf16,net_gb_s=50", sync_of("ddp"), machine)
    assert (sync.bucket_mb, sync.bytes_per_element, other.net_gb_s) == (100, 2, 50)
