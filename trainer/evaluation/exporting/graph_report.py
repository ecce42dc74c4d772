"""What is measured of an exported graph: whether its logits are the model's, and images per second beside it."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from data_pipelines.common.errors import RunError
from trainer.models.graph import Logits, Pixels, Runner

TOLERANCE = 1e-4
"""Of the largest logit."""
_BLOCKS = (1, 2, 4, 16)  # pixels; of one grey value all over, GroupNorm would show little but rounding
_BATCH_SIZES = (1, 16)
SECONDS = 2.0
"""For each batch size and network."""
_SLOW_S = 1.0  # for one image: no larger batches are measured


def largest_difference(exact: Runner, graph: Runner, side: int, channels: int) -> float:
    """Between the logits of a graph and those of the model in float64, `exact`, for generated images, alone and as a
    batch, as a share of the largest. Raises RunError where it is above `TOLERANCE`, or where they are not finite.

    In float64, because fp32 in PyTorch rounds as much as the graph does: of a deep network both together may be more.
    """
    images = _images(side, channels)
    expected = exact(images)
    if not np.isfinite(expected).all():
        raise RunError("the outputs of the model are not finite; nothing is exported")
    found = float(np.max([_difference(graph(images), expected), _difference(graph(images[:1]), expected[:1])]))
    if not found <= TOLERANCE:
        raise RunError(
            f"the logits of the exported graph differ from the model's in float64 by {found:.2g} of the largest, more "
            f"than {TOLERANCE:g}, with these versions of the packages; nothing is exported. Take those of "
            "constraints.txt"
        )
    return found


def _difference(found: Logits, expected: Logits) -> float:
    largest = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(found - expected).max()) / largest


def _images(side: int, channels: int) -> Pixels:
    """Noise in blocks of several sizes: fine ones as of texture, coarse ones as of objects; uint8 [N, S, S, C]."""
    generator = np.random.default_rng(0)
    images = []
    for block in _BLOCKS:
        coarse = generator.integers(256, size=(-(-side // block), -(-side // block), channels), dtype=np.uint8)
        images.append(coarse.repeat(block, axis=0).repeat(block, axis=1)[:side, :side])
    return np.stack(images)


def images_per_second(runners: Mapping[str, Runner], side: int, channels: int) -> list[dict[str, Any]]:
    """For each batch size, `batch_size` and by name the median over passes, which take turns: what else the machine
    does slows all of them."""
    rows: list[dict[str, Any]] = []
    for batch_size in _BATCH_SIZES:
        if rows and min(rows[0][name] for name in runners) < 1 / _SLOW_S:
            break
        images = np.resize(_images(side, channels), (batch_size, side, side, channels))
        taken: dict[str, list[float]] = {name: [] for name in runners}
        for runner in runners.values():
            runner(images)
        while min(sum(times) for times in taken.values()) <= SECONDS:
            for name, runner in runners.items():
                started = time.perf_counter()
                runner(images)
                taken[name].append(time.perf_counter() - started)
        rows.append({"batch_size": batch_size} | {name: batch_size / median(times) for name, times in taken.items()})
    return rows
