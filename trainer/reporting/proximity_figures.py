"""Figures of proximity: heat maps of source x target, and what pre-training gained against the distance."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipelines.common.figure_text import bold, drawable, legend, text_style
from data_pipelines.common.printable import shortened
from trainer.document.blocks import Block, Paragraph, Picture
from trainer.document.figure_style import STYLE, save
from trainer.domain_distance.proximity_file import Distances, Pair
from trainer.reporting.cells import CONFIDENCE, cell_of, half_interval
from trainer.reporting.figures import BARS, Styles, plain_log_ticks, short_target, styles_of
from trainer.reporting.gains import gains
from trainer.reporting.names import FULL, shots_order
from trainer.reporting.proximity_words import MEASURE_TITLE, numbers_of, rounded, title_of
from trainer.reporting.tables import seeds_text, sources_of

_NEAREST = {"classifier": 50.0}  # %, of chance; no distance is 0 in the other measures
_IN_FEATURES, _IN_PIXELS = ("frechet", "kernel", "classifier"), ("spectrum", "grey-levels")
_COLOURS = "YlGnBu"
_DARK = 0.55  # share of the range from which text on a cell is white
_CELL, _MARGIN, _LEAST_WIDTH, _WIDTH = (0.62, 0.3), 0.95, 1.9, 7.2  # inches
_TITLE, _LETTERS_PER_INCH = 0.2, 15  # inches, and of a title above the panels
_LONGEST_SOURCE = 24
_MARKERS = "osD^vPX*<>hp"
_PANEL, _MOST_BESIDE, _LEGEND_LINE = 2.1, 3, 0.22  # inches, panels, inches
_GREY = "#666666"
_LOG_FROM = 20.0  # ratio of the largest to the smallest distance


def heat_maps(found: Distances, folder: Path) -> list[Block]:
    """A figure for each kind of features that all sources share, and one of pixels; a panel for each distance."""
    captions = {
        "common": f"in the features of {found.network('common')}",
        "random": f"in the features of {found.network('random')} weights, a control",
        "pixels": "in pixels, a control",
    }
    blocks: list[Block] = []
    for kind, caption in captions.items():
        measures = _IN_PIXELS if kind == "pixels" else _IN_FEATURES
        maps = {measure: pairs for measure in measures if (pairs := found.of(kind, measure))}
        if maps:
            blocks.append(_heat_map(maps, folder, f"proximity_{kind}", f"Distance of targets from sources {caption}"))
    return blocks


Pairs = dict[tuple[str, str], Pair]


def _heat_map(maps: dict[str, Pairs], folder: Path, name: str, what: str) -> Picture:
    pairs = next(iter(maps.values()))
    sources, targets = (list(dict.fromkeys(key[place] for key in pairs)) for place in (0, 1))
    with plt.rc_context(STYLE | text_style([*sources, *targets]) | {"axes.grid": False}):
        wide = max(_LEAST_WIDTH, _CELL[0] * len(targets))
        beside = max(1, min(len(maps), int((_WIDTH - _MARGIN) / wide)))
        lines = -(-len(maps) // beside)
        size = (_MARGIN + wide * beside, _TITLE + lines * (_MARGIN + _CELL[1] * len(sources)))
        figure, grid = plt.subplots(lines, beside, figsize=size, layout="constrained", squeeze=False, sharey=True)
        for axes, (measure, cells) in zip(grid.flat, maps.items(), strict=False):
            _draw_map(axes, cells, sources, targets, _NEAREST.get(measure, 0.0))
            axes.set_title(MEASURE_TITLE[measure], loc="left", weight="bold")
        for axes in grid[:, 0]:
            axes.set_ylabel("source")
        for axes in list(grid.flat)[len(maps) :]:
            axes.remove()
        figure.suptitle(fill(drawable(what), int(size[0] * _LETTERS_PER_INCH)), x=0.01, ha="left", fontsize=9)
        width = save(figure, folder, name, also_png=True)
    scale = "white is no distance (told apart: 50%), the darker, the farther"
    return Picture(name, f"{what}. Each panel has its own scale: {scale}.", width)


def _draw_map(axes: Axes, cells: Pairs, sources: Sequence[str], targets: Sequence[str], nearest: float) -> None:
    """Sources downwards, targets to the right, with the value in each cell. nearest: the value of no distance: a scale
    from the smallest value on would make opposites of two that are alike."""
    values = np.array([[_printed(cells.get((source, target))) for target in targets] for source in sources])
    low, high = min(nearest, np.nanmin(values)), np.nanmax(values)
    axes.imshow(values, cmap=_COLOURS, aspect="auto", vmin=low, vmax=high if high > low else low + 1)
    scale = float(np.nanmax(np.abs(values)))
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            is_dark = high > low and (value - low) / (high - low) > _DARK
            axes.text(column, row, rounded(value, scale), ha="center", va="center", color="w" if is_dark else "k")
    axes.set_xticks(range(len(targets)), [short_target(target) for target in targets], rotation=30, ha="right")
    axes.set_yticks(range(len(sources)), [_short(source) for source in sources])
    axes.set_xlabel("target")
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _printed(pair: Pair | None) -> float:
    return math.nan if pair is None else numbers_of(pair)[0]


def _short(source: str) -> str:
    return shortened(drawable(title_of(source)), _LONGEST_SOURCE)


def gains_by_distance(found: Distances, runs: pd.DataFrame, folder: Path) -> list[Block]:
    """What each source gained on each target against their kernel distance: a panel for each number of shots."""
    kind = "common" if found.of("common", "kernel") else "random"
    pairs = found.of(kind, "kernel")
    gained = gains(runs[runs["mode"] == "finetune"])
    known = [key in pairs for key in zip(gained["source"], gained["target"], strict=True)]
    gained = gained[np.array(known, dtype=bool)]
    if gained.empty:
        why = "no fine-tuning here has a source and a target that were compared, beside one from scratch"
        return [Paragraph(f"Gain against distance is not drawn: {why}.")]
    order, styles = shots_order(gained["shots"]), styles_of(sources_of(runs))
    with plt.rc_context(STYLE | text_style([*gained["title"], *gained["target"]])):
        figure = _scatter(gained, pairs, order, styles)
        above = f"gain against distance in the features of {drawable(found.network(kind))}; bars: 95% intervals"
        figure.suptitle(above, x=0.01, ha="left", fontsize=9)
        width = save(figure, folder, name := "gain_by_distance", also_png=True)
    caption = (
        "Points gained by pre-training over training from scratch against the kernel distance of source and target in "
        f"the features of {found.network(kind)}; paired by seed, {seeds_text(gained)}. Bars: {CONFIDENCE:.0%} "
        "intervals of both. Left is near; a panel for each number of training images per class."
    )
    return [Picture(name, caption, width)]


def _scatter(gained: pd.DataFrame, pairs: Pairs, order: Sequence[str], styles: Styles) -> Figure:
    beside = min(len(order), _MOST_BESIDE)
    lines = -(-len(order) // beside)
    sources, targets = list(dict.fromkeys(gained["title"])), list(dict.fromkeys(gained["target"]))
    legend_height = _TITLE + _LEGEND_LINE * (2 + (len(sources) + len(targets)) / _MOST_BESIDE)
    size = (max(_WIDTH * beside / _MOST_BESIDE, _WIDTH / 2), _PANEL * lines + legend_height)
    figure, grid = plt.subplots(
        lines, beside, figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    markers = dict(zip(targets, (_MARKERS * len(targets))[: len(targets)], strict=True))
    for axes, shots in zip(grid.flat, order, strict=False):
        axes.axhline(0, color=_GREY, linewidth=0.9)
        _draw_gains(axes, gained[gained["shots"] == shots], pairs, styles, markers)
        axes.set_title("all images" if shots == FULL else f"{shots} per class", loc="left", weight=bold(shots))
    for axes in list(grid.flat)[len(order) :]:
        axes.remove()
    used = [pairs[key].value for key in set(zip(gained["source"], gained["target"], strict=True))]
    if min(used) > 0 and max(used) / min(used) > _LOG_FROM:
        grid.flat[0].set_xscale("log")
        plain_log_ticks(grid.flat[0].xaxis)
    for axes in list(grid.flat)[max(0, len(order) - beside) : len(order)]:
        axes.set_xlabel("kernel distance")
        axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("gain over scratch, points")
    of_sources = [plt.Line2D([], [], color=styles[title]["color"], marker="s", ls="none") for title in sources]
    of_targets = [plt.Line2D([], [], color=_GREY, marker=markers[target], ls="none") for target in targets]
    labels = [f"from {shortened(title, _LONGEST_SOURCE)}" for title in sources]
    labels += [f"to {short_target(target)}" for target in targets]
    legend(figure, [*of_sources, *of_targets], labels, loc="outside lower center", ncols=_MOST_BESIDE, frameon=False)
    return figure


def _draw_gains(axes: Axes, gained: pd.DataFrame, pairs: Pairs, styles: Styles, markers: dict[str, str]) -> None:
    """A point for each source, target and setting, with the intervals of its distance and of its gain."""
    for (source, target, title, *_), rows in gained.groupby(
        ["source", "target", "title", "model", "protocol", "origin", "setting"], sort=False
    ):
        cell, pair = cell_of(rows), pairs[(source, target)]
        half = half_interval(cell.std, cell.n) if cell.n > 1 else 0.0
        low, high = (pair.value if limit is None else limit for limit in (pair.low, pair.high))
        axes.errorbar(
            [pair.value],
            [cell.mean],
            xerr=[[pair.value - low], [high - pair.value]],
            yerr=half,
            color=styles[title]["color"],
            marker=markers[target],
            mec="white",
            ls="none",
            **BARS,
        )
