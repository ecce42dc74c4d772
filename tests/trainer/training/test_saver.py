"""Saving beside training: what a disk that fails costs, and that a damaged checkpoint is never the end."""

import errno
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from run_ranks import run_ranks
from saved_runs import STEPS, equal, failing, state, steps, trained

from data_pipelines.common.errors import RunError
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, RuntimeConfig, ScheduleConfig
from trainer.run_files import CHECKPOINTS, RESULT, STATUS
from trainer.run_folder.metric_logger import MetricLogger, read_metrics
from trainer.training import run as running
from trainer.training import saver as saving
from trainer.training.job import Job, make_job
from trainer.training.saver import UnsavedError

pytestmark = pytest.mark.usefixtures("no_pauses")


def trained_where_checkpoints_age_at_once(data: str, run_dir: Path) -> list[int]:
    """The steps with a checkpoint, of a run whose checkpoints are too old as soon as they are made."""
    Job.max_unsaved_s = property(lambda job: -1.0)  # type: ignore[assignment, method-assign]
    trained(data, run_dir, save_every=1000, keep_checkpoints=10)
    return steps(run_dir)


def test_what_saving_took_is_in_the_metrics(undisturbed: Path) -> None:
    rows = [row for row in read_metrics(undisturbed) if "save/stall_s" in row]
    assert [row["step"] for row in rows] == [4, 6, 8]  # what was saved since the row before
    assert all(row["save/stall_s"] >= row["save/wait_s"] + row["save/copy_s"] > 0 for row in rows)
    assert any(row.get("save/write_s", 0) > 0 for row in rows)
    assert steps(undisturbed) == [6, 8]
    assert (undisturbed / CHECKPOINTS / checkpoint.LATEST).read_text() == "step_00000008.safetensors\n"


