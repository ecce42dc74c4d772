"""A rank whose launcher was killed ends too."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.engines import parent_watch

ROOT = Path(__file__).resolve().parents[3]
RANK = """
import importlib.util, pathlib, signal, sys, time
spec = importlib.util.spec_from_file_location("parent_watch", sys.argv[1])  # without torch, which takes seconds
parent_watch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parent_watch)
stopped = lambda: "asked to stop" if parent_watch.launcher_is_gone() else "stopped, and it lives"
signal.signal(signal.SIGTERM, lambda *_: (print(stopped(), flush=True), sys.exit()))
parent_watch.end_with_launcher()
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
print("still here", flush=True)
"""
LAUNCHER = "import subprocess, sys; subprocess.run(sys.argv[2:])"


def rank_for(seconds: int) -> list[str]:
    """The command of a rank that takes so long."""
    return [sys.executable, "-c", RANK, str(ROOT / "trainer/engines/parent_watch.py"), str(seconds)]


def says_once_orphaned(environment: dict[str, str], *launchers: str) -> str:
    """What a rank says after it was ready and the first of its launchers was killed."""
    command = rank_for(60 if environment else 2)
    for name in reversed(launchers):
        command = [sys.executable, "-c", LAUNCHER, name, *command]
    names = ("LOCAL_SIZE", "TORCHELASTIC_RUN_ID", "HOROVOD_RANK")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    launcher = subprocess.Popen(command, env=plain | environment, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    with launcher.stdout as output:
        assert output.readline() == "ready\n"
        time.sleep(0.5)  # its thread is to have looked once
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        return output.read().strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TORCHELASTIC_RUN_ID", "HOROVOD_RANK"])
def test_a_rank_does_not_outlive_its_launcher(name: str) -> None:
    assert says_once_orphaned({name: "0"}, "torchrun") == "asked to stop"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the launcher's own parent in /proc")
def test_nor_the_command_above_the_launcher() -> None:
    assert says_once_orphaned({"LOCAL_SIZE": "2"}, "deepspeed", "launch") == "asked to stop"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the launcher in /proc")
@pytest.mark.parametrize(("host", "expected"), [(platform.node(), "asked to stop"), ("elsewhere", "still here")])
def test_a_launcher_that_died_before_the_rank_could_look(host: str, expected: str) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    environment = {"RANK": "0", "LOCAL_SIZE": "1", "BITSCALE_LAUNCHER": f"{host} {dead.pid}"}
    done = subprocess.run(rank_for(2), env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout.replace("ready", "", 1).strip() == expected  # it may be asked before the line of that ends


@pytest.mark.slow
def test_a_process_that_nobody_launched_is_left_alone() -> None:
    assert says_once_orphaned({}, "nohup") == "still here"


@pytest.mark.parametrize(
    ("option", "variable", "may_change"),
    [
        (["--nnodes", "1:2"], "", True),
        (["--nnodes=2:2"], "1:2", False),  # the option counts
        (["--nnodes", "2"], "", False),
        ([], "3:8", True),
        ([], "", False),
    ],
)
def test_whether_torchrun_was_told_min_and_max_nodes(
    option: list[str], variable: str, may_change: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["python", "-m", "torch.distributed.run", *option, "--max-restarts", "3", "trainer/pretrain.py"]
    monkeypatch.setattr(parent_watch, "command_of", lambda _: "".join(f"{word}\0" for word in words))
    assert parent_watch.nodes_may_change({"TORCHELASTIC_RUN_ID": "x", "PET_NNODES": variable}) == may_change
