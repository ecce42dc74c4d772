"""What version 0.1 left is read, resumed, reported and carried on with, after somebody moved the folder elsewhere."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_pipelines import prepare
from launchers import submit
from trainer import evaluate, export, predict, pretrain, report, status, transfer
from trainer.config import MAY_CHANGE, as_it_was, setting_kinds
from trainer.evaluation.predicting.prediction_table import NOVELTY

ROOT = Path(__file__).resolve().parents[2]
LEFT = ROOT / "tests" / "data" / "version_0.1"
COMMANDS = (evaluate, export, predict, prepare, pretrain, report, status, submit, transfer)
MAINS: dict[str, Callable[[], None]] = {module.__name__.rpartition(".")[2]: module.main for module in COMMANDS}
CPU = ["--device", "cpu", "--threads", "1"]
OF_THE_STOPPED = "embedded --run-dir runs/stopped --data.classes Bag Coat --model.pretrained weights.npz"
OF_THE_STOPPED += " --global-batch-size 8 --schedule.steps 4 --schedule.warmup-steps 0 --save-every 2 --log-every 1"
TRANSFERRED = Path("runs/transfer/weights/films/full-shot-seed-0")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def binary_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, predictions, a prepared set and the weights that all began with, unpacked."""
    folder = tmp_path_factory.mktemp("version_0.1")
    with tarfile.open(LEFT / "binary.tar.xz") as archive:
        # The first releases of Python 3.10 and 3.11 know no filters.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


