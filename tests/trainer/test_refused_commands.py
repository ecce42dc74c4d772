"""What the commands refuse, in a line that says why and what to type, and what they plan."""

import json
import shutil
from pathlib import Path

import pytest
from test_entry_points import ROOT
from tiny_commands import NO_WARMUP, Run, pretrain_tiny

from trainer import pretrain
from trainer.config import ScheduleConfig

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


def test_run_folder_that_is_a_file(command: Run, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("something else")
    code, _, error = pretrain_tiny(command, tmp_path / "run")
    assert (code, "choose another --out" in error) == (2, True)


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
