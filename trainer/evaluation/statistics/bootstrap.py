"""Bootstrap over patients: AUC and average precision of many resamples at once.

A resample draws as many patients as there are, with replacement, and takes all images of each as often as it was drawn.
So a resample is a weight for each patient, and a metric of it is that metric with weighted images. Scores are sorted
once for each finding; what changes from resample to resample are weighted cumulative sums. scikit-learn, which has the
metrics of the images as they are (`curves.py`), would sort anew for each of 2,000 resamples, one at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.common.counter_rng import integers

RESAMPLES = 2000
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Weights = npt.NDArray[np.int32]

_BLOCK_ELEMENTS = 1 << 21  # drawn, or weighted, at once: bounds the memory


def clusters_of(patients: Ints) -> Ints:
    """The cluster of each image, int64 [N] from 0 without gaps: its patient's or, for unknown ones (-1), its own."""
    unknown = patients < 0
    first = int(patients.max(initial=-1)) + 1
    labelled = np.where(unknown, first + np.arange(len(patients)), patients)
    return np.asarray(np.unique(labelled, return_inverse=True)[1], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Resamples:
    """`count` resamples of `clusters` clusters: reproducible from the three numbers, in any order and block."""

    clusters: int
    count: int = RESAMPLES
    seed: int = 0

    def blocks(self, num_images: int) -> Iterator[tuple[slice, Weights]]:
        """Which resamples, and how often each of them drew every cluster, int32 [b, clusters]; b such that weights of
        `num_images` images stay small."""
        size = max(1, _BLOCK_ELEMENTS // max(num_images, self.clusters, 1))
        for start in range(0, self.count, size):
            block = slice(start, min(start + size, self.count))
            yield block, self.weights(block)

    def weights(self, block: slice) -> Weights:
        """How often some resamples drew each cluster, int32 [b, clusters]."""
        rows = np.arange(block.start, block.stop)
        drawn = integers(self.clusters, self.seed, rows[:, None], np.arange(self.clusters))
        drawn += (np.arange(len(rows)) * self.clusters)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=len(rows) * self.clusters)
        return counts.reshape(len(rows), self.clusters).astype(np.int32)

    def sums(self, values: Floats, clusters: Ints) -> Floats:
        """The sums of values [N, K] over the images of every resample, float64 [count, K]; clusters: int64 [N]."""
        of_cluster = np.zeros((self.clusters, values.shape[1]))
        np.add.at(of_cluster, clusters, values)
        sums = np.empty((self.count, values.shape[1]))
        for block, weights in self.blocks(len(values)):
            sums[block] = weights.astype(np.float64) @ of_cluster
        return sums


class Areas(NamedTuple):
    """Areas under the ROC curve and under the step curve of precision over recall; NaN where a resample has no
    positives, or for the first no negatives. float64, one for each resample."""

    auc: Floats
    ap: Floats


class Ranking:
    """The images of one finding sorted by score, for any weights.

    scores: [N], higher is more positive; equal ones are one threshold. positive, negative: bool [N]; images that are
    neither are unlabelled and left out. clusters: int64 [N].
    """

    def __init__(self, scores: Floats, positive: Bools, negative: Bools, clusters: Ints) -> None:
        rows = np.flatnonzero(positive | negative)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        ordered, hit = scores[rows], positive[rows]
        self._clusters, self._hits = clusters[rows], clusters[rows[hit]]
        is_last = np.append(np.diff(ordered) != 0, True)[: len(rows)]
        threshold = np.cumsum(is_last) - is_last  # number of the distinct score of each image
        ends = np.flatnonzero(is_last) + 1
        starts = np.append(0, ends)[:-1]
        of_hit = threshold[hit]
        with_hits, self._first_hit = np.unique(of_hit, return_index=True)
        self._above, self._through = starts[with_hits], ends[with_hits]
        self._has_ties = len(with_hits) < len(of_hit)

    def areas(self, weights: Weights) -> Areas:
        """The areas for weights of the clusters, int32 [b, clusters]."""
        nothing = np.full(len(weights), np.nan)
        if not len(self._hits):
            return Areas(nothing, nothing)
        seen = np.zeros((len(weights), len(self._clusters) + 1), dtype=np.int32)
        np.cumsum(np.take(weights, self._clusters, axis=1), axis=1, out=seen[:, 1:])
        new_hits = np.take(weights, self._hits, axis=1)
        if self._has_ties:
            new_hits = np.add.reduceat(new_hits, self._first_hit, axis=1)
        hits = np.cumsum(new_hits, axis=1, dtype=np.float64)
        called = np.take(seen, self._through, axis=1)
        alarms = (np.take(seen, self._above, axis=1) - (hits - new_hits) + called - hits) / 2  # half of the tied ones
        num_hits = hits[:, -1]
        num_alarms = seen[:, -1] - num_hits
        with np.errstate(invalid="ignore", divide="ignore"):
            auc = 1 - np.einsum("bi,bi->b", new_hits, alarms) / (num_hits * num_alarms)
            precision = hits / np.maximum(called, 1)
            ap = np.einsum("bi,bi->b", new_hits, precision) / num_hits
        return Areas(auc, ap)
