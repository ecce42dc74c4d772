"""What starts the ranks of a node for an elastic run, with shell commands in the place of the agents."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launchers import elastic
from launchers.elastic import Node

PROGRAM = Path(__file__).resolve().parents[2] / "launchers" / "elastic.py"
Run = Callable[..., int]


@pytest.fixture
def run_node(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a node whose agents are a shell command; returns its exit code."""
    former = {number: signal.getsignal(number) for number in elastic.HANDED_ON}
    monkeypatch.setattr(elastic, "POLL_S", 0.01)
    monkeypatch.setattr(elastic, "PAUSE_S", 0.0)
    monkeypatch.setenv("BITSCALE_SERVED", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def run(command: str, **options: Any) -> int:
        monkeypatch.setattr(elastic, "AGENT", ["sh", "-c", command, "agent"])
        values = {"endpoint": "127.0.0.1:1", "local_addr": "", "nodes": 1, "nproc": 2, "max_restarts": 0} | options
        try:
            return Node(argparse.Namespace(**values), ["train.py"]).run()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    return run


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 0", 0), ("exit $((BITSCALE_SLOT * 2))", 0), ("exit $((BITSCALE_SLOT + 1))", 2), ("kill -9 $$", 137)],
)
def test_the_exit_code_is_that_of_the_ranks(run_node: Run, command: str, code: int) -> None:
    assert run_node(command) == code


def test_agents_are_told_of_their_node(run_node: Run, tmp_path: Path) -> None:
    names = "BITSCALE_COORDINATOR BITSCALE_RANKS BITSCALE_RANKS_ON_NODE BITSCALE_NODE BITSCALE_SLOT"
    command = f"echo {' '.join(f'${name}' for name in names.split())} $* > {tmp_path}/$BITSCALE_SLOT"
    assert run_node(command, nodes=3, max_restarts=4) == 0
    words = [(tmp_path / name).read_text().split() for name in "01"]
    assert [each[:5] for each in words] == [["127.0.0.1:1", "6", "2", "0", slot] for slot in "01"]
    assert words[0][5:7] == ["--max-restarts", "4"]
    assert words[0][-1] == "train.py"


def test_a_killed_agent_is_started_again_so_often(run_node: Run, tmp_path: Path) -> None:
    assert run_node(f"echo >> {tmp_path}/starts; kill -9 $$", nproc=1, max_restarts=2) == 137
    assert len((tmp_path / "starts").read_text()) == 3


def test_an_agent_that_ended_by_itself_is_not(run_node: Run, tmp_path: Path) -> None:
    assert run_node(f"echo >> {tmp_path}/starts; exit 3", nproc=1, max_restarts=2) == 3
    assert len((tmp_path / "starts").read_text()) == 1


@pytest.mark.parametrize("started", [0, 1, 2])
def test_a_signal_at_the_start_is_not_lost(run_node: Run, monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    """It comes before any agent, or while the first or the second is started."""
    served = started == 0  # then the first process is the coordinator
    real, numbers = subprocess.Popen, iter(range(0 if served else 1, 3))

    def popen(*args: Any, **options: Any) -> Any:
        process = real(*args, **options)
        if next(numbers) == started:
            os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(subprocess, "Popen", popen)
    if served:
        monkeypatch.delenv("BITSCALE_SERVED")
        monkeypatch.setenv("BITSCALE_SECRET", "x")
    assert run_node("exec sleep 20", local_addr="127.0.0.1") == 143


def test_signals_are_handed_on(run_node: Run) -> None:
    parent = os.getpid()
    command = f'trap "exit 7" HUP; [ $BITSCALE_SLOT = 0 ] || {{ sleep 0.2; kill -HUP {parent}; }}; sleep 20 & wait'
    assert run_node(command) == 7


def test_coordinator_that_cannot_listen_is_an_error(
    run_node: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BITSCALE_SERVED")
    monkeypatch.setenv("BITSCALE_SECRET", "x")
    assert run_node("exec sleep 20", endpoint="127.0.0.1:70000", local_addr="127.0.0.1") == 2
    error = capfd.readouterr().err
    assert "127.0.0.1:70000 cannot be listened at (" in error
    assert "Traceback" not in error
    assert error.endswith("error: the coordinator has said why; name another --endpoint\n")


def test_ranks_join_a_coordinator_that_is_there(run_node: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        (tmp_path / "said").touch()

    monkeypatch.setattr(elastic, "say", say)
    monkeypatch.delenv("BITSCALE_SERVED")
    monkeypatch.setenv("BITSCALE_SECRET", "x")
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"127.0.0.1:{other.getsockname()[1]}"
        assert run_node(f"until [ -e {tmp_path}/said ]; do sleep 0.02; done", endpoint=endpoint) == 0
    assert said == [f"another coordinator serves at {endpoint}: these ranks join its run"]


@pytest.mark.parametrize(
    ("visible", "gpus"), [("", []), ("0,2", ["0", "2"]), ("GPU-1f", ["GPU-1f"]), (None, ["0", "1"])]
)
def test_hidden_gpus_stay_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, gpus: list[str]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU 0: H200\\n  MIG\\nGPU 1: H200\\n'\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert elastic.visible_gpus() == gpus
    common = PROGRAM.with_name("common.sh")
    script = f"launchers={PROGRAM.parent}; . {common}; ranks_of_this_node"
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(shown) == max(1, len(gpus))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--endpoint", "127.0.0.1"], "--endpoint 127.0.0.1 is not HOST:PORT, with a port up to 65535"),
        (["--endpoint", "127.0.0.1:65536"], "--endpoint 127.0.0.1:65536 is not HOST:PORT"),
        (["--nodes", "2", "--endpoint", "127.0.0.1:1"], "the nodes of an elastic run share a secret"),
        (["--min-ranks=3"], "--min-ranks 3 is above the 2 ranks that the run starts with; lower it"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.delenv("BITSCALE_SECRET", raising=False)
    of_trainer = [word for word in options if "=" in word]
    others = [word for word in options if "=" not in word]
    numbers = ["--nproc", "2", "--nodes", "1", "--max-restarts", "0"]
    monkeypatch.setattr(sys, "argv", ["elastic.py", *numbers, *others, "--", "train.py", *of_trainer])
    monkeypatch.setattr(Node, "run", lambda node: pytest.fail("it has started"))
    with pytest.raises(SystemExit) as ended:
        elastic.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
