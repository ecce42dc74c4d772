"""How often the prediction sets of a test set hold the truth, and how large they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # whose parts are loaded when they are used, so that help comes sooner

from trainer.evaluation.assessment.assess import share_of
from trainer.evaluation.calibration.conformal import SetRule, true_labels, weights_of
from trainer.evaluation.statistics.bootstrap import Bools, Floats, Resamples, clusters_of
from trainer.evaluation.statistics.curves import MOST_INTERVALS
from trainer.evaluation.statistics.intervals import CONFIDENCE, Estimate
from trainer.evaluation.statistics.predictions import Predictions

ALL = "all classes"


@dataclass(frozen=True, eq=False)
class Covered:
    """The images with one true label, or all. coverage: mean over patients of the share of their images whose set holds
    the truth. mean_size: labels in a set. empty, single: shares of images whose set has none, or one."""

    name: str
    images: int
    patients: int
    coverage: Estimate
    mean_size: float
    empty: float
    single: float


@dataclass(frozen=True, eq=False)
class SetCoverage:
    """rule: of the sets. likely: where the coverage of a run with such a val lies in 95% of cases, for the fewest
    patients that decide on a threshold; the promise is for the mean. rows: of each label, after all classes together.
    """

    rule: SetRule
    likely: tuple[float, float] | None
    rows: Sequence[Covered]

    @property
    def missed(self) -> list[Covered]:
        """Those of the promised rows that even the top of their interval leaves below what is likely."""
        promised = self.rows[:1] if self.rule.task == "single_label" else self.rows
        return [row for row in promised if self.likely and row.coverage.high < self.likely[0]]


def set_coverage(predictions: Predictions, rule: SetRule, count: int, seed: int) -> SetCoverage:
    """Of the sets of a test set; count: resamples of the intervals."""
    rows = list(_covered(predictions, rule, count, seed))
    return SetCoverage(rule, likely_coverage(rule.units, rule.coverage) if rows else None, rows)


def likely_coverage(units: int, coverage: float) -> tuple[float, float]:
    """Where the coverage lies in 95% of cases that a val of so many patients leads to.

    It is distributed as the order statistic of uniform numbers that serves as the threshold. Source: Vovk,
    arXiv:1209.2673, proposition 2a.
    """
    rank = min(units, int(np.ceil((units + 1) * coverage - 1e-9)))
    tail = (1 - CONFIDENCE) / 2
    low, high = scipy.stats.beta.ppf([tail, 1 - tail], rank, units + 1 - rank)
    return float(low), float(high)


def _covered(predictions: Predictions, rule: SetRule, count: int, seed: int) -> Iterator[Covered]:
    is_true, members = true_labels(predictions), rule.members(predictions.logits)
    is_single = predictions.task == "single_label"
    groups: list[tuple[str, Bools, Bools]] = []
    if is_single:
        groups.append((ALL, np.asarray(is_true.any(axis=1)), np.asarray((members & is_true).any(axis=1))))
    if len(rule.labels) <= MOST_INTERVALS:
        for column, (name, kind) in enumerate(rule.labels):
            groups.append((f"{name} {kind}".strip(), is_true[:, column], members[:, column]))
    has_sets = [True, *rule.has_sets] if is_single else list(rule.has_sets)
    for place, (name, shown, hit) in enumerate(groups):
        if not has_sets[place] or (is_single and rule.missing):
            continue
        sizes = members.sum(axis=1) if is_single else _sizes_of_finding(members, place)
        yield _row(name, predictions, shown, hit, sizes, Resamples(0, count, seed))


def _sizes_of_finding(members: Bools, column: int) -> Floats:
    first = column - column % 2  # absent and present stand side by side
    return np.asarray(members[:, first : first + 2].sum(axis=1))


def _row(name: str, predictions: Predictions, shown: Bools, hit: Bools, sizes: Floats, resamples: Resamples) -> Covered:
    if not shown.any():
        nothing = Estimate(float("nan"), reason="no such images")
        return Covered(name, 0, 0, nothing, float("nan"), float("nan"), float("nan"))
    patients, sizes = predictions.patients[shown], sizes[shown]
    clusters = clusters_of(patients)
    weights = weights_of(clusters)
    both = np.stack([weights * hit[shown], weights * ~hit[shown]], axis=1)
    number = int(clusters.max()) + 1
    sums = Resamples(number, resamples.count, resamples.seed).sums(both, clusters)
    counts = np.concatenate([both.sum(axis=0)[None], sums])
    return Covered(
        name=name,
        images=int(shown.sum()),
        patients=number,
        coverage=share_of(counts[:, 0], counts[:, 1], number),
        mean_size=float(sizes.mean()),
        empty=float((sizes == 0).mean()),
        single=float((sizes == 1).mean()),
    )
