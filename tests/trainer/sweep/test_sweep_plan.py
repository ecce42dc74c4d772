"""What a sweep is about to run, decided and refused before anything runs."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from options_with import options_with
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json
from data_pipelines.datasets.overlap import shares_images
from trainer import checkpoint
from trainer.finetuning.command_line import flags_of, read_transfer
from trainer.finetuning.finetune import Options, Transfer, open_target
from trainer.recipes import RECIPES
from trainer.run_folder.environment import cpu_name
from trainer.sweep.command import Sweep
from trainer.sweep.cost import Rate, cost_lines, hours_of, timed
from trainer.sweep.plan import Plan, PlannedRun, make_plan, write_plan
from trainer.sweep.worker_pool import Device
from trainer.training.job import settings_of

CLASSES = ("few", "many")
LABELS = [0] * 2 + [1] * 4
Planned = Callable[..., Plan]


def source_of(folder: Path, *sets: str, seed: int = 0) -> str:
    """A run folder with the weights of a source that was trained on these sets."""
    weights = {"stem.conv.weight": torch.full((2, 2), float(seed))}
    about = {"model": "r14x0.5", "classes": ["a"], "sets": list(sets), "step": 1, "best": None}
    checkpoint.save(checkpoint.path_of(folder, 1), {"model": weights, "momentum": {}, "loss_scaler": {}}, about)
    return str(folder)


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """A function that plans a sweep over prepared sets of the given names, in a folder where they lie in data/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITSCALE_DATA", raising=False)

    def plan(
        sources: tuple[str, ...] = ("scratch",),
        targets: tuple[str, ...] = ("cats",),
        shots: tuple[str, ...] = ("1",),
        seeds: int = 1,
        skip_impossible: bool = False,
        **options: Any,
    ) -> Plan:
        for target in targets:
            if not (tmp_path / "data" / target).exists() and target != "unknown":
                tiny_set(tmp_path / "data" / target, LABELS, CLASSES, name=target, splits=("train", "val", "test"))
        given = options_with(**{"model": "r14x0.5", "out": Path("out"), "image_size": 32, **options})
        return make_plan(sources, targets, shots, seeds, given, skip_impossible)

    return plan


def leave_result(run: PlannedRun, **changes: Any) -> Path:
    """What the run would leave in its folder."""
    settings = settings_of(run.config, open_target(run.transfer).train.fingerprint) | changes
    run.run_dir.mkdir(parents=True)
    write_json(run.run_dir / "config.json", settings)
    write_json(run.run_dir / "result.json", {"settings": settings})
    return run.run_dir / "result.json"


def test_every_source_on_every_target_with_every_shot_and_seed(planned: Planned, tmp_path: Path) -> None:
    source = source_of(tmp_path / "mine", "photos")
    plan = planned((source, "scratch"), ("cats", "tulips"), ("2", "full"), seeds=2, model=None)
    assert len(plan.runs) == len({run.name for run in plan.runs}) == len(plan.pending) == 2 * 2 * 2 * 2
    assert [run.name for run in plan.runs[:4]] == [
        "mine/cats/2-shot-seed-0",
        "scratch/cats/2-shot-seed-0",
        "mine/cats/full-shot-seed-0",
        "scratch/cats/full-shot-seed-0",
    ]
    assert {run.transfer.seed for run in plan.runs[:8]} == {0}
    assert (plan.left_out, plan.notes) == ([], [])
    first, second = plan.runs[:2]
    assert (first.config.model.pretrained, second.config.model.pretrained) == (source, None)
    assert second.config.model.name == second.transfer.options.given["model.name"] == "r14x0.5"
    assert (first.steps, first.first_step, first.predicted_images) == (500, 0, 2 * 6 + 6)


def test_a_finished_run_is_not_made_again(planned: Planned) -> None:
    done, *_ = planned(seeds=3).runs
    leave_result(done)
    assert [run.name for run in planned(seeds=3).pending] == [
        "scratch/cats/1-shot-seed-1",
        "scratch/cats/1-shot-seed-2",
    ]
    assert not planned(seeds=1).pending


@pytest.mark.parametrize("content", ["", '{"settings": {"na', "[]", "{}", '"text"'])
def test_a_result_that_is_half_written_or_none_is_ignored(content: str, planned: Planned) -> None:
    (run,) = planned().runs
    leave_result(run).write_text(content)
    assert [run.name for run in planned().pending] == [run.name]


