"""Mean and covariance of features, computed in blocks of rows, and the Frechet distance between two such sets."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are loaded when they are used, so that help comes sooner

Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
_BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Moments:
    """Of features [N, D]. mean: [D]. covariance: [D, D], divided by N - 1. fourth: mean of the fourth power of a
    row's distance from the mean."""

    count: int
    mean: Floats
    covariance: Floats
    fourth: float

    @staticmethod
    def of(features: Features) -> "Moments":
        """Moments of at least two rows, in float64; takes little more memory than the covariance."""
        count, width = features.shape
        mean: Floats = np.asarray(features.mean(axis=0, dtype=np.float64))
        products, fourth = np.zeros((width, width)), 0.0
        for start in range(0, count, _BLOCK_ROWS):
            block = features[start : start + _BLOCK_ROWS] - mean
            products += block.T @ block
            fourth += float(np.square(np.einsum("ij,ij->i", block, block)).sum())
        return Moments(count, mean, products / (count - 1), fourth / count)

    @property
    def is_short(self) -> bool:
        """Whether there are fewer images than features, so that the covariance has no full rank."""
        return self.count < len(self.mean)

    @property
    def shrinkage(self) -> float:
        """Weight of the identity in `shrunk`, in [0, 1]."""
        scale, squares = self._scale, float(np.square(self.covariance * self._biased).sum())
        width = len(self.mean)
        spread = squares / width - scale**2
        noise = min((self.fourth - squares) / (width * self.count), spread)
        return noise / spread if noise > 0 else 0.0

    def shrunk(self) -> Floats:
        """The covariance shrunk towards a multiple of the identity, by Ledoit and Wolf's estimate of the best weight.

        Source: "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis 88
        (2004); the same as `ledoit_wolf` of scikit-learn, which holds several copies of the features.
        """
        weight = self.shrinkage
        shrunk = self.covariance * (self._biased * (1 - weight))
        shrunk[np.diag_indices(len(shrunk))] += weight * self._scale
        return np.asarray(shrunk)

    @property
    def _biased(self) -> float:
        """Factor to the covariance that is divided by N, which the estimate is made for."""
        return (self.count - 1) / self.count

    @property
    def _scale(self) -> float:
        return float(np.trace(self.covariance)) * self._biased / len(self.mean)


def frechet_distance(one: Moments, other: Moments) -> float:
    """Squared Frechet distance of two normal distributions with these moments; both covariances are shrunk where
    either set has fewer images than features.

    Source: Heusel et al., arXiv:1706.08500, with the features of any network. It is biased upwards, the more the fewer
    images there are.
    """
    is_short = one.is_short or other.is_short
    first, second = (each.shrunk() if is_short else each.covariance for each in (one, other))
    root = _root(first)
    crossed = np.sqrt(np.clip(scipy.linalg.eigvalsh(root.T @ second @ root), 0, None)).sum()
    apart = np.square(one.mean - other.mean).sum()
    return max(0.0, float(apart + np.trace(first) + np.trace(second) - 2 * crossed))


def _root(covariance: Floats) -> Floats:
    """R with R R' = the covariance."""
    try:
        return np.asarray(scipy.linalg.cholesky(covariance, lower=True))
    except scipy.linalg.LinAlgError:  # of features that are constant, say: several times slower, and needs no full rank
        values, vectors = scipy.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(np.clip(values, 0, None)))
