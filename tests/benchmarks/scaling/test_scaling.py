"""The scaling benchmark from end to end on one CPU rank, and what it makes of points that are bad."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.lib.network.predict import Scenario, predictions, sync_of, with_changes
from benchmarks.lib.network.profile import Workload, load_profile
from benchmarks.lib.processes import child_environment
from benchmarks.lib.scaling import dry_run
from benchmarks.lib.scaling import point as point_module
from benchmarks.lib.scaling import run as runs
from benchmarks.lib.scaling.dry_run import be_one_rank
from benchmarks.lib.scaling.figure import draw, series_of
from benchmarks.lib.scaling.point import Point
from benchmarks.lib.scaling.report import markdown
from benchmarks.lib.scaling.rows import MEASURED, PREDICTED, Row, measured_rows, predicted_rows
from benchmarks.lib.scaling.run import Measured
from benchmarks.lib.scaling.study import Scaling, scale
from benchmarks.lib.scaling.windowed_engine import WindowedEngine, WindowsDone
from data_pipelines.common.errors import InputError
from trainer import checkpoint
from trainer.config import RuntimeConfig

R50 = Workload("r50x1", 1000, 224, 32)


def measured(ranks: int, rate: float, **others: Any) -> Measured:
    details: dict[str, Any] = {"model": "r50x1", "hardware": "A100", "commit": "abc", **others}
    return Measured("ddp", ranks, (0.9 * rate, rate, 1.2 * rate), **details)


def leave(folder: Path, ranks: int, commit: str = "abc", world_size: int | None = None) -> None:
    """A point as its program leaves it."""
    run = runs.run_dir(folder, "cuda", "ddp", ranks)
    run.mkdir(parents=True)
    point = {
        "world_size": world_size or ranks,
        "device_type": "cuda",
        "windows_images_per_s": [95.0 * ranks, 90.0 * ranks, 99.0 * ranks],
        "data_wait_share": 0.01,
        "exposed_share": 0.02,
        "peak_memory_bytes": 1e9,
        "joules_per_image": 3.0,
    }
    environment = {"commit": commit, "device": "A100"}
    result = {"point": point, "environment": environment, "settings": {"model": {"name": "r50x1"}}}
    (run / "result.json").write_text(json.dumps(result))


@pytest.mark.slow
def test_end_to_end_on_one_rank(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--gpus", "1,1024", "--device", "cpu", "--paper"]
    arguments += ["--window-steps", "1", "--batch-size", "2", "--out", str(out)]
    script = (
        "import sys; from benchmarks import scaling; from benchmarks.lib.scaling import run; "
        "run.num_usable_cpus = lambda: 1; "
        "scaling.main()"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=child_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((out / "scaling.csv").open()))
    assert [(row["kind"], row["gpus"]) for row in rows] == [(MEASURED, "1"), (PREDICTED, "1"), (PREDICTED, "1024")]
    assert rows[0]["note"] == ""
    assert float(rows[0]["images_per_s_low"]) <= float(rows[0]["images_per_s"]) <= float(rows[0]["images_per_s_high"])
    assert float(rows[0]["data_wait_share"]) > 0
    assert float(rows[0]["peak_memory_bytes"]) > 1e8
    assert float(rows[2]["efficiency_low"]) < float(rows[2]["efficiency"]) < float(rows[2]["efficiency_high"])
    result = json.loads((out / "scaling.json").read_text())
    assert {"commit", "machine", "versions", "profile"} <= result.keys()
    assert all(number["source"] for number in result["profile"]["numbers"].values())
    assert "*predicted*" in (out / "scaling.md").read_text()
    assert all((out / f"figure4{panel}.{ending}").stat().st_size > 5000 for panel in "ab" for ending in ("png", "svg"))
    (task,) = json.loads((out / "plan.json").read_text())["tasks"]
    assert (task["name"], task["nodes"], task["ranks_per_node"]) == ("ddp-1024", 256, 4)
    assert task["command"][0] == "python"
    assert task["command"][task["command"].index("--global-batch-size") + 1] == "2048"
    assert Path(task["done"]) == out / "points" / "cpu" / "ddp-1024" / "result.json"


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


def test_what_cpus_measured_here_is_not_the_cluster(tmp_path: Path) -> None:
    """A login node's CPUs have a folder of their own, and all counts are planned on GPUs: the plan has its T(1)."""
    leave(tmp_path, 1)
    of_cpu = runs.run_dir(tmp_path, "cpu", "ddp", 1)
    shutil.copytree(runs.run_dir(tmp_path, "cuda", "ddp", 1), of_cpu)
    result = json.loads((of_cpu / "result.json").read_text())
    result["environment"] |= {"device": "Xeon", "threads_per_rank": 1}
    result["point"]["device_type"] = "cpu"
    (of_cpu / "result.json").write_text(json.dumps(result))
    assert {point.hardware for point in runs.collect([tmp_path], allow_mixed=False)} == {
        "A100",
        "Xeon, 1 core(s) a rank",
    }


