"""The commands as a user types them: what they leave, what they refuse, and how."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_commands import FEW, TINY, Run, pretrain_tiny

from trainer.checkpoint import load, numbered, path_of
from trainer.run_folder.metric_logger import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY_TRANSFER = [
    *("--target", "fashion_mnist", "--data.image-size", 32, "--schedule.steps", 2, "--global-batch-size", 16),
    *("--precision", "fp32", "--data.classes", "Bag", "Coat"),
]


@pytest.mark.slow
def test_pretrain_transfer_report(command: Run, tmp_path: Path) -> None:
    source = tmp_path / "runs" / "tiny"
    code, output, error = pretrain_tiny(command, source)
    assert code == 0, error
    assert "test top-1 accuracy" in output
    result = json.loads((source / "result.json").read_text())
    assert result["test"]["images"] == 400
    assert result["loader"] == read_metrics(source)[0]["loader"] == "torch"
    assert json.loads((source / "status.json").read_text())["state"] == "finished"
    assert load(numbered(source)[-1]).metadata["classes"] == ["Bag", "Coat"]

    options = [*TINY_TRANSFER, "--model.name", "r14x0.5", "--overlap-excluded", *TINY[2:]]
    runs = [["--pretrained", name, "--shots", shots] for name in (source, "scratch") for shots in (1, 2)]
    for run in runs:
        code, output, error = command("transfer", *run, *options)
        assert code == 0, error
        assert "test top-1 accuracy" in output
    one = tmp_path / "runs" / "transfer" / "tiny" / "fashion_mnist" / "1-shot-seed-0" / "result.json"
    assert json.loads(one.read_text())["train_images"] == 2
    assert json.loads(one.read_text())["settings"]["model"]["pretrained"] == str(source)

    before = one.stat().st_mtime_ns
    code, output, _ = command("transfer", *runs[0], *options)
    assert (code, output.count("is finished")) == (0, 1)
    assert one.stat().st_mtime_ns == before

    code, output, error = command("report", "runs", "--out", "report")
    assert code == 0, error
    text = Path(output.strip()).read_text()
    assert "| tiny, r14x0.5 |" in text
    assert "| scratch, r14x0.5 |" in text
    assert "- optimiser steps: 2 instead of 500" in text


@pytest.mark.slow
def test_changed_configuration(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    assert pretrain_tiny(command, run_dir)[0] == 0
    code, _, error = pretrain_tiny(command, run_dir, "--optim.base-lr", 0.3)
    assert code == 2
    assert "optim.base_lr: 0.4 -> 0.3" in error
    assert "--allow-config-change" in error
    assert pretrain_tiny(command, run_dir, "--eval-batch-size", 100)[0] == 0  # says how, not what

    with monkeypatch.context() as patch:  # stopped on the way: the result of four steps must not pass for one of six
        patch.setattr("trainer.training.fit.train", lambda *_: exec("raise KeyboardInterrupt"))
        assert pretrain_tiny(command, run_dir, "--allow-config-change", steps=6)[0] == 1
    assert json.loads((run_dir / "status.json").read_text())["state"] == "resumable"
    assert not (run_dir / "result.json").exists()
    code, output, error = pretrain_tiny(command, run_dir, steps=6)
    assert code == 0, error
    assert "at step 4" in output
    assert path_of(run_dir, 6).is_file()

    code, _, error = pretrain_tiny(command, run_dir, "--allow-config-change", "--model.name", "r26x1", steps=6)
    assert (code, "model.name: r14x0.5 -> r26x1" in error) == (2, True)

    assert pretrain_tiny(command, run_dir, "--no-resume", "--optim.base-lr", 0.3)[0] == 0
    assert (tmp_path / "run-2" / "result.json").is_file()


@pytest.mark.slow
def test_a_schedule_without_decay_is_refused_with_a_remedy(command: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    short = ["embedded", *TINY, *FEW, "--out", run_dir, "--schedule.steps", 2]
    code, _, error = command("pretrain", *short)
    assert code == 2
    assert "the warm-up of 100 steps does not end before the end of the run, at step 2 of 2" in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.safetensors"))
    (remedy,) = re.findall(r"shorten it \((.*?)\)", error)
    assert command("pretrain", *short, *remedy.split())[0] == 0

    shutil.rmtree(run_dir)
    code, _, error = command("pretrain", *short, "--schedule.allow-no-decay")
    assert (code, "warning: the warm-up of 100 steps does not end" in error) == (0, True), error
    assert command("pretrain", *short)[0] == 2  # also of a run that is finished: what is typed is not what was run


def test_a_loss_that_is_not_finite(command: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    changes = ["--optim.base-lr", 1e30, "--schedule.warmup-steps", 0, "--save-every", 100]
    code, _, error = pretrain_tiny(command, run_dir, *changes, steps=6)
    assert code == 1
    assert "is not finite at learning rate" in error
    assert "train-" in error  # keys of the embedded set
    assert "Traceback" not in error
    status = json.loads((run_dir / "status.json").read_text())
    assert (status["state"], "not finite" in status["reason"]) == ("failed", True)
    (listed,) = run_dir.glob("nonfinite_step_*.json")
    assert len(json.loads(listed.read_text())["keys_by_rank"]["0"]) == 16


def test_weights_that_are_not_finite_are_not_saved(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss may still be finite when the update after it has ruined the weights."""
    run_dir = tmp_path / "run"
    schedule = [0.01, 0.01, 0.01, math.inf]
    monkeypatch.setattr("trainer.optim.lr_schedules.learning_rate", lambda step, *_: schedule[step])
    code, _, error = pretrain_tiny(command, run_dir, "--save-every", 1)
    assert code == 1
    assert "the weights after step 4 are not finite" in error
    steps = [load(path).metadata["step"] for path in numbered(run_dir)]
    assert steps == [1, 2, 3]
    assert all(tensor.isfinite().all() for tensor in load(numbered(run_dir)[-1]).state["model"].values())


