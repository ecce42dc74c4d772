"""The figure of an evaluation over groups of images, such as months."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from data_pipelines.common.figure_text import drawable, text_style
from data_pipelines.common.printable import shortened
from trainer.document.blocks import SIGNIFICANT, Picture
from trainer.document.figure_style import STYLE, save
from trainer.evaluation.assessment.groups import GroupFinding, Groups
from trainer.evaluation.assessment.shifts import Measure
from trainer.evaluation.statistics.intervals import Estimate

_BLUE, _VERMILION, _GREY = "#0072b2", "#d55e00", "#999999"  # Okabe and Ito's, and a grey
_LONGEST_TITLE, _LONGEST_GROUP = 26, 14  # letters
_WIDTH, _MOST_WIDTH, _ROW = 2.6, 8.6, 1.2  # inches: of a column, of all, of a row
_BESIDE = 0.6  # inches of a column that are no axes
_PER_TICK = 0.24  # inches that the slanted name of a group takes
_WIDEST_STROKE = 9.0  # points
# Title, estimate, and what is tested of it.
_ROWS: tuple[tuple[str, Callable[[GroupFinding], Estimate], tuple[Measure, ...]], ...] = (
    ("AUC", lambda found: found.finding.auc, ()),
    ("prevalence", lambda found: found.prevalence, ("prevalence",)),
    ("label less\nprobability", lambda found: found.excess, ("calibration",)),
    ("calibration\nslope", lambda found: Estimate(found.slope), ("slope",)),
)


def over_groups(groups: Groups, columns: Sequence[int], folder: Path) -> Picture:
    """AUC, prevalence and calibration of some findings in each group. columns: of the findings."""
    names = [groups.groups[0].findings[column].finding.name for column in columns]
    width = min(_MOST_WIDTH, 0.9 + (_WIDTH if len(names) > 1 else 2 * _WIDTH) * len(names))
    inches = width / len(names) - _BESIDE  # of axes
    stroke = min(_WIDEST_STROKE, 0.7 * 72 * inches / (_places(groups)[-1] + 1))  # apart from its neighbours
    size = (width, 1.2 + _ROW * len(_ROWS))
    with plt.rc_context(STYLE | text_style([*names, *(group.name for group in groups.groups)])):
        figure, grid = plt.subplots(
            len(_ROWS), len(names), figsize=size, layout="constrained", sharex=True, sharey="row", squeeze=False
        )
        for place, (column, name) in enumerate(zip(columns, names, strict=True)):
            grid[0, place].set_title(shortened(drawable(name), _LONGEST_TITLE))
            for axes, (title, estimate, measures) in zip(grid[:, place], _ROWS, strict=True):
                _draw(axes, groups, column, estimate, measures)
                axes.set_ylabel("" if place else title)
            predicted = [group.findings[column].predicted for group in groups.groups]
            grid[1, place].plot(_places(groups), predicted, "_", color=_GREY, ms=stroke, mew=1.6)
            grid[2, place].axhline(0, color=_GREY, lw=0.8)
            grid[3, place].axhline(1, color=_GREY, lw=0.8)
            _name_groups(grid[-1, place], groups, most=int(inches / _PER_TICK))
        width = save(figure, folder, f"by-{groups.by}" if groups.period else "by-group")
    return Picture(
        f"by-{groups.by}" if groups.period else "by-group",
        f"By {groups.by}, with 95% intervals. Orange: differs from the others together (p at most {SIGNIFICANT:g}, "
        "corrected for all comparisons). Grey strokes: the mean probability.",
        width,
    )


def _places(groups: Groups) -> list[int]:
    first = groups.groups[0].place
    return [group.place - first for group in groups.groups]


def _draw(
    axes: Axes,
    groups: Groups,
    column: int,
    estimate: Callable[[GroupFinding], Estimate],
    measures: tuple[Measure, ...],
) -> None:
    """A dot with its interval for each group; those that moved stand out."""
    name = groups.groups[0].findings[column].finding.name
    moved = {found.group for found in groups.moved if found.finding == name and found.measure in measures}
    places, found = _places(groups), [estimate(group.findings[column]) for group in groups.groups]
    if groups.period:
        axes.plot(places, [each.value for each in found], color=_BLUE, lw=0.7, alpha=0.5)
    for place, group, each in zip(places, groups.groups, found, strict=True):
        colour = _VERMILION if group.name in moved else _BLUE
        if each.has_interval:
            axes.plot([place, place], [each.low, each.high], color=colour, lw=1.2, solid_capstyle="butt")
        axes.plot(place, each.value, "o", color=colour, ms=4.5, mec="white")


def _name_groups(axes: Axes, groups: Groups, most: int) -> None:
    """Write the names of all groups, or of every n-th, so that there are at most so many."""
    places, names = _places(groups), [group.name for group in groups.groups]
    every = -(-len(names) // most)
    texts = [shortened(drawable(name), _LONGEST_GROUP) for name in names[::every]]
    axes.set_xticks(places[::every], texts, rotation=50, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, places[-1] + 0.6)
