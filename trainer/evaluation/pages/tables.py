"""Tables of the evaluation page."""

import math
from collections import Counter
from collections.abc import Sequence

from data_pipelines.common.printable import printable
from data_pipelines.datasets.study_dates import FACT
from trainer.document.blocks import Entry, Heading, Table
from trainer.evaluation.assessment.assess import SHARES, Assessment, Finding, Subgroup
from trainer.evaluation.assessment.misclassifications import Misclassification
from trainer.evaluation.assessment.set_coverage import SetCoverage
from trainer.evaluation.calibration.operating import probability_text
from trainer.evaluation.runs import Seed
from trainer.evaluation.statistics.intervals import Estimate
from trainer.evaluation.statistics.paired import Difference

_TITLES = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}
_MOST_COLUMNS = 14
_MOST_ROWS = 100


def entry(estimate: Estimate) -> Entry:
    """A value with its interval, or the words that there is none."""
    missing = "" if estimate.has_interval or math.isnan(estimate.value) else " [not available]"
    return Entry(words=estimate.text() + missing)


def _words(text: object) -> Entry:
    return Entry(words=str(text))


def _number(value: float, digits: int = 3) -> Entry:
    return Entry(words="–" if math.isnan(value) else f"{value:.{digits}f}")


def _noun(assessment: Assessment) -> str:
    return "class" if assessment.predictions.task == "single_label" else "finding"


def _shown(assessment: Assessment) -> list[Finding]:
    return sorted(assessment.findings, key=lambda f: -f.positives)[:_MOST_ROWS]