def test_a_run_with_other_settings_is_refused(planned: Planned) -> None:
    leave_result(planned().runs[0])
    with pytest.raises(InputError, match=r"schedule.steps: 500 -> 600[\s\S]*--allow-config-change"):
        planned(steps=600)
    (run,) = planned(steps=600, allow_config_change=True).pending
    assert run.steps == 600
    assert not planned(eval_batch_size=7).pending  # says how, not what


def test_a_source_that_was_trained_anew_is_another(planned: Planned, tmp_path: Path) -> None:
    source = source_of(tmp_path / "mine")
    leave_result(planned((source,)).runs[0])
    assert not planned((source,)).pending
    source_of(tmp_path / "mine", seed=1)
    with pytest.raises(InputError, match=r"model\.pretrained_weights"):
        planned((source,))


def test_a_run_that_was_stopped_goes_on(planned: Planned) -> None:
    (run,) = planned().runs
    state: dict[str, Any] = {"model": {"w": torch.ones(1)}, "momentum": {}, "loss_scaler": {}}
    checkpoint.save(checkpoint.path_of(run.run_dir, 200), state, {})
    write_json(run.run_dir / "config.json", settings_of(run.config, open_target(run.transfer).train.fingerprint))
    (run,) = planned().pending
    assert (run.first_step, run.steps_done()) == (200, 200)
    rows = [{"step": 200, "loader": "torch"}, {"step": 350, "train/loss": 1.0}]
    (run.run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4')
    assert run.steps_done() == 350


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("scratch", "scratch")}, "--sources: several are scratch"),
        ({"sources": ("x/a", "y/a")}, "--sources: several are a; name each once, and rename"),
        ({"targets": ("cats", "data/cats")}, "--targets: several are cats"),
        ({"shots": ("1", "1")}, "--shots: several are 1"),
        ({"shots": ("0",)}, "--shots 0 is neither"),
        ({"shots": ("some",)}, "--shots some is neither"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"targets": ("unknown",)}, "no prepared data set 'unknown'"),
        ({"sources": ("nowhere",)}, "nowhere"),
        ({"model": None}, r"name one with --model\.name"),
        ({"base_lr": 0.0}, r"--optim\.base-lr is 0; it must be above 0"),
    ],
)
def test_refused(changes: dict[str, Any], message: str, planned: Planned) -> None:
    planned()  # the set is there
    with pytest.raises(InputError, match=message):
        planned(**changes)
    assert not Path("out").exists()


def test_shots_that_a_target_does_not_have(planned: Planned, tmp_path: Path) -> None:
    cells = {
        "sources": (source_of(tmp_path / "mine"), "scratch"),
        "targets": ("cats", "tulips"),
        "shots": ("2", "3", "9"),
        "seeds": 2,
        "model": None,
    }
    with pytest.raises(InputError) as refused:
        planned(**cells)
    start, hint, *impossible = str(refused.value).split("\n  ")
    assert (start, hint) == (
        "nothing was started:",
        "these cells are impossible, and --skip-impossible runs the others:",
    )
    assert [line.partition(": ")[0] for line in impossible] == [
        f"mine/{target}/{shots}-shot, scratch/{target}/{shots}-shot"
        for target in ("cats", "tulips")
        for shots in (3, 9)
    ]  # once for each number of shots, not for each seed
    assert impossible[0].endswith("few (2); ask for fewer shots, or take what there is with --data.shots-at-most")
    assert "few (2), many (4)" in impossible[1]
    plan = planned(**cells, skip_impossible=True)
    assert plan.impossible == impossible
    assert {run.transfer.shots for run in plan.runs} == {"2"}
    assert len(plan.runs) == 2 * 2 * 2
    plan = planned(targets=("cats",), shots=("2", "3", "9"), seeds=2, shots_at_most=True)
    assert len(plan.runs) == 6
    assert plan.notes == [
        "cats has fewer than 3 training images of: few (2)",
        "cats has fewer than 9 training images of: few (2), many (4)",
    ]


def test_only_cells_without_images_are_skipped(planned: Planned, tmp_path: Path) -> None:
    """A set that is not there, or pictures stored too small, can be mended; they are told beside the cells."""
    tiny_set(
        tmp_path / "data" / "lungs", LABELS, CLASSES, name="lungs", splits=("train", "test"), side=32, patients="apart"
    )
    with pytest.raises(InputError, match=r"^the X-rays of lungs are stored at 32 pixels"):
        planned(targets=("lungs",), image_size=64, skip_impossible=True)
    with pytest.raises(InputError) as refused:
        planned(targets=("lungs",), image_size=64, shots=("1", "3"))
    assert "the X-rays of lungs are stored at 32 pixels" in str(refused.value)
    assert "scratch/lungs/3-shot: 3 shots asked for" in str(refused.value)
    tiny_set(tmp_path / "data" / "findings", [[1, 0], [0, 1]], ("mass", "edema"), splits=("train", "test"))
    plan = planned(targets=("findings",), shots=("1", "full"), skip_impossible=True)
    assert [run.name for run in plan.runs] == ["scratch/findings/full-shot-seed-0"]
    assert plan.impossible[0].startswith("scratch/findings/1-shot: few-shot selection needs one label per image")


