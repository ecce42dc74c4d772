"""A figure of several targets side by side: few-shot curves, and below them what pre-training gained."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipelines.common.figure_text import bold, drawable, text_style
from trainer.document.blocks import Cell, Picture
from trainer.document.figure_style import STYLE, save
from trainer.reporting.cells import half_interval
from trainer.reporting.figures import (
    BARS,
    Handles,
    Look,
    Styles,
    add_legend,
    draw_panel,
    mean_curve,
    merge,
    short_target,
)
from trainer.reporting.gains import gains
from trainer.reporting.names import METRIC_TITLE, listed, model_order, shots_order
from trainer.reporting.tables import RowKey, row_keys, row_title, seeds_text

_MOST_PANELS = 3  # side by side
_WIDTH, _HEIGHT, _LEGEND_HEIGHT = 7.2, 2.2, 0.5  # inches
_LETTERS_PER_INCH = 14  # of a title above a panel
_GREY = "#666666"


class _Panel(NamedTuple):
    key: RowKey
    model: str

    def of(self, runs: pd.DataFrame) -> pd.DataFrame:
        return self.key.of(runs[runs["model"] == self.model])


def side_by_side(runs: pd.DataFrame, folder: Path, styles: Styles) -> Picture | None:
    """Few-shot curves of all targets on one scale, above the points gained by pre-training.

    None for a single target, a single number of shots, different metrics, or more panels than fit side by side.
    """
    panels = [_Panel(*each) for each in product(row_keys(runs), sorted(runs["model"].unique(), key=model_order))]
    panels = [panel for panel in panels if len(panel.of(runs))]
    several = min(runs[name].nunique() for name in ("target", "shots")) > 1
    if not several or runs["metric"].nunique() > 1 or len(panels) > _MOST_PANELS:
        return None
    metric, gained = METRIC_TITLE.get(runs["metric"].iloc[0], runs["metric"].iloc[0]), gains(runs)
    spread = f"mean ± standard deviation over {seeds_text(runs)}"
    with plt.rc_context(STYLE | text_style([*runs["title"], *runs["target"], *runs["classes"]])):
        figure = _draw(runs, gained, panels, styles)
        figure.axes[0].set_ylabel(f"{metric} on test, %")
        above = f"{spread}; gains with 95% intervals" if gained["seed"].nunique() > 1 else spread
        figure.suptitle(above, x=0.01, ha="left", fontsize=9)
        width = save(figure, folder, name := "targets", also_png=True)
    caption = f"All targets on one scale: {metric} on test by training images per class; {spread}."
    below = " Below: points gained by pre-training, paired by seed, with a 95% t interval." if len(gained) else ""
    return Picture(name, caption + below, width)


def _draw(runs: pd.DataFrame, gained: pd.DataFrame, panels: Sequence[_Panel], styles: Styles) -> Figure:
    """A column for each panel: the curves, and below them the gains if there are any."""
    order, lines = shots_order(runs["shots"]), 2 if len(gained) else 1
    figure, grid = plt.subplots(
        lines,
        len(panels),
        figsize=(_WIDTH, _HEIGHT * lines + _LEGEND_HEIGHT),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey="row",
    )
    handles: Handles = {}
    for column, panel in zip(grid.T, panels, strict=True):
        mine = panel.of(runs)
        merge(handles, draw_panel(column[0], mine[mine["overlap"] == ""], order, styles, mean_curve))
        title = _title(panel, runs)
        column[0].set_title(fill(title, int(_LETTERS_PER_INCH * _WIDTH / len(panels))), loc="left", weight=bold(title))
        if len(gained):
            column[1].axhline(0, color=_GREY, linewidth=0.9)
            draw_panel(column[1], panel.of(gained), order, styles, _gain_curve)
        column[-1].set_xticks(range(len(order)), order)
        column[-1].set_xlabel("training images per class")
    if len(gained):
        grid[1, 0].set_ylabel("gain over scratch, points")
    add_legend(figure, handles)
    return figure


def _gain_curve(axes: Axes, places: Sequence[float], cells: Sequence[Cell], label: str, look: Look) -> Any:
    """Means with 95% t intervals."""
    shown = [(place, cell) for place, cell in zip(places, cells, strict=True) if cell.n]
    halves = [half_interval(cell.std, cell.n) if cell.n > 1 else 0.0 for _, cell in shown]
    means = [cell.mean for _, cell in shown]
    return axes.errorbar([place for place, _ in shown], means, yerr=halves, label=label, **BARS, **look)


def _title(panel: _Panel, runs: pd.DataFrame) -> str:
    """Target with its classes, if only some of them were used, and what else tells the panels apart."""
    classes = sorted(set(panel.of(runs)["classes"]) - {""})
    parts = [short_target(panel.key.target)]
    parts += [panel.model] if runs["model"].nunique() > 1 else []
    aside = row_title(panel.key, runs["origin"].nunique() > 1, with_target=False)
    parts += [aside] if aside else []
    title = ", ".join(parts)
    is_said = bool(panel.key.setting) or len(classes) != 1
    return title if is_said else f"{title}: {drawable(listed(classes[0].split(', ')))}"
