"""Batch scripts are what they should be and do what they say when bash runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from login_node import AGENT, Login, directives

from launchers import job
from launchers.profiles import seconds, site_names

ROOT = Path(__file__).resolve().parents[2]
ODD = ["--data.sets", "a b", "it's", "$(touch pwned)", "`touch pwned`", 'quote"d', "*"]


def test_script_for_juwels_booster(login: Login) -> None:
    code, text, cost = login.submit(
        "pretrain", "imagenet1k_r50x1", "--nodes", "64", "--site", "juwels-booster", "--time", "08:00:00",
        "--sbatch", "account=deepacf", "--chain", "3", "--dry-run", "--", "--optim.base-lr", "0.02",
    )  # fmt: skip
    assert code == 0, cost
    expected = {
        "nodes": "64",
        "ntasks-per-node": "1",
        "cpus-per-task": "48",
        "time": "08:00:00",
        "partition": "booster",
    }
    expected |= {"account": "deepacf", "gres": "gpu:4", "signal": "B:USR1@300", "exclusive": "", "no-requeue": ""}
    expected |= {"output": f"{login.folder}/logs/%x-%j.out", "open-mode": "append", "job-name": "a_run"}
    assert expected.items() <= directives(text).items()
    for line in (
        "export NCCL_SOCKET_IFNAME=ib0",
        "export GLOO_SOCKET_IFNAME=ib0",
        "export BITSCALE_ADDRESS='{host}i' BITSCALE_LOCAL_DIR=/tmp",
        "PET_NPROC_PER_NODE=4",
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        "trainer/pretrain.py imagenet1k_r50x1 --optim.base-lr 0.02",
        f"launch python {AGENT} --nnodes 64 ",
    ):
        assert line in text
    assert "90,000 steps of 4,096 images" in cost
    assert "0.20 GB a checkpoint" in cost
    assert "256 GPUs for at most 08:00:00: 2,048 GPU-hours, all 3 jobs 6,144 GPU-hours" in cost
    assert "submit the same with --smoke" in cost
    assert login.ran("sbatch") == []
    assert not (login.folder / "logs").exists()


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["--time", "8"], "--time '8' is not a duration"),
        (["--time", "900:00:00"], "is above the site's"),
        (["--nodes", "0"], "--nodes is 0; it must be at least 1"),
        (["--nodes", "0:4"], "--nodes is 0:4; it must be at least 1"),
        (["--nodes", "x"], "--nodes x is neither a number nor MIN:MAX, such as 2:4"),
        (["--nodes", "4:2"], "--nodes 4:2 has MIN above MAX; write 2:4"),
        (["--nodes", "1:2", "--launcher", "srun"], "--nodes 1:2 takes --launcher torchrun, with any engine"),
        (["--nodes", "1:2", "--sbatch", "no-kill=off"], "use --nodes MIN:MAX"),
        (["--sbatch", "x"], "--sbatch x is not of the form KEY=VALUE"),
        ([], "there is no sbatch here"),
    ],
)
def test_options_are_checked_before_the_trainer_is_asked(
    options: list[str], refused: str, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("launchers.submit.ask_plan", lambda *_: pytest.fail("the trainer was asked"))
    code, _, error = login.submit("pretrain", "embedded", *options)
    assert (code, error.count("\n")) == (2, 1)
    assert refused in error


def test_more_nodes_than_the_site_allows_are_refused(login: Login) -> None:
    (login.folder / "small.toml").write_text("gpus_per_node = 1\ncores_per_node = 8\nmax_nodes = 4\n")
    code, _, error = login.submit("pretrain", "embedded", "--site", "small.toml", "--nodes", "2:8", "--dry-run")
    assert code == 2
    assert "--nodes 8 is above the 4 nodes that a job of this site may have" in error


def test_script_for_nodes_that_may_be_lost(login: Login) -> None:
    text = login.script("pretrain", "embedded", "--site", "localhost", "--nodes", "1:2", "--dry-run")
    assert {"nodes": "2", "no-kill": ""}.items() <= directives(text).items()
    assert f"launch python {AGENT} --nnodes 1:2 " in text
    assert "source " in text
    text = login.script("pretrain", "embedded", "--site", "localhost", "--nodes", "2:2", "--dry-run")
    assert "no-kill" not in text
    assert f"launch python {AGENT} --nnodes 2 " in text


@pytest.mark.parametrize("site", site_names())
@pytest.mark.parametrize("options", [[], ["--nodes", "1:2"], ["--smoke"], ["--chain", "2"], ["--launcher", "srun"]])
def test_scripts_are_bash(login: Login, site: str, options: list[str]) -> None:
    text = login.script("pretrain", "embedded", "--site", site, *options, "--dry-run", "--", *ODD)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "{{" not in text


def test_arguments_arrive_as_they_are(login: Login) -> None:
    login.program("srun", "")
    login.status("resumable", 3)
    text = login.script("pretrain", "embedded", "--site", "localhost", "--nodes", "2", "--dry-run", "--", *ODD)
    login.run_script(text).communicate()
    (call,) = login.ran("srun")
    assert call[2:6] == ["python", AGENT, "--nnodes", "2"]
    assert call[7:] == ["embedded", *ODD]
    assert not list(login.folder.rglob("pwned"))


@pytest.mark.parametrize(
    ("leaves", "code", "requeued"),
    [
        (("finished", 90), 0, False),
        (("failed", 40), 1, False),
        (("running", 40), 0, True),  # killed on the way, with checkpoints
        (("resumable", 40), 0, True),
        (("resumable", 30), 1, False),  # no step further: it would go on for ever
    ],
)
def test_queues_itself_again(login: Login, leaves: tuple[str, int], code: int, requeued: bool) -> None:
    state, step = leaves
    after = json.dumps({"state": state, "step": step, "time": time.time() + 1000})
    login.status("resumable", 30)
    login.program("srun", f"echo '{after}' >{login.folder}/runs/a_run/status.json; exit 1")
    text = login.script("pretrain", "embedded", "--site", "localhost", "--dry-run")
    process = login.run_script(text)
    output, _ = process.communicate()
    assert process.returncode == code, output
    assert (["requeue", "77"] in login.ran("scontrol")) is requeued


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("failed", 1)])
def test_starts_nothing_that_is_over(login: Login, state: str, code: int) -> None:
    text = login.script("pretrain", "embedded", "--site", "localhost", "--dry-run")
    login.program("srun", "")
    login.status(state, 90)
    process = login.run_script(text)
    assert f"is {state} at step 90" in process.communicate()[0]
    assert process.returncode == code
    assert login.ran("srun") == []


def test_failure_of_an_earlier_job_is_tried_again(login: Login) -> None:
    login.status("failed", 30)
    path = login.folder / "runs/a_run/status.json"
    path.write_text(json.dumps({"state": "failed", "step": 30, "time": time.time() - 60}))
    assert job.state(path.parent, time.time()) == ("resumable", 30)
    assert job.state(path.parent, time.time() - 120) == ("failed", 30)
    assert job.state(login.folder / "nowhere", 0) == ("resumable", 0)


@pytest.mark.parametrize(
    ("lock", "requeued"),
    [
        ('{"job": "SLURM job 76 of jwb"}', False),
        ('{"job": null}', False),
        ('{"job": "SLURM job 77 of jwb"}', True),
        ("", True),
    ],
)
def test_a_job_whose_folder_is_in_use_is_not_queued_again(login: Login, lock: str, requeued: bool) -> None:
    """The steps that were saved meanwhile are the other's."""
    login.status("resumable", 1)
    run_dir = login.folder / "runs/a_run"
    (run_dir / "lock.json").write_text(lock)
    login.program("srun", f"""echo '{{"state": "resumable", "step": 9}}' >{run_dir}/status.json; exit 3""")
    process = login.run_script(login.script("pretrain", "embedded", "--site", "localhost", "--dry-run"))
    output, _ = process.communicate()
    assert (["requeue", "77"] in login.ran("scontrol")) is requeued
    assert process.returncode == (0 if requeued else 3), output


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seen", "requeued"), [(signal.SIGUSR1, "USR1", True), (signal.SIGTERM, "", False)])
def test_signals_to_the_script(login: Login, number: int, seen: str, requeued: bool) -> None:
    """SIGUSR1, before the time limit, is handed on, and the job queues itself; after SIGTERM, scancel, it does not."""
    status = f"{login.folder}/runs/a_run/status.json"
    login.status("resumable", 1)
    finish = f"""echo '{{"state": "resumable", "step": 9}}' >{status}"""
    listen = f"finish() {{ {finish}; exit; }}; trap 'echo USR1 >{login.folder}/seen; finish' USR1"
    login.program("srun", f"{listen}; touch started; until [ -e told ]; do sleep 0.1; done; finish")
    process = login.run_script(login.script("pretrain", "embedded", "--site", "localhost", "--dry-run"))
    while not (login.folder / "started").exists():
        time.sleep(0.02)
    process.send_signal(number)
    if number == signal.SIGTERM:
        (login.folder / "told").touch()
    process.communicate()
    assert ((login.folder / "seen").read_text().strip() if (login.folder / "seen").exists() else "") == seen
    assert (["requeue", "77"] in login.ran("scontrol")) is requeued
    assert process.returncode == (0 if requeued else 143)


