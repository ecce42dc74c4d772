"""Linear probe and nearest neighbours on frozen features: deterministic, in float64.

Features are float [N, D]; labels are int64 [N], or float [N, C] with NaN = unlabelled; logits are float32 [N, C] on the
CPU. Computation is where the features lie.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are loaded when they are used, so that help comes sooner
import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 20  # as in DINO, arXiv:2104.14294
_TEMPERATURE = 0.07  # of the votes, as in arXiv:1805.01978
_NO_VOTES = 1e-9
CHUNK_ELEMENTS = 1 << 26
_MOST_ITERATIONS, _GRADIENT_TOLERANCE = 1000, 1e-6
Float64s = npt.NDArray[np.float64]
LossAndSlope = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Scales features to zero mean and unit variance over the training images; constant ones become 0. Float64."""

    mean: Tensor
    std: Tensor

    @staticmethod
    def fit(features: Tensor) -> "Standardizer":
        """Mean and standard deviation of training features."""
        std, mean = torch.std_mean(features.double(), dim=0, correction=0)
        varies = std > 1e-9 * mean.abs().clamp(min=1e-9)
        return Standardizer(mean, std.where(varies, torch.inf))

    def __call__(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.std


@dataclass(frozen=True, eq=False)
class Linear:
    """weight [D, C] and bias [C], float64, for standardised features; `converged` unless the optimiser gave up."""

    weight: Tensor
    bias: Tensor
    converged: bool

    def logits(self, features: Tensor) -> Tensor:
        """Logits for standardised features."""
        return (features @ self.weight + self.bias).float().cpu()


def fit_linear(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    l2: float,
    weights: Tensor | None = None,
    start: Linear | None = None,
) -> Linear:
    """Logistic regression on standardised features by L-BFGS: minimises the mean loss over images plus l2 / 2 times the
    squared norm of the weight, starting from `start`.

    Multinomial for single labels; for findings one against the rest, each over its labelled images. `weights` [N]:
    weight of each image.
    """
    num_features, device = features.shape[1], features.device
    counts = torch.ones(len(features), device=device) if weights is None else weights.to(device)
    loss_and_slope = (_multinomial if labels.ndim == 1 else _binary)(labels.to(device), counts.double())
    # The penalty curves the weight alone: in its own unit, several times fewer iterations where that is much.
    curvature = 1 / num_classes if labels.ndim == 1 else 1 / 4
    unit = (curvature / (curvature + l2)) ** 0.5

    def value_and_gradient(flat: Float64s) -> tuple[float, Float64s]:
        weight, bias = parts(flat)
        loss, slope = loss_and_slope(features @ weight + bias)
        gradient = torch.cat([(features.T @ slope + l2 * weight) * unit, slope.sum(dim=0, keepdim=True)])
        return (loss + l2 / 2 * weight.square().sum()).item(), gradient.flatten().cpu().numpy()

    def parts(flat: Float64s) -> tuple[Tensor, Tensor]:
        both = torch.from_numpy(flat).to(device).view(num_features + 1, num_classes)
        return both[:-1] * unit, both[-1]

    first = np.zeros((num_features + 1) * num_classes)
    if start is not None:
        first = torch.cat([start.weight / unit, start.bias[None]]).flatten().cpu().numpy()
    options = {
        "maxiter": _MOST_ITERATIONS,
        "maxfun": 2 * _MOST_ITERATIONS,
        "gtol": _GRADIENT_TOLERANCE,
        "ftol": 1e-12,
    }
    found = scipy.optimize.minimize(value_and_gradient, first, jac=True, method="L-BFGS-B", options=options)
    return Linear(*parts(found.x), converged=bool(found.success))


def _multinomial(labels: Tensor, counts: Tensor) -> LossAndSlope:
    share = (counts / counts.sum())[:, None]

    def loss_and_slope(logits: Tensor) -> tuple[Tensor, Tensor]:
        log_shares = logits.log_softmax(dim=1)
        loss = -(share * log_shares.gather(1, labels[:, None])).sum()
        return loss, share * (log_shares.exp() - F.one_hot(labels, logits.shape[1]))

    return loss_and_slope


def _binary(labels: Tensor, counts: Tensor) -> LossAndSlope:
    share = counts[:, None] * ~labels.isnan()
    share /= share.sum(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    positive = labels.nan_to_num().double()

    def loss_and_slope(logits: Tensor) -> tuple[Tensor, Tensor]:
        losses = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
        return (share * losses).sum(), share * (logits.sigmoid() - positive)

    return loss_and_slope


def nearest_neighbours(train: Tensor, labels: Tensor, features: Tensor, num_classes: int) -> Tensor:
    """Logits from votes of the 20 training images with the largest cosine similarity s, each weighted by exp(s / 0.07).

    Single-label: log of the vote shares. Findings: log odds of the positive share among the labelled neighbours, or
    among all labelled training images where no neighbour is labelled.
    """
    train = F.normalize(train.double())
    hot = F.one_hot(labels, num_classes).double() if labels.ndim == 1 else labels.double()
    hot = hot.to(train.device)
    fallback = hot.nanmean(dim=0).nan_to_num(0.5)
    neighbours = min(NEIGHBOURS, len(train))
    logits = []
    for part in features.split(max(1, CHUNK_ELEMENTS // len(train))):
        similarity, rows = (F.normalize(part.double()) @ train.T).topk(neighbours)
        votes = ((similarity - similarity[:, :1]) / _TEMPERATURE).exp()[:, :, None]
        theirs = hot[rows]
        known = (votes * ~theirs.isnan()).sum(dim=1)
        share = (votes * theirs.nan_to_num()).sum(dim=1) / known
        share = share.where(known > 0, fallback).clamp(_NO_VOTES, 1 - _NO_VOTES)
        logits.append((share.log() if labels.ndim == 1 else share.logit()).float().cpu())
    return torch.cat(logits)