@pytest.mark.slow
def test_a_metric_that_is_not_a_number_is_never_the_best(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.between_steps.evaluate", lambda *_: {"loss": 1.0, "top1": math.nan})
    assert pretrain_tiny(command, tmp_path / "run", "--eval-every", 1)[0] == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["checkpoint"] == "step_00000004.safetensors"


@pytest.mark.slow
def test_transfer_goes_on_past_the_rule(command: Run, tmp_path: Path) -> None:
    options = ["--pretrained", "scratch", "--model.name", "r14x0.5", "--target", "fashion_mnist", "--shots", 1]
    options += [*FEW[:3], *TINY[2:]]
    options += ["--data.image-size", 32, "--global-batch-size", 16, "--precision", "fp32"]
    assert command("transfer", *options, "--schedule.steps", 2)[0] == 0
    code, _, error = command("transfer", *options, "--schedule.steps", 3)
    assert (code, "schedule.steps: 2 -> 3" in error) == (2, True)
    code, output, error = command("transfer", *options, "--schedule.steps", 3, "--allow-config-change")
    assert (code, "at step 2" in output) == (0, True), error
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["total_steps"] == 3


@pytest.mark.slow
def test_a_source_that_has_seen_the_target(command: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    assert pretrain_tiny(command, source, steps=1)[0] == 0
    options = ["--pretrained", source, "--target", "fashion_mnist", "--shots", 1, *FEW[:3]]
    options += ["--data.image-size", 32, "--schedule.steps", 1]
    code, _, error = command("transfer", *options, "--global-batch-size", 16, *TINY[2:])
    assert (code, "warning: the source was pre-trained on fashion_mnist, the target itself" in error) == (0, True)
    (path,) = (tmp_path / "runs").rglob("result.json")
    result = json.loads(path.read_text())
    assert (result["source_sets"], result["target_set"], result["overlap_excluded"]) == (
        ["fashion_mnist"], "fashion_mnist", False,
    )  # fmt: skip


@pytest.mark.slow
def test_source_that_was_trained_anew_is_another_source(command: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    arguments = ["--pretrained", source, *TINY_TRANSFER, "--shots", 1, *TINY[2:]]
    assert pretrain_tiny(command, source, steps=2)[0] == 0
    assert command("transfer", *arguments)[0] == 0
    shutil.rmtree(source)
    assert pretrain_tiny(command, source, "--seed", 1, steps=2)[0] == 0
    code, _, error = command("transfer", *arguments)
    assert (code, "model.pretrained_weights: " in error) == (2, True)


def test_few_classes_and_torch_loader(command: Run, tmp_path: Path) -> None:
    arguments = ["--data.classes", "Bag", "Coat", "Dress", "--loader", "torch"]
    code, _, error = pretrain_tiny(command, tmp_path / "run", *arguments, steps=2)
    assert code == 0, error
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["loader"], result["train_images"], result["test"]["images"]) == ("torch", 2700, 600)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["trainer/pretrain.py", "trainer/transfer.py", "trainer/report.py"])
def test_scripts_take_their_folder_off_the_path(script: str, tmp_path: Path) -> None:
    """`import config` or `import kernels` in somebody else's package must not find ours."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\natexit.register(lambda: print('PATH', sys.path, file=sys.stderr))\n"
    )
    search = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": search, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stdout
    path = next(line for line in done.stderr.splitlines() if line.startswith("PATH"))
    assert repr(str(ROOT / "trainer")) not in path
    assert repr(str(ROOT)) in path
