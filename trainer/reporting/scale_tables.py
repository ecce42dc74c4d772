"""Tables in the layout of the paper's Tables 1 and 2: targets by model and pre-training set."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from trainer.document.blocks import Cell, Entry, Heading, Table
from trainer.reporting.cells import best, cell_of, welch
from trainer.reporting.names import DOMAINS, FULL, METRIC_TITLE, SET_TITLE, domain, is_smaller, target_title
from trainer.reporting.paper import Published
from trainer.reporting.tables import (
    PRINTED_SPREADS,
    RowKey,
    Source,
    fewer_seeds,
    in_order,
    overlap_notes,
    protocol_notes,
    row_keys,
    row_title,
    seeds_text,
    sources_of,
)

_WIDEST = 8  # columns of sources that fit a page; more are split by what the sources show


def transfer_tables(runs: pd.DataFrame, shots: str, paper: Published | None = None) -> list[Table]:
    """One table, or if it would be too wide one per kind of source; published values are below a target's own if they
    are of the same metric."""
    of_shots = runs[runs["shots"] == shots]
    sources = sources_of(of_shots)
    printed: dict[str, dict[Source, Cell]] = {}
    if paper and shots == FULL:
        sources, printed = _with_printed(paper, of_shots, sources)
    cells = _cells(of_shots)
    tables = []
    for kind, group in _split(sources):
        rows = _rows(of_shots, group, cells, printed)
        shown = of_shots[[pair in {(s.model, s.title) for s in group} for pair in _pairs(of_shots)]]
        if rows and not shown.empty:  # a kind that the paper alone has stands beside nothing
            name = f"{shots}_shot" + (f"_{kind.split()[0].lower()}" if kind else "")
            caption = f"{_what(shots)}{f', sources: {kind}' if kind else ''}. {_metrics(shown)}."
            tables.append(
                Table(name, caption, "target", tuple(_headings(group)), rows, _notes(shown, group, rows, bool(printed)))
            )
    return tables


def _pairs(runs: pd.DataFrame) -> Iterable[tuple[str, str]]:
    return zip(runs["model"], runs["title"], strict=True)


def _what(shots: str) -> str:
    if shots == FULL:
        return "Transfer with all training images"
    return f"Transfer with {shots} training image{'s' * (shots != '1')} per class"


def _rows(
    runs: pd.DataFrame,
    sources: Sequence[Source],
    cells: Mapping[tuple[str, ...], Cell],
    printed: Mapping[str, Mapping[Source, Cell]],
) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
    """The rows that have a number, each target followed by the paper's values."""
    mixed, keys = runs["origin"].nunique() > 1, row_keys(runs)
    rows = []
    for place, key in enumerate(keys):
        own = {source: cells.get((*key, source.model, source.title)) for source in sources}
        rows.append((row_title(key, mixed), entries_of(sources, own)))
        last_of_target = place + 1 == len(keys) or keys[place + 1].target != key.target
        if key.target in printed and last_of_target:
            rows.append((f"{target_title(key.target)}, paper", entries_of(sources, printed[key.target])))
    return tuple(row for row in rows if any(entry.text for entry in row[1]))


def _cells(runs: pd.DataFrame) -> dict[tuple[str, ...], Cell]:
    shown = runs[runs["overlap"] == ""]
    by_cell = shown.groupby([*RowKey._fields, "model", "title"], sort=False)
    return {key: cell_of(of_cell) for key, of_cell in by_cell}


def _with_printed(
    paper: Published, runs: pd.DataFrame, sources: list[Source]
) -> tuple[list[Source], dict[str, dict[Source, Cell]]]:
    """The sources including those that only the paper has, and its values by target and source."""
    printed: dict[str, dict[Source, Cell]] = {}
    for target, metric in runs.groupby("target", sort=False)["metric"].first().items():
        if paper.metric.get(str(target)) == metric:
            values = printed[str(target)] = {}
            for (model, sets), cell in paper.cells[str(target)].items():
                alike = [source for source in sources if (source.model, source.sets) == (model, sets)]
                if not alike:
                    alike = [Source(model, "+".join(SET_TITLE[name] for name in sets), sets)]
                    sources = [*sources, *alike]
                values |= dict.fromkeys(alike, cell)
    return in_order(sources), printed


def _split(sources: list[Source]) -> list[tuple[str, list[Source]]]:
    if len(sources) <= _WIDEST:
        return [("", sources)]
    return [(kind, group) for kind in DOMAINS if (group := [s for s in sources if domain(s.sets) == kind])]


def entries_of(sources: Sequence[Source], cells: Mapping[Source, Cell | None]) -> tuple[Entry, ...]:
    """A row of the paper's layout: the best marked, and each source tested against the next smaller one."""
    found = {source: cell for source in sources if (cell := cells.get(source))}
    highest = best(found.values())
    entries = []
    for source in sources:
        cell = found.get(source)
        if cell is None:
            entries.append(Entry())
            continue
        smaller = [other for other in found if other.model == source.model and is_smaller(other.sets, source.sets)]
        next_smaller = max(smaller, key=lambda other: len(other.sets), default=None)
        p = welch(cell, found[next_smaller]) if next_smaller else None
        against = next_smaller.title if next_smaller and p is not None else ""
        is_best = len(found) > 1 and cell.n > 0 and round(cell.mean, 2) == highest
        entries.append(Entry(cell, best=is_best, p=p, against=against))
    return tuple(entries)


def _headings(sources: Sequence[Source]) -> list[Heading]:
    """Column headings; "+NIH" is a short title where the previous column lacks only that set."""
    headings = []
    for place, source in enumerate(sources):
        before = sources[place - 1] if place else None
        short = source.title
        if before and before.model == source.model and is_smaller(before.sets, source.sets):
            added = [name for name in source.sets if name not in before.sets]
            if len(added) == 1 and before.sets != () and set(before.sets) < set(source.sets) and added[0] in SET_TITLE:
                short = f"+{SET_TITLE[added[0]]}"
        headings.append(Heading(source.model, source.title, short))
    return headings


def _metrics(runs: pd.DataFrame) -> str:
    """Description of the metrics: "Top-1 accuracy on test (PadChest-Cl: mean AUC), percent"."""
    order = list(dict.fromkeys(key.target for key in row_keys(runs)))
    by_target = runs.groupby("target")["metric"].first()[order]
    main = str(Counter(by_target).most_common(1)[0][0])
    others = [f"{target_title(t)}: {METRIC_TITLE.get(m, m)}" for t, m in by_target.items() if m != main]
    name = METRIC_TITLE.get(main, main)
    aside = f" ({'; '.join(others)})" if others else ""
    return f"{name[0].upper()}{name[1:]} on test{aside}, percent; mean ± standard deviation over {seeds_text(runs)}"


def _notes(
    runs: pd.DataFrame,
    sources: Sequence[Source],
    rows: Iterable[tuple[str, tuple[Entry, ...]]],
    with_paper: bool,
) -> tuple[str, ...]:
    notes = ["Bold: the best of a row."] if len(sources) > 1 else []
    if any(entry.p is not None for _, entries in rows for entry in entries):
        notes.append(
            "Italic: no significant difference to the same model's next smaller source (Welch's t-test, p ≥ 0.05)."
        )
    if any(entry.cell and entry.cell.printed_std is not None for _, entries in rows for entry in entries):
        notes.append(PRINTED_SPREADS)
    return (*notes, *fewer_seeds(runs), *protocol_notes(runs, with_paper), *overlap_notes(runs))