def test_sources_that_have_seen_the_target_are_left_out(planned: Planned, tmp_path: Path) -> None:
    seen, other = source_of(tmp_path / "seen", "chexpert", "padchest"), source_of(tmp_path / "other", "chexpert")
    sweep = {"sources": (seen, other, "scratch"), "targets": ("padchest_cl", "cats"), "model": None}
    plan = planned(**sweep)
    assert sorted(run.name.rpartition("/")[0] for run in plan.runs) == [
        "other/cats", "other/padchest_cl", "scratch/cats", "scratch/padchest_cl", "seen/cats",
    ]  # fmt: skip
    (told,) = plan.left_out
    assert told.startswith("seen to padchest_cl: the source was pre-trained on padchest, which shares images")
    plan = planned(**sweep, overlap_excluded=True)
    assert (len(plan.runs), plan.left_out) == (6, [])


def test_overlaps() -> None:
    assert shares_images(["nih_cxr14"], "covidx")
    assert shares_images(["covidx"], "nih_cxr14")
    assert shares_images(["chexpert", "padchest"], "padchest_cl")
    assert "the target itself" in str(shares_images(["a", "cats"], "cats"))
    for sources, target in (
        ([], "covidx"),
        (["chexpert", "mimic_cxr", "padchest"], "covidx"),
        (["nih_cxr14"], "padchest_cl"),
    ):
        assert shares_images(sources, target) is None


def test_a_head_is_kept_where_there_is_one(planned: Planned, tmp_path: Path) -> None:
    plan = planned((source_of(tmp_path / "mine"), "scratch"), keep_head=True)
    assert [run.config.model.keep_head for run in plan.runs] == [True, False]


def test_frozen_features_take_one_pass(planned: Planned) -> None:
    (run,) = planned(mode="knn").runs
    assert (run.name, run.steps, run.predicted_images) == ("scratch/cats/1-shot-seed-0-knn", 1, 2 + 6 + 6)


# A value of each kind that a flag may have.
EVERYTHING = options_with(
    mode="probe",
    model="r26x1",
    out=Path("some where"),
    classes=("a b", "c"),
    one_label=True,
    flip=False,
    weight_decay=1e-4,
    base_lr=3e-5,
    epochs=2.5,
    mixup_alpha=0.0,
    mean=(0.1, 0.2, 0.3),
    precision="fp16",
    overlap_excluded=True,
    allow_config_change=True,
    micro_batch_size="auto",
    threads=3,
    cache_dir="/dev/shm",
    tf32=True,
)
MATCHED = replace(EVERYTHING.without("mode"), match_authors=True)
COMPILED = options_with(compile=True, cudnn_benchmark=False, resize=300)  # words of which auto is another


@pytest.mark.parametrize("options", [Options(), EVERYTHING, MATCHED, COMPILED])
def test_the_command_line_of_a_run(options: Options) -> None:
    transfer = Transfer("runs/a b", "cats", "5", 3, options)
    assert read_transfer(flags_of(transfer)) == transfer


def test_a_sweep_by_the_authors_protocol(planned: Planned) -> None:
    """Beside one by the default, in the same folder, and the plan file has the commands of it."""
    leave_result(planned().runs[0])
    plan = planned(match_authors=True, nesterov=False)
    (run,) = plan.pending
    assert run.name == "scratch/cats/1-shot-seed-0-authors"
    assert (run.config.precision, run.config.optim.nesterov, run.config.model.head_init) == ("fp32", False, "torch")
    write_plan(Path("plan.json"), "a", plan.runs)
    (task,) = json.loads(Path("plan.json").read_text())["tasks"]
    assert task["command"].index("--match-authors") < task["command"].index("--optim.no-nesterov")
    transfer = read_transfer(task["command"][2:])
    assert transfer == run.transfer
    assert (transfer.options.match_authors, transfer.options.given["optim.nesterov"]) == (True, False)


