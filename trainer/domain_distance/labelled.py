"""The labels of a target as problems of telling classes apart, and how well features solve them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.shards.index import Index
from trainer.domain_distance.moments import Features, Floats
from trainer.domain_distance.transferability import h_score, knn, leep, linear_probe, logme
from trainer.domain_distance.two_samples import Ints

_FEWEST = 2  # images of a class


@dataclass(frozen=True, eq=False)
class Problem:
    """Images with one label of some classes. rows: of the index. labels: int64, of `num_classes`, each with two images
    or more."""

    rows: Ints
    labels: Ints
    num_classes: int
    is_finding: bool


def problems_of(index: Index) -> tuple[list[Problem], int]:
    """The classes of a single-label set, or each finding of another, and how many classes or findings are left out
    because there are fewer than two images of them (of a finding, with it or without)."""
    labels = np.asarray(index.labels)
    if labels.ndim == 1:
        counts = np.bincount(labels, minlength=index.num_classes)
        kept = np.flatnonzero(counts >= _FEWEST)
        left_out = int(((counts > 0) & (counts < _FEWEST)).sum())
        rows = np.flatnonzero(np.isin(labels, kept))
        problem = Problem(rows, np.searchsorted(kept, labels[rows]), len(kept), is_finding=False)
        return ([problem] if len(kept) > 1 else []), left_out
    found = []
    for column in labels.T:
        rows = np.flatnonzero(~np.isnan(column))
        known = column[rows].astype(np.int64)
        if min((known == 1).sum(), (known == 0).sum()) >= _FEWEST:
            found.append(Problem(rows, known, 2, is_finding=True))
    return found, labels.shape[1] - len(found)


def fits(
    features: Features, problems: Sequence[Problem], head: tuple[Features, Features] | None, seed: int
) -> dict[str, float]:
    """Every measure with labels; of findings the mean over them. head: of the network, for LEEP; see `Network`."""
    logits = None if head is None else features @ head[0].T + head[1]
    found: dict[str, list[float]] = {}
    for problem in problems:
        is_whole = len(problem.rows) == len(features)
        inputs = features if is_whole else features[problem.rows]  # no copy where all are labelled
        for name, value in _fits_of(inputs, _rows_of(logits, problem), problem, seed).items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _rows_of(logits: Features | None, problem: Problem) -> Floats | None:
    return None if logits is None else logits[problem.rows].astype(np.float64)


def _fits_of(features: Features, logits: Floats | None, problem: Problem, seed: int) -> dict[str, float]:
    task = (problem.labels, problem.num_classes)
    judged: dict[str, Callable[..., float]] = {"linear-probe": linear_probe, "knn": knn}
    return {
        "logme": logme(features, *task),
        **({} if logits is None else {"leep": leep(logits, *task)}),
        "h-score": h_score(features, *task),
        **{name: judge(features, *task, problem.is_finding, seed) for name, judge in judged.items()},
    }
