"""The contents of a report, in order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data_pipelines.common.files import write_atomically
from data_pipelines.common.message_parts import number
from trainer.document.blocks import Block, BulletList, Entry, Heading, Paragraph, Table, Title
from trainer.document.html_page import as_page
from trainer.document.latex import latex
from trainer.document.markdown import as_markdown
from trainer.document.text import Link, Text
from trainer.domain_distance.proximity_file import Distances, read_distances
from trainer.reporting import figures, notes
from trainer.reporting.analysis.claim_file import ClaimFile, paper_claims, read_claims
from trainer.reporting.claims_section import claims_section
from trainer.reporting.collect import Collected, write_runs
from trainer.reporting.laws_section import laws_section
from trainer.reporting.names import FULL, METRIC_TITLE, shots_order, target_title
from trainer.reporting.paper import Published
from trainer.reporting.proximity_section import proximity_section
from trainer.reporting.rows import AUTHORS, PUBLISHED
from trainer.reporting.scale_tables import transfer_tables
from trainer.reporting.tables import as_rows, row_keys, sources_of, with_titles
from trainer.reporting.target_panels import side_by_side
from trainer.reporting.target_tables import few_shot_table, gains_over_scratch, paper_table

PAGE = "report.md"


@dataclass(frozen=True)
class ComposedReport:
    """A composed report: its blocks and its warnings."""

    blocks: list[Block]
    warnings: tuple[Text, ...]


@dataclass(frozen=True, eq=False)
class Beside:
    """What a report shows beside the results: distances of targets from sources, and claims tested on the results."""

    distances: Distances | None = None
    claims: tuple[ClaimFile, ...] = ()


NOTHING = Beside()


def read_beside(proximity: Path | None, claims: Sequence[Path] | None) -> Beside:
    """What these files hold; no claims are those of the paper, None is none at all. Raises InputError for a file that
    cannot be read."""
    distances = read_distances(proximity) if proximity else None
    read = [read_claims(path) for path in claims or ()] or [paper_claims()]
    return Beside(distances, () if claims is None else tuple(read))


def compose(
    collected: Collected,
    folder: Path,
    paper: Published | None = None,
    beside: Beside = NOTHING,
    laws: bool = False,
) -> ComposedReport:
    """Lay out a report and draw its figures into `folder`. beside: what to show too."""
    runs = collected.shown
    transfers = with_titles(runs[runs["kind"] == "transfer"])
    claimed = claims_section(runs, beside.claims, folder) if beside.claims else []  # first, as it refuses some
    by_protocol, protocol_warnings = notes.protocols(runs, with_paper=paper is not None and not transfers.empty)
    warnings: tuple[Text, ...] = (
        *(f"{warning}." for warning in collected.warnings),
        *protocol_warnings,
        *notes.mixed_versions(runs),
        *notes.not_numbers(runs),
        *notes.several_metrics(transfers),
        *notes.cells_of_mixed_settings(transfers),
        *notes.published_overlaps(transfers),
        *notes.patient_leaks(runs),
    )
    blocks = _opening(collected)
    blocks += [Paragraph(text, warning=True) for text in warnings]
    blocks += [Paragraph(remark) for remark in (*by_protocol, *(f"{remark}." for remark in collected.remarks))]
    pretrained = runs[runs["kind"] == "pretrain"]
    if not pretrained.empty:
        blocks += [Title("Pre-training"), _pretraining_table(pretrained)]
    if collected.choices:
        blocks += [Title("Settings chosen on val"), collected.choices]
    if not transfers.empty:
        blocks += _transfer_blocks(transfers, folder, paper)
    blocks += claimed
    if beside.distances:
        blocks += proximity_section(beside.distances, folder, transfers)
    if laws:
        blocks += laws_section(transfers, pretrained, folder, beside.distances)
    blocks += _small_print(runs)
    return ComposedReport(blocks, warnings)


def _opening(collected: Collected) -> list[Block]:
    runs = collected.shown
    shown = f", {len(runs)} of them shown" if len(runs) < len(collected.runs) else ""
    about = (
        f"{number(len(collected.runs), 'run')}{shown}. Every run is a row of ",
        *(Link("results.csv", "results.csv"), ", every number of a table one of ", Link("tables.csv", "tables.csv")),
        *("; ", Link("tables.tex", "tables.tex"), " has the tables for LaTeX."),
    )
    page = (
        Link("This report as one page", "report.html"),
        " also says the number of seeds and the p value of each cell.",
    )
    return [Title("Report", 1), Paragraph(about), Paragraph(page, on_page=False)]


def _transfer_blocks(runs: pd.DataFrame, folder: Path, paper: Published | None) -> list[Block]:
    order = shots_order(runs["shots"])
    first = FULL if FULL in order else order[-1]
    styles = figures.styles_of(sources_of(runs))
    blocks: list[Block] = [Title("Transfer"), *transfer_tables(runs, first, paper)]
    sized = figures.by_model_size(runs, folder, styles, paper)
    blocks += [sized] if sized else []
    together = side_by_side(runs, folder, styles)
    blocks += [together] if together else []
    if paper:
        compared, remarks = paper_table(runs, paper)
        blocks += [Title("Beside the paper"), Paragraph(f"Published values: {paper.source}.")]
        blocks += [compared] if compared else []
        blocks.append(BulletList(tuple(f"{text[0].upper()}{text[1:]}." for text in remarks)))
    for target in dict.fromkeys(key.target for key in row_keys(runs)):
        blocks += _target_blocks(runs[runs["target"] == target], folder, styles, paper)
    if len(row_keys(runs)) == 1:
        return blocks  # its own section has every number
    rest = [table for shots in order if shots != first for table in transfer_tables(runs, shots)]
    return [*blocks, Title("Transfer with fewer images"), *rest] if rest else blocks


def _target_blocks(runs: pd.DataFrame, folder: Path, styles: figures.Styles, paper: Published | None) -> list[Block]:
    target = str(runs["target"].iloc[0])
    gains = gains_over_scratch(runs)
    spread = figures.spread_by_shots(runs, folder, styles)
    return [
        Title(f"Transfer to {target_title(target)}"),
        few_shot_table(runs),
        *([gains] if gains else []),
        figures.few_shot(runs, folder, styles, paper),
        *([spread] if spread else []),
    ]


def _pretraining_table(runs: pd.DataFrame) -> Table:
    rows = []
    for row in runs.itertuples():
        protocol = "authors'" if row.protocol == AUTHORS else "the recipe's"
        data = f"{row.target}: {row.classes}" if row.classes else row.target
        words = [row.model, data, protocol, f"{row.total_steps}", METRIC_TITLE.get(row.metric, row.metric)]
        words += [_percent(row.val), "NaN" if row.not_a_number else _percent(row.test), f"{row.seconds / 60:.1f}"]
        rows.append((", ".join(filter(None, (row.source, row.setting))), tuple(Entry(words=word) for word in words)))
    titles = ("model", "data", "protocol", "steps", "metric", "val", "test", "minutes")
    columns = tuple(Heading("", title) for title in titles)
    return Table("pretraining", "Pre-trainings; metrics in percent.", "run", columns, tuple(rows))


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{share * 100:.2f}"


def _small_print(runs: pd.DataFrame) -> list[Block]:
    blocks: list[Block] = []
    sections = {
        "Sizes of images": notes.sizes(runs),
        "Trained on train and val": notes.trained_on_val(runs),
        "Left out of means over classes, lacking positives or negatives in test": notes.classes_left_out(runs),
        "Departures from the protocol": notes.deviations(runs),
        "Made by": notes.origins(runs),
    }
    for title, lines in sections.items():
        blocks += [Title(title), BulletList(tuple(lines))] if lines else []
    loaders = sorted(set(runs.loc[runs["origin"] != PUBLISHED, "loader"]) - {""})
    return [*blocks, Paragraph(f"Loader: {', '.join(loaders)}.")] if loaders else blocks


def write(report: ComposedReport, runs: pd.DataFrame, folder: Path) -> Path:
    """Write report.md, report.html, tables.csv, tables.tex and results.csv; returns the path of report.md."""
    tables = [block for block in report.blocks if isinstance(block, Table)]
    _write(folder / "report.html", as_page(report.blocks, folder))
    _write(folder / "tables.tex", latex(tables))
    as_rows(tables).to_csv(folder / "tables.csv", index=False, encoding="utf-8", errors="backslashreplace")
    write_runs(runs, folder / "results.csv")
    return _write(folder / PAGE, as_markdown(report.blocks))


def _write(path: Path, text: str) -> Path:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
