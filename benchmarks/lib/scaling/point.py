"""One measured point: the shipped training program run for a few windows of steps."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, cast

import torch

from benchmarks.lib.loading.images import generated_photo, lay_out
from benchmarks.lib.processes import resident_mb
from benchmarks.lib.scaling.windowed_engine import WindowedEngine, WindowsDone
from data_pipelines.common.manifest import MANIFEST
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, Precision, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.run_folder.metric_logger import read_metrics
from trainer.training.fit import train_and_predict
from trainer.training.job import Job, RunOutput
from trainer.training.run import LaunchOptions
from trainer.training.run import run as run_training

POINT, SYNTHETIC = "point", "synthetic"
_SYNTHETIC_IMAGES = 64
_STILL_LR = 1e-12  # weights stay as they are, so that ranks agree although they do not talk in silent windows


@dataclass(frozen=True)
class Point:
    """What one point measures. The same at every count, but for the batch of strong scaling."""

    run_dir: Path
    """Folder of the run."""
    global_batch_size: int
    """Images of a step over all ranks."""
    model: str = "r152x4"
    data: str = SYNTHETIC
    """Prepared set; synthetic: generated photographs, made in the run folder."""
    image_size: int = 224
    """Side of the images that the model sees, pixels."""
    precision: Precision = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["ddp", "horovod", "deepspeed"] = "ddp"
    threads: int | None = None
    """CPU threads of a rank."""
    window_steps: int = 10
    """Steps of a window; one more window comes before the first and warms up."""
    windows: int = 3
    """Windows; the spread is theirs."""


def config_of(point: Point) -> Config:
    """The run behind a point: a row of metrics after each window, no checkpoint and no evaluation before its end."""
    windows = 1 + 2 * point.windows
    steps = windows * point.window_steps + 1
    return Config(
        name="scaling",
        global_batch_size=point.global_batch_size,
        precision=point.precision,
        data=DataConfig(sets=(point.data,), image_size=point.image_size, resize=max(256, point.image_size)),
        model=ModelConfig(name=point.model),
        optim=OptimConfig(base_lr=_STILL_LR),
        schedule=ScheduleConfig(kind="cosine", epochs=None, steps=steps, warmup_steps=0),
        runtime=RuntimeConfig(
            device=point.device,
            engine=point.engine,
            threads=point.threads,
            log_every=point.window_steps,
            save_every=steps,
        ),
    )


def _generated(folder: Path, engine: Engine) -> Path:
    """A prepared set of generated photographs that rank 0 makes on first use. Collective."""
    prepared = folder / SYNTHETIC / "prepared"
    if engine.rank == 0 and not (prepared / MANIFEST).is_file():
        (folder / SYNTHETIC).mkdir(parents=True, exist_ok=True)
        lay_out(map(generated_photo, range(_SYNTHETIC_IMAGES)), folder / SYNTHETIC)
    engine.sum(torch.zeros(1))
    return prepared


def measure(job: Job, engine: Engine, point: Point) -> RunOutput:
    """Train for all windows, and say what was seen. After an interruption it begins anew, for windows of one piece."""
    if engine.rank == 0:
        for path in checkpoint.numbered(job.run_dir):
            path.unlink()
    engine.barrier()
    silent = point.windows if engine.world_size > 1 and point.engine == "ddp" else 0
    windowed = WindowedEngine(engine, point.window_steps, point.windows, silent)
    started = time.monotonic()
    with suppress(WindowsDone):
        train_and_predict(replace(job, val=None, test=None), cast(Engine, windowed))
    seconds = time.monotonic() - started
    peaks = _from_all(engine, _peak_bytes(engine))
    joules = _from_all(engine, -1.0 if windowed.joules is None else windowed.joules)
    rows = [row for row in read_metrics(job.run_dir) if "train/images_per_s" in row][1:]
    talking, still = rows[: point.windows], rows[point.windows :]
    rates = [row["train/images_per_s"] for row in talking]
    images = point.windows * point.window_steps * point.global_batch_size
    seen: dict[str, Any] = {
        "world_size": engine.world_size,
        "device_type": engine.device.type,
        "windows_images_per_s": rates,
        "data_wait_share": median([row["train/data_wait_share"] for row in talking]) if talking else None,
        "exposed_share": 1.0 - median(rates) / median([row["train/images_per_s"] for row in still]) if still else None,
        "peak_memory_bytes": max(peaks),
        "joules_per_image": sum(joules) / images if min(joules) >= 0 else None,
    }
    return RunOutput(seconds, {}, {POINT: seen, "arguments": json.loads(json.dumps(vars(point), default=str))})


def _peak_bytes(engine: Engine) -> float:
    if engine.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(engine.device))
    return resident_mb().get("peak_mb", 0.0) * 1e6


def _from_all(engine: Engine, value: float) -> list[float]:
    values = torch.zeros(engine.world_size, dtype=torch.float64)
    values[engine.rank] = value
    return [float(one) for one in engine.sum(values)]


def run(point: Point) -> None:
    """Measure as one of the ranks that were started for it; rank 0 writes `result.json` into the run folder."""
    config = config_of(point)
    engine = ENGINES[config.runtime.engine](config.runtime, config.precision)
    if point.data == SYNTHETIC:
        config = replace(config, data=replace(config.data, sets=(str(_generated(point.run_dir, engine)),)))

    def work(job: Job, engine: Engine) -> RunOutput:
        return measure(job, engine, point)

    run_training(config, LaunchOptions(out=point.run_dir), engine, {"kind": "scaling"}, work)
    engine.close()
