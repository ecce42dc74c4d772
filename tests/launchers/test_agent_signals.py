"""A signal to what launched the ranks stops them saved; mistakes are found before anything is launched."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer import checkpoint
from trainer.run_folder.metric_logger import read_metrics

LAUNCHER = Path(__file__).resolve().parents[2] / "launchers" / "torchrun.sh"
OPTIONS = ["--schedule.steps", "100000", "--save-every", "100000", "--log-every", "1", "--global-batch-size", "16"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launchers are bash scripts")


def launch(*arguments: str | Path) -> "subprocess.Popen[str]":
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [LAUNCHER, *arguments],
        env=os.environ | {"PATH": path, "VIRTUAL_ENV": sys.prefix, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def reached(run_dir: Path) -> int:
    return max((row["step"] for row in read_metrics(run_dir)), default=0)


@pytest.mark.slow
def test_signals_to_the_agent(tmp_path: Path) -> None:
    """To torchrun alone, which is what the launcher becomes. Each start goes on where the last one was stopped."""
    run_dir, before = tmp_path / "run", 0
    for number in (signal.SIGUSR1, signal.SIGTERM):
        agent = launch("--nproc", "2", "--", "embedded", *OPTIONS, "--device", "cpu", "--out", run_dir)
        deadline = time.monotonic() + 240
        while reached(run_dir) < before + 3:
            assert agent.poll() is None, agent.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        agent.send_signal(number)
        output, _ = agent.communicate(timeout=240)
        status = json.loads((run_dir / "status.json").read_text())
        assert (status["state"], status["reason"]) == ("resumable", f"stopped by {number.name}"), output
        assert status["step"] == checkpoint.step_of(checkpoint.numbered(run_dir)[-1]) >= before + 3
        assert f"To resume {run_dir} from step {status['step']}:" in output
        command = f"  {LAUNCHER} --nproc 2 -- embedded {' '.join(OPTIONS)} --device cpu --out {run_dir}"
        assert command in output.splitlines()  # as it was typed
        assert agent.returncode == (0 if number == signal.SIGUSR1 else 128 + number)
        assert not {"Traceback", "frame #", "torch"} & set(output.replace("torchrun", "").split())
        before = status["step"]


@pytest.mark.slow
def test_mistakes_are_not_tried_again(tmp_path: Path) -> None:
    agent = launch(
        "--nproc", "2", "--max-restarts", "3", "--", "embedded", "--data.sets", "nosuchset", "--device", "cpu"
    )
    output, _ = agent.communicate(timeout=240)
    assert agent.returncode == 2
    assert output.count("error: ") == 1
    assert "nosuchset" in output
    assert "torch" not in output