def test_plan_file(planned: Planned, tmp_path: Path) -> None:
    plan = planned(seeds=2)
    leave_result(plan.runs[0])
    write_plan(Path("plans/a.json"), "a", plan.runs)
    written = json.loads(Path("plans/a.json").read_text())
    assert (written["name"], written["gpus_per_task"]) == ("a", 1)
    first, second = written["tasks"]
    assert first["name"] == "scratch/cats/1-shot-seed-0"
    assert json.loads(Path(first["done"]).read_text())
    assert second["done"] == "out/scratch/cats/1-shot-seed-1/result.json"
    python, program, *arguments = second["command"]
    assert (python, Path(program).parts[-2:], Path(program).is_absolute()) == (
        "python",
        ("trainer", "transfer.py"),
        True,
    )
    assert read_transfer(arguments) == plan.runs[1].transfer
    write_plan(Path("plan.json"), "a", planned(device="cpu").runs)
    assert json.loads(Path("plan.json").read_text())["gpus_per_task"] == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another --plan"):
        write_plan(Path("file/plan.json"), "a", plan.runs)


def test_lists_with_commas_or_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    arguments = ["--sources", "a,b", "c,scratch", "--targets", "x,y", "--shots", "1,5", "full", "--seeds", "2"]
    sweep = tyro.cli(Sweep, args=arguments)
    assert (sweep.sources, sweep.targets, sweep.shots) == (("a,b", "c", "scratch"), ("x", "y"), ("1", "5", "full"))
    with pytest.raises(InputError, match="--targets names none"):
        replace(sweep, targets=(",",))
    with pytest.raises(InputError, match="--jobs is 0"):
        replace(sweep, jobs=0)


def test_a_held_up_step_is_timed_with_more_images(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = itertools.count(step=10.0)  # a step takes ten seconds, whatever is in it, and a fiftieth of that in work
    work = itertools.count(step=0.2)
    monkeypatch.setattr("trainer.sweep.cost.time.perf_counter", lambda: next(wall))
    monkeypatch.setattr("trainer.sweep.cost.time.process_time", lambda: next(work))
    config = replace(RECIPES["embedded"](), global_batch_size=64)
    config = replace(config, runtime=replace(config.runtime, device="cpu"))
    assert timed(config, 1) == pytest.approx((64 / (2 * 0.2 + 0.2), 50))  # of 32 images
    assert timed(config, 2) == pytest.approx((64 / (2 * 0.1 + 0.1), 100))  # two threads work at once


def test_a_busy_machine_is_told_of(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(seeds=2)
    monkeypatch.setattr("trainer.sweep.cost.timed", lambda config, threads: Rate(50.0, 1.2))
    assert cost_lines(plan, [Device(None, 1)])[-1].startswith("estimated by images/s: r14x0.5 at 32 px 50 ")
    monkeypatch.setattr("trainer.sweep.cost.timed", lambda config, threads: Rate(50.0, 4.0))
    *_, total, _, busy = cost_lines(plan, [Device(None, 1)])
    assert "about 0.71 hours" in total  # 2 runs of 500 steps of 128 images, and 18 predicted ones
    assert busy.startswith("other work on this machine slowed the timed steps: about 2.84 hours while it stays as busy")


def test_hours_by_the_speed_of_finished_runs(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.sweep.cost.timed", lambda config, threads: Rate(50.0))
    done = planned().runs[0]
    result = leave_result(done)
    here = {"device": cpu_name(), "world_size": 1, "threads_per_rank": 2}
    write_json(result, json.loads(result.read_text()) | {"environment": here})
    rows = [
        {"step": 0, "loader": "torch"},
        *({"step": n, "train/images_per_s": rate} for n, rate in enumerate((10, 200, 300))),
    ]
    (done.run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = planned(seeds=2)
    _, first, second, total, how = cost_lines(plan, [Device(None, 2), Device(None, 2)])
    assert first.endswith("finished")
    hours = (500 * 128 + (2 * 6 + 6) / 3) / 200 / 3600  # an image that is only predicted takes a third
    assert hours_of(plan.runs[1], 200) == pytest.approx(hours)
    assert second.split() == ["scratch/cats/1-shot-seed-1", "r14x0.5", "32", "500", f"{hours:.3f}"]
    assert "2 runs, 1 of them to be made: about 0.09 hours, 0.04 with 2 at a time" in total
    assert "200 (of finished runs)" in how
    for other in (here | {"device": "a GPU"}, here | {"world_size": 2}, here | {"threads_per_rank": 1}):
        write_json(result, json.loads(result.read_text()) | {"environment": other})
        assert "50 (of one timed step, without loading)" in cost_lines(plan, [Device(None, 2)])[-1]
    write_json(result, json.loads(result.read_text()) | {"environment": here})
    assert cost_lines(planned(), [Device(None, 2)])[-1] == "1 run, 0 of them to be made"
