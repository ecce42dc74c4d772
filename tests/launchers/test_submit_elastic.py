"""Jobs whose ranks go on in the same processes, `submit --elastic`: their scripts, and what bash makes of them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from login_node import PLAN, Login, directives

LAUNCHERS = Path(__file__).resolve().parents[2] / "launchers"
ELASTIC = ["pretrain", "embedded", "--elastic"]


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def asked(login: Login) -> list[str]:
    """Filled with what the trainer will be asked with."""
    words: list[str] = []
    login.monkeypatch.setattr("launchers.submit.ask_plan", lambda _, arguments: words.extend(arguments) or PLAN)
    return words


def test_script_of_an_elastic_job(login: Login) -> None:
    words = asked(login)
    text = login.script(*ELASTIC, "--nodes", "2:4", "--dry-run", "--", "--seed", "3")
    assert {"nodes": "4", "no-kill": ""}.items() <= directives(text).items()
    assert f"slurm/elastic.sh 4 {login.folder}/logs\n" in text
    trainer = "trainer/pretrain.py embedded --seed 3 --min-ranks 8"  # 2 nodes of 4 GPUs
    assert f"launch python {LAUNCHERS}/elastic.py -- {LAUNCHERS.parent}/{trainer} --elastic\n" in text
    assert f"{trainer} --preflight-only || exit" in text
    assert words == ["embedded", "--seed", "3", "--min-ranks", "8", "--elastic"]


def test_fewest_ranks_are_the_trainers_with_one_number(login: Login) -> None:
    words = asked(login)
    text = login.script(*ELASTIC, "--nodes", "2", "--dry-run", "--", "--min-ranks", "3")
    assert words == ["embedded", "--min-ranks", "3", "--elastic"]
    assert {"nodes": "2", "no-kill": ""}.items() <= directives(text).items()
    assert f"python {LAUNCHERS}/agent.py --nnodes 2 " in login.script(
        *ELASTIC, "--nodes", "1:2", "--smoke", "--dry-run"
    )


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["--launcher", "srun"], "--elastic takes --launcher torchrun; srun restarts none"),
        (["--nodes", "1:2", "--", "--min-ranks", "1"], "give --nodes 2 with --min-ranks"),
        (["--nodes", "1:2", "--", "--runtime.min-ranks=1"], "both say how few may be left"),
        (["--", "--elastic"], "--elastic concerns the job, too; give it before --"),
        (["--sbatch", "no-kill=off"], "use --nodes MIN:MAX or --elastic"),
        (["--", "--no-resume"], "--no-resume would start anew in every job"),
    ],
)
def test_elastic_jobs_are_refused_before_the_trainer_is_asked(options: list[str], refused: str, login: Login) -> None:
    login.monkeypatch.setattr("launchers.submit.ask_plan", lambda *_: pytest.fail("the trainer was asked"))
    code, _, error = login.submit(*ELASTIC, "--dry-run", *options)
    assert (code, error.count("\n")) == (2, 1)
    assert refused in error


def test_more_ranks_than_the_start_has_are_refused(login: Login) -> None:
    login.monkeypatch.setattr("launchers.submit.ask_plan", lambda *_: PLAN | {"min_ranks": 9})
    code, _, error = login.submit(*ELASTIC, "--nodes", "2", "--dry-run")
    assert code == 2
    assert "--min-ranks 9 is above the 8 ranks that the run starts with; lower it" in error


def test_a_plan_file_is_not_elastic(login: Login) -> None:
    code, _, error = login.submit("plan.json", "--elastic")
    assert code == 2
    assert "it goes with no recipe, --nodes, --elastic, --chain or --smoke" in error


@pytest.mark.slow
def test_secret_is_known_to_the_user_alone(login: Login) -> None:
    """In a file of the job's, while it runs; not in a command, an environment that SLURM gets, or the log."""
    started = login.folder / "started"
    login.status("resumable", 3)
    login.program("scancel", "")
    login.program("srun", f"env >{started}.tmp; mv {started}.tmp {started}; sleep 60 & wait")
    text = login.script(*ELASTIC, "--site", "localhost", "--nodes", "2", "--dry-run")
    (login.folder / "logs").mkdir()
    process = login.run_script(text, SLURM_JOB_NAME="a_run")
    wait_for(started.exists, process)
    (file,) = (login.folder / "logs").iterdir()
    secret, environment = file.read_text(), started.read_text()
    assert (file.stat().st_mode & 0o777, len(secret)) == (0o600, 64)
    assert f"BITSCALE_SECRET_FILE={file}\n" in environment
    assert "BITSCALE_SERVED=1\n" in environment
    assert secret not in environment
    os.killpg(process.pid, signal.SIGTERM)  # scancel: the coordinator stays, for ranks that save
    output, _ = process.communicate()
    assert process.returncode == 143, output
    assert "coordinating at 127.0.0.1:20077" in output
    assert secret not in output + (login.folder / "ran").read_text()
    assert list((login.folder / "logs").iterdir()) == []
    # Those that joined: of an earlier start, at once with these, and such as have come since.
    assert login.ran("scancel") == [["--quiet", "--me", "--name=a_run-joins-77"]] * 3


