"""The commands as a user types them: what they leave, what they refuse, and how."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import pretrain, report, transfer
from trainer.checkpoint import load, numbered, path_of
from trainer.config import ScheduleConfig
from trainer.run_folder.metric_logger import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--global-batch-size", "16", "--save-every", "2", "--log-every", "1", "--device", "cpu", "--threads", "1"]
TINY_TRANSFER = [
    *("--target", "fashion_mnist", "--data.image-size", 32, "--schedule.steps", 2, "--global-batch-size", 16),
    *("--precision", "fp32"),
]
NO_WARMUP = ["--schedule.warmup-steps", "0"]
MAINS = {"pretrain": pretrain.main, "transfer": transfer.main, "report": report.main}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(run_main: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A function that runs an entry point in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITSCALE_DATA", raising=False)
    return lambda name, *arguments: run_main(MAINS[name], name, *arguments)


def pretrain_tiny(command: Run, run_dir: Path, *arguments: object, steps: int = 4) -> tuple[int, str, str]:
    return command("pretrain", "embedded", "--schedule.steps", steps, *NO_WARMUP, "--out", run_dir, *TINY, *arguments)


@pytest.mark.slow
def test_pretrain_transfer_report(command: Run, tmp_path: Path) -> None:
    source = tmp_path / "runs" / "tiny"
    code, output, error = pretrain_tiny(command, source)
    assert code == 0, error
    assert "test top-1 accuracy" in output
    result = json.loads((source / "result.json").read_text())
    assert result["test"]["images"] == 2000
    assert result["loader"] == read_metrics(source)[0]["loader"] == "torch"
    assert json.loads((source / "status.json").read_text())["state"] == "finished"
    assert load(numbered(source)[-1]).metadata["classes"][0] == "T-shirt"

    options = [*TINY_TRANSFER, "--model.name", "r14x0.5", "--overlap-excluded", *TINY[2:]]
    runs = [["--pretrained", name, "--shots", shots] for name in (source, "scratch") for shots in (1, 2)]
    for run in runs:
        code, output, error = command("transfer", *run, *options)
        assert code == 0, error
        assert "test top-1 accuracy" in output
    one = tmp_path / "runs" / "transfer" / "tiny" / "fashion_mnist" / "1-shot-seed-0" / "result.json"
    assert json.loads(one.read_text())["train_images"] == 10
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


MISSPELT = "embeded"  # codespell:ignore
REFUSED = [
    ([MISSPELT], f"unknown recipe {MISSPELT!r}; did you mean 'embedded'?"),
    (["--model.name", "r50x2"], "unknown model 'r50x2'; did you mean 'r50x3'?"),
    (["--data.sets", "fashon_mnist"], "did you mean 'fashion_mnist'?"),
    (["--data.sets", "digits"], "bitscale prepare digits --out data/digits"),
    (["--optim.base-lr", "-1"], "--optim.base-lr is -1; it must be above 0"),
    (["--optim.base-lr", "fast"], "--optim.base-lr"),
    (["--optim.base-rl", "1"], "--optim.base-lr"),
    (["--data.shots", "0"], "shots is 0; it must be at least 1"),
    (["--data.shots", "901"], "T-shirt (900)"),
    (["--data.classes", "Trousers"], "did you mean 'Trouser'?"),
    (["--data.train-view", "squish"], "squash"),
    (["--precision", "fp16"], "--precision fp16 needs a GPU"),
    (["--model.pretrained", "nowhere"], "nowhere is not a file, a run folder or the name of published weights"),
    (["--device", "cuda"], "run on the CPU with --device cpu"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_bad_input_is_refused_without_a_traceback(
    arguments: list[str], message: str, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    recipe = [] if arguments[0] == MISSPELT else ["embedded", "--device", "cpu", "--schedule.steps", "1", *NO_WARMUP]
    code, _, error = command("pretrain", *recipe, *arguments)
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "0"], "--shots 0 is neither a number of at least 1 nor 'full'"),
        (["--shots", "some"], "--shots some is neither"),
        (["--shots", "901"], "--data.shots-at-most"),
        (["--data.resize", "20"], "--data.resize is 20, below --data.image-size 128; raise it to that at least"),
        (["--schedule.steps", "2", "--steps", "3"], "--steps and --schedule.steps are two flags for one thing"),
        (["--data.image-size", "32", "--data.resize", "16"], "--data.resize is 16, below --data.image-size 32"),
        (["--data.image-size", "16"], "--data.image-size is 16; the smallest is 32"),
        (
            ["--global-batch-size", "129", "--data.mixup-alpha", "0.1"],
            "MixUp mixes neighbours in pairs: --global-batch-size 129 must be even",
        ),
        (["--schedule.steps", "0"], "--schedule.steps is 0; it must be at least 1"),
        (["--data.image-size", "0"], "--data.image-size is 0; it must be at least 1"),
        (["--optim.base-lr", "-1"], "--optim.base-lr is -1; it must be above 0"),
        (["--data.classes", "Bag", "Bag"], "a class is named twice"),
        (["--target", "fashion_mnits"], "did you mean 'fashion_mnist'?"),
        (["--model.keep-head"], "--model.keep-head needs pre-trained weights"),
        (["--shots", "1", "5"], "5"),
    ],
)
def test_transfer_refuses(arguments: list[str], message: str, command: Run) -> None:
    code, _, error = command(
        "transfer", "--pretrained", "scratch", "--model.name", "r14x0.5", "--target", "fashion_mnist", *arguments
    )
    assert code == 2
    assert message in error


def test_transfer_from_scratch_alone_needs_a_model(command: Run) -> None:
    code, _, error = command("transfer", "--pretrained", "scratch", "--target", "fashion_mnist")
    assert (code, "name one with --model.name" in error) == (2, True)


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
    short = ["embedded", *TINY, "--out", run_dir, "--schedule.steps", 2]
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


def test_what_one_types_of_the_warm_up_is_never_ignored(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def schedule_of(*typed: str) -> ScheduleConfig:
        return pretrain.parse(list(typed)).config.schedule

    for recipe, option in (("nih_r50x1", "--schedule.warmup-steps"), ("imagenet1k_r50x1", "--schedule.warmup-epochs")):
        code, _, error = command("pretrain", recipe, option, 7)
        assert (code, "both say how long the warm-up is" in error) == (2, True)
        assert "Traceback" not in error
    steps = schedule_of("nih_r50x1", "--schedule.warmup-steps", "7", "--schedule.warmup-epochs", "None")
    assert (steps.warmup_steps, steps.warmup_epochs) == (7, None)
    epochs = schedule_of("imagenet1k_r50x1", "--schedule.warmup-epochs", "7", "--schedule.warmup-steps", "0")
    assert (epochs.warmup_steps, epochs.warmup_epochs) == (0, 7)
    assert schedule_of("nih_r50x1", "--schedule.warmup-epochs", "7").warmup_epochs == 7


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


def test_run_folder_that_is_a_file(command: Run, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("something else")
    code, _, error = pretrain_tiny(command, tmp_path / "run")
    assert (code, "choose another --out" in error) == (2, True)


@pytest.mark.slow
def test_transfer_goes_on_past_the_rule(command: Run, tmp_path: Path) -> None:
    options = [
        "--pretrained",
        "scratch",
        "--model.name",
        "r14x0.5",
        "--target",
        "fashion_mnist",
        "--shots",
        1,
        *TINY[2:],
    ]
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
    options = [
        "--pretrained",
        source,
        "--target",
        "fashion_mnist",
        "--shots",
        1,
        "--data.image-size",
        32,
        "--schedule.steps",
        1,
    ]
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


def test_damaged_shards_are_refused(command: Run, tmp_path: Path) -> None:
    damaged = tmp_path / "data" / "damaged"
    shutil.copytree(ROOT / "data_pipelines" / "embedded" / "fashion_mnist", damaged)
    shard = damaged / "train" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1000])
    code, _, error = pretrain_tiny(command, tmp_path / "run", "--data.sets", "damaged")
    assert code == 2
    assert "000000.tar has" in error
    assert "prepare the set again" in error


def test_plan(command: Run) -> None:
    code, output, error = command("pretrain", "embedded", "--plan")
    assert code == 0, error
    plan = json.loads(output)
    assert (plan["total_steps"], plan["global_batch_size"], plan["train_images"]) == (1200, 128, 9000)
    assert plan["parameters"] == 2_017_578
    assert plan["checkpoint_bytes"] == 8 * 2_017_578
    assert not plan["finished"]


def test_a_plan_refuses_the_folder_of_another_run(command: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"seed": 7}')
    code, output, error = command("pretrain", "embedded", "--out", tmp_path, "--plan")
    assert (code, output) == (2, "")
    assert "holds a run with another configuration" in error
    assert "--allow-config-change" in error


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