@pytest.mark.slow
def test_a_failed_write_is_tried_again_before_the_next_save(
    phantoms: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no time to wait, and yet nothing is lost: not the best one, whose weights are nowhere else."""
    refused = {"step_00000002.safetensors", checkpoint.BEST}

    def first_of_some(path: Path, _: int) -> bool:
        fails = path.name in refused
        refused.discard(path.name)
        return fails

    monkeypatch.setattr(saving, "PAUSES_S", (1000.0,))
    monkeypatch.setattr(saving.checkpoint, "save", failing(first_of_some))
    result = trained(phantoms, tmp_path / "run", max_failed_saves=1)
    assert not refused
    assert steps(tmp_path / "run") == [6, 8]
    assert equal(tmp_path / "run", undisturbed)
    assert result["val"] == json.loads((undisturbed / "result.json").read_text())["val"]


@pytest.mark.slow
def test_an_old_checkpoint_does_not_wait_for_its_step(
    phantoms: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is saved changes nothing that is learnt."""
    monkeypatch.setattr(Job, "max_unsaved_s", property(lambda job: -1.0))
    trained(phantoms, tmp_path / "run", save_every=1000, keep_checkpoints=10)
    assert steps(tmp_path / "run") == [2, 4, 6, 8]
    assert equal(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_all_ranks_save_when_rank_0_finds_it_time(phantoms: Path, tmp_path: Path) -> None:
    saved = run_ranks(2, trained_where_checkpoints_age_at_once, str(phantoms), tmp_path / "run")
    assert saved == [[2, 4, 6, 8]] * 2


@pytest.mark.parametrize(
    ("total_steps", "given", "kind", "steps", "seconds"),
    [
        (500, None, "hyperrule", 50, 300),
        (7, None, "hyperrule", 1, 300),
        (28_000, None, "cosine", 1000, 1800),
        (500, 400, "hyperrule", 400, None),
    ],
)
def test_a_kill_costs_a_tenth_or_some_minutes(
    total_steps: int, given: int | None, kind: Any, steps: int, seconds: float | None, tmp_path: Path
) -> None:
    config = Config(
        data=DataConfig(sets=("fashion_mnist",), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        schedule=ScheduleConfig(kind, epochs=None, steps=total_steps, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", save_every=given),
    )
    job = make_job(config, tmp_path)
    assert (job.save_every, job.max_unsaved_s) == (steps, seconds)
    assert next(done for done in range(1, 2 * steps + 1) if job.is_due("save", done)) == steps


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written(
    phantoms: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of step 2 ends only when step 4 is done with, and holds the weights of step 2 all the same."""
    save, reached = checkpoint.save, threading.Event()
    wait = saving.Saver._join_writes

    def slow(path: Path, *rest: Any) -> None:
        if path.name == "step_00000002.safetensors":
            assert reached.wait(60)
        save(path, *rest)

    def waiting(saver: saving.Saver) -> Any:
        if saver._step == 2:
            reached.set()
        return wait(saver)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(saving.Saver, "_join_writes", waiting)
    trained(phantoms, tmp_path / "run", keep_checkpoints=9)
    assert steps(tmp_path / "run") == [2, 4, 6, 8]
    monkeypatch.undo()
    state = [checkpoint.load(checkpoint.path_of(tmp_path / "run", step)).state["model"] for step in (2, 4, 8)]
    assert not torch.equal(state[0]["head.weight"], state[1]["head.weight"])
    assert equal(tmp_path / "run", undisturbed)
    for step in (4, 6, 8):
        checkpoint.path_of(tmp_path / "run", step).unlink()
    (tmp_path / "run" / "result.json").unlink()
    trained(phantoms, tmp_path / "run")  # from step 2
    assert equal(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_for_a_while_costs_nothing(
    code: int,
    phantoms: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checkpoint, "save", failing(lambda path, before: before < 3, code))
    trained(phantoms, tmp_path / "run")
    error = capfd.readouterr().err
    assert f"step_00000002.safetensors cannot be saved ({os.strerror(code)}; " in error
    assert re.search(r"; [\d,]+ MB are free, and it takes \d+\); it will be tried again\n", error)
    assert equal(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_failed_write_is_tried_again_before_the_next_is_due(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(saving, "PAUSES_S", (0.0,))
    monkeypatch.setattr(checkpoint, "save", failing(lambda path, before: before == 0))
    trained(phantoms, tmp_path / "run", keep_checkpoints=9)
    assert "step_00000002.safetensors is saved after all" in capfd.readouterr().err
    assert steps(tmp_path / "run") == [2, 4, 6, 8]


@pytest.mark.slow
def test_too_many_failed_saves_end_the_run(
    phantoms: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last good checkpoint stays, and the run goes on from it."""
    run_dir = tmp_path / "run"
    monkeypatch.setattr(checkpoint, "save", failing(lambda path, before: path.name != "step_00000002.safetensors"))
    with pytest.raises(RunError, match=r"2 saves in a row failed .*step_00000006.*No space left on device; [\d,]+ MB"):
        trained(phantoms, run_dir, max_failed_saves=2)
    assert (steps(run_dir), state(run_dir)) == ([2], "failed")
    monkeypatch.undo()
    trained(phantoms, run_dir)
    assert equal(run_dir, undisturbed)


def test_what_is_left_after_failed_saves_is_told_as_it_is(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "save", failing(lambda path, before: True))
    with pytest.raises(RunError, match=r"\)\. Fix that and start the same command again: there is no checkpoint yet"):
        trained(phantoms, tmp_path / "run", max_failed_saves=1)
    monkeypatch.undo()
    monkeypatch.setattr(saving, "LAST_PAUSES_S", ())
    monkeypatch.setattr(checkpoint, "save", failing(lambda path, before: "step_00000002" not in path.name))
    with pytest.raises(RunError, match=r"\. Fix that .* again: step_00000002.safetensors is still there"):
        trained(phantoms, tmp_path / "run", max_failed_saves=1)


class Gone:
    """A terminal that is not there any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def flush(self) -> None:
        raise ValueError("I/O operation on closed file")


@pytest.mark.slow
def test_a_warning_that_nobody_can_read_costs_no_run(
    phantoms: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warnings come from the thread that saves."""
    begin, stderr = saving.Saver._begin, sys.stderr

    def unheard(saver: saving.Saver, target: Any) -> None:
        monkeypatch.setattr(sys, "stderr", Gone())
        begin(saver, target)
        saver._writes[-1].result()
        monkeypatch.setattr(sys, "stderr", stderr)

    monkeypatch.setattr(saving, "PAUSES_S", (0.0,))
    monkeypatch.setattr(saving.Saver, "_begin", unheard)
    monkeypatch.setattr(checkpoint, "save", failing(lambda path, before: before == 0))
    trained(phantoms, tmp_path / "run")
    assert equal(tmp_path / "run", undisturbed)


def test_a_run_whose_folder_was_taken_ends_with_the_next_save(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, advance = [], MetricLogger.advance

    def counted(metric_logger: MetricLogger) -> None:
        done.append(1)
        advance(metric_logger)

    def refused(*_: Any) -> None:
        raise RunError("another start has it")

    monkeypatch.setattr(MetricLogger, "advance", counted)
    monkeypatch.setattr(saving, "require_lock", refused)
    with pytest.raises(RunError, match="another start has it"):
        trained(phantoms, tmp_path / "run")
    assert len(done) == 2
    assert steps(tmp_path / "run") == []


def test_a_waiting_write_is_given_up_if_the_folder_is_taken(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "require_lock", lambda *_: None)
    monkeypatch.setattr(saving, "taken_over", lambda _: "another start has it")
    with pytest.raises(RunError, match=r"cannot be saved \(another start has it"):
        trained(phantoms, tmp_path / "run", max_failed_saves=1)
    assert steps(tmp_path / "run") == []


def test_the_last_save_must_succeed(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        checkpoint, "save", failing(lambda path, before: checkpoint.path_of(Path(), STEPS).name == path.name)
    )
    with pytest.raises(UnsavedError, match=r"step_00000008.safetensors cannot be saved .* goes on from what is saved"):
        trained(phantoms, tmp_path / "run")
    assert steps(tmp_path / "run") == [4, 6]
    assert json.loads((tmp_path / "run" / STATUS).read_text())["state"] == "resumable"
    assert capfd.readouterr().err.count("warning: ") <= 1  # not at each try
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("refused", ["save_predictions", "write_json"])
def test_a_disk_that_refuses_the_result_costs_no_run(
    refused: str, phantoms: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = getattr(running, refused)

    def refuse(path: Path, *arguments: Any) -> None:
        if refused == "save_predictions" or path.name == RESULT:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *arguments)

    monkeypatch.setattr(running, refused, refuse)
    with pytest.raises(
        RunError, match=r"result cannot be written to .*No space.*; make room and start the same command"
    ):
        trained(phantoms, tmp_path / "run")
    assert (steps(tmp_path / "run")[-1], state(tmp_path / "run")) == (STEPS, "resumable")
    monkeypatch.undo()
    trained(phantoms, tmp_path / "run")
    assert equal(tmp_path / "run", undisturbed)
    assert state(tmp_path / "run") == "finished"


def on_a_disk_of_rank_0_that_fails(data: str, run_dir: Path) -> str:
    checkpoint.save = failing(lambda path, before: True)
    try:
        trained(data, run_dir, max_failed_saves=2)
    except RunError as error:
        return str(error)
    return "no error"


@pytest.mark.slow
def test_all_ranks_give_up_together(phantoms: Path, tmp_path: Path) -> None:
    printed = run_ranks(2, on_a_disk_of_rank_0_that_fails, str(phantoms), tmp_path / "run")
    assert "2 saves in a row failed (--max-failed-saves): " in printed[0]
    assert "see the message of rank 0" in printed[1]
