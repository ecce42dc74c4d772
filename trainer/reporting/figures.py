"""Figures in the style of the paper's: few-shot curves, full shot by model size, spread over seeds by shots."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from data_pipelines.common.figure_text import bold, drawable, legend, text_style
from data_pipelines.common.file_names import own_file_name_of
from data_pipelines.common.printable import shortened, width_of
from trainer.document.blocks import Cell, Picture
from trainer.document.figure_style import STYLE, save
from trainer.models.bit import MODELS, build_model
from trainer.reporting.cells import cell_of
from trainer.reporting.names import (
    FULL,
    METRIC_TITLE,
    NATURAL,
    OTHER,
    SCRATCH,
    XRAY,
    domain,
    model_order,
    shots_order,
    target_title,
)
from trainer.reporting.paper import Published
from trainer.reporting.rows import CELL
from trainer.reporting.tables import Source, row_keys, row_title, seeds_text, sources_of

Look = dict[str, Any]  # keywords of a curve: colour, marker, line
Styles = dict[str, Look]  # by the title of the source
Handles = dict[str, Artist]  # for a legend, likewise; those of the paper by `_PAPER`
# Told apart by everybody (after Okabe and Ito); the more data of a kind, the darker. Markers tell them apart in print.
_SHADES = {
    NATURAL: ["#56b4e9", "#0072b2"],
    XRAY: ["#f0b429", "#e07b00", "#c04000", "#7a1f00"],
    OTHER: ["#009e73", "#cc79a7", "#30106a", "#90b46c", "#000000", "#7b5141"],
}
_MARKERS = {NATURAL: "os", XRAY: "^vDP", OTHER: "oDs^vP"}
_GREY = "#666666"
BARS: dict[str, Any] = {"capsize": 2, "elinewidth": 0.9}
_PANEL, _LEGEND_COLUMNS, _LEGEND_HEIGHT = (3.3, 2.4), 3, 0.5  # inches
_WIDTHS, _MOST_BESIDE = {1: 4.6, 3: 7.2}, 3
# Between the curves of a panel, so that error bars do not hide each other: in places on the axis of shots, and as a
# factor on that of sizes; and from there to the published values.
_DODGE, _DODGE_FACTOR = 0.07, 1.06
_TO_PAPER, _TO_PAPER_FACTOR = 0.42, 1.45
_PAPER, _PAPER_LABEL = "\0", "the paper"  # no source has that name
_LONGEST_SOURCE, _LONGEST_TARGET = 60, 30  # letters in a figure; captions and tables have all
_TITLE_LETTERS = 34  # of a line above a panel
_LETTERS_PER_INCH, _HANDLE_LETTERS = 16, 8  # of a legend


def few_shot(runs: pd.DataFrame, folder: Path, styles: Styles, paper: Published | None = None) -> Picture:
    """Few-shot curves of one target, a panel per model; mean and standard deviation over seeds."""
    metric, target = runs["metric"].iloc[0], str(runs["target"].iloc[0])
    title = METRIC_TITLE.get(metric, metric)
    with_paper = paper if paper and paper.metric.get(target) == metric else None

    spread = f"mean ± standard deviation over {seeds_text(runs)}"
    with plt.rc_context(STYLE | text_style([*runs["title"], target])):
        above = f"{short_target(target)}: {spread}"
        figure = _panels(runs, styles, mean_curve, f"{title} on test, %", above, with_paper)
        width = save(figure, folder, name := f"few_shot_{own_file_name_of(target)}", also_png=True)
    theirs = " Hollow: the paper, full shot." if with_paper else ""
    caption = f"{target_title(target)}: {title} on test by training images per class; {spread}.{theirs}"
    return Picture(name, caption, width)


def spread_by_shots(runs: pd.DataFrame, folder: Path, styles: Styles) -> Picture | None:
    """Spread over the seeds of one target, by shots; None if no setting has two seeds."""
    target = str(runs["target"].iloc[0])
    if runs.groupby(CELL)["test"].count().max() < 2:
        return None
    what = f"standard deviation over {seeds_text(runs)}"
    with plt.rc_context(STYLE | text_style([*runs["title"], target])):
        figure = _panels(runs, styles, _spread_curve, "standard deviation, points", f"{short_target(target)}: {what}")
        for axes in figure.axes:
            axes.set_ylim(bottom=0)
        width = save(figure, folder, name := f"spread_{own_file_name_of(target)}", also_png=True)
    return Picture(name, f"{target_title(target)}: {what}, by training images per class.", width)


def by_model_size(runs: pd.DataFrame, folder: Path, styles: Styles, paper: Published | None = None) -> Picture | None:
    """Full-shot fine-tuning by model size, a panel per target; None if no target has two models."""
    full = runs[(runs["shots"] == FULL) & (runs["mode"] == "finetune") & (runs["overlap"] == "")]
    full = full[full["model"].isin(MODELS)]
    targets = [key for key in row_keys(full) if full.loc[full["target"] == key.target, "model"].nunique() > 1]
    if not targets:
        return None
    models = sorted(full["model"].unique(), key=model_order)
    columns = min(3, len(targets))
    lines = -(-len(targets) // columns)
    handles: Handles = {}
    with plt.rc_context(STYLE | text_style([*full["title"], *full["target"]])):
        size = (max(4.2, _PANEL[0] * 0.85 * columns), _PANEL[1] * lines + 0.5)
        figure, grid = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
        for axes, key in zip(grid.flat, targets, strict=False):
            mine = key.of(full)
            metric = mine["metric"].iloc[0]
            theirs = paper.cells[key.target] if paper and paper.metric.get(key.target) == metric else {}
            merge(handles, _draw_sizes(axes, mine, styles, theirs))
            aside = row_title(key, full["origin"].nunique() > 1, with_target=False)
            name = short_target(key.target) + (f", {aside}" if aside else "")
            axes.set_title(fill(name, _TITLE_LETTERS), loc="left", weight=bold(name))
            axes.set_xscale("log")
            axes.set_xticks([_millions(model) for model in models], [_size_label(model) for model in models])
            axes.minorticks_off()
            axes.margins(x=0.12)
            axes.set_ylabel(f"{METRIC_TITLE.get(metric, metric)}, %")
        for axes in list(grid.flat)[len(targets) :]:
            axes.remove()
        add_legend(figure, handles)
        width = save(figure, folder, name := "model_size", also_png=True)
    caption = (
        "Full shot on test against the size of the model, parameters without the head; "
        f"mean ± standard deviation over {seeds_text(full)}."
    )
    return Picture(name, caption + (" Hollow: the paper." if paper else ""), width)


def mean_curve(axes: Axes, places: Sequence[float], cells: Sequence[Cell], label: str, look: Look) -> Any:
    """Means with standard deviations, of the cells that have any; returns the handle for a legend."""
    shown = [(place, cell) for place, cell in zip(places, cells, strict=True) if cell.n]
    spreads = [cell.std if cell.n > 1 else 0.0 for _, cell in shown]
    means = [cell.mean for _, cell in shown]
    return axes.errorbar([place for place, _ in shown], means, yerr=spreads, label=label, **BARS, **look)


def _spread_curve(axes: Axes, places: Sequence[float], cells: Sequence[Cell], label: str, look: Look) -> Any:
    shown = [(place, cell.std) for place, cell in zip(places, cells, strict=True) if cell.n > 1]
    return axes.plot([place for place, _ in shown], [std for _, std in shown], label=label, **look)[0]


def _draw_sizes(
    axes: Axes,
    runs: pd.DataFrame,
    styles: Styles,
    theirs: dict[tuple[str, tuple[str, ...]], Cell],
) -> Handles:
    handles: Handles = {}
    sets = {source.title: source.sets for source in sources_of(runs)}
    for place, title in enumerate(sorted(sets, key=list(styles).index)):
        of_title = runs[runs["title"] == title]
        models = sorted(of_title["model"].unique(), key=model_order)
        cells = [cell_of(of_title[of_title["model"] == model]) for model in models]
        dodge = _DODGE_FACTOR ** (place - (len(sets) - 1) / 2)
        handles[title] = mean_curve(axes, [_millions(model) * dodge for model in models], cells, title, styles[title])
        for model in models:
            if cell := theirs.get((model, sets[title])):
                handles[_PAPER] = _hollow(axes, _millions(model) * dodge * _TO_PAPER_FACTOR, cell, styles[title])
    return handles


def _panels(
    runs: pd.DataFrame,
    styles: Styles,
    curve: Callable[..., Any],
    ylabel: str,
    title: str,
    paper: Published | None = None,
) -> Figure:
    """Panels over shots, one for each model, mode and origin, with a curve for each source."""
    order = shots_order(runs["shots"])
    models, ways = sorted(runs["model"].unique(), key=model_order), row_keys(runs)
    panels = list(product(ways, models))
    lines = len(ways) if len(models) > 1 else -(-len(ways) // _MOST_BESIDE)
    columns = -(-len(panels) // lines)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(_WIDTHS.get(columns, _PANEL[0] * columns), _PANEL[1] * lines + _LEGEND_HEIGHT),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    handles: Handles = {}
    for axes, (way, model) in zip(grid.flat, panels, strict=False):
        mine = way.of(runs[runs["model"] == model])
        theirs = paper if way.mode == "finetune" else None
        merge(handles, draw_panel(axes, mine[mine["overlap"] == ""], order, styles, curve, theirs))
        aside = row_title(way, runs["origin"].nunique() > 1, with_target=False)
        name = f"{model}{f', {aside}' if aside else ''}"
        axes.set_title(fill(name, _TITLE_LETTERS), loc="left", weight="bold")
        axes.set_xticks(range(len(order)), order)
    _label_outside(grid, len(panels), ylabel)
    figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    add_legend(figure, handles)
    return figure


def _label_outside(grid: Any, count: int, ylabel: str) -> None:
    """Label the axes at the edges of a grid of panels, and remove those behind the first `count`."""
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    for axes in list(grid.flat)[count:]:
        axes.remove()
    for axes in list(grid.flat)[max(0, count - grid.shape[1]) : count]:
        axes.set_xlabel("training images per class")
        axes.tick_params(labelbottom=True)


def draw_panel(
    axes: Axes,
    runs: pd.DataFrame,
    order: Sequence[str],
    styles: Styles,
    curve: Callable[..., Any],
    paper: Published | None = None,
) -> Handles:
    """The curves of one target, model, mode and origin over shots, with the paper's full-shot values."""
    sources, handles = sources_of(runs), {}
    for place, source in enumerate(sources):
        of_source = runs[runs["title"] == source.title]
        cells = [cell_of(of_source[of_source["shots"] == shots]) for shots in order]
        dodge = (place - (len(sources) - 1) / 2) * _DODGE
        places = [i + dodge for i in range(len(order))]
        handles[source.title] = curve(axes, places, cells, source.title, styles[source.title])
        printed = paper.cells[runs["target"].iloc[0]].get((source.model, source.sets)) if paper else None
        if printed and FULL in order:
            handles[_PAPER] = _hollow(axes, len(order) - 1 + _TO_PAPER + dodge, printed, styles[source.title])
    return handles


