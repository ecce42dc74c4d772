"""One rank of `benchmarks.engines`: trains a few steps and writes its measurements to a folder."""

import json
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.lib.processes import resident_mb
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Progress
from trainer.engines import ENGINES
from trainer.kernels.agc import clip_adaptively
from trainer.models.bit import build_model
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.optim.sharded_sgd_agc import ShardedSGDAGC
from trainer.run_folder.metric_logger import MetricLogger
from trainer.training.job import make_job
from trainer.training.loop import train

_WARM_UP_STEPS = 3
_CLIPPINGS = 5


def config_of(task: dict[str, Any]) -> Config:
    """The run whose steps a task asks for."""
    return Config(
        global_batch_size=task["batch_size"] * int(os.environ["WORLD_SIZE"]),
        precision=task["precision"],
        data=DataConfig(sets=("fashion_mnist",), image_size=task["image_size"], resize=task["image_size"]),
        model=ModelConfig(task["model"]),
        optim=OptimConfig(base_lr=0.01),
        schedule=ScheduleConfig("cosine", epochs=None, steps=_WARM_UP_STEPS + task["steps"], warmup_steps=0),
        runtime=RuntimeConfig(**task["runtime"]),
    )


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Medians over steps of their milliseconds and of the update's, this rank's peak memory in them, and the bytes that
    all ranks of this network namespace sent in a step."""
    config = config_of(task)
    engine: Any = ENGINES[config.runtime.engine](config.runtime, config.precision)
    before = resident_mb()
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(config, Path(folder))
        model = build_model(task["model"], job.train.num_classes)
        groups = param_groups(model, job.train.num_classes, config.optim.agc_clipping)
        engine.prepare(model, SGDAGC(groups, lr=0.0, weight_decay=1e-4), job.blank_images(task["batch_size"]))
        marks: list[tuple[float, float, int]] = []
        step = engine.step

        def timed(*arguments: Any) -> Any:
            if len(marks) == _WARM_UP_STEPS - 1:
                _forget_peak(engine.device)
            started = time.perf_counter()
            update = step(*arguments)
            update.grad_norm.item()  # which waits for the device
            marks.append((started, time.perf_counter(), _sent_bytes()))
            return update

        engine.step = timed
        train(job, engine, MetricLogger(job.run_dir, 1, 0, job.total_steps, "engines"), Progress(0))
    marks = marks[_WARM_UP_STEPS - 1 :]
    on_gpu = engine.device.type == "cuda"
    peak_mb = (
        torch.cuda.max_memory_allocated() / 1e6
        if on_gpu
        else resident_mb()["peak_mb"] - before["private_mb"] - before["shared_mb"]
    )
    result = {
        "step_ms": median((b[1] - a[1]) * 1e3 for a, b in pairwise(marks)),
        "update_ms": median((ended - started) * 1e3 for started, ended, _ in marks[1:]),
        "peak_mb": peak_mb,
        "sent_mb": (marks[-1][2] - marks[0][2]) / (len(marks) - 1) / 1e6,
        "weights_mb": sum(p.numel() for p in model.parameters()) * 4 / 1e6,
        "clipping_ms": _clipping_ms(engine, model),
    }
    engine.close()
    return result


def _clipping_ms(engine: Any, model: torch.nn.Module) -> float:
    """AGC alone: with DeepSpeed's ZeRO of this rank's part, with its all-reduces; else of all weights."""
    optimizer, durations = engine._optimizer, []
    weights = [p.detach() for p in model.parameters()]
    gradients = [torch.ones_like(weight) for weight in weights]
    for _ in range(_CLIPPINGS):
        engine.sum(torch.zeros(1))
        started = time.perf_counter()
        if isinstance(optimizer, ShardedSGDAGC):
            (flat,) = optimizer.param_groups[0]["params"]
            optimizer._clip(flat.detach(), torch.ones_like(flat).detach())
        else:
            clip_adaptively(weights, gradients, 0.01)
        durations.append((time.perf_counter() - started) * 1e3)
    return median(durations)


def _sent_bytes() -> int:
    """Bytes that this network namespace has sent, over all its interfaces."""
    lines = Path("/proc/self/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    return sum(int(line.partition(":")[2].split()[8]) for line in lines)


def _forget_peak(device: torch.device) -> None:
    """What placing and flattening the weights took is not what a step takes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


if __name__ == "__main__":
    Path(sys.argv[2], f"{os.environ['RANK']}.json").write_text(
        json.dumps(measure(json.loads(sys.argv[1]))), encoding="utf-8"
    )
