"""The best weights outlast disks that fail, and damage: it costs no run, and worse ones never take their place."""

from pathlib import Path
from typing import Any

import pytest
import torch
from saved_runs import STEPS, equal, failing, trained

from trainer import checkpoint
from trainer.training import saver as saving

pytestmark = pytest.mark.usefixtures("no_pauses")


def best(run_dir: Path) -> tuple[int, float]:
    about = checkpoint.describe(checkpoint.best_path(run_dir))
    return about["step"], about["best"]


def with_metrics(monkeypatch: pytest.MonkeyPatch, *metrics: float) -> None:
    """What the evaluations on val after steps 4 and 8 say."""
    values = iter(metrics)
    monkeypatch.setattr("trainer.training.between_steps.evaluate", lambda *_: {"auc": next(values), "loss": 1.0})


@pytest.mark.slow
@pytest.mark.parametrize("refusals", [1, 2, 4])
def test_the_best_weights_outlast_a_disk_that_refuses_them(
    refusals: int, phantoms: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried first for their own step, 4, then beside those of 6 and 8; what is written late is what it was."""
    paths: list[str] = []

    def early(path: Path, _: int) -> bool:
        paths.append(path.name)
        return path.name == checkpoint.BEST and paths.count(path.name) <= refusals

    with_metrics(monkeypatch, 0.9, 0.8)
    monkeypatch.setattr(checkpoint, "save", failing(early))
    monkeypatch.setattr(saving, "PAUSES_S", (1000.0,))
    trained(phantoms, tmp_path / "run", keep_checkpoints=9)
    assert best(tmp_path / "run") == (4, 0.9)
    mine = checkpoint.load(checkpoint.best_path(tmp_path / "run")).state
    numbered = checkpoint.load(checkpoint.path_of(tmp_path / "run", 4)).state
    for part in ("model", "momentum"):
        assert all(torch.equal(mine[part][name], tensor) for name, tensor in numbered[part].items())
    assert equal(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_weights_that_were_best_are_not_written_over_better_ones(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_metrics(monkeypatch, 0.8, 0.9)
    monkeypatch.setattr(checkpoint, "save", failing(lambda path, before: path.name == checkpoint.BEST and before < 6))
    trained(phantoms, tmp_path / "run")
    assert best(tmp_path / "run") == (8, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, 8])
def test_a_damaged_best_checkpoint_costs_no_run(
    step: int, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is set aside: a worse one that comes later is then the best there is, and without any the last one counts."""
    run_dir = tmp_path / "run"
    with_metrics(monkeypatch, 0.9, 0.8, 0.8)
    trained(phantoms, run_dir)
    path = checkpoint.best_path(run_dir)
    path.write_bytes(path.read_bytes()[:-1])
    (run_dir / "result.json").unlink()
    for newer in range(step + 2, STEPS + 2, 2):
        checkpoint.path_of(run_dir, newer).unlink()
    result = trained(phantoms, run_dir)
    assert f"warning: {path} is not a complete checkpoint" in capfd.readouterr().err
    assert path.with_name("best.safetensors.damaged").is_file()
    assert path.is_file() == (step < STEPS)
    assert result["checkpoint"] == (path.name if step < STEPS else "step_00000008.safetensors")


@pytest.mark.slow
def test_a_best_checkpoint_that_rots_is_passed_over(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir, save = tmp_path / "run", checkpoint.save

    def rotting(path: Path, *rest: Any) -> None:
        save(path, *rest)
        if path.name == checkpoint.BEST:
            path.write_bytes(path.read_bytes()[:-1])

    with_metrics(monkeypatch, 0.9, 0.8)
    monkeypatch.setattr(checkpoint, "save", rotting)
    assert trained(phantoms, run_dir)["checkpoint"] == "step_00000008.safetensors"
    assert "it is kept as best.safetensors.damaged" in capfd.readouterr().err
