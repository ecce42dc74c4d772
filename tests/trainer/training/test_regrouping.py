"""What becomes of a run whose ranks change: interrupted at each of its exchanges, it loses and repeats nothing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import Tensor

from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Changes, Progress, RankLostError, RegroupError, Update
from trainer.engines.ddp import DDPEngine
from trainer.run_folder import locked, run_status, take_over, taken_over
from trainer.run_folder.metric_logger import read_metrics
from trainer.training.fit import train_and_predict
from trainer.training.job import Job, make_job
from trainer.training.regrouping import with_fixed_micro_batches
from trainer.training.signals import Stopped

STEPS = 5
RUNTIME = RuntimeConfig(device="cpu", threads=1, log_every=2, save_every=2)


class Interrupted(DDPEngine):
    """One rank, whose exchange number `at` fails as if another rank were lost in it. `lost` says what else was."""

    def __init__(self, at: int, must_save: bool = False, changes: Changes | None = None) -> None:
        super().__init__(RUNTIME, "fp32")
        self.at, self.must_save, self.count, self.rounds = at, must_save, 0, 0
        self.next_changes = changes or Changes(1, [{"name": "b", "host": "h", "why": "its process is gone"}])

    def sum(self, tensor: Tensor) -> Tensor:
        self._maybe_lost()
        return tensor

    def gather(self, value: Any) -> list[Any]:
        self._maybe_lost()
        return [value]

    def step(self, is_nonfinite: Tensor | None = None) -> Update:
        self._maybe_lost()
        return super().step(is_nonfinite)

    def _maybe_lost(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise RegroupError("a rank is lost")

    def regroup(self, progress: Progress, is_asked: Callable[[], bool]) -> Progress:
        self.rounds += 1
        self.changes = self.next_changes
        self._optimizer.zero_grad()
        return replace(progress, must_save=self.must_save and progress.step > 0)


def job_of(data: Path, run_dir: Path) -> Job:
    config = Config(
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=(str(data),), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=STEPS, warmup_steps=0),
        runtime=RUNTIME,
        eval_every=2,
    )
    run_dir.mkdir(parents=True)
    return make_job(config, run_dir)


def finished(engine: Interrupted, data: Path, run_dir: Path) -> tuple[Path, dict[str, Any]]:
    job = job_of(data, run_dir)
    with locked(run_dir, DDPEngine(RUNTIME, "fp32"), 60):
        output = train_and_predict(job, engine)
    return run_dir, {split: logits.numpy() for split, (_, logits) in output.predicted.items()}


@pytest.fixture(scope="module")
def undisturbed(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    engine = Interrupted(at=0)
    run_dir, predicted = finished(engine, phantoms, tmp_path_factory.mktemp("undisturbed") / "run")
    return run_dir, predicted, engine.count


def kinds(run_dir: Path) -> Counter[tuple[int, str]]:
    rows = read_metrics(run_dir)
    return Counter((row["step"], name) for row in rows for name in ("train/loss", "val/loss") if name in row)


@pytest.mark.slow
def test_interrupted_anywhere_it_loses_and_repeats_nothing(
    undisturbed: tuple[Path, dict[str, Any], int], phantoms: Path, tmp_path: Path
) -> None:
    expected, predicted, exchanges = undisturbed
    state = load_file(checkpoint.path_of(expected, STEPS))
    saved = {path.name for path in (expected / "checkpoints").iterdir()}
    interrupted = 0
    for at in range(1, exchanges + 1):
        engine = Interrupted(at, must_save=at % 2 == 0)
        run_dir, found = finished(engine, phantoms, tmp_path / str(at))
        interrupted += engine.rounds
        assert engine.rounds == 1, at
        for name, values in load_file(checkpoint.path_of(run_dir, STEPS)).items():
            np.testing.assert_array_equal(values, state[name], err_msg=f"{name} after {at}")
        assert kinds(run_dir) == kinds(expected), at
        assert all(np.array_equal(found[split], predicted[split]) for split in predicted), at
        assert engine.must_save or saved == {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert interrupted == exchanges > 20


def test_ranks_that_all_stop_save_and_end(phantoms: Path, tmp_path: Path) -> None:
    engine = Interrupted(at=12, changes=Changes(1, ends=True))
    with pytest.raises(Stopped) as stopped:
        finished(engine, phantoms, tmp_path / "run")
    assert stopped.value.step > 0
    assert checkpoint.last_step(tmp_path / "run") == stopped.value.step


def test_too_few_ranks_save_and_can_be_resumed(phantoms: Path, tmp_path: Path) -> None:
    engine = Interrupted(at=12, changes=Changes(1, ends=True, too_few="1 of at least 2 ranks for 60 s"))
    with pytest.raises(RankLostError, match="too few ranks are left: 1 of at least 2 ranks for 60 s; saved"):
        finished(engine, phantoms, tmp_path / "run")
    assert checkpoint.last_step(tmp_path / "run") > 0


def test_who_left_and_joined_is_recorded(phantoms: Path, tmp_path: Path) -> None:
    left = [{"name": "node2-1", "host": "node2", "why": "its process is gone"}]
    engine = Interrupted(at=12, changes=Changes(2, left, [{"name": "node3-0", "host": "node3"}]))
    run_dir, _ = finished(engine, phantoms, tmp_path / "run")
    rows = [line.split(",") for line in (run_dir / "ranks.csv").read_text().splitlines()]
    assert rows[0] == ["step", "time", "ranks", "change", "rank", "host", "why"]
    assert [[row[2], *row[3:]] for row in rows[1:]] == [
        ["1", "left", "node2-1", "node2", "its process is gone"],
        ["1", "joined", "node3-0", "node3", ""],
    ]
    step = rows[-1][0]
    assert run_status(run_dir, 900.0, 0.0).ranks == (
        f"1 rank; 1 left and 1 joined, the last at step {step}: node3-0 joined"
    )


def test_micro_batches_of_an_elastic_run_keep_their_size(phantoms: Path, tmp_path: Path) -> None:
    """Where ranks are lost the others have larger shares, and their memory must not grow."""
    job = job_of(phantoms, tmp_path / "run")
    engine = DDPEngine(RUNTIME, "fp32")
    engine.world_size = 4
    assert with_fixed_micro_batches(job, engine) is job
    elastic = replace(job, config=replace(job.config, runtime=replace(RUNTIME, elastic=True)))
    fixed = with_fixed_micro_batches(elastic, engine)
    assert fixed.num_micro_batches(engine) == 1
    engine.world_size = 1
    assert (fixed.num_micro_batches(engine), fixed.largest_pass(engine)) == (4, 2)


def test_new_rank_0_has_the_lock(tmp_path: Path) -> None:
    class Rank:
        rank = 0

        def gather(self, value: Any) -> list[Any]:
            return [value]

    class Other(Rank):
        rank = 1

        def gather(self, value: Any) -> list[Any]:
            return [["free", ""]]  # what rank 0 says, which is another process

    with locked(tmp_path, Rank(), 60):
        first = (tmp_path / "lock.json").read_text()
    (tmp_path / "lock.json").write_text(first)  # of a rank 0 that was killed
    with locked(tmp_path, Other(), 60):
        take_over(tmp_path)
        take_over(tmp_path)  # again in the next round
        assert (tmp_path / "lock.json").read_text() != first
        assert taken_over(tmp_path) is None
    assert not (tmp_path / "lock.json").exists()


def test_rank_that_joins_leaves_the_lock_alone(tmp_path: Path) -> None:
    class Joining:
        rank = -1

        def gather(self, value: Any) -> list[Any]:
            raise AssertionError("it has nobody to ask yet")

    with locked(tmp_path / "run", Joining(), 60):
        assert not (tmp_path / "run").exists()


def test_full_disk_does_not_keep_rank_0_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.run_folder import run_lock

    create, full = run_lock.create, [True]

    def create_if_there_is_room(*arguments: Any) -> bool:
        if full[0]:
            raise OSError(28, "No space left on device")
        return create(*arguments)

    monkeypatch.setattr(run_lock, "create", create_if_there_is_room)
    monkeypatch.setattr(run_lock, "BEAT_S", 0.02)
    take_over(tmp_path)
    try:
        assert "cannot be locked" in capsys.readouterr().err
        assert taken_over(tmp_path) is None
        full[0] = False
        for _ in range(500):
            if (tmp_path / "lock.json").exists():
                break
            run_lock.threading.Event().wait(0.01)
        assert (tmp_path / "lock.json").exists()
    finally:
        run_lock.release(tmp_path)