@pytest.mark.parametrize(
    ("settings", "here", "planned"),
    [
        ({"device": "cpu"}, [1, 2], [4]),
        ({}, [1, 2], [1, 4]),
        ({"device": "cpu", "measure": False}, [], [1, 4]),
    ],
)
def test_what_is_measured_here_and_what_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], here: list[int], planned: list[int]
) -> None:
    ran: list[int] = []
    monkeypatch.setattr(runs, "local_ranks", lambda device: (2, "cpu"))
    monkeypatch.setattr(runs, "run_here", lambda ranks, program: ran.append(ranks) or "no time")
    scale(Scaling(gpus="1,4", profile="dgx-a100", model="r14x0.5", out=tmp_path, **settings))
    assert ran == here
    tasks = json.loads((tmp_path / "plan.json").read_text())["tasks"]
    assert [task["name"] for task in tasks] == [f"ddp-{count}" for count in planned]
    device = settings.get("device", "cuda")
    assert all(task["command"][task["command"].index("--device") + 1] == device for task in tasks)
    assert all(f"/points/{device}/" in task["done"] for task in tasks)


def test_nodes_share_ranks_equally(tmp_path: Path) -> None:
    assert [runs.nodes_for(ranks, 4) for ranks in (1, 3, 4, 6, 7, 8, 1024)] == [1, 1, 1, 2, 7, 2, 256]
    programs = [(f"ddp-{ranks}", ranks, ["x.py"], tmp_path) for ranks in (2, 6, 8)]
    path = runs.write_plan(tmp_path, programs, 4)
    assert path is not None
    tasks = json.loads(path.read_text())["tasks"]
    assert [(task["nodes"], task["ranks_per_node"]) for task in tasks] == [(1, 2), (2, 3), (2, 4)]
    assert runs.write_plan(tmp_path, [], 4) is None
    assert not path.exists()


def test_mixed_commits(tmp_path: Path) -> None:
    leave(tmp_path, 1, "abc")
    leave(tmp_path, 2, "def")
    with pytest.raises(InputError, match="--allow-mixed"):
        runs.collect([tmp_path], allow_mixed=False)
    rows = measured_rows(runs.collect([tmp_path], allow_mixed=True))
    assert [row.note for row in rows] == ["mixed commits", "mixed commits"]


