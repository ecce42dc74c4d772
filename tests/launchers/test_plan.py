"""Plan files become jobs of the right size, and what is done is not done again."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from login_node import AGENT, Login, directives

from launchers import job


def plan_file(folder: Path, commands: dict[str, list[str]], gpus_per_task: int = 1) -> Path:
    tasks = [
        {"name": name, "command": command, "done": str(folder / f"{name}.json")} for name, command in commands.items()
    ]
    path = folder / "plan.json"
    path.write_text(json.dumps({"name": "a sweep", "tasks": tasks, "gpus_per_task": gpus_per_task}))
    return path


def test_plan_fills_whole_nodes(login: Login) -> None:
    path = plan_file(login.folder, {f"t{i}": ["true"] for i in range(10)})
    (login.folder / "t0.json").write_text("{}")
    text = login.script(str(path), "--site", "juwels-booster", "--max-parallel", "2", "--dry-run")
    found = directives(text)
    assert (found["array"], found["gres"], found["cpus-per-task"]) == (
        "0-2%2",
        "gpu:4",
        "48",
    )  # nine tasks, four at a time
    assert found["output"].endswith("/logs/%x-%A_%a.out")
    assert "--elements 3 --slots 4" in text
    found = directives(login.script(str(path), "--site", "generic", "--dry-run"))
    assert (found["array"], found["gres"], found["cpus-per-task"]) == ("0-8", "gpu:1", "8")


def scaling_plan(folder: Path, sizes: dict[str, tuple[int, int | None]]) -> Path:
    """Tasks of so many nodes, with so many ranks on each."""
    path = plan_file(folder, {name: ["python", "/x/it's.py", "--out", "a b"] for name in sizes})
    plan = json.loads(path.read_text())
    for task in plan["tasks"]:
        nodes, ranks = sizes[task["name"]]
        task |= {"nodes": nodes} | ({"ranks_per_node": ranks} if ranks else {})
        task["done"] = str(folder / task["name"] / "result.json")
    path.write_text(json.dumps(plan))
    return path


def test_tasks_of_several_nodes_are_jobs_of_their_own(login: Login) -> None:
    path = scaling_plan(login.folder, {"one": (1, 1), "half": (1, 2), "ddp-512": (128, None), "there": (2, 4)})
    (login.folder / "there").mkdir()
    (login.folder / "there/result.json").write_text("{}")
    code, text, error = login.submit(str(path), "--site", "generic", "--time", "02:00:00", "--dry-run")
    assert code == 0, error
    assert "4 tasks, 1 done, 3 to run" in error
    assert "at most 1,030 GPU-hours: 3 jobs of 02:00:00" in error
    scripts = ["#!/bin/bash" + part for part in text.split("#!/bin/bash")[1:]]
    found = [directives(one) for one in scripts]
    assert [one["job-name"] for one in found] == ["a-sweep-one", "a-sweep-half", "a-sweep-ddp-512"]
    assert [(one["nodes"], one["gres"], one["cpus-per-task"]) for one in found] == [
        ("1", "gpu:1", "8"),
        ("1", "gpu:2", "16"),
        ("128", "gpu:4", "32"),
    ]
    assert [one.partition("PET_NPROC_PER_NODE=")[2].split()[0] for one in scripts] == ["1", "2", "4"]
    assert f"launch python {AGENT} --nnodes 128 '/x/it'\"'\"'s.py' --out 'a b'" in scripts[2]
    assert "array" not in found[0]
    srun = directives(login.script(str(path), "--site", "generic", "--launcher", "srun", "--dry-run"))
    assert (srun["ntasks-per-node"], srun["cpus-per-task"]) == ("4", "8")  # the last of the scripts
    assert login.ran("sbatch") == []


def test_ranks_without_gpus_get_a_core_each(login: Login) -> None:
    path = scaling_plan(login.folder, {"two": (2, 2)})
    text = login.script(str(path), "--site", "localhost", "--dry-run")
    assert directives(text)["cpus-per-task"] == "2"
    assert "PET_NPROC_PER_NODE=2 " in text


def test_jobs_of_a_plan_go_side_by_side_or_in_lanes(login: Login) -> None:
    path = scaling_plan(login.folder, dict.fromkeys("abcd", (1, 1)))
    small = json.loads(plan_file(login.folder, {"small": ["true"]}).read_text())["tasks"]
    plan = json.loads(scaling_plan(login.folder, dict.fromkeys("abcd", (1, 1))).read_text())
    path.write_text(json.dumps(plan | {"tasks": plan["tasks"] + small}))
    login.program("squeue", '[[ "$*" != *sweep-b* ]] || echo 12 RUNNING')
    code, output, error = login.submit(str(path), "--site", "localhost", "--max-parallel", "2")
    assert code == 0, error
    assert "a-sweep-b is queued already: job 12 RUNNING" in error
    array, *jobs = login.ran("sbatch")
    assert array == ["--parsable"]
    assert output.split() == ["101", "102", "103", "104"]
    assert jobs == [["--parsable"], ["--parsable"], ["--parsable", "--dependency=afterany:102"]]
    submitted = (login.folder / "submitted").read_text()
    assert submitted.count("--array=0-0%2") == 1
    (kept,) = (login.folder / "logs").glob("*.json")
    assert [task.name for task in job.read_plan(kept)[1]] == ["small"]


def test_a_job_that_is_refused_does_not_keep_the_others(login: Login) -> None:
    path = scaling_plan(login.folder, {"a": (1, 1), "b": (900, 1), "c": (1, 1)})
    login.program("sbatch", "if grep -q nodes=900; then echo 'too many nodes' >&2; exit 1; fi; echo 5")
    code, output, error = login.submit(str(path), "--site", "localhost")
    assert (code, output.split()) == (2, ["5", "5"])
    assert "not submitted, the others were:\n  a-sweep-b: sbatch refuses: too many nodes" in error
    path = scaling_plan(login.folder, {"a": (1, 8)})
    code, _, error = login.submit(str(path), "--site", "generic")
    assert (code, "task a wants 8 ranks on a node, but a node of this site has 4 GPUs" in error) == (2, True)


@pytest.mark.parametrize(
    ("leaves", "code", "requeued"),
    [
        ('echo "{}" >result.json', 0, False),
        ('echo "{" >result.json; exit 3', 3, False),
        ("""echo '{"state": "finished", "step": 9}' >status.json""", 1, False),  # finished, but what is asked for lacks
        ("""echo '{"state": "failed", "step": 9, "time": 9e9}' >status.json; exit 3""", 1, False),
        ("""echo '{"state": "resumable", "step": 9}' >status.json; kill -USR1 $PPID; sleep 0.2""", 0, True),
        (
            """trap "" USR1; echo '{"state": "resumable", "step": 9}' >status.json; kill -USR1 $PPID; sleep 0.2""",
            1,
            False,
        ),
    ],
)
def test_job_of_a_task(login: Login, leaves: str, code: int, requeued: bool) -> None:
    path = scaling_plan(login.folder, {"a": (2, 1)})
    (login.folder / "a").mkdir()
    login.program("srun", f"cd {login.folder}/a; {leaves}")
    options = () if requeued else ("--no-requeue",)
    process = login.run_script(login.script(str(path), "--site", "localhost", *options, "--dry-run"))
    output, _ = process.communicate()
    assert process.returncode == code, output
    assert (["requeue", "77"] in login.ran("scontrol")) is requeued
    assert login.ran("srun")[0][2:6] == ["python", AGENT, "--nnodes", "2"]


def test_job_of_a_task_that_is_done_starts_nothing(login: Login) -> None:
    path = scaling_plan(login.folder, {"a": (2, 1)})
    text = login.script(str(path), "--site", "localhost", "--dry-run")
    (login.folder / "a").mkdir()
    (login.folder / "a/result.json").write_text("{}")
    login.program("srun", "")
    process = login.run_script(text)
    assert "is finished" in process.communicate()[0]
    assert (process.returncode, login.ran("srun")) == (0, [])


def test_an_array_runs_each_task_once_whatever_the_launcher(login: Login) -> None:
    path = plan_file(login.folder, {"a": ["true"]}, gpus_per_task=2)
    found = directives(login.script(str(path), "--site", "generic", "--launcher", "srun", "--dry-run"))
    assert (found["ntasks-per-node"], found["gres"], found["cpus-per-task"]) == ("1", "gpu:2", "16")


def run_tasks(path: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(job.__file__)), "tasks", str(path), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_tasks_share_a_node(tmp_path: Path) -> None:
    """Each gets GPUs of its own, and two meet although each waits for the other."""
    meet = "import os, pathlib, sys, time\nme, other = sys.argv[1:]\n"
    meet += "pathlib.Path(me + '.here').touch()\nwhile not pathlib.Path(other + '.here').exists(): time.sleep(0.01)\n"
    meet += "pathlib.Path(me + '.json').write_text('\"' + os.environ['CUDA_VISIBLE_DEVICES'] + '\"')"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    path = plan_file(tmp_path, {"a": ["python", "-c", meet, a, b], "b": ["python", "-c", meet, b, a]}, gpus_per_task=2)
    process = run_tasks(path, "--slots", "2")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert {job.read_json(tmp_path / f"{name}.json") for name in "ab"} == {"0,1", "2,3"}


def test_tasks_of_an_element_and_their_failures(tmp_path: Path) -> None:
    touch = "import sys; open(sys.argv[1], 'w').write('1')"
    commands = {f"t{i}": ["python", "-c", touch, str(tmp_path / f"t{i}.json")] for i in range(5)}
    commands["t2"] = ["/no/such/program"]
    process = run_tasks(plan_file(tmp_path, commands), "--element", "0", "--elements", "2")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "error: failed: t2 (127); not done: t2" in output
    assert sorted(path.name for path in tmp_path.glob("t*.json")) == ["t0.json", "t4.json"]


def test_tasks_are_asked_to_stop(tmp_path: Path) -> None:
    wait = "import pathlib, signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))\n"
    wait += "pathlib.Path(sys.argv[1]).touch()\ntime.sleep(60)"
    path = plan_file(tmp_path, {name: ["python", "-c", wait, str(tmp_path / f"{name}.up")] for name in "ab"})
    process = run_tasks(path)
    while not (tmp_path / "a.up").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == job.UNFINISHED, output
    assert "stopped by SIGUSR1 with 2 of 2 tasks left" in output
    assert not (tmp_path / "b.up").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.pop("tasks"), "is not a plan"),
        (lambda plan: plan["tasks"][0].pop("done"), "task 0: it must be"),
        (lambda plan: plan["tasks"][0].update(command="rm -rf x"), "task 0: it must be"),
        (lambda plan: plan.update(gpus_per_task="1"), "gpus_per_task is '1', no number"),
        (lambda plan: plan["tasks"][0].update(nodes=0), "task 0: nodes is 0, no number of at least 1"),
        (lambda plan: plan["tasks"][0].update(ranks_per_node="4"), "task 0: ranks_per_node is '4', no number"),
    ],
)
def test_wrong_plans(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = plan_file(tmp_path, {"a": ["true"]})
    plan = json.loads(path.read_text())
    change(plan)
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=r"plan\.json") as refused:
        job.read_plan(path)
    assert message in str(refused.value)