@pytest.fixture
def study(binary_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that version 0.1 left, in another place; the current folder."""
    folder = tmp_path / "moved"
    shutil.copytree(LEFT, folder)
    shutil.copytree(binary_files, folder, copy_function=os.link, dirs_exist_ok=True)  # nobody writes into these
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BITSCALE_DATA", raising=False)
    return folder


@pytest.fixture
def command(run_main: Run) -> Run:
    """A function that runs an entry point in this process: exit code, standard output, standard error."""
    return lambda name, *arguments: run_main(MAINS[name], name, *arguments)


def read(path: Path | str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def training_rows(path: Path) -> dict[int, dict[str, float]]:
    """The rows of metrics.jsonl that have a training loss, by step."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["step"]: row for row in rows if "train/loss" in row}


def test_every_setting_says_what_earlier_versions_did() -> None:
    """Or their runs would be refused as of another configuration."""
    settings = as_it_was(read(LEFT / "runs" / "stopped" / "config.json"))
    names = [name for name in setting_kinds() if not name.startswith("runtime.") and name not in MAY_CHANGE]
    missing = [name for name in names if not has(settings, name)]
    assert missing == [], "what they did goes into _ADDED of trainer/config/saved.py"


def has(settings: dict[str, Any], name: str) -> bool:
    section, _, inside = name.rpartition(".")
    return inside in (settings.get(section, {}) if section else settings)


@pytest.mark.slow
def test_a_stopped_run_goes_on_at_its_step(study: Path, command: Run) -> None:
    code, output, error = command("pretrain", *OF_THE_STOPPED.split(), *CPU)
    assert code == 0, error
    assert "resuming runs/stopped at step 1" in output
    assert read("runs/stopped/status.json")["state"] == "finished"
    made = training_rows(study / "runs/stopped/metrics.jsonl")
    then = training_rows(study / "stopped_to_the_end.jsonl")
    assert list(made) == list(then) == [1, 2, 3, 4]
    assert [row["train/lr"] for row in made.values()] == [row["train/lr"] for row in then.values()]
    assert made[1] == training_rows(LEFT / "runs/stopped/metrics.jsonl")[1]
    # By the weights and the momentum that were saved; processors round differently, and updates make more of it.
    assert made[2]["train/loss"] == pytest.approx(then[2]["train/loss"], rel=1e-4)
    assert made[3]["train/loss"] == pytest.approx(then[3]["train/loss"], rel=1e-2)
    assert read("runs/stopped/result.json")["test"]["images"] == 400
    code, _, error = command("report", "runs/stopped", "--out", "report")
    assert code == 0, error
    assert "| stopped | r14x0.5 | fashion_mnist: Bag, Coat |" in Path("report/report.md").read_text(encoding="utf-8")


def test_a_stopped_run_refuses_another_configuration(study: Path, command: Run) -> None:
    code, _, error = command("pretrain", *OF_THE_STOPPED.split(), *CPU, "--seed", 1)
    assert (code, "seed: 0 -> 1" in error) == (2, True)
    assert error.count(" -> ") == 1


def test_a_finished_run_is_not_made_again(study: Path, command: Run) -> None:
    settings = "phantom --run-dir runs/finished --name finished --data.sets films --data.eval-view squash"
    settings += " --data.image-size 32 --data.resize 32 --model.pretrained weights.npz --global-batch-size 8"
    settings += " --optim.base-lr 3 --schedule.steps 1 --schedule.warmup-steps 0"
    code, output, error = command("pretrain", *settings.split(), *CPU)
    assert code == 0, error
    assert "runs/finished is finished" in output
    assert read("runs/finished/result.json") == read(LEFT / "runs/finished/result.json")


def test_status_tells_how_the_runs_stand(study: Path, command: Run) -> None:
    code, output, error = command("status", "runs", "--json")
    assert code == 0, error
    found = {run["run"]: run for run in json.loads(output)}
    assert {name: (run["state"], run["step"]) for name, run in found.items()} == {
        "runs/finished": ("finished", 1),
        "runs/stopped": ("resumable", 1),
        str(TRANSFERRED): ("finished", 1),
    }
    stopped = found["runs/stopped"]
    assert stopped["error"] == "stopped by SIGTERM"
    start = "cd /home/someone/study && /opt/venv/bin/python /opt/bitscale/trainer/pretrain.py embedded"
    assert stopped["command"].startswith(f"{start} --run-dir runs/stopped --data.classes Bag Coat ")


def test_the_lock_of_a_killed_start_names_who_had_it(study: Path, command: Run) -> None:
    shutil.copy("lock.json", "runs/stopped/lock.json")
    Path("runs/stopped/status.json").write_text(json.dumps(read("runs/stopped/status.json") | {"state": "running"}))
    code, output, error = command("status", "runs/stopped", "--json")
    assert code == 0, error
    (run,) = json.loads(output)
    assert (run["state"], run["holder"].startswith("process 10677 on node07 since")) == ("stalled", True)


def test_predictions_are_those_of_before(study: Path, command: Run) -> None:
    code, _, error = command("predict", "runs/finished", "data/films/test/000000.tar", "--out", "again.csv", *CPU)
    assert code == 0, error
    again, before = pd.read_csv("again.csv"), pd.read_csv("predictions.csv")
    numbers = [name for name in before if name.endswith(("logit", "probability"))]
    assert len(numbers) == 4
    added = [name for name in again if name not in before]
    assert all(name.endswith((" threshold", " set", " set size")) or name in NOVELTY for name in added)
    assert list(again.drop(columns=added)) == list(before)
    np.testing.assert_allclose(again[numbers], before[numbers], rtol=1e-3, atol=1e-4)
    pd.testing.assert_frame_equal(again.drop(columns=numbers + added), before.drop(columns=numbers))


def test_evaluation_is_of_the_kept_predictions(study: Path, command: Run) -> None:
    card = Path("runs/finished/MODEL_CARD.md")
    of_another = "## Evaluation on elsewhere, all\n\nWritten by hand.\n"
    card.write_text(f"{card.read_text(encoding='utf-8')}\n{of_another}", encoding="utf-8")
    code, output, error = command("evaluate", "runs/finished", "--resamples", 100)
    assert code == 0, error
    found = read(Path(output.strip()).parent / "evaluation.json")
    tested = read("runs/finished/result.json")["test"]
    for finding in ("Effusion", "Nodule"):
        assert found["findings"][finding]["auc"]["value"] == pytest.approx(tested[f"auc/{finding}"], abs=1e-12)
        assert found["findings"][finding]["average_precision"]["value"] == pytest.approx(tested[f"ap/{finding}"])
    assert found["operating_points"]["temperature"] == pytest.approx(6.596339846471488)
    assert of_another in card.read_text(encoding="utf-8")
    assert card.read_text(encoding="utf-8").count("## Evaluation on films, test") == 1


def test_weights_of_before_are_exported(study: Path, command: Run) -> None:
    code, _, error = command("export", "runs/finished", "--out", "exported", "--format", "npz")
    assert code == 0, error
    assert read("exported/config.json")["bitscale"]["classes"] == ["Effusion", "Nodule"]
    with np.load("exported/model.npz") as made, np.load("weights.npz") as begun:
        assert sorted(made.files) == sorted(begun.files)
        filters = [name for name in made.files if name.endswith("standardized_conv2d/kernel")]
        assert len(filters) == 17
        assert all(np.allclose(made[name], begun[name], rtol=1e-3) for name in filters)  # one step of weight decay
        assert made["resnet/head/conv2d/bias"].any()


def test_a_run_of_before_is_a_source(study: Path, command: Run) -> None:
    arguments = "--pretrained runs/finished --target films --mode knn --image-size 32 --resize 32 --precision fp32"
    code, _, error = command("transfer", *arguments.split(), *CPU)
    assert code == 0, error
    assert "warning: the source was pre-trained on films" in error
    result = read("runs/transfer/finished/films/full-shot-seed-0-knn/result.json")
    assert result["source_set_digests"] == {"films": read(LEFT / "runs/finished/result.json")["set_digests"]["films"]}


def test_a_plan_file_is_carried_on_with(study: Path, command: Run) -> None:
    code, script, error = command("submit", "plan.json", "--site", "localhost", "--dry-run")
    assert code == 0, error
    assert "2 tasks, 1 done, 1 to run" in error
    assert "job.py tasks" in script
    done, left = read("plan.json")["tasks"]
    assert (Path(done["done"]).is_file(), Path(left["done"]).is_file()) == (True, False)
    python, option, module, *arguments = left["command"]
    assert (python, option, module) == ("python", "-m", "trainer.transfer")
    code, _, error = command("transfer", *arguments)
    assert code == 0, error
    assert Path(left["done"]).is_file()
    code, _, error = command("submit", "plan.json", "--site", "localhost", "--dry-run")
    assert (code, "2 tasks, 2 done, 0 to run" in error) == (0, True)


def test_a_sweep_of_before_goes_on(study: Path, command: Run) -> None:
    options = [word for task in read("plan.json")["tasks"][:1] for word in task["command"][7:]]
    sources = ["--sources", "weights.npz", "--targets", "films", "--seeds", "1"]
    code, output, error = command("transfer", "sweep", *sources, *options)
    assert code == 0, error
    assert "1 of 1 runs are finished already" in error
    assert "all 1 runs are finished" in output


def test_results_of_before_are_reported(study: Path, command: Run) -> None:
    for name, given in (("runs", ["runs/finished", TRANSFERRED]), ("table", ["results.csv"])):
        code, _, error = command("report", *given, "--out", f"reported/{name}")
        assert code == 0, error
    with (LEFT / "results.csv").open(newline="", encoding="utf-8") as file:
        before = list(csv.DictReader(file))
    for name in ("runs", "table"):
        with Path(f"reported/{name}/results.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [{column: row[column] for column in before[0]} for row in rows] == before
    of_runs, of_table = (Path(f"reported/{name}/report.md").read_text(encoding="utf-8") for name in ("runs", "table"))
    assert of_runs == of_table
    assert "| films | 83.13 |" in of_runs


def test_a_prepared_set_of_before_is_whole(study: Path, command: Run) -> None:
    code, output, error = command("prepare", "--verify", "data/films")
    assert (code, "all 24 files are as they were prepared" in output) == (0, True), error


@pytest.mark.parametrize("name", ["run.sbatch", "plan.sbatch"])
def test_a_queued_job_finds_its_programs(name: str) -> None:
    script = (LEFT / name).read_text(encoding="utf-8")
    programs = set(re.findall(r"/opt/bitscale/(\S+)", script))
    assert {"launchers/slurm/node.sh", "launchers/job.py"} <= programs
    assert [program for program in programs if not (ROOT / program).is_file()] == []
    assert os.access(ROOT / "launchers/slurm/node.sh", os.X_OK)


def asked_by(script: str, what: str) -> list[str]:
    """What a queued job asks job.py, less what only bash knows."""
    (line,) = re.findall(rf"launchers/job\.py ({what} [^;\n]*)", script.replace("\\\n", ""))
    return [word for word in shlex.split(line) if not word.startswith("$")]


def test_a_queued_job_learns_how_its_run_stands(study: Path) -> None:
    words = asked_by((study / "run.sbatch").read_text(encoding="utf-8"), "state")
    for run, stands in (("runs/stopped", "resumable 1\n"), ("runs/finished", "finished 1\n")):
        asked = [run if word == "runs/stopped" else word for word in words]
        told = subprocess.run(
            [sys.executable, ROOT / "launchers/job.py", *asked], capture_output=True, encoding="utf-8", check=True
        )
        assert told.stdout == stands


def test_a_queued_task_that_is_done_is_not_run_again(study: Path) -> None:
    plan = read("plan.json")
    Path("queued.json").write_text(json.dumps(plan | {"tasks": plan["tasks"][:1]}), encoding="utf-8")
    words = asked_by((study / "plan.sbatch").read_text(encoding="utf-8"), "tasks")
    assert words[1:] == [
        "/home/someone/study/logs/transfer-20261130-023929.json",
        "--element",
        "--elements",
        "1",
        "--slots",
        "4",
    ]
    asked = [words[0], "queued.json", "--element", "0", *words[3:]]
    done = subprocess.run([sys.executable, ROOT / "launchers/job.py", *asked], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert read(TRANSFERRED / "result.json") == read(LEFT / TRANSFERRED / "result.json")