def test_secret_that_cannot_be_written_ends_the_job(login: Login) -> None:
    login.status("resumable", 3)
    login.program("srun", "")
    text = login.script(*ELASTIC, "--site", "localhost", "--nodes", "2", "--dry-run", "--logs", "/nowhere")
    process = login.run_script(text, SLURM_JOB_NAME="a_run")
    output, _ = process.communicate()
    assert process.returncode == 2
    assert "submit again with a --logs FOLDER that can, and that all nodes share" in output
    assert login.ran("srun") == []


@pytest.mark.slow
def test_job_out_of_time_waits_for_the_one_that_joined(login: Login) -> None:
    """It is told first, so that the ranks of both save together; only then is the job queued again."""
    started, joined, queued = (login.folder / name for name in ("started", "joined", "queued"))
    joined.touch()
    login.status("resumable", 1)
    saved = login.folder / "saved"
    saved.write_text('{"state": "resumable", "step": 9}')
    save = f"sleep 1; cp {saved} {login.folder}/runs/a_run/status.json; rm {joined}"
    login.program("srun", f"trap 'kill $!; ({save}) & exit 0' USR1; touch {started}; sleep 60 & wait")
    login.program("squeue", f"[ ! -e {joined} ] || echo 78")
    login.program("scancel", "")
    login.program("scontrol", f'[ "$1" != requeue ] || [ -e {joined} ] || touch {queued}')
    (login.folder / "logs").mkdir()
    text = login.script(*ELASTIC, "--site", "localhost", "--nodes", "1:2", "--dry-run")
    process = login.run_script(text, SLURM_JOB_NAME="a_run")
    wait_for(started.exists, process)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert queued.exists()
    told = [call[2:] for call in login.ran("scancel")]
    assert told[1] == ["--name=a_run-joins-77", "--batch", "--signal=USR1"]


@pytest.mark.slow
@pytest.mark.parametrize(("elastic", "left", "requeued"), [([], 1, False), (["--elastic"], 1, False), ([], 2, True)])
def test_job_that_lost_nodes_goes_on_with_fewest(elastic: list[str], left: int, requeued: bool, login: Login) -> None:
    """Queued again, it would wait for the node that is out of order."""
    saved = login.folder / "saved"
    login.status("resumable", 1)
    saved.write_text('{"state": "resumable", "step": 9}')
    login.program("srun", f"cp {saved} {login.folder}/runs/a_run/status.json")
    login.program("squeue", f'case "$*" in *%D) echo {left} ;; esac')
    login.program("scancel", "")
    login.program("sbatch", f'env | grep ^SLURM_ >{login.folder}/environment; echo "78"')
    (login.folder / "logs").mkdir()
    options = ["--site", "localhost", "--nodes", "1:2", "--dry-run"]
    process = login.run_script(login.script("pretrain", "embedded", *elastic, *options), SLURM_JOB_NAME="a_run")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert (["requeue", "77"] in login.ran("scontrol")) is requeued
    assert ("has lost nodes: goes on as job 78, on 1 to 2" in output) is not requeued
    asked = ["--parsable", "--nodes=1-2", "--dependency=afterany:77", str(login.folder / "script")]
    assert login.ran("sbatch") == ([] if requeued else [asked])
    assert requeued or (login.folder / "environment").read_text() == ""  # of this job, which sbatch would go by


