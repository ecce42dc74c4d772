"""The metrics of an evaluation in each group of its images, such as months or sites, and what differs between them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.common.dates import PERIODS, Period, are_dates, period_of, place_of
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import closest, number, some_of
from data_pipelines.common.printable import printable
from trainer.document.blocks import SIGNIFICANT
from trainer.evaluation.assessment.assess import Assessment, Finding, assess, share_of
from trainer.evaluation.assessment.shifts import Comparison, compare, measures_of
from trainer.evaluation.statistics.bootstrap import Floats, Ints, Resamples, clusters_of
from trainer.evaluation.statistics.intervals import FEWEST, Estimate, difference_interval
from trainer.evaluation.statistics.predictions import Predictions, grouping

MOST_GROUPS = 120  # ten years of months
_KEPT = (
    "`prepare csv` keeps the columns of a table that its --fact-columns names, and of DICOM files view, sex and age: "
    "prepare the images so, then name the new set here with --data"
)
_DATES = (
    "`prepare csv` keeps a column of dates that its --fact-columns names, and it and `prepare image-folder` the months "
    "of DICOM files with --study-date month: prepare the images so, then name the new set here with --data"
)


@dataclass(frozen=True, eq=False)
class GroupFinding:
    """A class or finding in one group. prevalence: share of positives. predicted: mean calibrated probability. excess:
    mean of label less that. slope: of the calibration, one Newton step from 1."""

    finding: Finding
    prevalence: Estimate
    predicted: float
    excess: Estimate
    slope: float


@dataclass(frozen=True, eq=False)
class Group:
    """place: in time, else in the order of the names."""

    name: str
    place: int
    assessment: Assessment
    findings: list[GroupFinding]


@dataclass(frozen=True, eq=False)
class Groups:
    """by: what the images are grouped by. fact: that of the set. period: where the groups are times. remarks: on what
    is in no group."""

    by: str
    fact: str
    period: Period | None
    groups: list[Group]
    comparisons: list[Comparison]
    remarks: list[str]

    @property
    def moved(self) -> list[Comparison]:
        """What differs, the surest first. Of two groups, each of which is the other's others, one is listed."""
        return sorted((c for c in self.comparisons if c.p <= SIGNIFICANT), key=lambda c: (c.p, -abs(c.z)))


@dataclass(frozen=True)
class Grouping:
    """names: of the groups, in order. labels: int64 [N], the place of each image's group among them, -1 for none."""

    by: str
    fact: str
    period: Period | None
    names: list[str]
    labels: Ints
    remarks: list[str]


def group_by(predictions: Predictions, by: str) -> Grouping:
    """The groups of a fact, or of the month, quarter or year of the dates that the set keeps.

    Raises InputError where there is no such fact, no dates or several, no group, or too many.
    """
    fact, period = _fact_of(predictions, by)
    values = predictions.facts[fact]
    texts = [period_of(value, period) for value in values] if period else grouping(fact, values)
    names = sorted(set(texts) - {""})
    if not names:
        others = [name for name in predictions.facts if name != fact]
        hint = f"--by {' or '.join(others)}" if others else "another split with --split, or another set with --data"
        raise InputError(f"--by {by}: {fact} is not known of any image; take {hint}")
    if len(names) > MOST_GROUPS:
        fewer = "take --by year" if period in ("month", "quarter") else f"take one with fewer values: {_KEPT}"
        raise InputError(f"--by {by} makes {len(names):,} groups, more than {MOST_GROUPS}; {fewer}")
    places = {name: place for place, name in enumerate(names)}
    labels = np.array([places.get(text, -1) for text in texts], dtype=np.int64)
    return Grouping(by, fact, period, names, labels, _remarks(fact, values, texts))


