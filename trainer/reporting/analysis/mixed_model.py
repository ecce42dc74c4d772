"""One mixed model of many cells: source size, model and shots as fixed effects, seeds as a random one.

Each target with each number of shots has a level of its own, so that what is fitted is how source and model change it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite, nan

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_pipelines.common.errors import InputError
from trainer.reporting.analysis.claim_file import Names, Summary

NEEDS = "a mixed model needs statsmodels; in the checkout of bitscale: pip install -e '.[analysis]'"
_FACTORS = {"source": "larger source", "model": "larger model", "shots": "more shots"}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """A fixed effect in points, from the first to the last of its factor, at the mean of the others; of an interaction,
    how much more that is at the last of the other factor than at its first."""

    title: str
    effect: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class MixedModel:
    """A fitted model. reason: why there is none. seed_std, residual_std: standard deviations in points, of what runs of
    one target, shots and seed share, and of what is left."""

    title: str
    terms: tuple[Term, ...] = ()
    runs: int = 0
    seed_std: float = nan
    residual_std: float = nan
    reason: str = ""


def fit_mixed_model(summary: Summary, runs: pd.DataFrame) -> MixedModel:
    """Fit a linear mixed model by restricted maximum likelihood to the runs of one kind that a summary names (columns
    as for `measured`). Raises InputError without statsmodels."""
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM
    except ImportError as error:
        raise InputError(NEEDS) from error
    chosen = runs[(runs["overlap"] == "") & runs["test"].notna()]
    for name in ("source", "model", "target", "shots"):
        chosen = chosen[chosen[name].isin(getattr(summary, name))]
    if chosen.empty:
        return MixedModel(summary.title, reason="no results for its cells")
    titles, columns = _design(summary, chosen)
    level = chosen.groupby(["target", "shots"]).ngroup()
    levels = pd.get_dummies(level, dtype=float).to_numpy()
    design = np.column_stack([levels, *columns])
    if not titles or len(chosen) <= design.shape[1] or chosen["seed"].nunique() < 2:
        return MixedModel(summary.title, reason="too few sources, models, shots or seeds among the results")
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return MixedModel(summary.title, reason="too many of its cells have no results to tell its terms apart")
    groups = chosen.groupby(["target", "shots", "seed"]).ngroup()
    values = chosen["test"].to_numpy(dtype=np.float64) * 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance at zero is seen in the result
        fitted = MixedLM(values, design, groups.to_numpy()).fit(reml=True)
    first = levels.shape[1]
    limits = np.asarray(fitted.conf_int())
    terms = []
    for place, title in enumerate(titles, first):
        low, high = limits[place].tolist()
        terms.append(Term(title, float(fitted.fe_params[place]), low, high, float(fitted.pvalues[place])))
    if not all(isfinite(number) for term in terms for number in (term.effect, term.low, term.high)):
        return MixedModel(summary.title, reason="the fit did not converge")
    of_seeds, of_rest = np.sqrt([float(np.asarray(fitted.cov_re)[0, 0]), float(fitted.scale)]).tolist()
    return MixedModel(summary.title, tuple(terms), len(chosen), of_seeds, of_rest)


def _design(summary: Summary, runs: pd.DataFrame) -> tuple[list[str], list[Floats]]:
    """The titles and columns of the factors that vary, and of their interactions."""
    factors = {
        title: _places(runs[name], getattr(summary, name))
        for name, title in _FACTORS.items()
        if runs[name].nunique() > 1
    }
    titles, columns = [], []
    for size in range(1, len(factors) + 1):
        for names in combinations(factors, size):
            if names == (_FACTORS["shots"],):
                continue  # the levels have it
            titles.append(" × ".join(names))
            columns.append(np.prod([factors[name] for name in names], axis=0))
    return titles, columns


def _places(values: "pd.Series[str]", order: Names | Sequence[str]) -> Floats:
    """Each value's place in its order, evenly from -0.5 to 0.5."""
    places = {name: place / (len(order) - 1) - 0.5 for place, name in enumerate(order)}
    return np.array([places[value] for value in values])