def node(folder: Path, program: str = 'echo "$*"; env', **environment: str) -> "subprocess.CompletedProcess[str]":
    """What node.sh starts, with a `python` that tells its arguments and environment."""
    python = folder / "bin/python"
    python.parent.mkdir(exist_ok=True)
    python.write_text(f"#!/bin/bash\n{program}\n")
    python.chmod(0o755)
    slurm = {"SLURM_NODEID": "1", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7", "BITSCALE_ADDRESS": "{host}i"}
    job = {"MASTER_ADDR": "n1i", "MASTER_PORT": "1", "PET_RDZV_ENDPOINT": "n1i:1", "PET_NNODES": "4"}
    job |= {"PET_NPROC_PER_NODE": "2", "PET_MAX_RESTARTS": "10", "BITSCALE_LOCAL_DIR": str(folder)}
    return subprocess.run(
        [LAUNCHERS / "slurm/node.sh", "python", "launchers/elastic.py", "--", "x.py", "a b"],
        env=os.environ | slurm | job | {"PATH": f"{folder}/bin:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_node_of_an_elastic_job(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of this run")
    done = node(tmp_path, BITSCALE_SECRET_FILE=str(tmp_path / "secret"))
    assert done.returncode == 0, done.stderr
    words, *environment = done.stdout.splitlines()
    host = socket.gethostname().partition(".")[0]
    options = f"--nproc 2 --nodes 4 --max-restarts 10 --endpoint n1i:1 --local-addr {host}i"
    assert words == f"launchers/elastic.py {options} -- x.py a b"
    assert "BITSCALE_SECRET=of this run" in environment
    assert not [line for line in environment if line.startswith("PET_")]  # torchrun would meet others by these


def test_node_that_has_not_the_secret_says_so(tmp_path: Path) -> None:
    done = node(tmp_path, BITSCALE_SECRET_FILE=str(tmp_path / "secret"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot read the secret of the run; submit again with a --logs FOLDER that all nodes share" in done.stderr


@pytest.mark.parametrize(("joins", "asked"), [("", ["requeue 7"]), ("n1i 1 7-0", [])])
def test_job_whose_first_node_is_lost_is_queued_again(joins: str, asked: list[str], tmp_path: Path) -> None:
    """The coordinator was there. Its ranks would wait for it for minutes; one that joined just ends."""
    (tmp_path / "secret").write_text("of this run")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sleep").symlink_to(shutil.which("true") or "/bin/true")
    scontrol = tmp_path / "bin/scontrol"
    scontrol.write_text(f"#!/bin/bash\necho $* >>{tmp_path}/asked\n")
    scontrol.chmod(0o755)
    until = f"n=0; until [ -e {tmp_path}/asked ] || [ $((n++)) = 9 ]; do read -t 0.1 <>/dev/udp/::1/9; done; true"
    joins_run = {"BITSCALE_JOINS": joins} if joins else {}
    done = node(tmp_path, until, BITSCALE_SECRET_FILE=str(tmp_path / "secret"), MASTER_ADDR="127.0.0.1", **joins_run)
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    assert found[:1] == asked


def test_coordinator_of_a_cancelled_job_stays() -> None:
    """SLURM sends SIGTERM to all processes of a job; one that bash has told to ignore it serves on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    command = [sys.executable, str(LAUNCHERS / "coordinator.py"), f"127.0.0.1:{address[1]}"]
    process = subprocess.Popen(
        ["bash", "-c", "trap '' TERM; exec \"$@\"", "bash", *command],
        env=os.environ | {"BITSCALE_SECRET": "of this run"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("coordinating")
        process.terminate()
        with socket.create_connection(address, 30) as connection:
            assert b"challenge" in connection.recv(100)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("deaf", "listed"), [("trap '' USR1;", False), ("", True)])
def test_agents_stay_deaf_to_what_their_starter_ignores(deaf: str, listed: bool) -> None:
    """node.sh tells ranks themselves of SIGUSR1, again and again; torchrun would end them at the second one."""
    say = "from launchers.elastic import HANDED_ON; print(*(number.name for number in HANDED_ON))"
    done = subprocess.run(
        ["bash", "-c", f'{deaf} exec {sys.executable} -c "{say}"'],
        cwd=LAUNCHERS.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ("SIGUSR1" in done.stdout.split()) is listed
