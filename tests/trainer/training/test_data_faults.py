"""Data that are damaged while a run uses them: what is shown instead, what is listed, and what stops all ranks."""

import csv
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run_ranks import run_ranks

from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.files import read_json
from data_pipelines.common.splits import Split
from data_pipelines.shards.index import Index
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.run_folder.metric_logger import MetricLogger
from trainer.training.run import LaunchOptions, run

STEPS, SAVE_EVERY = 8, 3


class KillError(Exception):
    """Stands for a kill."""


def config_of(data: Path, **options: object) -> Config:
    return Config(
        name="small",
        global_batch_size=16,
        precision="fp32",
        data=DataConfig(sets=(str(data),), image_size=32, resize=32, **options),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=STEPS, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, log_every=1, save_every=SAVE_EVERY),
    )


def rot(folder: Path, split: Split, row: int) -> str:
    """Overwrite half of an image as a disk does that rots; returns its key."""
    index = Index.load(folder, split)
    path, length = index.shards[index.shard[row]], int(index.length[row])
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(int(index.offset[row]) + length // 2)
        file.write(b"\0" * (length - length // 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return index.keys([row])[0]


@pytest.fixture
def data(phantoms: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantoms, tmp_path / "set"))


def train_on_rank(data: Path, starts: list[tuple[Path, int | None]], share_unequally: bool = False) -> list[str]:
    """Runs, each killed after some updates or not at all; how each ended."""
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    advance, endings = MetricLogger.advance, []
    for run_dir, killed_after in starts:
        left = killed_after

        def counted(metric_logger: MetricLogger) -> None:
            nonlocal left
            advance(metric_logger)
            if left is not None:
                left -= 1
                if not left:
                    raise KillError

        MetricLogger.advance = counted
        try:
            with suppress(KillError):
                config = config_of(data)
                if share_unequally:
                    runtime = replace(config.runtime, micro_batch_size=3)
                    config = replace(config, global_batch_size=7, runtime=runtime)
                run(config, LaunchOptions(run_dir), engine, {"kind": "test"})
            endings.append("")
        except RunError as error:
            endings.append(str(error))
    engine.close()
    return endings


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.mark.slow
def test_killed_run_on_rotten_data_ends_like_an_undisturbed_one(data: Path, tmp_path: Path) -> None:
    bad = {rot(data, "train", row): row for row in (4, 20)}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ends = run_ranks(2, train_on_rank, data, [(whole, None), (broken, 5), (broken, 1), (broken, None)])
    assert ends == [[""] * 4] * 2
    states = [checkpoint.load(checkpoint.path_of(run_dir, STEPS)).state for run_dir in (whole, broken)]
    for part in ("model", "momentum"):
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])
    assert rows_of(whole / "unseen.csv") == rows_of(broken / "unseen.csv")
    assert rows_of(whole / "quarantine.csv") == rows_of(broken / "quarantine.csv")

    # The account is exact: these samples at these positions, and no others.
    from trainer.training.job import make_job  # after the ranks, which import it themselves

    order = make_job(config_of(data), tmp_path / "none").order
    due = [
        (step, int(position), int(sample))
        for step in range(STEPS)
        for position, sample in zip(order.request(step).positions, order.request(step).samples, strict=True)
        if sample in bad.values()
    ]
    found = [(int(row[0]), int(row[1]), bad[row[3]]) for row in rows_of(whole / "unseen.csv")]
    assert found == due
    assert len(due) > 1
    assert {row[2] for row in rows_of(whole / "quarantine.csv")} == {row[3] for row in rows_of(whole / "unseen.csv")}


@pytest.mark.slow
def test_what_a_rank_repeats_for_equal_work_is_not_listed_again(data: Path, tmp_path: Path) -> None:
    """Shares of 3 and 4 in micro-batches of 3: the first rank shows the first image of its share again."""
    from trainer.training.job import make_job  # after the ranks, which import it themselves

    config = replace(config_of(data), global_batch_size=7)
    order = make_job(config, tmp_path / "none").order
    bad = {int(order.request(step).samples[0]) for step in (1, 4)}
    for row in bad:
        rot(data, "train", row)
    assert run_ranks(2, train_on_rank, data, [(tmp_path / "run", None)], True) == [[""]] * 2
    due = [
        (step, int(position))
        for step in range(STEPS)
        for position, sample in zip(order.request(step).positions, order.request(step).samples, strict=True)
        if sample in bad
    ]
    assert {(1, 7), (4, 28)} <= set(due)
    assert [(int(row[0]), int(row[1])) for row in rows_of(tmp_path / "run" / "unseen.csv")] == due


