"""What `submit` says of a run before it is queued: hours by what was measured, and what the trainer chose."""

import json
import sys

import pytest
from login_node import PLAN, Login

from launchers.cost import ask_plan
from launchers.profiles import UsageError
from launchers.script import TRAINER


def test_cost_from_what_was_measured(login: Login) -> None:
    rows = [
        {"step": 0, "world_size": 4},
        {"step": 10, "train/images_per_s": 900.0},
        {"step": 15, "val/top1": 0.5},
        {"step": 20, "train/images_per_s": 1000.0},
    ]
    smoke = login.folder / "runs/a_run-smoke-5"
    smoke.mkdir(parents=True)
    (smoke / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half')
    _, _, cost = login.submit("pretrain", "embedded", "--nodes", "2", "--time", "08:00:00", "--chain", "2", "--dry-run")
    # 20 steps took as long as at 947 images/s. 90,000 x 4,096 images at twice that are 54 h; a job trains for 8 h less
    # 300 s.
    assert (
        "about 54.0 h, 432 GPU-hours, 7 jobs (1,895 images/s, measured in runs/a_run-smoke-5 on 4 ranks, and assumed"
        in cost
    )
    assert "warning: the run takes about 7 jobs, the chain has 2" in cost


@pytest.mark.parametrize(("options", "asked"), [([], ["embedded"]), (["--smoke"], ["embedded", "--no-resume"])])
def test_a_finished_run_is_told(login: Login, options: list[str], asked: list[str]) -> None:
    """A smoke test has a folder of its own, so the run in that of the recipe does not matter to it."""
    heard: list[list[str]] = []

    def plan(_: str, arguments: list[str]) -> dict[str, object]:
        heard.append(arguments)
        return PLAN | {"finished": not options}

    login.monkeypatch.setattr("launchers.submit.ask_plan", plan)
    _, _, error = login.submit("pretrain", "embedded", *options, "--dry-run")
    assert heard == [asked]
    assert ("warning: runs/a_run is finished already; the job would end at once" in error) is (not options)


@pytest.mark.parametrize("says", [{"device": "cpu"}, {}])
def test_the_rate_of_a_cpu_tells_nothing_of_gpus(login: Login, says: dict[str, str]) -> None:
    """Rows of earlier versions do not say the device, but environment.json does."""
    rows: list[dict[str, object]] = [{"step": 0, "world_size": 1, **says}, {"step": 9, "train/images_per_s": 1e6}]
    run_dir = login.folder / "runs/a_run"
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run_dir / "environment.json").write_text('{"device": "AMD EPYC 9554 64-Core Processor"}')
    _, _, cost = login.submit("pretrain", "embedded", "--dry-run")
    assert "runs/a_run was measured on a CPU, which tells nothing of GPUs; --smoke measures it" in cost
    _, _, cost = login.submit("pretrain", "embedded", "--site", "localhost", "--nodes", "5", "--dry-run")
    # 90,000 x 4,096 images at 5 million a second
    assert "about 1 min, 0.1 rank-hours, 1 job (5,000,000 images/s, measured in runs/a_run on 1 rank, and" in cost


@pytest.mark.parametrize(
    ("front", "asked"), [("/bin/bitscale", "/bin/bitscale pretrain"), ("launchers/submit.py", str(TRAINER))]
)
def test_the_trainer_is_asked_by_the_name_that_was_typed(front: str, asked: str, login: Login) -> None:
    login.program("trainer", 'echo "error: $*" >&2; exit 2')
    login.monkeypatch.setattr("sys.argv", [front, "submit"])
    with pytest.raises(UsageError) as refused:
        ask_plan(str(login.folder / "bin/trainer"), ["own"])
    assert str(refused.value) == f"the trainer refuses this run: {asked} own --plan"


def test_what_own_chose_is_said_to_be_chosen_anew(login: Login) -> None:
    trainer = "import sys; print('loading'); print('own: model.name r14x0.5: why', file=sys.stderr); print('{}')"
    login.program("trainer", f"""exec {sys.executable} -c "{trainer}" """)
    assert ask_plan(str(login.folder / "bin/trainer"), ["own"]) == {}
    chosen, note = login.capsys.readouterr().err.splitlines()
    assert chosen == "own: model.name r14x0.5: why"
    assert "it chooses anew on the job's node" in note


def test_a_trial_is_not_advised_to_be_tried(login: Login) -> None:
    _, _, cost = login.submit("pretrain", "embedded", "--smoke", "--dry-run")
    assert "submit the same with --smoke" not in cost
    assert "trial     20 steps of this run" in cost
