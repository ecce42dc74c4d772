"""What a run leaves for people is true across restarts, and only rank 0 leaves it."""

import json
import math
import os
import time
from pathlib import Path

import pytest
from nasty_names import NAMES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from data_pipelines.common.printable import printable
from trainer.run_files import HEARTBEAT, METRICS, STATUS
from trainer.run_folder.metric_logger import MetricLogger, read_metrics
from trainer.run_folder.run_status import write_status


@pytest.fixture(autouse=True)
def files_numbered_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts within one second, as no run has them, are read by number as text, and a process's tenth before its
    ninth."""
    counter = type(event_file_writer._global_uid)
    monkeypatch.setattr(event_file_writer, "_global_uid", counter(0))


def track(run_dir: Path, first_step: int, losses: dict[int, float], rank: int = 0) -> None:
    metric_logger = MetricLogger(run_dir, rank, first_step, 100, "demo")
    for step, loss in losses.items():
        metric_logger.advance()
        metric_logger.scalars(step, {"train/loss": loss, "train/lr": 0.1})
    metric_logger.say("a line")
    metric_logger.close()


def board(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_metrics_are_rows_by_step(tmp_path: Path) -> None:
    track(tmp_path, 0, {10: 2.5, 20: 1.5})
    rows = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert rows == [{"step": 10, "train/loss": 2.5, "train/lr": 0.1}, {"step": 20, "train/loss": 1.5, "train/lr": 0.1}]
    assert read_metrics(tmp_path) == rows


@pytest.mark.parametrize(("left", "earlier_s"), [('{"trained_s": 4000}', 4000), ('{"step": 3}', 0), ("{", 0)])
def test_seconds_are_those_of_all_starts(left: str, earlier_s: float, tmp_path: Path) -> None:
    (tmp_path / HEARTBEAT).write_text(left)
    for _ in range(2):  # starts, of which the first is killed
        metric_logger = MetricLogger(tmp_path, 0, 5, 100, "demo")
        assert earlier_s <= metric_logger.trained_s < earlier_s + 1000
    metric_logger.close()
    kept_s = json.loads((tmp_path / HEARTBEAT).read_text())["trained_s"]
    assert earlier_s < kept_s < earlier_s + 1000
    assert MetricLogger(tmp_path, 1, 5, 100, "demo").trained_s < 1000
    metric_logger = MetricLogger(tmp_path, 0, 50, 100, "demo")
    assert metric_logger.trained_s > kept_s
    metric_logger.close()


def test_classes_of_any_name_have_curves(tmp_path: Path) -> None:
    run_dir = tmp_path / "a \udcfc"
    run_dir.mkdir()
    values = {f"val/auc/{name}": number / 100 for number, name in enumerate(NAMES)}
    metric_logger = MetricLogger(run_dir, 0, 0, 100, "demo")
    metric_logger.scalars(10, values)
    metric_logger.close()
    assert read_metrics(run_dir) == [{"step": 10, **values}]
    descriptor = os.open(run_dir, os.O_RDONLY)  # its reader takes no such names either
    try:
        curves = [board(Path(f"/proc/self/fd/{descriptor}"), printable(name)) for name in values]
    finally:
        os.close(descriptor)
    assert [value for ((_, value),) in curves] == pytest.approx(list(values.values()))


def test_rows_are_on_the_disk_before_the_run_ends(tmp_path: Path) -> None:
    metric_logger = MetricLogger(tmp_path, 0, 0, 100, "demo")
    metric_logger.scalars(10, {"train/loss": 2.5})
    assert [row["step"] for row in read_metrics(tmp_path)] == [10]
    metric_logger.close()


def test_restart_overwrites_what_lies_beyond_its_step(tmp_path: Path) -> None:
    track(tmp_path, 0, {10: 5.0, 20: 4.0, 30: 3.0, 40: 2.0})
    track(tmp_path, 20, {30: 3.5})
    assert [(row["step"], row["train/loss"]) for row in read_metrics(tmp_path)] == [(10, 5.0), (20, 4.0), (30, 3.5)]
    assert board(tmp_path, "train/loss") == [(10, 5.0), (20, 4.0), (30, 3.5)]


def test_a_start_from_scratch_in_a_used_folder_forgets_the_past(tmp_path: Path) -> None:
    track(tmp_path, 0, {1: 5.0, 20: 4.0})
    track(tmp_path, 0, {2: 3.0})
    assert [row["step"] for row in read_metrics(tmp_path)] == [2]
    assert board(tmp_path, "train/loss") == [(2, 3.0)]


def test_half_written_last_line_is_dropped(tmp_path: Path) -> None:
    track(tmp_path, 0, {10: 5.0, 20: 4.0})
    path = tmp_path / METRICS
    path.write_text(path.read_text()[:-9])
    assert [row["step"] for row in read_metrics(tmp_path)] == [10]
    track(tmp_path, 20, {30: 3.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 30]


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    metric_logger = MetricLogger(tmp_path, 0, 0, 100, "demo")
    metric_logger.scalars(1, {"val/auc": math.nan, "val/loss": math.inf, "val/top1": 0.25})
    metric_logger.close()
    text = (tmp_path / METRICS).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == {"step": 1, "val/auc": None, "val/loss": None, "val/top1": 0.25}


def test_every_start_is_a_row(tmp_path: Path) -> None:
    for first_step, ranks in ((0, 1), (20, 4)):
        metric_logger = MetricLogger(tmp_path, 0, first_step, 100, "demo")
        metric_logger.started(first_step, {"loader": "torch", "world_size": ranks})
        metric_logger.close()
    assert read_metrics(tmp_path) == [
        {"step": 0, "loader": "torch", "world_size": 1},
        {"step": 20, "loader": "torch", "world_size": 4},
    ]


def test_no_metrics_are_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_other_ranks_write_and_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    track(tmp_path, 0, {10: 2.5}, rank=1)
    write_status(tmp_path, 1, "running", 0, 100)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_progress_is_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric_logger = MetricLogger(tmp_path, 0, 0, 1200, "demo")
    metric_logger.scalars(50, {"train/loss": 1.25, "val/auc/Effusion": 0.5})
    metric_logger.scalars(1200, {"val/top1": 0.75})
    metric_logger.say("a line")
    metric_logger.close()
    out, err = capsys.readouterr()
    assert out == ""
    first, second, third = err.splitlines()
    assert first.startswith("demo  step 50/1,200  loss 1.25  00:0")
    assert second == "demo  step 1,200/1,200  val/top1 0.75  00:00 left"
    assert third == "a line"


def test_time_left_counts_this_starts_steps_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    metric_logger = MetricLogger(tmp_path, 0, 40, 100, "demo")
    monkeypatch.setattr(time, "monotonic", lambda: 4700.0)
    metric_logger.scalars(60, {"train/loss": 1.0})
    metric_logger.close()
    # 3700 s for 20 steps, 40 to go.
    assert capsys.readouterr().err.endswith("loss 1  2:03:20 left\n")


def test_status(tmp_path: Path) -> None:
    before = time.time()
    write_status(tmp_path, 0, "running", 3, 100)
    write_status(tmp_path, 0, "failed", 7, 100, "no space left")
    status = json.loads((tmp_path / STATUS).read_text())
    assert before <= status.pop("time") <= time.time()
    assert status == {"state": "failed", "step": 7, "total_steps": 100, "reason": "no space left"}
    assert [path.name for path in tmp_path.iterdir()] == [STATUS]
