"""Figure 4 of the paper from our points: throughput and speed-up. Predicted points are hollow, joined by dashed
lines."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.lib.network.profile import Published
from benchmarks.lib.scaling.rows import MEASURED, Row

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no display
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]  # Okabe and Ito: told apart by everybody
_MARKERS = "osD^v"
_PAPER = "#444444"


def series_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what they may be compared with, in order of counts; the name says whether they are measured."""
    key = lambda row: (row.kind, row.engine, row.model, row.hardware, "what if" in row.note)  # noqa: E731
    named = {}
    for (kind, engine, model, hardware, what_if), of_series in groupby(sorted(rows, key=key), key):
        points = sorted(of_series, key=lambda row: row.gpus)
        # A failed point knows neither model nor hardware: it is a gap in the series of its engine.
        label = f"{kind}: {engine}, {model}, {hardware}" + (", what if" if what_if else "")
        named[label] = points
    return named


def look(number: int) -> tuple[str, str]:
    """Colour and marker of the series of this number."""
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]


def draw(rows: Sequence[Row], out: Path, paper: Published | None) -> list[Path]:
    """Write figure4a and figure4b as PNG and SVG; returns the files."""
    files = []
    for name, panel in (("figure4a", _throughput), ("figure4b", _speed_up)):
        figure, axes = plt.subplots(figsize=(7.5, 5.0), layout="constrained")
        panel(axes, rows, paper)
        for ending in ("png", "svg"):
            files.append(out / f"{name}.{ending}")
            figure.savefig(files[-1], dpi=150)
        plt.close(figure)
    return files


def _throughput(axes: Axes, rows: Sequence[Row], _: Published | None) -> None:
    for number, (label, points) in enumerate(series_of(rows).items()):
        colour = look(number)[0]
        counts, rates, low, high = _columns(points, "images_per_s")
        _line(axes, points, counts, rates, low, high, label, look(number))
        first = next((row for row in points if row.images_per_s), None)
        if first and first.images_per_s and len(counts) > 1:
            axes.plot(counts, counts / first.gpus * first.images_per_s, color=colour, linewidth=0.8, linestyle=":")
    axes.plot([], [], color="black", linewidth=0.8, linestyle=":", label="ideal: as many times the smallest count")
    axes.set_ylabel("images/s, all ranks")
    _finish(axes, rows, "Throughput")


def _speed_up(axes: Axes, rows: Sequence[Row], paper: Published | None) -> None:
    bases = sorted({row.base for row in rows if row.efficiency is not None})
    most = max(row.gpus for row in rows)
    least = min(row.gpus for row in rows)
    axes.plot([least, most], [least, most], color="black", linewidth=0.8, linestyle=":", label="ideal")
    for number, (label, points) in enumerate(series_of(rows).items()):
        colour = look(number)[0]
        counts, shares, low, high = _columns(points, "efficiency")
        factor = counts / 100.0  # N E(N): how many ranks of the smallest count's speed these are worth
        _line(axes, points, counts, shares * factor, low * factor, high * factor, label, look(number))
        place = (-4, 8) if number % 2 == 0 else (5, -12)
        for count, share in zip(counts, shares, strict=True):
            if np.isfinite(share):
                _name_efficiency(axes, count, share, f"{share:.2f}%", place, colour)
    if paper is not None:
        _draw_paper(axes, paper)
    against = "1" if bases in ([], [1]) else " or ".join(map(str, bases))
    axes.set_ylabel("speed-up" + ("" if against == "1" else f" (efficiency relative to {against} ranks: no T(1))"))
    _finish(
        axes,
        rows,
        "Speed-up and efficiency E(N) = 100 T(N) / (N T(1))" if against == "1" else "Speed-up and efficiency",
    )


def _draw_paper(axes: Axes, paper: Published) -> None:
    """The paper's speed-ups, with a star where the prediction was not fitted to them."""
    ranks, shares = np.array(paper.ranks), np.array(paper.efficiency)
    axes.plot(ranks, ranks * shares / 100.0, "x", color=_PAPER, markersize=7, label="paper, Figure 4b (measured)")
    held = ranks > paper.calibrate_up_to
    for count, share, out_of_fit in zip(ranks, shares, held, strict=True):
        if count > 1:
            text = f"{share:.2f}%" + ("*" if out_of_fit else "")
            _name_efficiency(axes, count, share, text, (6, -18), _PAPER)
    if held.any():
        axes.plot([], [], " ", label="* not shown to the model")


def _name_efficiency(axes: Axes, count: float, share: float, text: str, place: tuple[int, int], colour: str) -> None:
    """Write an efficiency of so many ranks beside their speed-up. place: points from there."""
    point, side = (count, share * count / 100.0), "right" if place[0] < 0 else "left"
    axes.annotate(text, point, xytext=place, textcoords="offset points", ha=side, fontsize=7, color=colour)


def _columns(points: Sequence[Row], name: str) -> tuple[np.ndarray, ...]:
    """Counts, values, low and high; NaN, which leaves a gap in the line, where a point failed."""
    values = [[getattr(row, name + end) for row in points] for end in ("", "_low", "_high")]
    as_floats = [np.array([np.nan if value is None else value for value in column], dtype=float) for column in values]
    return np.array([row.gpus for row in points], dtype=float), *as_floats


def _line(
    axes: Axes,
    points: Sequence[Row],
    counts: np.ndarray,
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    label: str,
    colour_and_marker: tuple[str, str],
) -> None:
    measured = points[0].kind == MEASURED
    colour, marker = colour_and_marker
    axes.plot(
        counts,
        values,
        color=colour,
        label=label,
        linestyle="-" if measured else "--",
        linewidth=1.2,
        marker=marker,
        markersize=6,
        markerfacecolor=colour if measured else "white",
    )
    if measured:
        axes.errorbar(
            counts, values, [values - low, high - values], color=colour, linestyle="none", capsize=3, linewidth=1
        )
    else:
        axes.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)


def _finish(axes: Axes, rows: Sequence[Row], title: str) -> None:
    counts = sorted({row.gpus for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10 if title == "Throughput" else 2)
    for axis in [axes.xaxis] if title == "Throughput" else [axes.xaxis, axes.yaxis]:
        axis.set_major_locator(FixedLocator(counts))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("GPUs (ranks)")
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.09)
    axes.grid(alpha=0.25)
    for text in axes.legend(fontsize=7, loc="upper left").get_texts():
        text.set_parse_math(False)  # names of hardware; those of ticks are formulas
