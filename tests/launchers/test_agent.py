"""The agent of torchrun.sh and of jobs says in a line what ended the ranks, and ends with their exit code."""

import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.agent import await_name

AGENT = Path(__file__).resolve().parents[2] / "launchers" / "agent.py"
TORCHRUN = """
import os, sys

class ChildFailedError(Exception):
    def __init__(self, codes):
        self.failures = {rank: Failure(code) for rank, code in enumerate(codes)}
    def get_first_failure(self):
        return next(iter(self.failures.items()))

class Failure:
    pid = 7
    def __init__(self, exitcode):
        self.exitcode = exitcode

class RendezvousClosedError(Exception):
    pass

class SignalException(Exception):
    def __init__(self, sigval):
        import signal
        self.sigval = signal.Signals(sigval)

what = sys.argv[-1]
if what == "i":
    raise KeyboardInterrupt
if what == "r":
    raise RendezvousClosedError
raise SignalException(int(what[1:])) if what[0] == "s" else ChildFailedError([int(code) for code in what.split(",")])
"""
KILLED = "rank 0 (process 7) was ended by SIGKILL, perhaps for lack of memory\n"


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("2,1", 2, ""),
        ("-9,1", 137, KILLED),
        ("-9", 137, f"{KILLED}to resume from the last checkpoint:\n  launchers/torchrun.sh -- x\n"),
        ("-11,1", 139, "rank 0 (process 7) was ended by SIGSEGV\n"),
        ("-40,1", 168, "rank 0 (process 7) was ended by signal 40\n"),
        ("s15", 143, ""),
        ("s10", 0, ""),
        ("i", 130, "interrupted\n"),
        (
            "r",
            1,
            "error: this node and the others do not find each other any more (RendezvousClosedError)\n"
            "to resume from the last checkpoint:\n  launchers/torchrun.sh -- x\n",
        ),
    ],
)
def test_the_end_of_the_ranks_in_a_line(what: str, code: int, message: str, tmp_path: Path) -> None:
    done = agent(tmp_path, what)
    assert (done.returncode, done.stderr) == (code, message)


@pytest.mark.parametrize(("what", "code"), [("-9", 1), ("143", 1), ("75", 75)])
def test_killed_ranks_are_no_killed_agent(what: str, code: int, tmp_path: Path) -> None:
    """Which slurm/node.sh would start again."""
    assert agent(tmp_path, what, BITSCALE_RESTARTS_AGENT="1").returncode == code


@pytest.mark.parametrize(
    ("options", "environment", "code"),
    [
        (["--rdzv-endpoint", "no..host:1"], {}, 2),
        (["--rdzv_endpoint=no..host:1"], {}, 2),
        ([], {"PET_RDZV_ENDPOINT": "no..host:1"}, 2),
        (["--standalone"], {"PET_RDZV_ENDPOINT": "no..host:1"}, 1),
        (["--rdzv-endpoint", "[::1]:1"], {"PET_RDZV_ENDPOINT": "no..host:1"}, 1),
        (["--rdzv-endpoint", "localhost"], {}, 1),
        ([], {}, 1),
    ],
)
def test_endpoint_is_looked_up_first(
    options: list[str], environment: dict[str, str], code: int, tmp_path: Path
) -> None:
    """Before torchrun, which here would end with 1."""
    done = agent(tmp_path, "1", *options, **environment)
    assert done.returncode == code, done.stderr
    assert ("does not know no..host, where the nodes are to meet" in done.stderr) is (code == 2)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("", "name an address that all nodes know with --endpoint HOST:PORT"),
        ("{host}i", "set `address` of the site profile, now '{host}i', to how nodes call each other"),
    ],
)
def test_name_that_stays_unknown(
    address: str, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked_up = unknown(monkeypatch, 99)
    monkeypatch.setenv("BITSCALE_ADDRESS", address)
    with pytest.raises(SystemExit) as end:
        await_name("n1i:29500")
    assert (end.value.code, len(looked_up)) == (2, 31)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: {platform.node()} does not know n1i, where the nodes are to meet (unknown); ")
    assert advice in error


def test_name_that_becomes_known_late(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = unknown(monkeypatch, 3)
    await_name("n1i:29500")
    assert looked_up == ["n1i"] * 4


def unknown(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """No name is known so often; what was looked up. Waiting takes no time."""
    looked_up: list[str] = []
    now = [0.0]

    def look_up(host: str, port: None) -> None:
        looked_up.append(host)
        if len(looked_up) <= times:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return looked_up


def agent(tmp_path: Path, what: str, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """With a stand-in for torchrun that ends as `what` says."""
    package = tmp_path / "torch" / "distributed"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "run.py").write_text(TORCHRUN)
    environment |= {"PYTHONPATH": str(tmp_path), "BITSCALE_COMMAND": "launchers/torchrun.sh -- x"}
    return subprocess.run(
        [sys.executable, AGENT, *options, what],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
