"""The scaling benchmark from end to end on one CPU rank, what it plans, and the points that it collects."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.processes import child_environment
from benchmarks.lib.scaling import run as runs
from benchmarks.lib.scaling.rows import MEASURED, PREDICTED, measured_rows
from benchmarks.lib.scaling.study import Scaling, scale
from data_pipelines.common.errors import InputError
from trainer.config import RuntimeConfig


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


def test_the_largest_power_of_two_is_measured_too() -> None:
    assert runs.local_counts((1, 4, 16), 2) == [1, 2]
    assert runs.local_counts((1, 4, 16), 12) == [1, 4, 8]
    assert runs.local_counts((1,), 0) == []


def test_the_default_engine_is_one_that_there_is() -> None:
    assert RuntimeConfig().engine in Scaling().engines
