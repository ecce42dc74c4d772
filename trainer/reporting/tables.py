"""Report tables as data, with the order and names of sources and targets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from trainer.document.blocks import Table
from trainer.reporting.names import (
    DOMAINS,
    MODE_TITLE,
    SCRATCH,
    TARGET_TITLE,
    domain,
    is_smaller,
    model_order,
    setting_order,
    shots_order,
    shots_title,
    source_title,
    target_title,
)
from trainer.reporting.rows import AUTHORS, DEFAULT, OWN, PUBLISHED

_SHOWN_CELLS = 6


@dataclass(frozen=True)
class Source:
    """A column of the paper's layout: a model, and what it was pre-trained on."""

    model: str
    title: str
    sets: tuple[str, ...]


def with_titles(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with a column `title`: their source without the model, or its whole name if two would be equal."""
    titles = [source_title(source, model) for source, model in zip(runs["source"], runs["model"], strict=True)]
    runs = runs.assign(title=titles)
    names = runs.groupby(["origin", "model", "title"])["source"].transform("nunique")
    return runs.assign(title=runs["title"].where(names <= 1, runs["source"]))


def sources_of(runs: pd.DataFrame) -> list[Source]:
    """The sources of some runs: by model; scratch, natural images, X-rays, others; the smaller before the larger."""
    found: dict[tuple[str, str], Source] = {}
    for model, title, sets in zip(runs["model"], runs["title"], runs["source_sets"], strict=True):
        source = Source(model, title, tuple(sorted(filter(None, sets.split("+")))))
        found.setdefault((model, title), source)
    return in_order(found.values())


def in_order(sources: Iterable[Source]) -> list[Source]:
    """Sources in the order of `sources_of`."""
    sources = list(sources)

    def key(source: Source) -> tuple[object, ...]:
        smaller = sum(is_smaller(other.sets, source.sets) for other in sources if other.model == source.model)
        kind = DOMAINS.index(domain(source.sets))
        return model_order(source.model), source.title != SCRATCH, kind, smaller, source.title

    return sorted(sources, key=key)


class RowKey(NamedTuple):
    """Key of a table row: runs with different keys are never averaged."""

    target: str
    mode: str
    protocol: str
    origin: str
    setting: str

    def of(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The runs of this row."""
        return runs[(runs[list(self._fields)] == list(self)).all(axis=1)]


def row_keys(runs: pd.DataFrame) -> list[RowKey]:
    """The rows of the paper's layout: the paper's targets in its order, then the others."""
    keys = list(dict.fromkeys(map(RowKey._make, runs[list(RowKey._fields)].itertuples(index=False))))
    targets = list(TARGET_TITLE) + [key.target for key in keys]
    modes = [*MODE_TITLE, *(key.mode for key in keys)]
    return sorted(
        keys,
        key=lambda key: (
            targets.index(key.target),
            modes.index(key.mode),
            key.origin != OWN,
            key.protocol != DEFAULT,
            setting_order(key.setting),
        ),
    )


def row_title(key: RowKey, mixed: bool, with_target: bool = True) -> str:
    """Title of a row; `mixed`: the report holds published runs beside the user's own."""
    parts = [target_title(key.target)] if with_target else []
    if key.mode != "finetune":
        parts.append(MODE_TITLE.get(key.mode, key.mode))
    if key.origin == PUBLISHED:
        parts += ["authors' files"] if mixed else []
    elif key.protocol != DEFAULT:
        parts.append("authors' protocol")
    parts += [key.setting] if key.setting else []
    return ", ".join(parts)


def protocol_notes(runs: pd.DataFrame, with_paper: bool = False) -> tuple[str, ...]:
    """Notes on a table with numbers of more than one protocol; the paper's are by the authors'."""
    if len({*runs["protocol"], *([AUTHORS] if with_paper else [])}) < 2:
        return ()
    return ("Rows of different protocols cannot be compared directly: see the top of the report.",)


def seeds_text(runs: pd.DataFrame) -> str:
    """Number of seeds in the cells of some runs: "5 seeds", or "4 to 5 seeds"."""
    counts = runs.groupby([*RowKey._fields, "model", "source", "shots"])["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    return f"{high} seed{'s' * (high > 1)}" if low == high else f"{low} to {high} seeds"


def fewer_seeds(runs: pd.DataFrame) -> tuple[str, ...]:
    """Note on cells that have fewer seeds than the maximum."""
    cells = ["target", "mode", "origin", "model", "title", "setting", "shots"]
    counts = runs[runs["overlap"] == ""].groupby(cells, sort=False)["seed"].nunique()
    few = counts[counts < counts.max()]
    order = shots_order(runs["shots"])
    names = [
        f"{', '.join(filter(None, (target_title(target), model, title, setting, shots_title(shots))))} ({count})"
        for (target, _, _, model, title, setting, shots), count in sorted(
            few.items(), key=lambda cell: order.index(cell[0][-1])
        )
    ]
    more = f"; and {len(names) - _SHOWN_CELLS} more" if len(names) > _SHOWN_CELLS else ""
    return (f"Fewer than {counts.max()} seeds: {'; '.join(names[:_SHOWN_CELLS])}{more}.",) if names else ()


PRINTED_SPREADS = (
    "Paper: the standard deviation as printed, and in brackets that of the different rows of the authors' files. "
    "Nearly all of their rows stand twice, and the printed one counts them twice, which makes it 6% too small for five "
    "seeds."
)


def class_notes(runs: pd.DataFrame) -> tuple[str, ...]:
    """Note on runs that all used the same few classes of their set."""
    found = set(runs["classes"])
    return () if len(found) > 1 or "" in found else (f"Only images of these classes: {found.pop()}.",)


def overlap_notes(runs: pd.DataFrame) -> tuple[str, ...]:
    """Note on cells that stay blank because the source has seen images of the target."""
    overlapping = runs[runs["overlap"] != ""]
    cells = overlapping.groupby(["title", "target", "overlap"], sort=False).size()
    return tuple(
        f"Blank: {title} on {target_title(target)}, {count} run{'s' * (count > 1)} left out: {reason}."
        for (title, target, reason), count in cells.items()
    )


def as_rows(tables: Iterable[Table]) -> pd.DataFrame:
    """All numbers of some tables, one row each, in full precision; percent."""
    rows = [
        {
            "table": table.name,
            "row": title,
            "group": column.group,
            "column": column.title,
            "mean": entry.cell.mean,
            "std": entry.cell.std,
            "printed_std": entry.cell.printed_std,
            "n": entry.cell.n,
            "not_a_number": entry.cell.not_numbers,
            "best": entry.best,
            "p": entry.p,
            "against": entry.against,
        }
        for table in tables
        for title, entries in table.rows
        for column, entry in zip(table.columns, entries, strict=True)
        if entry.cell and entry.text
    ]
    return pd.DataFrame(rows)
