"""Batch scripts are what they should be, do what they say when bash runs them, and refuse what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from login_node import Login, directives

from launchers import job
from launchers.profiles import SITES, Site, UsageError, load_site, seconds, site_names

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
        "launch torchrun --nnodes 64 ",
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
        (["--time", "8"], "'8' is not a duration"),
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
    assert "launch torchrun --nnodes 1:2 " in text
    assert "source " in text
    text = login.script("pretrain", "embedded", "--site", "localhost", "--nodes", "2:2", "--dry-run")
    assert "no-kill" not in text
    assert "launch torchrun --nnodes 2 " in text


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
    assert call[2:5] == ["torchrun", "--nnodes", "2"]
    assert call[6:] == ["embedded", *ODD]
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
    login.program(
        "srun", f"trap 'echo USR1 >{login.folder}/seen; {finish}; exit 0' USR1; touch started; sleep 1 & wait; {finish}"
    )
    process = login.run_script(login.script("pretrain", "embedded", "--site", "localhost", "--dry-run"))
    while not (login.folder / "started").exists():
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate()
    assert ((login.folder / "seen").read_text().strip() if (login.folder / "seen").exists() else "") == seen
    assert (["requeue", "77"] in login.ran("scontrol")) is requeued
    assert process.returncode == (0 if requeued else 143)


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


def test_twice_at_a_time_is_refused(login: Login) -> None:
    login.program("squeue", "echo 12 RUNNING")
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost")
    assert (code, "job 12 RUNNING has the name a_run already" in error) == (2, True)
    assert login.ran("sbatch") == []


def test_inside_a_job_only_warns(login: Login) -> None:
    login.program("sbatch", f"echo ${{SLURM_JOB_ID:-none}} >{login.folder}/sees; echo 6")
    login.monkeypatch.setenv("SLURM_JOB_ID", "5")
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost")
    assert (code, "warning: this shell is in job 5" in error) == (0, True)
    assert (login.folder / "sees").read_text() == "none\n"  # sbatch would take it for its own


@pytest.mark.parametrize(
    ("start", "called"),
    [(["-m", "launchers.submit"], "bitscale submit"), ([str(ROOT / "launchers/submit.py")], "python ")],
)
def test_help_names_the_command(start: list[str], called: str) -> None:
    done = subprocess.run([sys.executable, *start, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {called}")


def test_refusal_of_slurm(login: Login) -> None:
    login.program("sbatch", "echo 'invalid account' >&2; exit 1")
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost")
    assert (code, error.splitlines()[-1]) == (2, "error: sbatch refuses: invalid account")


def test_no_controller_answers(login: Login) -> None:
    login.monkeypatch.setattr("launchers.submit.ask_plan", lambda *_: pytest.fail("the trainer was asked"))
    login.program("squeue", "echo 'squeue: error: resolve_ctls_from_dns_srv: res_nsearch error' >&2; exit 1")
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost")
    assert (code, "error: no SLURM controller answers; use --dry-run here" in error) == (2, True)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "embedded", "--site", "juwels-boster"], "did you mean 'juwels-booster'?"),
        (["pretrain", "embedded", "--node", "3"], "did you mean '--nodes'?"),
        (["pretrian", "embedded"], "did you mean 'pretrain'?"),
        (["pretrain"], "name the recipe"),
        (["pretrain", "embedded", "--time", "8:00"], "'8:00' is not a duration; write HH:MM:SS"),
        (["pretrain", "embedded", "--time", "2-00:00:00"], "above the site's 24:00:00; take less, and --chain"),
        (["pretrain", "embedded", "--time", "00:05:00"], "leaves nothing beside the 300 s kept for saving"),
        (["pretrain", "embedded", "--nodes", "0"], "--nodes is 0"),
        (["pretrain", "embedded", "--nodes", "2000"], "4096 is too small for 8000 ranks; raise it to 8000"),
        (["pretrain", "embedded", "--chain", "0"], "--chain is 0"),
        (["pretrain", "embedded", "--partition", "gpu"], "unknown argument --partition; use --sbatch partition=gpu"),
        (["pretrain", "embedded", "--account=me"], "use --sbatch account=me"),
        (["pretrain", "embedded", "-p", "gpu"], "use --sbatch partition=gpu"),
        (["pretrain", "embedded", "--gpus", "8"], "gpus_per_node of the site file"),
        (["pretrain", "embedded", "--sbatch", "partitionn=gpu"], "no such option; did you mean 'partition'?"),
        (["pretrain", "embedded", "--sbatch", "qos"], "--sbatch qos is not of the form KEY=VALUE"),
        (["pretrain", "embedded", "--sbatch", "qos=high --uid=0"], "characters that do not belong"),
        (["pretrain", "embedded", "--sbatch", "Q$S=high"], "is not the name of a directive"),
        (["pretrain", "embedded", "--sbatch", "time=99:00:00"], "use --time"),
        (["pretrain", "embedded", "--job-name", "a b"], "is not a name for a job"),
        (["pretrain", "embedded", "--", "--no-resume"], "--no-resume would start anew in every job"),
        (["pretrain", "embedded", "--sbatch", "qos=high\n#SBATCH --uid=0"], "control characters"),
        (["pretrain", "embedded", "--", "x\ntouch pwned"], "control characters"),
        (["absent.json"], "bitscale sweep ... --plan FILE writes one"),
        (["absent.json", "--nodes", "2"], "a plan file says all about its tasks"),
    ],
)  # fmt: skip
def test_refuses(login: Login, arguments: list[str], message: str) -> None:
    code, _, error = login.submit(*arguments)
    assert code == 2
    assert message in error
    assert login.ran("sbatch") == []


@pytest.mark.parametrize("asks", ["gres=gpu:1", "gres=nvme:2,gpu:a100:1", "gpus-per-node=1", "gpus=h100:1"])
def test_other_gpus_than_ranks_are_refused(login: Login, asks: str) -> None:
    login.monkeypatch.setattr("launchers.submit.ask_plan", lambda *_: pytest.fail("the trainer was asked"))
    code, _, error = login.submit("pretrain", "embedded", "--sbatch", asks, "--dry-run")
    assert code == 2
    assert f"--sbatch {asks} asks for 1 GPU on a node, but 4 ranks would start there" in error
    assert f"set it to 1 in a copy of {SITES}/generic.toml" in error


def test_the_remedy_for_other_gpus_works(login: Login) -> None:
    profile = (SITES / "generic.toml").read_text().replace("gpus_per_node = 4", "gpus_per_node = 1")
    (login.folder / "one.toml").write_text(profile)
    text = login.script("pretrain", "embedded", "--site", "one.toml", "--sbatch", "gres=gpu:a100:1", "--dry-run")
    assert "PET_NPROC_PER_NODE=1" in text
    assert text.count("--gres=") == 1


@pytest.mark.parametrize(("redirected", "code"), [('| true; exit "${PIPESTATUS[0]}"', 141), (">&- 2>&-", 0)])
def test_nobody_reads_the_help(redirected: str, code: int) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = ["bash", "-c", f'"$@" {redirected}', "bash", sys.executable, "-m", "launchers.submit", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=buffered, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_odd_folder_is_refused_in_directives_else_quoted(login: Login) -> None:
    folder = login.folder / "it's $(touch pwned) here"
    folder.mkdir()
    login.monkeypatch.chdir(folder)
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost", "--dry-run")
    assert (code, "characters that do not belong into one" in error) == (2, True)
    text = login.script(
        "pretrain", "embedded", "--site", "localhost", "--dry-run", "--logs", str(login.folder / "logs")
    )
    login.program("srun", f"pwd >{login.folder}/where")
    login.run_script(text).communicate()
    assert (login.folder / "where").read_text().strip() == str(folder)
    assert not list(login.folder.rglob("pwned"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gpus_per_nod = 4", "unknown key 'gpus_per_nod'; did you mean 'gpus_per_node'?"),
        ('gpus_per_node = "4"', "gpus_per_node is '4', not of type int"),
        ("gpus_per_node = -1", "gpus_per_node must be 0 or more"),
        ('sbatch = { "x y" = "1" }', "is not the name of a directive"),
        ('environment = { "A;B" = "1" }', "environment: 'A;B' is not the name of a variable"),
        ('time_limit = "1 day"', "'1 day' is not a duration"),
        ("modules = [1]", "modules is [1]"),
        ("partition = gpu", ': partition = gpu; text needs quotes: partition = "gpu"'),
        ("= 3", "mine.toml: "),
    ],
)
def test_profile_refuses(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    lines = [
        line for line in (SITES / "generic.toml").read_text().splitlines() if line.split("=")[0] != change.split("=")[0]
    ]
    path.write_text("\n".join([*lines, change]))
    with pytest.raises(UsageError) as refused:
        load_site(str(path))
    assert message in str(refused.value)


@pytest.mark.parametrize("name", site_names())
def test_every_profile_that_ships_can_be_read(name: str) -> None:
    assert load_site(name).cores_per_node > 0


def test_the_generic_profile_explains_every_key() -> None:
    lines = (SITES / "generic.toml").read_text().splitlines()
    assert {line.split(" =")[0] for line in lines if " = " in line and line[0] != "#"} == set(Site.__annotations__)


def test_durations() -> None:
    assert [seconds(text) for text in ("00:00:01", "24:00:00", "1-02:03:04")] == [1, 86400, 93784]
