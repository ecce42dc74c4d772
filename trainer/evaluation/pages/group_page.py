"""The part of an evaluation page on groups of images, such as months: warnings, figure and tables."""

import math
from pathlib import Path

from data_pipelines.common.message_parts import number, some_of
from data_pipelines.common.printable import printable
from trainer.document.blocks import SIGNIFICANT, Block, Entry, Heading, Paragraph, Table, Title, p_text
from trainer.evaluation.assessment.assess import Assessment
from trainer.evaluation.assessment.groups import GroupFinding, Groups
from trainer.evaluation.assessment.shifts import MEASURES, Comparison, Measure
from trainer.evaluation.calibration.operating import probability_text
from trainer.evaluation.pages.group_figure import over_groups
from trainer.evaluation.pages.tables import entry, signed
from trainer.evaluation.statistics.intervals import FEWEST

GROUPS = "groups.csv"
MOST_SHOWN = 4  # findings
_MOST_WARNED, _MOST_LISTED = 4, 40  # comparisons
_FARTHEST_SLOPE = 10
_TITLES: dict[Measure, str] = {
    "prevalence": "prevalence",
    "calibration": "calibration",
    "slope": "calibration slope",
}


def group_warnings(groups: Groups) -> list[str]:
    """What moved, a line for each measure, and what is in no group."""
    lines = []
    for measure in MEASURES:
        moved = [found for found in groups.moved if found.measure == measure]
        if moved:
            which = some_of([_in_words(found) for found in moved], _MOST_WARNED, "; ")
            lines.append(f"By {groups.by}, {_TITLES[measure]} moved: {which}.")
    return lines + groups.remarks


def _in_words(found: Comparison) -> str:
    finding, p = printable(found.finding), p_text(found.p)
    if found.group is None:
        return f"{finding} {'rises' if found.z > 0 else 'falls'} over time ({p})"
    value, others = (_value(found, value) for value in (found.value, found.others))
    return f"{finding} in {printable(found.group)} {value}, elsewhere {others} ({p})"


def _value(found: Comparison, value: float) -> str:
    if math.isnan(value):
        return "–"
    if found.measure == "prevalence":
        return probability_text(value)
    if found.measure == "calibration":
        return f"{value:+.3f}"
    # One Newton step from 1 says only in which direction so far away.
    return (
        f"{value:.2f}" if abs(value) <= _FARTHEST_SLOPE else f"{'below -' if value < 0 else 'above '}{_FARTHEST_SLOPE}"
    )


def group_blocks(groups: Groups, whole: Assessment, folder: Path) -> list[Block]:
    """Figure and tables; the figure is written to `folder`."""
    names = _shown(groups, whole)
    columns = [[finding.name for finding in whole.findings].index(name) for name in names]
    page: list[Block] = [Title(f"By {groups.by}"), Paragraph(_summary(groups))]
    if groups.moved:
        page.append(_moved(groups))
    page += [over_groups(groups, columns, folder), _overall(groups, whole)]
    page += [_of_finding(groups, column, whole.of_patients) for column in columns]
    more = len(whole.findings) - len(names)
    others = f" and the other {number(more, 'label')}" if more else ""
    page.append(Paragraph(f"All groups{others} are in {GROUPS} beside this page."))
    return page


def _shown(groups: Groups, whole: Assessment) -> list[str]:
    """The findings of which something moved, then the most frequent ones."""
    frequent = sorted(whole.findings, key=lambda finding: -finding.positives)
    names = dict.fromkeys([*(found.finding for found in groups.moved), *(finding.name for finding in frequent)])
    return [*names][:MOST_SHOWN]


def _summary(groups: Groups) -> str:
    tested = groups.comparisons
    if not tested:
        return (
            f"Whether something moved was not tested: that needs two groups of {FEWEST} patients or more, and {FEWEST} "
            "positives and negatives."
        )
    show = "shows" if len(groups.moved) == 1 else "show"
    found = f"{number(len(groups.moved), 'comparison')} of {len(tested):,} {show} a difference"
    if not groups.moved:
        least = min(each.p for each in tested)
        found = f"None of {number(len(tested), 'comparison')} shows a difference; the least p is {least:.3f}"
    trend = ", and a trend over all," if any(each.group is None for each in tested) else ""
    return (
        f"{found} (p at most {SIGNIFICANT:g}). Compared is each group with the others together{trend} in prevalence, "
        "calibration (the mean of label less probability), and calibration slope (1 where log odds are as large as "
        "they should be, 0 where they tell nothing); p values are corrected for all of them. Of the sets in which "
        f"nothing moves, {SIGNIFICANT:.0%} have such a difference somewhere."
    )


def _moved(groups: Groups) -> Table:
    listed = groups.moved[:_MOST_LISTED]
    more = len(groups.moved) - len(listed)
    return Table(
        name=f"moved-by-{groups.by}",
        caption=f"What moved by {groups.by}, the surest first.",
        stub="finding",
        columns=tuple(Heading("", title) for title in ("measure", groups.by, "there", "elsewhere", "p")),
        rows=tuple(
            (
                found.finding,
                (
                    Entry(words=_TITLES[found.measure]),
                    Entry(words=found.group or f"trend, {'rising' if found.z > 0 else 'falling'}"),
                    Entry(words=_value(found, found.value)),
                    Entry(words=_value(found, found.others)),
                    Entry(words=p_text(found.p)),
                ),
            )
            for found in listed
        ),
        notes=(f"{more:,} more are in evaluation.json.",) if more else (),
    )


def _overall(groups: Groups, whole: Assessment) -> Table:
    is_single = whole.predictions.task == "single_label"
    titles = ["images", *["patients"] * whole.of_patients, *["accuracy"] * is_single, "mean AUC"]
    rows = []
    for group in groups.groups:
        part = group.assessment
        patients = [Entry(words=f"{part.patients:,}" if part.patients else "unknown")] * whole.of_patients
        accuracy = [entry(part.accuracy)] * is_single
        rows.append(
            (group.name, (Entry(words=f"{len(part.predictions):,}"), *patients, *accuracy, entry(part.mean_auc)))
        )
    return Table(
        name=f"groups-by-{groups.by}",
        caption=f"By {groups.by}. The mean is over what has ten positives and negatives in that group.",
        stub=groups.by,
        columns=tuple(Heading("", title) for title in titles),
        rows=tuple(rows),
    )


def _of_finding(groups: Groups, column: int, of_patients: bool) -> Table:
    titles = ("positives", "prevalence", "mean probability", "label less probability", "AUC", "sensitivity")
    name = groups.groups[0].findings[column].finding.name
    noun = "patients" if of_patients else "images"
    return Table(
        name=f"{name}-by-{groups.by}",
        caption=f"{name} by {groups.by}, with 95% intervals over {noun}.",
        stub=groups.by,
        columns=tuple(Heading("", title) for title in (*titles, "specificity")),
        rows=tuple((group.name, _row(group.findings[column])) for group in groups.groups),
    )


def _row(found: GroupFinding) -> tuple[Entry, ...]:
    finding = found.finding
    return (
        Entry(words=f"{finding.positives:,} of {finding.images:,}"),
        entry(found.prevalence),
        Entry(words="–" if math.isnan(found.predicted) else probability_text(found.predicted)),
        Entry(words=signed(found.excess)),
        entry(finding.auc),
        entry(finding.shares["sensitivity"]),
        entry(finding.shares["specificity"]),
    )
