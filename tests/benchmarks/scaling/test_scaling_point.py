"""One point of the scaling benchmark, on real ranks and on one of a world that is only said to be there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.lib.scaling import dry_run
from benchmarks.lib.scaling import point as point_module
from benchmarks.lib.scaling.dry_run import be_one_rank
from benchmarks.lib.scaling.point import Point
from benchmarks.lib.scaling.windowed_engine import WindowedEngine, WindowsDone
from data_pipelines.common.errors import InputError
from trainer import checkpoint


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