@pytest.mark.slow
def test_code_of_a_step_that_ends_with_the_signal(login: Login) -> None:
    """Tasks are queued again by it. A trap in the middle of bash's `wait` may lose it, or wait for ever."""
    login.program("srun", "kill -USR1 $PPID; exit 75")
    text = login.script("pretrain", "embedded", "--site", "localhost", "--dry-run")
    functions, launch, _ = text.partition("launch python")
    assert launch
    times = "for _ in {1..60}; do launch true; echo $?; asked=; done"
    process = login.run_script(f"{functions}\n{times}")
    output, _ = process.communicate(timeout=120)
    assert output.split() == ["75"] * 60


def test_smoke_resumes(login: Login) -> None:
    login.program(
        "srun",
        'mkdir -p "runs/a_run-smoke-77"; '
        """echo '{"state": "finished", "step": 20}' >runs/a_run-smoke-77/status.json""",
    )
    process = login.run_script(
        login.script("pretrain", "embedded", "--site", "localhost", "--smoke", "--dry-run", "--", "--out", "x")
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    first, second = ([*call[call.index("--out") :]] for call in login.ran("srun"))
    assert first[:2] == second[:2] == ["--out", "runs/a_run-smoke-77"]
    assert first[-2:] == ["--schedule.steps", "10"]
    assert second[-3:] == ["--schedule.steps", "20", "--allow-config-change"]


def test_chain(login: Login) -> None:
    code, output, error = login.submit("pretrain", "embedded", "--site", "localhost", "--chain", "3")
    assert code == 0, error
    first, second, third = login.ran("sbatch")
    assert first == ["--parsable"]
    ids = output.split()
    assert second == ["--parsable", f"--dependency=afterany:{ids[0]}"]
    assert third == ["--parsable", f"--dependency=afterany:{ids[1]}"]
    assert (login.folder / "logs").is_dir()  # SLURM would lose the output without a word


@pytest.mark.parametrize(
    ("start", "called"),
    [(["-m", "launchers.submit"], "bitscale submit"), ([str(ROOT / "launchers/submit.py")], "python ")],
)
def test_help_names_the_command(start: list[str], called: str) -> None:
    done = subprocess.run([sys.executable, *start, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {called}")


def test_a_smoke_test_asks_for_half_an_hour(login: Login) -> None:
    (login.folder / "short.toml").write_text('gpus_per_node = 1\ncores_per_node = 8\ntime_limit = "00:10:00"\n')
    for site, options, time_limit in (
        ("generic", ["--smoke"], "00:30:00"),
        ("generic", [], "24:00:00"),
        ("generic", ["--smoke", "--time", "01:00:00"], "01:00:00"),
        ("short.toml", ["--smoke"], "00:10:00"),
    ):
        text = login.script("pretrain", "embedded", "--site", site, *options, "--dry-run")
        assert directives(text)["time"] == time_limit


@pytest.mark.parametrize(("redirected", "code"), [('| true; exit "${PIPESTATUS[0]}"', 141), (">&- 2>&-", 0)])
def test_nobody_reads_the_help(redirected: str, code: int) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = ["bash", "-c", f'"$@" {redirected}', "bash", sys.executable, "-m", "launchers.submit", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=buffered, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_durations() -> None:
    assert [seconds(text) for text in ("00:00:01", "24:00:00", "1-02:03:04")] == [1, 86400, 93784]
