"""The joint law in a report: whether proximity predicts the gain on a target that was not seen."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from trainer.document.blocks import Block, Paragraph, Title
from trainer.document.text import Code, Text
from trainer.domain_distance.proximity_file import Distances
from trainer.reporting import laws_figures, laws_tables
from trainer.reporting.analysis.joint_law import FEWEST_TARGETS, LAW, MEAN, MEAN_AT, HeldOut, held_out
from trainer.reporting.laws_data import Panel, gain_cells, panels_of, same_kind
from trainer.reporting.names import SCRATCH, listed, target_title
from trainer.reporting.proximity_pairs import factors, unmatched, values_of

_ABOUT = (
    "gain(source, target, n) = m(n) + b d + c d log n: m(n) is the mean gain at that number of training images per "
    "class, d the proximity of source and target. Each target in turn is left out, and its gains are predicted from "
    "the others: by this law, by their mean gain, and by their mean gain at the same shots. The error of a prediction "
    "is its root mean square over the cells of a target (RMSE, in points); targets count the same."
)
_SAME_KIND = "same kind of images"


class _Row(NamedTuple):
    """A factor of the law for runs of one kind, and the prediction, or why there is none."""

    title: str
    found: HeldOut | None
    why_not: str


def joint_blocks(runs: pd.DataFrame, baseline: str, folder: Path, distances: Distances | None) -> list[Block]:
    """The last part of the section. runs: with images and errors."""
    cells = gain_cells(runs, baseline)
    blocks: list[Block] = [Title("Gain on a target not seen", 3)]
    if cells.empty:
        return [*blocks, Paragraph(f"No gain: no source has runs beside those of {baseline} on one target.")]
    blocks += [Paragraph(_ABOUT), *(Paragraph(text) for text in _what_is_known(baseline, distances, cells))]
    mixed = runs["origin"].nunique() > 1
    rows = [row for way in _ways(cells) for row in _rows(way, cells, distances, mixed)]
    blocks += [Paragraph(f"{row.title}: {row.why_not}.") for row in rows if not row.found]
    predicted = [(row.title, row.found) for row in rows if row.found]
    if not predicted:
        return blocks
    title, found = predicted[0]
    blocks += [Paragraph(f"{title}: {_verdict(found)}")]
    blocks.append(
        laws_tables.prediction_table(_caption(baseline), predicted, _notes(cells, [found for _, found in predicted]))
    )
    return [*blocks, *_in_full(title, found, folder)]


def _what_is_known(baseline: str, distances: Distances | None, cells: pd.DataFrame) -> list[Text]:
    remarks: list[Text] = []
    if baseline != SCRATCH:
        remarks.append(f"No run from scratch is among the results: gains are those over the source {baseline}.")
    if distances is not None:
        words = unmatched(distances, cells)
        return [*remarks, words] if words else remarks
    known = "so d is whether source and target are of the same kind, natural images or chest X-rays. "
    if same_kind(cells).isna().all():
        known = "and the names of the sets do not tell their kind of images: there is no d, and no joint law. "
    more = (Code("bitscale proximity"), " measures it, and ", Code("--proximity"), " hands it to this report.")
    return [*remarks, ("The proximity of these sources and targets is not given, " + known, *more)]


def _ways(cells: pd.DataFrame) -> list[Panel]:
    """What is never pooled, each once: the panels, whatever their target."""
    ways = {panel._replace(key=panel.key._replace(target="")): panel for panel in panels_of(cells)}
    return list(ways)


def _rows(way: Panel, cells: pd.DataFrame, distances: Distances | None, mixed: bool) -> list[_Row]:
    fields = [*way.key._fields[1:], "model"]
    mine = cells[(cells[fields] == [*way.key[1:], way.model]).all(axis=1)]
    if distances is None:
        values = {_SAME_KIND: same_kind(mine)}
    else:
        values = {
            f"{measure} ({features})": values_of(distances, measure, features, mine)
            for measure, features in factors(distances)
        }
    known = {name: value for name, value in values.items() if value.notna().any()}
    return [_row(f"{name}, {way.title(mixed)}", mine.assign(proximity=value)) for name, value in known.items()]


def _row(title: str, cells: pd.DataFrame) -> _Row:
    known = cells[cells["proximity"].notna()]
    targets = known["target"].nunique()
    if targets < FEWEST_TARGETS:
        named = "1 target has" if targets == 1 else f"{targets} targets have"
        return _Row(title, None, f"{named} a known proximity, and leaving one out takes at least {FEWEST_TARGETS}")
    if known["proximity"].nunique() < 2:
        return _Row(title, None, "the proximity is the same for all pairs")
    return _Row(title, held_out(known), "")


def _caption(baseline: str) -> str:
    return (
        f"Error of the predicted gain over {baseline} on targets left out, in points, and its difference between "
        "predictions with a 95% t interval over targets; below zero the law predicts better."
    )


def _notes(cells: pd.DataFrame, predicted: list[HeldOut]) -> tuple[str, ...]:
    notes = [f"Targets: {listed([target_title(name) for name in dict.fromkeys(cells['target'])], 12)}."]
    if len(predicted) > 1:
        notes.append(f"{len(predicted)} rows: the best of them looks better than it is.")
    counts = {len(found.cells) for found in predicted}
    if len(counts) > 1:
        notes.append(
            f"Rows have {min(counts)} to {max(counts)} gains, as not every measure is known of every pair; mean gains "
            "differ with them."
        )
    return tuple(notes)


def _verdict(found: HeldOut) -> str:
    """The errors in words, good or bad."""
    noise = "" if pd.isna(found.noise) else f" The gains' own standard error is {found.noise:.2f} points."
    return (
        f"on {len(found.targets)} targets left out the joint law errs by {found.overall(LAW):.2f} points, the mean "
        f"gain by {found.overall(MEAN):.2f}, the mean gain at the same shots by {found.overall(MEAN_AT):.2f}. "
        f"{_compared(found, MEAN, 'the mean gain')} {_compared(found, MEAN_AT, 'that at the same shots')}{noise}"
    )


def _compared(found: HeldOut, other: str, name: str) -> str:
    mean, low, high = found.difference(LAW, other)
    better = f"smaller on {found.num_better(LAW, other)} of {len(found.targets)} targets"
    how = "better than" if high < 0 else "worse than" if low > 0 else "not distinguishable from"
    return f"The law is {how} {name} ({mean:+.2f} points [{low:+.2f}, {high:+.2f}], {better})."


def _in_full(title: str, found: HeldOut, folder: Path) -> list[Block]:
    """The errors on each target and the figure, for one factor."""
    slopes = found.slopes[:, 0]
    words = (
        f"{title}: one standard deviation more goes with {slopes.mean():+.2f} points of gain "
        f"({slopes.min():+.2f} to {slopes.max():+.2f}, by the target left out)."
    )
    caption = (
        f"Gains on targets left out, measured against predicted, {title}; bars: 95% intervals of the measured gain. On "
        "the dashed line both are equal."
    )
    return [
        laws_tables.target_errors(f"RMSE in points on each target left out, {title}.", found),
        Paragraph(words),
        laws_figures.prediction_figure("laws_prediction", caption, found, folder),
    ]
