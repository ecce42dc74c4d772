"""A run that is killed anywhere goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from run_ranks import run_ranks

from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.pretrain import main
from trainer.run_folder.metric_logger import MetricLogger, read_metrics
from trainer.training.run import LaunchOptions, run

ROOT = Path(__file__).resolve().parents[3]
TOTAL_STEPS, SAVE_EVERY = 9, 3
STEPS_BY_COMMAND = 60


class KillError(Exception):
    """Stands for a kill: it passes every handler of the run."""


def config_of(data: str, total_steps: int = TOTAL_STEPS) -> Config:
    return Config(
        name="small",
        global_batch_size=16,
        precision="fp32",
        eval_every=4,
        data=DataConfig(sets=(data,), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        # Two warm-up steps and a schedule that does not depend on the length: runs of other lengths share a beginning.
        schedule=ScheduleConfig("step", epochs=None, steps=total_steps, warmup_steps=2, allow_no_decay=True),
        runtime=RuntimeConfig(device="cpu", threads=1, log_every=1, save_every=SAVE_EVERY, keep_checkpoints=10),
    )


def runs_on_ranks(data: str, starts: list[tuple[Path, int, int | None]]) -> None:
    """Runs one after the other on this rank: (folder, total steps, update after which it is interrupted or None)."""
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    advance = MetricLogger.advance
    for run_dir, total_steps, interrupt_after in starts:
        done = 0

        def counted(metric_logger: MetricLogger, interrupt_after: int | None = interrupt_after) -> None:
            nonlocal done
            done += 1
            advance(metric_logger)
            if done == interrupt_after:
                raise KillError

        MetricLogger.advance = counted
        with suppress(KillError):
            run(
                config_of(data, total_steps), LaunchOptions(run_dir, allow_config_change=True), engine, {"kind": "test"}
            )
    engine.close()


def tensors(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    state = checkpoint.load(checkpoint.path_of(run_dir, step)).state
    return {f"{part}.{name}": t for part in ("model", "momentum") for name, t in state[part].items()}


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [3, 4])
def test_interrupted_run_is_bit_equal(world_size: int, phantoms: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    starts = [
        (whole, TOTAL_STEPS, None),
        (broken, TOTAL_STEPS, 5),
        (broken, TOTAL_STEPS, 1),
        (broken, TOTAL_STEPS, None),
    ]
    run_ranks(world_size, runs_on_ranks, str(phantoms), starts)
    expected, found = tensors(whole, TOTAL_STEPS), tensors(broken, TOTAL_STEPS)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (
        json.loads((broken / "result.json").read_text())["test"]
        == json.loads((whole / "result.json").read_text())["test"]
    )

    def losses(run_dir: Path) -> list[tuple[int, float]]:
        return [(row["step"], row["train/loss"]) for row in read_metrics(run_dir) if "train/loss" in row]

    assert losses(broken) == losses(whole)  # cut back, then written again: no step twice


@pytest.mark.slow
def test_resumed_on_another_number_of_ranks(phantoms: Path, tmp_path: Path) -> None:
    """The next update agrees to 1e-6, which it can only if samples and augmentation are the same."""
    on_two = tmp_path / "two"
    run_ranks(2, runs_on_ranks, str(phantoms), [(on_two, SAVE_EVERY + 1, None)])
    expected = tensors(on_two, SAVE_EVERY + 1)
    for world_size in (1, 3):
        run_dir = tmp_path / f"on_{world_size}"
        run_dir.mkdir()
        (run_dir / "config.json").write_text((on_two / "config.json").read_text())
        resumed = checkpoint.path_of(run_dir, SAVE_EVERY)
        resumed.parent.mkdir()
        resumed.write_bytes(checkpoint.path_of(on_two, SAVE_EVERY).read_bytes())
        run_ranks(world_size, runs_on_ranks, str(phantoms), [(run_dir, SAVE_EVERY + 1, None)])
        found, before = tensors(run_dir, SAVE_EVERY + 1), tensors(run_dir, SAVE_EVERY)
        weights = [name for name in expected if name.startswith("model.")]
        flat = {
            key: torch.cat([part[name].flatten().double() for name in weights]).numpy()
            for key, part in (("expected", expected), ("found", found), ("before", before))
        }
        difference = np.linalg.norm(flat["found"] - flat["expected"])
        assert difference <= 1e-6 * np.linalg.norm(flat["expected"])
        assert difference <= 1e-3 * np.linalg.norm(flat["expected"] - flat["before"])


def words_of(data: Path, run_dir: Path) -> list[str]:
    options = {
        "data.sets": data,
        "data.image-size": 32,
        "data.resize": 32,
        "schedule.steps": STEPS_BY_COMMAND,
        "schedule.warmup-steps": 4,
        "save-every": 4,
        "log-every": 4,
        "global-batch-size": 16,
        "device": "cpu",
        "run-dir": run_dir,
    }
    return ["phantom", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


def torchrun(data: Path, run_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*command, ROOT / "trainer" / "pretrain.py", *words_of(data, run_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def pretrain_on_rank(words: list[str]) -> None:
    """The same command on this rank, without a launcher."""
    sys.argv[1:] = words
    main()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The ranks: children of the agent."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc, which only Linux has")
def test_kill_9_of_a_worker(phantoms: Path, tmp_path: Path) -> None:
    """First of the last rank, then of rank 0, which writes."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_ranks(2, pretrain_on_rank, words_of(phantoms, whole))

    for rank, checkpoints in ((1, 2), (0, 4)):
        victim = torchrun(phantoms, broken)
        deadline = time.monotonic() + 240
        while not any(checkpoint.step_of(path) >= 4 * checkpoints for path in checkpoint.numbered(broken)):
            assert victim.poll() is None, victim.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(workers_of(victim)[rank], signal.SIGKILL)
        output, _ = victim.communicate()
        assert victim.returncode != 0
        assert not (broken / "result.json").exists(), "it finished before it was killed; the test proves nothing"

    again = torchrun(phantoms, broken)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert "resuming" in output
    expected, found = tensors(whole, STEPS_BY_COMMAND), tensors(broken, STEPS_BY_COMMAND)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