def start(data: Path, run_dir: Path, **options: object) -> dict:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    return run(config_of(data, **options), LaunchOptions(run_dir), engine, {"kind": "test"})


def cut_off(data: Path) -> Path:
    """The only shard of the phantoms, less its second half, as it happens to a file that is in use."""
    (path,) = (data / "train").glob("*.tar")
    os.truncate(path, path.stat().st_size // 2)
    return path


@pytest.mark.slow
def test_a_cut_shard_stops_the_run_by_name_and_can_be_left_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance, done = MetricLogger.advance, 0

    def damaging(metric_logger: MetricLogger) -> None:
        nonlocal done
        advance(metric_logger)
        done += 1
        if done == 4:
            damaged.append(cut_off(data))

    damaged: list[Path] = []
    whole = tmp_path / "copy"
    shutil.copytree(data, whole)
    with monkeypatch.context() as patch:
        patch.setattr(MetricLogger, "advance", damaging)
        with pytest.raises(
            RunError, match=r"ends at byte .* it is a shard of phantom.*--data.on-bad-shard skip"
        ) as stopped:
            start(data, tmp_path / "run")
    assert str(damaged[0]) in str(stopped.value)
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["reason"]) == ("failed", str(stopped.value))
    saved = checkpoint.step_of(checkpoint.numbered(tmp_path / "run")[-1])
    assert all(int(row[0]) >= saved for row in rows_of(tmp_path / "run" / "unseen.csv"))  # nothing saved is affected

    with pytest.raises(InputError, match="bytes, its manifest says"):
        start(data, tmp_path / "run")
    with pytest.raises(RunError, match="no other image could be read in its place"):  # the set has no other shard
        start(data, tmp_path / "run", on_bad_shard="skip")
    damaged[0].write_bytes((whole / "train" / damaged[0].name).read_bytes())
    assert start(data, tmp_path / "run")["total_steps"] == STEPS


@pytest.mark.slow
def test_images_of_one_shard_of_several_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tiny_sets import tiny_set

    folder = tiny_set(tmp_path / "tiny", [i % 2 for i in range(40)], ["a", "b"], side=32)
    other = tiny_set(tmp_path / "other", [i % 2 for i in range(40)], ["a", "b"], "other", range(40, 80), side=32)
    config = config_of(folder)
    config = replace(config, data=replace(config.data, sets=(str(folder), str(other)), on_bad_shard="skip"))
    next((other / "train").glob("*.tar")).unlink()
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    run(config, LaunchOptions(tmp_path / "run"), engine, {"kind": "test"})
    rows = rows_of(tmp_path / "run" / "unseen.csv")
    assert rows
    assert all(row[2].startswith("other/train/") and "has disappeared" in row[4] for row in rows)
    assert not (tmp_path / "run" / "quarantine.csv").exists()
    error = capsys.readouterr().err
    assert error.count("has disappeared (set other, noticed at step 0)") == 1


def test_too_many_rotten_images_stop_the_run(data: Path, tmp_path: Path) -> None:
    for row in (4, 20, 30):
        rot(data, "train", row)
    with pytest.raises(RunError, match=r"3 images cannot be decoded any more, more than --data.max-bad 2"):
        start(data, tmp_path / "run", max_bad=2)


@pytest.mark.slow
def test_rotten_image_of_an_evaluation_is_left_out_and_listed(data: Path, tmp_path: Path) -> None:
    whole = start(data, tmp_path / "whole")
    key = rot(data, "test", 2)
    result = start(data, tmp_path / "run")
    assert result["test"]["images"] == whole["test"]["images"] - 1
    assert result["val"] == whole["val"]
    ((place, named, reason),) = rows_of(tmp_path / "run" / "unjudged.csv")
    assert named == key
    assert place.startswith("phantom/test/")
    assert reason
