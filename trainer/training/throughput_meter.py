"""Throughput, utilisation (MFU), memory and energy of training steps.

Everything is read when a row of metrics is due, where the loss is read anyway; in between only clocks of the host are.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter

import torch

from data_pipelines.common.messages import logger
from trainer.config import Precision
from trainer.engine import Engine
from trainer.models.flops import training_flops
from trainer.training.gpu_energy import EnergyCounter
from trainer.training.gpu_peaks import peak_flops
from trainer.training.job import Job
from trainer.training.step_report import StepReport

RSS_BYTES = 1 if sys.platform == "darwin" else 1024  # in what getrusage counts


class ThroughputMeter:
    """Measures between two rows of metrics; throughput and energy exclude what is `paused`."""

    def __init__(self, job: Job, engine: Engine) -> None:
        self._engine, self._images_per_step = engine, job.config.global_batch_size
        self._is_elastic = job.config.runtime.elastic
        self._energy = EnergyCounter(engine.device)
        self._flops_per_image, self._peak = 0, _peak_of_all(job, engine)
        if self._peak is not None:
            config = job.config
            self._flops_per_image = training_flops(
                config.model.name, job.train.num_classes, config.data.image_size, config.model.frozen_stages
            )
        self._begin()

    def _begin(self) -> None:
        self._images, self._waited_s, self._paused_s, self._paused_j = 0, 0.0, 0.0, 0.0
        self._started, self._began_at_j = perf_counter(), self._energy.total()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context for waiting on data."""
        started = perf_counter()
        yield
        self._waited_s += perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context for what is not training: evaluation and saving. The device is idle at its start and end."""
        started, used = perf_counter(), self._energy.total()
        yield
        self._paused_s += perf_counter() - started
        after = self._energy.total()
        self._paused_j += 0.0 if used is None or after is None else after - used

    def advance(self) -> None:
        """One step done."""
        self._images += self._images_per_step

    def scalars(self, report: StepReport) -> dict[str, float]:
        """One row of metrics; then start the next. Reading the tensors waits for the device. Collective."""
        values = {
            "train/loss": report.loss.item(),
            "train/lr": report.lr,
            "train/grad_norm": report.update.grad_norm.item(),
            "train/clipped_share": report.update.clipped_share.item(),
        }
        elapsed_s = perf_counter() - self._started - self._paused_s
        values["train/images_per_s"] = self._images / elapsed_s
        values["train/data_wait_share"] = self._waited_s / elapsed_s
        if self._peak is not None:
            values["train/mfu"] = values["train/images_per_s"] * self._flops_per_image / self._peak
        values["train/peak_memory_gb"] = peak_memory_bytes(self._engine.device) / 1e9
        if self._is_elastic:
            values["ranks/number"] = self._engine.world_size
        values |= self._joules()
        self._begin()
        return values

    def _joules(self) -> dict[str, float]:
        """Joules per image over all ranks' GPUs; nothing where a GPU does not count them."""
        if self._engine.device.type != "cuda":
            return {}
        now = self._energy.total()
        used = float("nan") if now is None or self._began_at_j is None else now - self._began_at_j - self._paused_j
        # Filled on the device: a copy from the host would wait for it.
        total = self._engine.sum(torch.full((1,), used, dtype=torch.float64, device=self._engine.device)).item()
        return {} if total != total else {"train/joules_per_image": total / self._images}


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process so far: allocated tensors on a GPU, or resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_BYTES


def _peak_of_all(job: Job, engine: Engine) -> float | None:
    """Peak FLOP/s of all ranks' GPUs, assuming they are like this one; None where unknown, as on CPUs."""
    if engine.device.type != "cuda":
        return None
    gpu, config = torch.cuda.get_device_name(engine.device), job.config
    peak = _known_peak(gpu, config.precision, config.runtime.tf32, engine.rank == 0)
    return None if peak is None else peak * engine.world_size


@cache
def _known_peak(gpu: str, precision: Precision, tf32: bool, speaks: bool) -> float | None:
    """Warns once where the peak is unknown."""
    peak = peak_flops(gpu, precision, tf32)
    if peak is None and speaks:
        logger.info(f"the peak of {gpu} in {precision} is not known, so there is no train/mfu")
    return peak
