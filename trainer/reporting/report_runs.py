"""Report finished runs: tables, figures, a page, and files of all numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from data_pipelines.common.advice import quoted
from data_pipelines.common.earlier_output import require_free
from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from data_pipelines.common.progress import Progress
from trainer.run_files import require_place

if TYPE_CHECKING:
    from trainer.reporting.compose import Beside


@dataclass(frozen=True)
class Report:
    """Tables and figures of finished runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders to search for results, and CSV files."""
    out: Path = Path("report")
    """Folder for the report."""
    force: bool = False
    """Replace an earlier report."""
    paper: bool = False
    """Put the published values of the paper beside the results."""
    proximity: Path | None = None
    """Add how far targets lie from sources, from this result of `bitscale proximity`."""
    metric: str | None = None
    """Report this metric, such as ap, f1, top1 or auc, instead of each target's own."""
    best_on: Literal["val"] | None = None
    """Of several settings of a cell, such as learning rates, show the one with the best mean metric on val. Without
    it, each is a row of its own."""
    laws: bool = False
    """Fit how errors fall with images, what pre-training is worth in images, and whether the gain on a target left out
    can be predicted, from its proximity where --proximity tells it."""
    claims: tuple[Path, ...] | None = None
    """Test claims on the results: those of TOML files, or without a file those of the paper."""


def write_report(report: Report) -> Path:
    """Write a report and print its warnings on standard error; returns the path of report.md.

    Raises InputError where there is nothing to report, or nothing that can be reported together.
    """
    _require_places(report)
    # Here because it takes seconds, with PyTorch, SciPy and Matplotlib, and help and refusals need none of that.
    from trainer.reporting.compose import PAGE, read_beside

    require_free(report.out / PAGE, report.force)
    beside = read_beside(report.proximity, report.claims)
    logger.info(f"report {', '.join(map(str, report.runs))}: tables and figures, to {report.out}")
    with Progress(f"report to {report.out}"):
        return _write(report, beside)


def _require_places(report: Report) -> None:
    """Raise InputError where there is nothing to search, also if folders behind a flag were taken for its files."""
    folder = next((path for path in report.claims or () if path.is_dir()), None)
    if folder is not None:
        raise InputError(
            f"--claims takes TOML files, and {folder} is a folder; name folders of runs before the flag: "
            f"{quoted(folder)} --claims"
        )
    if not report.runs:
        raise InputError("name the folders of runs, or CSV files, before the flags")
    for place in report.runs:
        require_place(place)


def _write(report: Report, beside: "Beside") -> Path:
    from trainer.document.text import plain
    from trainer.reporting.collect import collect
    from trainer.reporting.compose import compose, write
    from trainer.reporting.paper import published

    collected = collect(report.runs, report.metric, report.best_on == "val")
    report.out.mkdir(parents=True, exist_ok=True)
    paper = published() if report.paper else None
    composed = compose(collected, report.out, paper, beside, report.laws)
    for remark in collected.remarks:
        logger.info(f"note: {remark}")
    for warning in composed.warnings:
        logger.warning(plain(warning))
    return write(composed, collected.runs, report.out)
