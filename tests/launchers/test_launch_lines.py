"""What torchrun.sh, deepspeed.sh, horovod.sh and slurm/node.sh start, and what they refuse."""

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.engines.ranks import find_rank_info

LAUNCHERS = Path(__file__).resolve().parents[2] / "launchers"
TRAINER = str(LAUNCHERS.parent / "trainer" / "pretrain.py")
ODD = ["embedded", "--data.sets", "a b", "it's", "$(touch pwned)", "*"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launchers are bash scripts")


def launch(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [LAUNCHERS / script, *arguments],
        env=os.environ | {"PATH": path, "VIRTUAL_ENV": sys.prefix, "CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def shown(script: str, *arguments: str, **environment: str) -> list[str]:
    """The command that --dry-run shows, as words, after the interpreter."""
    done = launch(script, "--dry-run", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


def test_torchrun_on_one_node() -> None:
    words = shown("torchrun.sh", "--nproc", "4", "--max-restarts", "2", "--grace", "90", "--", *ODD)
    assert words[:3] == ["env", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=90", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"]
    expected = [str(LAUNCHERS / "agent.py"), "--nproc-per-node", "4", "--max-restarts", "2"]
    expected += ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "--standalone"]
    assert words[4:] == [*expected, TRAINER, *ODD]


@pytest.mark.parametrize(
    ("link", "to", "known_as"),
    [
        ("checkout", "", "{tmp_path}/checkout"),  # as other nodes know it
        ("launchers", "launchers", str(LAUNCHERS.parent)),
        ("torchrun.sh", "launchers/torchrun.sh", str(LAUNCHERS.parent)),
    ],
)
def test_links_to_what_is_started(link: str, to: str, known_as: str, tmp_path: Path) -> None:
    (tmp_path / link).symlink_to(LAUNCHERS.parent / to)
    script = {"checkout": "checkout/launchers/torchrun.sh", "launchers": "launchers/torchrun.sh"}.get(link, link)
    assert shown(str(tmp_path / script), "--", "embedded")[-2] == f"{known_as}/trainer/pretrain.py".format(
        tmp_path=tmp_path
    )


def test_torchrun_takes_the_visible_gpus() -> None:
    words = shown("torchrun.sh", "--", "embedded", CUDA_VISIBLE_DEVICES="0,2,5")
    assert words[words.index("--nproc-per-node") + 1] == "3"


@pytest.mark.parametrize(("address", "is_host"), [("jwb1i", "1"), ("jwb2i", "0")])
def test_torchrun_on_two_nodes(address: str, is_host: str) -> None:
    words = shown(
        "torchrun.sh", "--nproc", "4", "--nodes", "1:2", "--endpoint", "jwb1i:29400", "--local-addr", address,
        "--interface", "ib0", "--last-call", "9", "--", "embedded",
    )  # fmt: skip
    assert words[:3] == ["env", "NCCL_SOCKET_IFNAME=ib0", "GLOO_SOCKET_IFNAME=ib0"]
    assert words[3:5] == ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"]
    assert words[6] == str(LAUNCHERS / "agent.py")
    options = dict(zip(words[7:-2:2], words[8:-2:2], strict=True))
    assert options["--nnodes"] == "1:2"
    assert (options["--rdzv-backend"], options["--rdzv-endpoint"]) == ("c10d", "jwb1i:29400")
    assert options["--max-restarts"] == "10"
    assert options["--rdzv-id"] == "bitscale"  # whatever a node calls the endpoint
    assert (options["--local-addr"], options["--rdzv-conf"]) == (address, f"last_call_timeout=9,is_host={is_host}")


@needs("deepspeed")
def test_deepspeed(tmp_path: Path) -> None:
    words = shown("deepspeed.sh", "--nproc", "2", "--", *ODD, "--engine", "deepspeed")
    start = words.index("-m")
    expected = ["-m", "deepspeed.launcher.runner", "--no_local_rank", "--hostfile", "/dev/null", "--num_gpus", "2"]
    assert words[start : start + 7] == expected
    assert words[start + 7 : start + 10] == ["--master_addr", "127.0.0.1", "--master_port"]
    assert words[start + 11 :] == [TRAINER, *ODD, "--engine", "deepspeed"]
    (tmp_path / "hosts").write_text("# ours\nlocalhost slots=2\n")
    words = shown("deepspeed.sh", "--hostfile", str(tmp_path / "hosts"), "--master", "10.0.0.1:29500", "--", "embedded")
    assert words[words.index("--hostfile") + 1 :] == [
        str(tmp_path / "hosts"), "--master_addr", "10.0.0.1", "--master_port", "29500", TRAINER, "embedded",
    ]  # fmt: skip


def test_ranks_of_the_deepspeed_launcher() -> None:
    environment = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_SIZE": "4"}
    assert find_rank_info(dict(environment)) == (5, 8, 1, 4, "torchrun")


@needs("horovod")
def test_horovod(tmp_path: Path) -> None:
    words = shown("horovod.sh", "--nproc", "2", "--", *ODD)
    expected = ["-m", "horovod.runner.launch", "--gloo", "-np", "2", "-H", "localhost:2", words[0], TRAINER]
    assert words[1:] == [*expected, ODD[0], "--engine", "horovod", *ODD[1:]]
    (tmp_path / "hosts").write_text("localhost slots=4\n127.0.0.1 slots=2")
    words = shown("horovod.sh", "--hostfile", str(tmp_path / "hosts"))
    assert words[words.index("-np") + 1] == "6"
    assert words[-3:] == [TRAINER, "--engine", "horovod"]


@pytest.mark.parametrize("script", ["torchrun.sh", "deepspeed.sh", "horovod.sh"])
def test_usage(script: str) -> None:
    done = launch(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: launchers/{script} [OPTIONS] -- RECIPE")
    assert "--dry-run" in done.stdout
    assert "set -euo" not in done.stdout
    done = launch(script, "own", "--data.sets", "a b")
    error = "error: unknown argument own; the trainer's come after --, as in: "
    assert (done.returncode, done.stderr) == (2, f"{error}{LAUNCHERS / script} -- own --data.sets a\\ b\n")
    done = launch(script, "--nprocs", "2")
    meant = f"{LAUNCHERS / script} --help lists the options"
    assert done.stderr == f"error: unknown argument --nprocs; the trainer's come after --; {meant}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torchrun.sh", "--nodes", "2"], "--nodes 2 needs --endpoint HOST:PORT"),
        (["torchrun.sh", "--nodes", "two"], "--nodes two is neither a number nor MIN:MAX"),
        (["torchrun.sh", "--nodes", "1-2"], "--nodes 1-2 is neither a number nor MIN:MAX"),
        (["torchrun.sh", "--nnodes", "0:2"], "--nodes is 0:2; it must be at least 1"),
        (["torchrun.sh", "--nodes", "3:2"], "--nodes 3:2 has MIN above MAX; write 2:3"),
        (
            ["torchrun.sh", "--nodes", "1:2", "--endpoint", "h:1", "--", "embedded", "--no-resume"],
            "--no-resume would start anew whenever a node joins",
        ),
        (["deepspeed.sh", "--nodes", "1:2"], "take launchers/torchrun.sh --nodes MIN:MAX ... --engine deepspeed"),
        (["horovod.sh", "--nodes", "1:2"], "take launchers/torchrun.sh --nodes MIN:MAX ... --engine horovod"),
        (["torchrun.sh", "--nproc", "0"], "--nproc 0 is not a number of at least 1"),
        (["torchrun.sh", "--max-restarts", "-1"], "--max-restarts -1 is not a number"),
        (["deepspeed.sh", "--hostfile", "/nowhere"], "the hostfile /nowhere cannot be read"),
        (["horovod.sh", "--", "embedded", "--engine", "ddp"], "horovodrun starts ranks for --engine horovod alone"),
    ],
)
def test_refuses(arguments: list[str], message: str) -> None:
    done = launch(arguments[0], "--dry-run", *arguments[1:])
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("script", ["deepspeed.sh", "horovod.sh"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no-such-host.invalid slots=4", "line 2: no host no-such-host.invalid is known here"),
        ("localhost", "line 2: 'localhost ' is not of the form 'HOST slots=4'"),
        ("localhost slots=0", "is not of the form"),
    ],
)
def test_hostfile(script: str, line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(f"localhost slots=1\n{line}\n")
    done = launch(script, "--hostfile", str(tmp_path / "hosts"), "--dry-run")
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(("script", "module"), [("deepspeed.sh", "deepspeed"), ("horovod.sh", "horovod")])
def test_engine_that_is_not_installed(script: str, module: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')  # sees no packages
    python.chmod(0o755)
    done = launch(script, "--dry-run", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert f"{module} is not installed" in done.stderr


def node(tmp_path: Path, command: list[str], **environment: str) -> subprocess.Popen[str]:
    slurm = {"SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}
    ours = {"BITSCALE_ADDRESS": "{host}i", "BITSCALE_LOCAL_DIR": str(tmp_path)}
    return subprocess.Popen(
        [LAUNCHERS / "slurm/node.sh", *command],
        env=os.environ | slurm | ours | environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(("number", "is_host"), [("0", "1"), ("3", "0")])
def test_node(number: str, is_host: str, tmp_path: Path) -> None:
    tell = 'echo "$PET_LOCAL_ADDR $PET_RDZV_CONF $*"; mkdir -p "$TRITON_CACHE_DIR" "$TORCHINDUCTOR_CACHE_DIR"; exit 3'
    process = node(tmp_path, ["bash", "-c", tell, "x", "a b", "$HOME"], SLURM_NODEID=number)
    output, _ = process.communicate()
    host = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
    assert output == f"{host}i is_host={is_host},join_timeout=600 a b $HOME\n"
    assert process.returncode == 3
    assert list(tmp_path.iterdir()) == []  # what was compiled is gone


@pytest.mark.parametrize(
    ("agent", "nodes", "starts", "code"),
    [
        (["python", "a folder/agent.py"], "1:2", 2, 3),
        (["python", "a folder/agent.py"], "2", 1, 137),
        (["torchrun"], "1:2", 2, 3),  # of a script that was written earlier
    ],
)
def test_a_killed_agent_is_started_again_where_nodes_may_join(
    agent: list[str], nodes: str, starts: int, code: int, tmp_path: Path
) -> None:
    """By node.sh, which finds it by its name; the second start ends by itself."""
    program = tmp_path / "bin" / agent[0]
    program.parent.mkdir()
    kill = f"echo $PET_RDZV_CONF >>{tmp_path}/starts; [ $(wc -l <{tmp_path}/starts) = 1 ] || exit 3; kill -9 $$"
    program.write_text(f"#!/bin/bash\n{kill}\n")
    program.chmod(0o755)
    (tmp_path / "bin/sleep").symlink_to("/bin/true")
    scontrol = tmp_path / "bin/scontrol"
    scontrol.write_text(f"#!/bin/bash\necho $* >>{tmp_path}/asked\n")
    scontrol.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # where nobody listens
    process = node(tmp_path, [*agent, "--nnodes", nodes, "x.py"], PATH=path, **store)
    assert process.wait(30) == code
    # The store of the batch script is gone, and with it the script.
    assert (tmp_path / "asked").exists() == (":" in nodes)
    assert not (tmp_path / "asked").exists() or (tmp_path / "asked").read_text() == "requeue 7\n"
    found = (tmp_path / "starts").read_text().splitlines()
    assert len(found) == starts
    assert found[0].startswith("is_host=0," if ":" in nodes else "is_host=1,")  # or the batch script


def test_node_hands_the_signal_to_workers_only(tmp_path: Path) -> None:
    """The child, in torchrun's place, does not hear it; its child, in a session of its own, does."""
    listen = tmp_path / "listen.py"
    listen.write_text(
        "import pathlib, signal, sys, time\n"
        "heard = lambda *_: (pathlib.Path(sys.argv[1], 'heard').touch(), sys.exit(0))\n"
        "signal.signal(signal.SIGUSR1, heard)\npathlib.Path(sys.argv[1], 'up').touch()\ntime.sleep(60)\n"
    )
    agent = "import subprocess, sys; sys.exit(subprocess.Popen(sys.argv[1:], start_new_session=True).wait())"
    process = node(tmp_path, [sys.executable, "-c", agent, sys.executable, str(listen), str(tmp_path)])
    while not (tmp_path / "up").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGUSR1)  # the child gets it, too
    assert process.wait(30) == 0
    assert (tmp_path / "heard").exists()
