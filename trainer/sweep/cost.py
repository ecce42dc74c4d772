"""Estimated hours of a sweep, from the speed of finished runs or of one timed step.

Other work on the machine makes a timed step take several times as long, and may end before the sweep does. So a step on
CPUs counts by its own processor time, and what the others add is told apart. Finished runs count as they went.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

import torch

from data_pipelines.common.cpus import cpu_name
from data_pipelines.common.files import read_json
from data_pipelines.common.message_parts import number
from trainer.config import Config, frozen_words
from trainer.engines import ENGINES
from trainer.models.bit import build_model
from trainer.models.flops import training_flops
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.run_files import RESULT
from trainer.run_folder import read_metrics
from trainer.sweep.plan import Plan, PlannedRun
from trainer.sweep.worker_pool import Device

_CLASSES = 10
_FEWEST, _MOST = 2, 32  # images of the timed step: more of them where a step is short
_SHORT_S = 1.0  # of work: where others hold it up, a step takes as long with two images as with all
_BUSY = 1.25  # times longer than by its own work alone


class Speed(NamedTuple):
    """The settings that determine the speed of a run on a device."""

    model: str
    image_size: int
    precision: str
    frozen_stages: int = 0


class Rate(NamedTuple):
    """Images per second, of finished runs or of a timed step where nothing else runs; other work made that step take
    `slowed` times as long."""

    images_per_s: float
    slowed: float = 1.0


def speed_of(config: Config) -> Speed:
    """The speed class of a run."""
    return Speed(config.model.name, config.data.image_size, config.precision, config.model.frozen_stages)


def measured(plan: Plan, device: str, threads: int) -> dict[Speed, float]:
    """Images per second of finished runs of the plan on this device: the median of their medians."""
    rates: dict[Speed, list[float]] = {}
    for run in plan.runs:
        if not run.is_finished or run.transfer.options.mode != "finetune":
            continue
        environment = (read_json(run.run_dir / RESULT) or {}).get("environment", {})
        if (environment.get("device"), environment.get("world_size")) != (device, 1):
            continue
        if device == cpu_name() and environment.get("threads_per_rank") != threads:
            continue
        rows = [row["train/images_per_s"] for row in read_metrics(run.run_dir) if row.get("train/images_per_s")]
        if rows:
            rates.setdefault(speed_of(run.config), []).append(median(rows))
    return {speed: median(values) for speed, values in rates.items()}


def timed(config: Config, threads: int) -> Rate:
    """The rate of one training step on a few blank images, without loading."""
    runtime = replace(config.runtime, threads=threads, compile=False)
    engine = ENGINES[runtime.engine](runtime, config.precision)
    size = config.data.image_size
    model = build_model(config.model.name, _CLASSES)
    model.freeze(config.model.frozen_stages)
    optimizer = SGDAGC(param_groups(model, _CLASSES, config.optim.agc_clipping), lr=0.0, momentum=0.9)
    images = torch.zeros(_FEWEST, 3, size, size, dtype=torch.uint8).to(memory_format=torch.channels_last)
    engine.prepare(model, optimizer, images)
    images = images.to(engine.device)

    def step() -> tuple[_Seconds, _Seconds]:
        """Of the forward and backward passes, and of the update."""
        started = _clocks(engine.device, threads)
        with engine.accumulate(last=True):
            engine.backward(engine.model(images).sum(), 1)
        passed = _clocks(engine.device, threads)
        engine.step()
        return _between(started, passed), _between(passed, _clocks(engine.device, threads))

    step()  # slower than those that follow
    passes, update = step()
    while passes.worked < _SHORT_S and len(images) < _MOST:
        images = images.repeat(4, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        passes, update = min(step(), step())
    engine.close()
    batches = config.global_batch_size / len(images)
    worked, passed = (batches * of_passes + of_update for of_passes, of_update in zip(passes, update, strict=True))
    return Rate(config.global_batch_size / worked, passed / worked)


class _Seconds(NamedTuple):
    """Of processor time, shared by the threads, and as they passed; on a GPU both are those that passed."""

    worked: float
    passed: float


def _clocks(device: torch.device, threads: int) -> _Seconds:
    passed = _now(device)
    return _Seconds(time.process_time() / threads if device.type == "cpu" else passed, passed)


def _between(before: _Seconds, after: _Seconds) -> _Seconds:
    passed = after.passed - before.passed
    return _Seconds(min(passed, after.worked - before.worked), passed)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def hours_of(run: PlannedRun, images_per_s: float) -> float:
    """Remaining hours of a run."""
    trained = 0
    if run.transfer.options.mode == "finetune":
        trained = (run.steps - run.first_step) * run.config.global_batch_size
    return (trained + run.predicted_images * _forward_share(speed_of(run.config))) / images_per_s / 3600


def _forward_share(speed: Speed) -> float:
    """The share of the forward pass in a training step, by operations: a third where all is trained."""
    whole = training_flops(speed.model, _CLASSES, speed.image_size)
    return whole / training_flops(speed.model, _CLASSES, speed.image_size, speed.frozen_stages) / 3


def cost_lines(plan: Plan, devices: Sequence[Device]) -> list[str]:
    """The plan as lines: each run with its steps, pixels and estimated hours, and the total."""
    threads = devices[0].threads
    device = cpu_name() if devices[0].gpu is None else torch.cuda.get_device_name(0)
    known = measured(plan, device, threads)
    probed = {speed_of(run.config): run.config for run in plan.pending}
    rates = {speed: Rate(images_per_s) for speed, images_per_s in known.items()}
    rates |= {speed: timed(config, threads) for speed, config in probed.items() if speed not in known}
    width = max(len(run.name) for run in plan.runs)
    lines = [f"{'run':{width}}  {'model':9} {'px':>4} {'steps':>6} {'hours':>9}"]
    total = as_busy = 0.0
    for run in plan.runs:
        row = f"{run.name:{width}}  {run.config.model.name:9} {run.config.data.image_size:4} {run.steps:6}"
        if run.is_finished:
            lines.append(f"{row}  finished")
            continue
        rate = rates[speed_of(run.config)]
        hours = hours_of(run, rate.images_per_s)
        total, as_busy = total + hours, as_busy + hours * rate.slowed
        done = f", {run.first_step} steps are done" if run.first_step else ""
        lines.append(f"{row} {hours:9.3f}{done}")
    made = f"{number(len(plan.runs), 'run')}, {len(plan.pending)} of them to be made"
    if not probed:
        return [*lines, made]
    at_once = f"{total / len(devices):.2f} with {len(devices)} at a time on {device}"
    how = "; ".join(_described(speed, rates[speed].images_per_s, speed in known) for speed in probed)
    lines += [f"{made}: about {total:.2f} hours, {at_once}", f"estimated by images/s: {how}"]
    if as_busy > total * _BUSY:
        lines.append(
            f"other work on this machine slowed the timed steps: about {as_busy:.2f} hours while it stays as busy; "
            "once some runs are finished, --dry-run estimates by them"
        )
    return lines


def _described(speed: Speed, images_per_s: float, is_known: bool) -> str:
    how = "of finished runs" if is_known else "of one timed step, without loading"
    return f"{speed.model}{frozen_words(speed.frozen_stages)} at {speed.image_size} px {images_per_s:.3g} ({how})"