def test_collected_points(tmp_path: Path) -> None:
    leave(tmp_path, 1)
    leave(tmp_path, 4, world_size=1)
    (tmp_path / "points" / "cuda" / "ddp-8").mkdir()
    (tmp_path / "points" / "cuda" / "ddp-8" / "status.json").write_text(
        '{"state": "failed", "reason": "loss is not finite"}'
    )
    one, four, eight = runs.collect([tmp_path], allow_mixed=False)
    assert (one.rates, one.joules_per_image, one.commit) == ((95.0, 90.0, 99.0), 3.0, "abc")
    assert four.failed == "ran on 1 ranks, not 4"
    assert eight.failed == "loss is not finite"
    with pytest.raises(InputError, match="no such folder"):
        runs.collect([tmp_path / "absent"], allow_mixed=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no measured point"):
        runs.collect([tmp_path / "empty"], allow_mixed=False)


def test_settings_that_are_refused(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"measure": False, "out": tmp_path / "out"}
    with pytest.raises(InputError, match="3744"):
        scale(Scaling(gpus="1,4096", **quick))
    with pytest.raises(InputError, match="at least 3"):
        Scaling(windows=2)
    with pytest.raises(InputError, match="bucket_mb"):
        scale(Scaling(gpus="1", what_if="bucket_md=3", **quick))
    with pytest.raises(InputError, match="above 0"):
        scale(Scaling(gpus="1", what_if="bucket_mb=-3", **quick))
    with pytest.raises(InputError, match="does not feed"):
        scale(Scaling(gpus="1,64", strong=True, batch_size=32, device="cpu", **quick))
    with pytest.raises(InputError, match="nothing measured"):
        scale(Scaling(gpus="1", predict=False, **quick))


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


def test_the_largest_power_of_two_is_measured_too() -> None:
    assert runs.local_counts((1, 4, 16), 2) == [1, 2]
    assert runs.local_counts((1, 4, 16), 12) == [1, 4, 8]
    assert runs.local_counts((1,), 0) == []


def test_no_exchange_in_the_last_windows_and_then_the_run_ends() -> None:
    asked: list[bool] = []

    class Engine:
        device = torch.device("cpu")

        def accumulate(self, last: bool) -> None:
            asked.append(last)

        def step(self, is_nonfinite: Any) -> str:
            return "update"

        def set_lr(self, lr: float) -> None:
            pass

    windowed = WindowedEngine(Engine(), window_steps=2, windows=3, silent=3)  # type: ignore[arg-type]
    for _ in range(windowed.total_steps):
        windowed.set_lr(0.1)
        windowed.accumulate(True)
        assert windowed.step() == "update"
    assert asked == [True] * 8 + [False] * 6
    assert windowed.joules is None
    with pytest.raises(WindowsDone):
        windowed.set_lr(0.1)


@dataclass(frozen=True)
class StandIn:
    """What `measure` knows of a job."""

    run_dir: Path
    val: None = None
    test: None = None


class Alone:
    """An engine of one rank that says it is one of two."""

    rank, world_size, device = 0, 2, torch.device("cpu")

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def barrier(self) -> None:
        pass


def test_a_point_is_measured_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a point that was interrupted does not count; windows of warm-up, with exchange, without it."""
    left = checkpoint.path_of(tmp_path, 7)
    left.parent.mkdir()
    left.write_text("of an earlier start")

    def train(job: StandIn, engine: WindowedEngine) -> None:
        assert not left.exists()
        rates = [10.0, 90.0, 80.0, 85.0, 100.0, 100.0, 101.0]
        rows = [{"step": i, "train/images_per_s": rate, "train/data_wait_share": 0.1} for i, rate in enumerate(rates)]
        (job.run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"step": 0}, *rows]))
        raise WindowsDone

    monkeypatch.setattr(point_module, "train_and_predict", train)
    point = Point(run_dir=tmp_path, global_batch_size=4)
    found = point_module.measure(StandIn(tmp_path), Alone(), point).details["point"]  # type: ignore[arg-type]
    assert found["windows_images_per_s"] == [90.0, 80.0, 85.0]
    assert found["exposed_share"] == pytest.approx(0.15)
    assert (found["data_wait_share"], found["joules_per_image"]) == (0.1, None)


@pytest.mark.slow
def test_the_first_and_the_last_rank_of_a_fake_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rank in (0, 1023):  # the last one reads the checkpoint of the first
        place = {"RANK": rank, "WORLD_SIZE": 1024, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        for name, value in place.items():
            monkeypatch.setenv(name, str(value))
        found.append(be_one_rank(tmp_path))
    assert [(row["rank"], row["world_size"]) for row in found] == [(0, 1024), (1023, 1024)]
    assert all(row["samples_right"] and row["evaluation_complete"] for row in found)
    assert [row["evaluation_share"] for row in found] == [0, 1]  # of 1000 images
    assert [row["wrote_checkpoints"] for row in found] == [True, False]


def test_what_grows_between_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def one_rank(rank: int, world_size: int, folder: str) -> dict[str, Any]:
        asked.append((rank, world_size))
        return {"world_size": world_size, "peak_mb": 100.0 + world_size / 64 + rank, "start_seconds": 0.1}

    monkeypatch.setattr(dry_run, "run_rank", one_rank)
    found = dry_run.measure_dry_worlds(1024)
    assert asked == [(0, 1), (0, 64), (63, 64), (0, 1024), (1023, 1024)]
    assert found["more"] == {"peak_mb": 15.0 + 1023 - 63, "start_seconds": 0.0}
    assert not found["met"]
    with pytest.raises(InputError, match="at least 2"):
        dry_run.measure_dry_worlds(1)


def test_the_default_engine_is_one_that_there_is() -> None:
    assert RuntimeConfig().engine in Scaling().engines
