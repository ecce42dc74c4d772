"""How unlike the training images an image is: by the features of the network, by its grey levels, and by how these lie.

Each of the three is described by numbers whose normal distribution is fitted to training images; the distance from it
is Mahalanobis'. Each distance has a limit, which lies the same number of standard deviations of its logarithm above the
mean of val: as many as keep 95% of val below all three (by patient, see `conformal.py`). The novelty of an image is the
largest of its distances, each divided by its limit.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipelines.shards.columns import Array
from trainer.evaluation.calibration.conformal import thresholds_of
from trainer.evaluation.calibration.coverages import LEVELS, fewest_units
from trainer.evaluation.outputs import NUM_GREY, QUANTILES
from trainer.evaluation.statistics.bootstrap import Floats, Ints

KEY = "novelty"  # where a checkpoint has it
KEPT = 0.95  # of images like those of val; the others are false alarms
MOST_IMAGES = 1000  # of train and of val that are looked at
PARTS = ("features", "grey levels", "layout")
_FEWEST_TRAIN = 20
_MOST_DIRECTIONS, _IMAGES_PER_DIRECTION = 32, 4
_TINY = 1e-6
_LEAST_VARIANCE = 1e-4  # of scaled numbers: below it is what rounding to grey levels makes


@dataclass(frozen=True, eq=False)
class Normal:
    """A normal distribution of D numbers with a covariance of few directions and equal noise in all others.

    mean, scale: [D]; numbers are divided by their scale first. directions: [K, D], orthonormal. variances: [K] along
    these. noise: [1], variance in any other direction. Source: probabilistic PCA of Tipping and Bishop, J. Royal
    Statistical Society B 61 (1999).
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor
    variances: Tensor
    noise: Tensor

    @staticmethod
    def fit(values: Floats) -> "Normal":
        """Of at least 20 rows, float64 [N, D]."""
        count, width = values.shape
        scale = np.maximum(values.std(axis=0), _TINY)
        mean = values.mean(axis=0)
        _, singular, directions = np.linalg.svd((values - mean) / scale, full_matrices=False)
        variances = np.square(singular) / (count - 1)
        kept = min(_MOST_DIRECTIONS, width // 2, count // _IMAGES_PER_DIRECTION)
        noise = variances[kept:].sum() / max(1, width - kept)
        own = (np.maximum(each, _LEAST_VARIANCE) for each in (variances[:kept], [noise]))
        found = (mean, scale, directions[:kept], *own)
        return Normal(*(torch.from_numpy(each.astype(np.float32)) for each in found))

    def distance(self, values: Tensor) -> Tensor:
        """Mahalanobis distance of each row, float32 [N, D] -> [N]."""
        with torch.autocast(values.device.type, enabled=False):
            scaled = (values - self.mean) / self.scale
            along = scaled @ self.directions.T
            rest = scaled - along @ self.directions
            return ((along.square() / self.variances).sum(dim=1) + rest.square().sum(dim=1) / self.noise).sqrt()

    def to(self, device: torch.device) -> "Normal":
        return Normal(*(each.to(device) for each in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.mean, self.scale, self.directions, self.variances, self.noise

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint's description holds it: arrays as base64 of little-endian numbers."""
        names = ("mean", "scale", "directions", "variances", "noise")
        kinds = ("<f4", "<f4", "<f2", "<f4", "<f4")
        return {
            name: base64.b64encode(tensor.numpy().astype(kind).tobytes()).decode()
            for name, kind, tensor in zip(names, kinds, self._tensors(), strict=True)
        }

    @staticmethod
    def from_dict(saved: Mapping[str, str]) -> "Normal":
        """Raises KeyError, TypeError or ValueError for what is none."""

        def read(name: str, kind: str = "<f4") -> Any:
            return np.frombuffer(base64.b64decode(saved[name], validate=True), dtype=kind)

        mean, variances = read("mean"), read("variances")
        directions = _orthonormal(read("directions", "<f2").reshape(len(variances), len(mean)))
        found = (mean, read("scale").reshape(len(mean)), directions, variances, read("noise").reshape(1))
        return Normal(*(torch.from_numpy(each.astype(np.float32)) for each in found))


def _orthonormal(directions: Array) -> Floats:
    """Unit vectors in half precision, [K, D], made exactly orthonormal: else what is left of a large component would
    pass for noise."""
    basis, triangle = np.linalg.qr(directions.astype(np.float64).T)
    return np.asarray((basis * np.sign(np.diag(triangle))).T)


@dataclass(frozen=True, eq=False)
class Novelty:
    """normals: one for each of `PARTS`. limits: distances that count as a novelty of 1."""

    normals: Sequence[Normal]
    limits: Sequence[float]

    def of(self, descriptions: Tensor) -> Tensor:
        """The novelty in each of `PARTS`, float32 [N, 3], of descriptions [N, D + 80]."""
        widths = [len(normal.mean) for normal in self.normals]
        parts = zip(self.normals, descriptions.split(widths, dim=1), self.limits, strict=True)
        return torch.stack([normal.distance(values) / limit for normal, values, limit in parts], dim=1)

    def to(self, device: torch.device) -> "Novelty":
        return Novelty([normal.to(device) for normal in self.normals], self.limits)


def fit_novelty(train: Tensor, val: Tensor, patients: Ints) -> dict[str, Any]:
    """What a checkpoint's description holds to tell novelty by. train, val: descriptions, float32 [N, D + 80].
    patients: of val, int64 [N], -1 for unknown."""
    if len(train) < _FEWEST_TRAIN:
        return {KEY: {"not_fitted": f"there are {len(train)} training images, and it needs {_FEWEST_TRAIN}"}}
    if not (train.isfinite().all() and val.isfinite().all()):
        return {KEY: {"not_fitted": "some features are not finite"}}
    widths = [train.shape[1] - NUM_GREY, QUANTILES, NUM_GREY - QUANTILES]
    saved = [Normal.fit(part.double().numpy()).to_dict() for part in train.split(widths, dim=1)]
    normals = [Normal.from_dict(each) for each in saved]  # rounded, as the limits will meet them
    distances = Novelty(normals, (1.0,) * len(PARTS)).of(val).double().numpy()
    logs = np.log(np.maximum(distances, _TINY))
    centre, spread = logs.mean(axis=0), np.maximum(logs.std(axis=0), _TINY)
    found = thresholds_of(-((logs - centre) / spread).max(axis=1), patients)
    place = LEVELS.index(KEPT)
    if place >= len(found.thresholds):
        images = f"{found.units} image{'s' * (found.units != 1)}"
        few = f"val has {images}, each patient counted once, and it needs {fewest_units(KEPT)}"
        return {KEY: {"not_fitted": few}}
    limits = np.exp(centre - found.thresholds[place] * spread)
    parts = dict(zip(PARTS, saved, strict=True))
    return {KEY: {"parts": parts, "limits": limits.tolist(), "images": len(train), "units": found.units}}


def read_novelty(saved: object) -> Novelty | str:
    """What `fit_novelty` wrote, or why there is none. Raises ValueError for what is not whole."""
    if not isinstance(saved, Mapping):
        return "the version of the program that trained it did not fit it"
    if "not_fitted" in saved:
        return str(saved["not_fitted"])
    try:
        normals = [Normal.from_dict(saved["parts"][name]) for name in PARTS]
        return Novelty(normals, [float(saved["limits"][place]) for place in range(len(PARTS))])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"its {KEY} is not whole ({error})") from error
