"""Whether maps say what the network goes by: its answer as their pixels are taken away or put in, and its maps once its
weights are random."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data_pipelines.common.counter_rng import hash64
from trainer.explanation.maps import METHODS, Floats, Method, Scored, maps_of, smoothed, with_shuffled

Ints = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

SHARES = np.linspace(0, 1, 11)
"""Of the pixels, those with the largest values first."""
BLUR = 1 / 8
"""Standard deviation, of the side, of the blurred picture that stands for one in which nothing is seen."""
_TIES = 0  # seed of the order of pixels with equal values


def others(classes: Sequence[int]) -> Ints | None:
    """For each map another one, of the same class if there is one: the next of them; None for a single map. What a map
    owes to where such findings usually lie, that of another picture has too."""
    if len(classes) < 2:
        return None
    found = (np.arange(len(classes)) + 1) % len(classes)
    for number in np.unique(classes):
        rows = np.flatnonzero(np.asarray(classes) == number)
        if len(rows) > 1:
            found[rows] = np.roll(rows, -1)
    return found


def areas(scored: Scored, images: Tensor, classes: Tensor, maps: Floats) -> tuple[Float64s, Float64s]:
    """Mean probability of each image's class as the pixels with the largest values are blurred first (deletion), and as
    they are restored first in the blurred image (insertion); float64 [N] each, over SHARES.

    Small and large are better. Source: Petsiuk et al., arXiv:1806.07421, sec. 3.2, with a blurred image in both.
    """
    clear = images.float()
    blurred = smoothed(clear, BLUR)
    number = maps[0].size
    ranks = np.stack([_ranks(one) for one in maps]).reshape(len(maps), 1, *maps.shape[1:])
    rank = torch.from_numpy(ranks).to(images.device)
    deletion, insertion = [], []
    for share in SHARES:
        is_among = rank < round(share * number)
        deletion.append(scored.probabilities(torch.where(is_among, blurred, clear), classes))
        insertion.append(scored.probabilities(torch.where(is_among, clear, blurred), classes))
    return _area(deletion), _area(insertion)


def _area(probabilities: list[Float64s]) -> Float64s:
    """Under the curves over SHARES, float64 [N]."""
    from scipy.integrate import trapezoid

    found: Float64s = trapezoid(np.stack(probabilities), SHARES, axis=0)
    return found


def _ranks(values: Floats) -> Ints:
    """Place of each pixel in the order from the largest value to the smallest; equal ones in a drawn order."""
    flat = np.nan_to_num(values.ravel())
    order = np.lexsort((hash64(_TIES, np.arange(flat.size)), -flat))
    ranks = np.empty(flat.size, dtype=np.int64)
    ranks[order] = np.arange(flat.size)
    return ranks


def levels(scored: Scored) -> dict[str, tuple[str, ...]]:
    """Which weights are shuffled, from the top on, by what they are called."""
    last = ("head.", "norm.", f"stages.{len(scored.network.stages) - 1}.")
    return {"head": last[:1], "head and last stage": last, "all weights": ("",)}


def correlations(
    scored: Scored, images: Tensor, classes: Tensor, maps: Mapping[Method, Floats]
) -> dict[Method, dict[str, float]]:
    """Mean rank correlation (Spearman) of the maps with those after shuffling weights from the top, by `levels`. A map
    that vanishes counts as 0. Source: Adebayo et al., arXiv:1810.03292, sec. 3.1."""
    found: dict[Method, dict[str, float]] = {method: {} for method in METHODS}
    for level, prefixes in levels(scored).items():
        shuffled = with_shuffled(scored, prefixes)
        for method in METHODS:
            found[method][level] = mean_correlation(maps[method], maps_of(shuffled, method, images, classes))
    return found


def mean_correlation(some: Floats, other: Floats) -> float:
    """Mean over pairs of maps, [N, S, S], of Spearman's rank correlation over their pixels."""
    from scipy.stats import spearmanr

    each = [
        float(spearmanr(one.ravel(), two.ravel()).statistic) if one.std() > 0 and two.std() > 0 else 0.0
        for one, two in zip(some, other, strict=True)
    ]
    return float(np.mean(each)) if each else float("nan")
