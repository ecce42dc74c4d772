"""How well features fit labels without training a network: LogME, LEEP, H-score, linear probe and k-NN.

Features are float32 [N, D]; labels are int64 [N] of C classes, each with at least two images.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import scipy  # whose parts are loaded when they are used, so that help comes sooner
import torch
from sklearn.metrics import roc_auc_score

from trainer.domain_distance.moments import Features, Floats, Moments
from trainer.domain_distance.two_samples import FOLDS, Ints, drawn_order
from trainer.training.linear_probe import Standardizer, fit_linear, nearest_neighbours

_BLOCK_ROWS = 4096
_MOST_ROUNDS, _TOLERANCE = 100, 1e-5
_MOST_FITTED = 2000  # images that a probe and k-NN are judged on: more take minutes
_SMALL_FIT = 1 << 24  # multiplications of a step
_L2 = 0.01  # of the probe, whose strength nothing chooses


def one_hot(labels: Ints, num_classes: int) -> Floats:
    """float64 [N, C]."""
    return np.asarray(labels[:, None] == np.arange(num_classes), dtype=np.float64)


def logme(features: Features, labels: Ints, num_classes: int) -> float:
    """Log evidence per image that a Bayesian linear model on these features gives to the labels, mean over classes.

    Source: You et al., "LogME", arXiv:2102.11005; its fixed point for the precisions of weights and noise.
    """
    count, width = features.shape
    targets = one_hot(labels, num_classes)
    if count < width:
        wide = features.astype(np.float64)
        values, vectors = scipy.linalg.eigh(wide @ wide.T)
        explained = np.square(vectors.T @ targets)
    else:
        products, by_label = np.zeros((width, width)), np.zeros((width, num_classes))
        for start in range(0, count, _BLOCK_ROWS):
            block = features[start : start + _BLOCK_ROWS].astype(np.float64)
            products += block.T @ block
            by_label += block.T @ targets[start : start + _BLOCK_ROWS]
        values, vectors = scipy.linalg.eigh(products)
        explained = np.square(vectors.T @ by_label) / np.maximum(values, np.finfo(np.float64).tiny)[:, None]
    kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float32).eps
    values, explained = values[kept], explained[kept]
    columns = zip(explained.T, targets.sum(axis=0), strict=True)
    return float(np.mean([_evidence(values, each, total, count, width) for each, total in columns]))


def _evidence(values: Floats, explained: Floats, total: float, count: int, width: int) -> float:
    """Of one column of labels. values: eigenvalues of X'X. explained: squares of the column along its directions.
    total: squared norm of the column."""
    alpha, beta = 1.0, 1.0
    left = max(total - float(explained.sum()), 0.0)
    for _ in range(_MOST_ROUNDS):
        shrink = alpha / (alpha + beta * values)
        used = float((1 - shrink).sum())
        weights = float((explained * np.square(1 - shrink) / values).sum())
        residual = left + float((explained * np.square(shrink)).sum())
        new_alpha, new_beta = used / max(weights, 1e-12), (count - used) / max(residual, 1e-12)
        is_settled = abs(new_alpha / new_beta * beta / alpha - 1) < _TOLERANCE
        alpha, beta = new_alpha, new_beta
        if is_settled:
            break
    shrink = alpha / (alpha + beta * values)
    weights = float((explained * np.square(1 - shrink) / values).sum())
    residual = left + float((explained * np.square(shrink)).sum())
    determinant = float(np.log(alpha + beta * values).sum()) + (width - len(values)) * np.log(alpha)
    evidence = width * np.log(alpha) + count * np.log(beta / (2 * np.pi)) - determinant
    return float(evidence - beta * residual - alpha * weights) / (2 * count)


def leep(logits: Floats, labels: Ints, num_classes: int) -> float:
    """Mean log probability of the labels if each is predicted from what the source's head says, [N, classes of the
    source], by how often both come together.

    Source: Nguyen et al., "LEEP", arXiv:2002.12462.
    """
    probabilities = scipy.special.softmax(np.asarray(logits, dtype=np.float64), axis=1)
    together = one_hot(labels, num_classes).T @ probabilities
    given = together / np.maximum(together.sum(axis=0, keepdims=True), np.finfo(np.float64).tiny)
    return float(np.log(np.einsum("nz,nz->n", probabilities, given[labels])).mean())


def h_score(features: Features, labels: Ints, num_classes: int) -> float:
    """Variance between classes over the variance of features, summed over directions, with a shrunk covariance.

    Sources: Bao et al., "An information-theoretic approach to transferability", ICIP 2019; shrinkage: Ibrahim et al.,
    arXiv:2110.06893.
    """
    moments, count = Moments.of(features), len(features)
    sizes = np.bincount(labels, minlength=num_classes)
    means = np.stack([features[labels == one].mean(axis=0, dtype=np.float64) for one in range(num_classes)])
    centred = (means - moments.mean) * np.sqrt(sizes / count)[:, None]
    explained = centred.T * scipy.linalg.solve(moments.shrunk(), centred.T, assume_a="pos")
    return (1 - moments.shrinkage) * float(explained.sum())


def linear_probe(features: Features, labels: Ints, num_classes: int, is_finding: bool, seed: int = 0) -> float:
    """Cross-validated accuracy of a linear probe over at most 2,000 images; of a finding its AUC."""

    def logits(train: torch.Tensor, known: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        standardize = Standardizer.fit(train)
        linear = fit_linear(standardize(train), known, num_classes, _L2)
        return linear.logits(standardize(rest))

    return _cross_validated(features, labels, num_classes, is_finding, seed, logits)


def knn(features: Features, labels: Ints, num_classes: int, is_finding: bool, seed: int = 0) -> float:
    """The same of the 20 nearest neighbours."""

    def logits(train: torch.Tensor, known: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        return nearest_neighbours(train, known, rest, num_classes)

    return _cross_validated(features, labels, num_classes, is_finding, seed, logits)


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    """One thread for a small fit, whose many short steps else wait for each other: 47 s became 18."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if products < _SMALL_FIT else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cross_validated(
    features: Features,
    labels: Ints,
    num_classes: int,
    is_finding: bool,
    seed: int,
    predict: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> float:
    """predict: logits for the last of training features, their labels, and other features."""
    rows = drawn_order(len(labels), seed)[:_MOST_FITTED]
    known, fold = torch.from_numpy(labels[rows]), torch.from_numpy(_folds(labels[rows]))
    inputs, predicted = torch.from_numpy(features[rows]), torch.zeros(len(rows), num_classes)
    with _threads_for(inputs.numel() * num_classes):
        for one in range(int(fold.max()) + 1):
            is_tested = fold == one
            predicted[is_tested] = predict(inputs[~is_tested], known[~is_tested], inputs[is_tested])
    if is_finding:
        return float(roc_auc_score(known.numpy(), (predicted[:, 1] - predicted[:, 0]).numpy()))
    return float((predicted.argmax(dim=1) == known).double().mean())


def _folds(labels: Ints) -> Ints:
    """The images of each class dealt out to the folds in turn."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[order])
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = (np.arange(len(labels)) - first) % FOLDS
    return fold