def _hollow(axes: Axes, place: float, cell: Cell, look: Look) -> Artist:
    """A published value, in the colour and marker of its source."""
    hollow = look | {"mfc": "white", "mec": look["color"], "ls": "none"}
    axes.errorbar([place], [cell.mean], yerr=[cell.std], **BARS, **hollow)
    return axes.plot([], [], label=_PAPER_LABEL, color=_GREY, mfc="white", mec=_GREY, marker="o", ls="none")[0]


def styles_of(sources: Sequence[Source]) -> Styles:
    """Colour, marker and line of each source by its title: the same in every figure of a report."""
    styles: Styles = {}
    used: Counter[str] = Counter()
    for source in sources:
        if source.title == SCRATCH:
            styles[SCRATCH] = {"color": _GREY, "marker": "X", "ls": "--", "mec": "white"}
        elif source.title not in styles:
            kind = domain(source.sets)
            shades, markers = _SHADES[kind], _MARKERS[kind]
            number = used[kind]
            used[kind] += 1
            marker = markers[(number + number // len(shades)) % len(markers)]  # another one when the colours come again
            styles[source.title] = {"color": shades[number % len(shades)], "marker": marker, "ls": "-", "mec": "white"}
    return styles


def merge(handles: Handles, further: Handles) -> None:
    """Add the handles of further sources."""
    for title, handle in further.items():
        handles.setdefault(title, handle)


def add_legend(figure: Figure, handles: Handles) -> None:
    """One legend of all sources below the panels, the paper last."""
    titles = [title for title in handles if title != _PAPER]
    labels = [shortened(drawable(title), _LONGEST_SOURCE) for title in titles]
    artists = [handles[title] for title in titles]
    if _PAPER in handles:  # last
        labels.append(_PAPER_LABEL)
        artists.append(handles[_PAPER])
    if labels:
        letters = max(map(width_of, labels)) + _HANDLE_LETTERS
        fitting = max(1, int(figure.get_figwidth() * _LETTERS_PER_INCH / letters))
        columns = min(_LEGEND_COLUMNS, len(labels), fitting)
        legend(figure, artists, labels, loc="outside lower center", ncols=columns, frameon=False)


def plain_log_ticks(axis: Axis, subs: Sequence[float] = (1.0,)) -> None:
    """Plain numbers on a logarithmic axis, at these multiples of powers of ten. Matplotlib's own are mathematical text,
    which figures with names in them switch off."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def short_target(target: str) -> str:
    """Name of a target, shortened for a figure."""
    return shortened(drawable(target_title(target)), _LONGEST_TARGET)


@cache
def _millions(model: str) -> float:
    """Parameters of a model without its head, in millions."""
    with torch.device("meta"):
        parameters = build_model(model, 1).named_parameters()
    return sum(tensor.numel() for name, tensor in parameters if not name.startswith("head.")) / 1e6


def _size_label(model: str) -> str:
    return f"{model}\n{_millions(model):.3g} M"
