"""A figure of claims: effects with intervals, a line for each claim, in groups."""

from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from data_pipelines.common.figure_text import bold, drawable, legend, text_style
from data_pipelines.common.printable import shortened
from trainer.document.blocks import Picture
from trainer.document.figure_style import STYLE, save
from trainer.reporting.analysis.verdicts import CONTRADICTED, EQUIVALENT, SUPPORTED, UNDECIDED, Judged
from trainer.reporting.figures import plain_log_ticks

# As in the other figures (after Okabe and Ito); the marker says the same in print.
LOOKS = {
    SUPPORTED: ("#0072b2", "o"),
    CONTRADICTED: ("#c04000", "X"),
    EQUIVALENT: ("#009e73", "s"),
    UNDECIDED: ("#666666", "D"),
}
"""Colour and marker of each verdict."""
_MARGIN, _CELL = "#009e7326", "#b0b0b0"
_AXIS = {"points": "difference in points, 95% interval", "times": "ratio of standard deviations, 95% interval"}
_BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
_WIDTH, _LINE, _AROUND = 7.2, 0.19, 0.75  # inches
_LONGEST = 44  # letters of a label


def draw_claims(judged: Sequence[Judged], folder: Path, name: str) -> Picture | None:
    """Draw the claims that have an effect; None without any."""
    shown = [one for one in judged if isfinite(one.effect)]
    panels = [[one for one in shown if one.unit == unit] for unit in _AXIS]
    panels = [panel for panel in panels if panel]
    if not panels:
        return None
    lines = [_num_lines(panel) for panel in panels]
    names = [text for one in shown for text in (_label(one), one.claim.group)]
    with plt.rc_context(STYLE | text_style(names) | {"axes.grid.axis": "x", "axes.spines.left": False}):
        figure, grid = plt.subplots(
            len(panels),
            1,
            figsize=(_WIDTH, _LINE * sum(lines) + _AROUND * len(panels) + 0.3),
            height_ratios=[count + 1 for count in lines],
            layout="constrained",
            squeeze=False,
        )
        for axes, panel in zip(grid.flat, panels, strict=True):
            _draw(axes, panel)
        handles, labels = _legend(shown)
        legend(figure, handles, labels, loc="outside lower center", ncols=4, frameon=False)
        width = save(figure, folder, name, also_png=True)
    return Picture(name, _caption(shown), width)


def _num_lines(panel: Sequence[Judged]) -> int:
    return len(panel) + len({one.claim.group for one in panel} - {""})


def _draw(axes: Axes, panel: Sequence[Judged]) -> None:
    """One panel, from the top down."""
    is_ratio = panel[0].unit == "times"
    neutral = 1.0 if is_ratio else 0.0
    limits = _limits(panel, is_ratio)
    places, labels, line = [], [], 0
    for group, members in groupby(panel, key=lambda one: one.claim.group):
        if group:
            across: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "weight": bold(group)}
            axes.annotate(drawable(group), (0.005, line), **across, bbox=_BEHIND_TEXT)
            line += 1
        for one in members:
            _draw_claim(axes, one, line, limits)
            places.append(line)
            labels.append(shortened(drawable(_label(one)), _LONGEST))
            line += 1
    if is_ratio:
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, (1.0, 2.0, 5.0))
    axes.axvline(neutral, color="0.3", linewidth=0.9, zorder=1)
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(line - 0.4, -0.6)
    axes.set_xlim(*limits)
    axes.set_xlabel(_AXIS[panel[0].unit])


def _limits(panel: Sequence[Judged], is_ratio: bool) -> tuple[float, float]:
    """The axis: all intervals and margins, and some room; not every single cell."""
    neutral = 1.0 if is_ratio else 0.0
    ends = [neutral]
    for one in panel:
        ends += [end for end in (one.effect, one.low, one.high) if isfinite(end)]
        ends += [-one.claim.margin, one.claim.margin] if one.claim.margin is not None else []
    if is_ratio:
        room = (max(ends) / min(ends)) ** 0.15
        return min(ends) / room, max(ends) * room
    room = 0.15 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


def _draw_claim(axes: Axes, one: Judged, line: int, limits: tuple[float, float]) -> None:
    colour, marker = LOOKS[one.verdict]
    if one.claim.margin is not None:
        axes.barh(line, 2 * one.claim.margin, left=-one.claim.margin, height=0.8, color=_MARGIN, zorder=0)
    if len(one.cells) > 1:
        inside = [cell for cell in one.cells if limits[0] <= cell <= limits[1]]
        axes.plot(inside, [line] * len(inside), "|", color=_CELL, markersize=6, zorder=2)
        for beyond, end, arrow in ((min(one.cells) < limits[0], 0, 4), (max(one.cells) > limits[1], 1, 5)):
            if beyond:
                axes.plot([limits[end]], [line], marker=arrow, color=_CELL, markersize=5, clip_on=False, zorder=2)
    if isfinite(one.low):
        axes.plot([one.low, one.high], [line, line], color=colour, linewidth=1.6, zorder=3)
    axes.plot([one.effect], [line], marker, color=colour, markeredgecolor="white", zorder=4)


def _label(one: Judged) -> str:
    return one.claim.label or one.claim.id


def _legend(shown: Sequence[Judged]) -> tuple[list[Line2D], list[str]]:
    there = [verdict for verdict in LOOKS if any(one.verdict == verdict for one in shown)]
    looks = [LOOKS[verdict] for verdict in there]
    handles = [Line2D([], [], color=colour, marker=marker, mec="white") for colour, marker in looks]
    labels = list(there)
    if any(len(one.cells) > 1 for one in shown):
        handles.append(Line2D([], [], color=_CELL, marker="|", ls="none"))
        labels.append("single cells")
    if any(one.claim.margin is not None for one in shown):
        handles.append(Line2D([], [], color=_MARGIN, linewidth=7))
        labels.append("counts as no difference")
    return handles, labels


def _caption(shown: Sequence[Judged]) -> str:
    parts = ["Effect of each claim, averaged over its cells, with its 95% t interval."]
    if any(len(one.cells) > 1 for one in shown):
        parts.append(
            "Grey lines: single cells, such as one target with one model; triangles: some lie beyond the axis."
        )
    if any(one.claim.margin is not None for one in shown):
        parts.append("Green band: the margin within which a difference counts as none.")
    if any(one.unit == "times" for one in shown):
        parts.append("Below: ratios of standard deviations over seeds; 1 is no difference.")
    return " ".join(parts)
