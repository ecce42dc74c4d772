"""The device under test: picking it, exact fp32 for checks, and timing of single calls."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.lib.checks import require_known
from data_pipelines.common.errors import InputError


def measured_device(asked: str) -> torch.device:
    """The device for auto, cpu or cuda. Raises InputError for another name, and where a GPU is asked for and there is
    none."""
    require_known("--device", [asked], ("auto", "cpu", "cuda"))
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("no GPU: GPU figures are not measured here; take --device cpu")
    on_gpu = asked != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


@contextmanager
def exact_fp32() -> Iterator[None]:
    """No TF32 in matrix products and convolutions; afterwards all is as before. Also a decorator.

    TF32, which cuDNN's convolutions use unless told otherwise, keeps 10 bits of mantissa: gradients of an untrained
    network are then a third of their norm away from float64, and no check could tell that from an error.
    """
    product, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(product)
        torch.backends.cudnn.allow_tf32 = convolution


def times_ms(call: Callable[[], Any], device: torch.device, cpu_calls: int, gpu_ms: float) -> list[float]:
    """Milliseconds of each of some calls: `cpu_calls` on a CPU; on a GPU about as many as take `gpu_ms`, the L2 cache
    cold, by triton.testing.do_bench."""
    if device.type == "cuda":
        from triton.testing import do_bench  # which needs a GPU's driver

        return list(do_bench(call, warmup=gpu_ms / 4, rep=gpu_ms, return_mode="all"))
    times = []
    for _ in range(cpu_calls):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    return times