def _fact_of(predictions: Predictions, by: str) -> tuple[str, Period | None]:
    """The fact to group by, and by which period where it holds dates."""
    dated = [name for name, values in predictions.facts.items() if are_dates(values)]
    period = next((each for each in PERIODS if each == by), None)
    if by in predictions.facts:
        return by, period or "month" if by in dated else None
    if period is not None and not dated:
        raise InputError(
            f"--by {by}: none of the set's facts holds dates that begin with a year, such as 2023-01-14 or 2023-01 "
            f"({_known(predictions)}); {_DATES}"
        )
    if period is None:
        meant = closest(by, [*predictions.facts, *(PERIODS if dated else ())])
        hint = f"did you mean {meant!r}?" if meant else f"{_known(predictions)}; {_KEPT}"
        raise InputError(f"--by {by}: the set keeps no such fact; {hint}")
    if len(dated) > 1:
        raise InputError(f"--by {by}: {' and '.join(dated)} hold dates; say which by its own name, which goes by month")
    return dated[0], period


def _known(predictions: Predictions) -> str:
    return f"it keeps {some_of(sorted(predictions.facts))}" if predictions.facts else "it keeps none"


def _remarks(fact: str, values: Sequence[str], texts: Sequence[str]) -> list[str]:
    """On the images that are in no group."""
    blank = sum(not value for value in values)
    wrong = [value for value, text in zip(values, texts, strict=True) if value and not text]
    remarks = [f"{number(blank, 'image')} without {fact}: in no group."] if blank else []
    if wrong:
        some = some_of([repr(printable(value)) for value in dict.fromkeys(wrong)], 3)
        what = "age" if fact.casefold() == "age" else "date that begins with a year"
        remarks.append(f"{number(len(wrong), 'image')} whose {fact} is no {what}, such as {some}: in no group.")
    return remarks


def assess_groups(whole: Assessment, by: str, seed: int = 0) -> Groups:
    """The metrics of each group, with as many resamples as the whole has, and what differs between them."""
    found = group_by(whole.predictions, by)
    predictions = whole.predictions.take(np.flatnonzero(found.labels >= 0))
    labels = found.labels[found.labels >= 0]
    predictions = replace(predictions, facts={})
    measures = measures_of(predictions, whole.points)
    places = [place_of(name, found.period) if found.period else row for row, name in enumerate(found.names)]
    groups = []
    for row, name in enumerate(found.names):
        rows = np.flatnonzero(labels == row)
        part = assess(predictions.take(rows), whole.points, whole.resamples, seed, of_patients=whole.of_patients)
        groups.append(Group(name, places[row], part, _findings(part, measures[rows], seed)))
    times = places if found.period else None
    comparisons = compare(predictions, whole.points, labels, found.names, times, whole.resamples, seed)
    return Groups(by, found.fact, found.period, groups, comparisons, found.remarks)


def _findings(part: Assessment, measures: Floats, seed: int) -> list[GroupFinding]:
    clusters = clusters_of(part.predictions.patients)
    resamples = Resamples(part.clusters, part.resamples, seed)
    summed = measures.sum(axis=0)
    found = []
    for column, finding in enumerate(part.findings):
        labelled, positive, excess = measures[:, :3, column].T
        sums = resamples.sums(np.stack([positive, labelled - positive, excess], axis=1), clusters)
        sums = np.vstack([[positive.sum(), (labelled - positive).sum(), excess.sum()], sums])
        known = len(np.unique(clusters[labelled > 0]))
        _, _, _, above, _, _, spread = summed[:, column]
        found.append(
            GroupFinding(
                finding=finding,
                prevalence=share_of(sums[:, 0], sums[:, 1], known),
                predicted=float((positive - excess).sum() / labelled.sum()) if known else np.nan,
                excess=_mean(sums[:, 2], sums[:, 0] + sums[:, 1], known),
                slope=float(1 + above / spread) if spread > 0 else np.nan,
            )
        )
    return found


def _mean(total: Floats, images: Floats, clusters: int) -> Estimate:
    """A mean, first as observed and then in every resample."""
    with np.errstate(invalid="ignore"):
        values = total / images
    if clusters < FEWEST:
        return Estimate(float(values[0]), reason=f"a mean over {number(clusters, 'patient')}, fewer than {FEWEST}")
    return difference_interval(float(values[0]), values[1:], clusters)
