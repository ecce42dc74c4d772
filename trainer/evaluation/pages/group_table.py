"""The metrics of each group of an evaluation as a CSV file."""

import csv
import math
from pathlib import Path
from typing import Any

from trainer.evaluation.assessment.assess import SHARES
from trainer.evaluation.assessment.groups import GroupFinding, Groups
from trainer.evaluation.assessment.shifts import Measure
from trainer.evaluation.statistics.intervals import Estimate

_BEGINNING = ("images", "positives", "mean probability", "calibration slope")
_ESTIMATES = ("prevalence", "label less probability", "AUC", "average precision", *SHARES)


def write_groups(path: Path, groups: Groups) -> None:
    """Write a row for each group and finding, with the limits of intervals and the p values of what was compared.
    Raises OSError."""
    p_of: dict[tuple[str | None, str, Measure], float] = {
        (found.group, found.finding, found.measure): found.p for found in groups.comparisons
    }
    limits = [f"{name}{end}" for name in _ESTIMATES for end in ("", " low", " high")]
    tested: dict[Measure, str] = {
        "prevalence": "p, prevalence",
        "calibration": "p, calibration",
        "slope": "p, calibration slope",
    }
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow([groups.by, "finding", *_BEGINNING, *limits, *tested.values()])
        for group in groups.groups:
            for found in group.findings:
                name = found.finding.name
                p_values = [p_of.get((group.name, name, measure), "") for measure in tested]
                table.writerow([group.name, name, *_numbers(found), *p_values])


def _numbers(found: GroupFinding) -> list[Any]:
    finding = found.finding
    shares = [finding.shares[name] for name in SHARES]
    values = [finding.images, finding.positives, _cell(found.predicted), _cell(found.slope)]
    for estimate in (found.prevalence, found.excess, finding.auc, finding.ap, *shares):
        values += _limits(estimate)
    return values


def _limits(estimate: Estimate) -> list[Any]:
    return [_cell(value) for value in (estimate.value, estimate.low, estimate.high)]


def _cell(value: float) -> Any:
    return value if math.isfinite(value) else ""
