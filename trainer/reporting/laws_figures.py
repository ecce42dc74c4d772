"""Figures of the laws: curves with bands, dashed where they extrapolate; predictions of left-out targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import scipy
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from data_pipelines.common.figure_text import text_style
from trainer.document.blocks import Picture
from trainer.document.figure_style import STYLE, save
from trainer.reporting.analysis.joint_law import LAW, MEAN_AT, HeldOut
from trainer.reporting.analysis.power_law import DECADE, PowerLaw
from trainer.reporting.figures import BARS, Handles, Look, add_legend, merge, plain_log_ticks, short_target

Curves = Sequence[tuple[str, Look, PowerLaw]]  # the label, colour and marker of each law
_PANEL, _LEGEND_HEIGHT, _MOST_BESIDE = (3.4, 2.6), 0.6, 2  # inches
_WIDTH_OF_ONE = 4.6
_TITLE_LETTERS = 40
_LETTERS_PER_INCH = 15
_HOW = (
    "Points: mean ± standard deviation over seeds. Lines: e∞ + a n^-α with its 95% band; dashed: extrapolated. Dotted: "
    "points joined, no law drawn."
)
_MANY_DECADES = 300.0  # an axis over less has more ticks
_DODGE = 1.03  # between the points of neighbouring curves, so that error bars do not hide each other
_BAND: dict[str, Any] = {"alpha": 0.13, "linewidth": 0}
_GREY = "#666666"
_COLOURS = ["#0072b2", "#e07b00", "#009e73", "#cc79a7", "#30106a", "#90b46c", "#000000", "#7b5141"]
_MARKERS = "o^sDvPX*"


def look(place: int) -> Look:
    """Colour and marker of the curve at a place among others."""
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}


def law_figure(
    name: str, caption: str, panels: Mapping[str, Curves], axis: str, folder: Path, names: Sequence[str]
) -> Picture:
    """Errors against images on logarithmic axes, a panel for each title. names: what is drawn as text."""
    with plt.rc_context(STYLE | {"axes.grid.axis": "both"} | text_style(names)):
        figure, grid = _grid(len(panels))
        handles: Handles = {}
        for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
            for place, (label, style, law) in enumerate(curves):
                dodge = _DODGE ** (place - (len(curves) - 1) / 2)
                merge(handles, {label: _draw(axes, law, style, dodge)})
            axes.set_title(fill(title, _TITLE_LETTERS), loc="left", weight="bold")
            axes.set_xlabel(axis)
            _logarithmic(axes)
        for axes in grid[:, 0]:
            axes.set_ylabel("error on test, %")
        for axes in list(grid.flat)[len(panels) :]:
            axes.remove()
        figure.suptitle(fill(_HOW, int(_LETTERS_PER_INCH * figure.get_figwidth())), x=0.01, ha="left", fontsize=8)
        add_legend(figure, handles)
        width = save(figure, folder, name, also_png=True)
    return Picture(name, caption, width)


def _grid(num: int) -> tuple[Figure, Any]:
    columns = min(_MOST_BESIDE, num)
    lines = -(-num // columns)
    width = _WIDTH_OF_ONE if columns == 1 else _PANEL[0] * columns
    size = (width, _PANEL[1] * lines + _LEGEND_HEIGHT)
    return plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True)


def _draw(axes: Axes, law: PowerLaw, style: Look, dodge: float) -> Any:
    """The points of a law with their spread; its curve with the band, or where it is not drawn lines between points."""
    images, means = law.curve.images, law.curve.means * 100
    rows = zip(law.curve.errors, law.curve.counts, strict=True)
    spread = np.array([100 * float(np.nanstd(row, ddof=1)) if count > 1 else 0.0 for row, count in rows])
    lower = np.minimum(spread, means * 0.9)  # a logarithmic axis has no zero
    points = style | {"ls": "none"}
    handle = axes.errorbar(images * dodge, means, yerr=np.stack([lower, spread]), **BARS, **points)
    colour = style["color"]
    if not law.is_drawn or law.parameters is None:
        axes.plot(images * dodge, means, color=colour, linewidth=0.8, linestyle=":")
        return handle
    _draw_curve(axes, law, np.geomspace(images[0], images[-1], 60), colour, "-")
    if law.is_told:
        _draw_curve(axes, law, np.geomspace(images[-1], images[-1] * DECADE, 30), colour, "--")
    return handle


def _draw_curve(axes: Axes, law: PowerLaw, images: Any, colour: str, style: str) -> None:
    assert law.parameters is not None
    axes.plot(images, law.parameters.at(images) * 100, color=colour, linestyle=style, linewidth=1.2)
    band = law.band(images)
    if band is not None:
        axes.fill_between(images, band[0] * 100, band[1] * 100, color=colour, **_BAND)


def _logarithmic(axes: Axes) -> None:
    """Logarithmic axes with plain numbers, at 1, 2 and 5 times powers of ten of the error."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log_ticks(axes.yaxis, (1.0, 2.0, 5.0))
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < _MANY_DECADES * low else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def prediction_figure(name: str, caption: str, found: HeldOut, folder: Path) -> Picture:
    """Measured against predicted gains of left-out targets: by their mean at the same shots, and by the joint law."""
    titles = {MEAN_AT: "mean gain at the same shots", LAW: "joint law"}
    with plt.rc_context(STYLE | {"axes.grid.axis": "both"} | text_style(found.targets)):
        size = (_PANEL[0] * 2, _PANEL[1] + _LEGEND_HEIGHT + 0.3)
        figure, grid = plt.subplots(1, 2, figsize=size, layout="constrained", sharex=True, sharey=True)
        handles: Handles = {}
        for axes, (predictor, title) in zip(grid, titles.items(), strict=True):
            for place, target in enumerate(found.targets):
                cells = found.cells[found.cells["target"] == target]
                errors = (cells["se"] * scipy.stats.t.ppf(0.975, cells["seeds"] - 1)).fillna(0.0)
                bars = {"elinewidth": 0.6, "ls": "none", "ms": 4}
                handles[short_target(target)] = axes.errorbar(
                    cells[predictor], cells["gain"], yerr=errors, **bars, **look(place)
                )
            axes.axline((0, 0), slope=1, color=_GREY, linewidth=0.9, linestyle="--")
            axes.set_title(f"{title}\nRMSE {found.overall(predictor):.2f} points", loc="left", weight="bold")
            axes.set_xlabel("predicted gain, points")
        grid[0].set_ylabel("measured gain, points")
        add_legend(figure, handles)
        width = save(figure, folder, name, also_png=True)
    return Picture(name, caption, width)