def discrimination(assessment: Assessment) -> Table:
    """n, positives, AUC and average precision."""
    patients = ["patients"] if assessment.of_patients else []
    titles = ("images", "positives", *patients, "AUC", "average precision")
    shown = _shown(assessment)
    rows = [
        (
            finding.name,
            (_words(f"{finding.images:,}"), _words(f"{finding.positives:,}"),
             *(_words(_patients(assessment, finding)) for _ in patients), entry(finding.auc), entry(finding.ap)),
        )
        for finding in shown
    ]  # fmt: skip
    if assessment.averaged:
        means = (entry(assessment.mean_auc), entry(assessment.mean_ap))
        rows.append((f"mean of {assessment.averaged}", (*(_words("") for _ in titles[:-2]), *means)))
    reasons = {printable(finding.name): finding.auc.reason for finding in shown if finding.auc.reason}
    notes = [f"Interval of {name} not available: {reason}." for name, reason in reasons.items()]
    if len(shown) < len(assessment.findings):
        notes.append(
            f"The {len(shown)} most frequent of {len(assessment.findings)}; the others are in evaluation.json."
        )
    noun = _noun(assessment)
    return Table(
        name="discrimination",
        caption=f"How well each {noun} is told from the rest, with 95% intervals over {resampled(assessment)}.",
        stub=noun,
        columns=tuple(Heading("", title) for title in titles),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def resampled(assessment: Assessment) -> str:
    """What is drawn with replacement."""
    return "patients" if assessment.patients else "images"


def _patients(assessment: Assessment, finding: Finding) -> str:
    return f"{finding.patients:,}" if assessment.patients else "unknown"


def at_threshold(assessment: Assessment) -> Table:
    """What calling positive at the threshold means."""
    columns = (
        Heading("", "threshold"),
        *(Heading("", _TITLES[name]) for name in SHARES),
        *(Heading("", name.upper()) for name in ("tp", "fp", "fn", "tn")),
    )
    shown = _shown(assessment)
    of_images = any(math.isnan(finding.threshold) for finding in shown)
    scale = (
        "before the temperature (after it, each image has its own: see predictions.csv)"
        if of_images
        else "after the temperature, as in predictions.csv"
    )
    is_single = assessment.predictions.task == "single_label"
    rule = " Each class has its threshold here; accuracy and confusion matrix take the most probable class."
    return Table(
        name="thresholds",
        caption=f"At the threshold that was {' or '.join(_rules(shown))}, a probability {scale}. PPV and NPV hold for "
        f"the prevalence in this test set.{rule if is_single else ''}",
        stub=_noun(assessment),
        columns=columns,
        rows=tuple((finding.name, _threshold_row(finding, of_images)) for finding in shown),
        notes=tuple(_threshold_notes(shown)),
    )


def _rules(shown: Sequence[Finding]) -> list[str]:
    """How the thresholds came about, the more frequent way first."""
    return [rule for rule, _ in Counter(finding.rule for finding in shown).most_common()]


def _threshold_row(finding: Finding, of_images: bool) -> tuple[Entry, ...]:
    return (
        _words(probability_text(finding.raw_threshold if of_images else finding.threshold)),
        *(entry(finding.shares[name]) for name in SHARES),
        *(_words(f"{count:,}") for count in finding.counts.values()),
    )


def _threshold_notes(shown: Sequence[Finding]) -> list[str]:
    """How a threshold came about if not as most, why it was not fitted, and why an interval is not available."""
    usual = _rules(shown)[0]
    others = [f"{printable(finding.name)}: {finding.rule}." for finding in shown if finding.rule != usual]
    unfitted = [
        f"{printable(finding.name)}: 0.5, because {finding.why_unfitted}." for finding in shown if finding.why_unfitted
    ]
    missing = {
        f"{printable(finding.name)}, {_TITLES[name]}: {share.reason}"
        for finding in shown
        for name, share in finding.shares.items()
        if share.reason and not math.isnan(share.value)
    }
    return [*others, *unfitted, *(f"Interval not available, {reason}." for reason in sorted(missing))]


def calibration(assessment: Assessment) -> Table:
    """Expected calibration errors."""
    rows = [
        (finding.name, (_number(finding.raw_ece), _number(finding.ece)))
        for finding in _shown(assessment)
        if not math.isnan(finding.ece)
    ]
    overall = "predicted class" if assessment.predictions.task == "single_label" else "all findings"
    rows.append((overall, (_number(assessment.raw_reliability.error), _number(assessment.reliability.error))))
    return Table(
        name="calibration",
        caption="Expected calibration error, 15 bins of equal width.",
        stub=_noun(assessment),
        columns=(Heading("", "as trained"), Heading("", f"temperature {assessment.points.temperature:.4g}")),
        rows=tuple(rows),
    )


def prediction_sets(sets: SetCoverage, assessment: Assessment) -> Table:
    """Coverage and size of the prediction sets, by true label."""
    patients = ["patients"] if assessment.of_patients else []
    titles = ("images", *patients, "coverage", "mean size", "empty", "one", "more")
    rows = tuple(
        (
            row.name,
            (
                _words(f"{row.images:,}"),
                *(_words(f"{row.patients:,}" if assessment.patients else "unknown") for _ in patients),
                entry(row.coverage),
                _number(row.mean_size, 2),
                *map(_number, (row.empty, row.single, 1 - row.empty - row.single)),
            ),
        )
        for row in sets.rows[:_MOST_ROWS]
    )
    is_single = assessment.predictions.task == "single_label"
    which = "The promise is for all classes together: one of them may be covered less." if is_single else ""
    return Table(
        name="prediction-sets",
        caption=f"Prediction sets of a promised coverage of {sets.rule.coverage:g}, by true label: how often they hold "
        f"it, with 95% intervals over {resampled(assessment)}, and the shares of images whose set is empty, has one "
        f"label, or more. {which}".strip(),
        stub="true label",
        columns=tuple(Heading("", title) for title in titles),
        rows=rows,
    )


def subgroups(assessment: Assessment, fact: str, parts: Sequence[Subgroup]) -> Table:
    """One fact, such as sex: the AUC in each of its groups."""
    names = assessment.predictions.classes if len(assessment.predictions.classes) <= _MOST_COLUMNS else ()
    is_single = assessment.predictions.task == "single_label"
    columns = [
        "images",
        *(["patients"] if assessment.of_patients else []),
        *(["accuracy"] if is_single else []),
        "mean AUC",
        *(f"AUC, {printable(name)}" for name in names),
    ]
    rows = tuple(
        (
            part.value,
            (
                _words(f"{part.images:,}"),
                *([_words(f"{part.patients:,}" if part.patients else "unknown")] if assessment.of_patients else []),
                *([entry(part.accuracy)] if is_single else []),
                entry(part.mean_auc),
                *(entry(auc) for auc in part.auc[: len(names)]),
            ),
        )
        for part in parts
    )
    return Table(
        name=f"by-{fact}",
        caption=f"By {fact_title(fact)}. The mean is over what has ten positives and negatives in that group, so "
        "groups may differ in what it is over.",
        stub=fact_title(fact),
        columns=tuple(Heading("", title) for title in columns),
        rows=rows,
    )


def fact_title(fact: str) -> str:
    """As a page writes what is known of images; columns of the user's keep their names."""
    return "date of study" if fact == FACT else fact


def paired_differences(found: Sequence[Difference], one: str, other: str) -> Table:
    """Two runs on the same images."""
    return Table(
        name="paired",
        caption=f"{one} less {other} on the same images, each resample drawn once for both.",
        stub="metric",
        columns=(Heading("", one), Heading("", other), Heading("", "difference")),
        rows=tuple(
            (part.name, (_number(part.one), _number(part.other), Entry(words=signed(part.difference))))
            for part in found
        ),
        notes=("An interval that holds 0 says that these images do not tell the runs apart.",),
    )


def signed(estimate: Estimate) -> str:
    """A difference with its sign and interval."""
    if math.isnan(estimate.value):
        return "–"
    interval = f" [{estimate.low:+.3f}, {estimate.high:+.3f}]" if estimate.has_interval else " [not available]"
    return f"{estimate.value:+.3f}{interval}"


def seeds(found: Sequence[Seed], metric: str) -> Table:
    """The runs that differ in the seed alone."""
    return Table(
        name="seeds",
        caption=f"Test {metric} of runs that differ in their seed alone.",
        stub="seed",
        columns=(Heading("", metric),),
        rows=tuple((str(run.seed), (_number(run.value, 4),)) for run in found),
    )


def misclassifications(found: Sequence[Misclassification]) -> Table:
    """The most confident errors by name."""
    return Table(
        name="errors",
        caption="The most confident errors, with calibrated probabilities.",
        stub="image",
        columns=(Heading("", "error"),),
        rows=tuple((found_one.key, (_words(" ".join(found_one.error)),)) for found_one in found),
    )
