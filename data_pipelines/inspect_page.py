"""The page drawn by `inspect`: contact sheet, labels, splits and sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

from data_pipelines.common.figure_text import bold, drawable, text_style
from data_pipelines.common.printable import printable, shortened, wrapped

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no display
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

Counts = npt.NDArray[np.int64]

MAX_BARS, SHOWN_ENDS = 30, 14  # of more classes than the first, so many of either end have a bar
_MAX_SIZE_BARS = 8  # more different sizes become a map
_MAX_NAME, _MAX_SET_NAME = 26, 90  # letters beside a bar, and of the heading
_FACT_LINE = 150
_CAPTION_LINE, _CAPTION_LINES = 25, 2  # letters under an image
_COLUMNS = 8  # of the contact sheet
_WIDTH_INCHES, _DPI = 14.0, 110
_LEFT = 0.012  # of the width
_SHADES = {"positive": "#d55e00", "negative": "#56b4e9", "unlabelled": "0.85"}  # Okabe and Ito: told apart by everybody
_BLUE = "#0072b2"


@dataclass(frozen=True)
class Page:
    """What stands on it.

    images: uint8 [B, S, S, 1 or 3] with B captions. counts: int64 [C] for C classes, "images" alone, or "positive",
    "negative" and "unlabelled", which add up to all images. sizes: height and width in pixels, int64 [K, 2], of
    size_counts images, int64 [K]. split: whose images these are. splits: the images of each.
    """

    name: str
    facts: Sequence[str]
    sheet_title: str
    images: npt.NDArray[np.uint8]
    captions: Sequence[str]
    split: str
    classes: Sequence[str]
    counts: dict[str, Counts]
    sizes: Counts
    size_counts: Counts
    splits: dict[str, int]


def draw(page: Page) -> Figure:
    """The page as a figure, for the caller to save and close."""
    with plt.rc_context(text_style([page.name, *page.facts, *page.captions, *page.classes])):
        return _drawn(page)


def _drawn(page: Page) -> Figure:
    facts = [line for fact in page.facts for line in wrapped(drawable(fact), _FACT_LINE).split("\n")]
    sheet_rows = -(-len(page.images) // _COLUMNS)
    bars = min(len(page.classes), MAX_BARS)
    heights = [0.62 + 0.24 * len(facts), 0.5 + 2.05 * sheet_rows, max(4.6, 1.2 + 0.23 * bars)]
    figure = plt.figure(figsize=(_WIDTH_INCHES, sum(heights)), dpi=_DPI)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    parts: Any = figure.subfigures(3, 1, height_ratios=heights)
    head, sheet, bottom = parts
    top = 1 - 0.15 / heights[0]
    name = shortened(drawable(page.name), _MAX_SET_NAME)
    head.text(_LEFT, top, name, fontsize=19, fontweight=bold(page.name), va="top")
    text = "\n".join(facts)
    head.text(_LEFT, top - 0.45 / heights[0], text, fontsize=11, va="top", linespacing=1.4)
    _draw_sheet(sheet, page, sheet_rows)
    labels, right = bottom.subfigures(1, 2, width_ratios=[1.55, 1])
    _draw_labels(labels.subplots(), page)
    splits, sizes = right.subplots(2, 1, height_ratios=[1, 3])
    _draw_splits(splits, page.splits)
    _draw_sizes(sizes, page)
    return figure


def rows_to_draw(counts: Counts) -> tuple[Counts, int]:
    """Which classes have a bar, with -1 for the gap between the largest and the smallest, and how many lie in it."""
    if len(counts) <= MAX_BARS:
        return np.arange(len(counts)), 0
    order = np.argsort(-counts, kind="stable")
    return np.concatenate([order[:SHOWN_ENDS], [-1], order[-SHOWN_ENDS:]]), len(counts) - 2 * SHOWN_ENDS


def class_title(name: str) -> str:
    """A class name that fits beside a bar."""
    return shortened(printable(name), _MAX_NAME)


def _draw_sheet(figure: SubFigure, page: Page, rows: int) -> None:
    figure.suptitle(page.sheet_title, x=_LEFT, ha="left", fontsize=12)
    all_axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in all_axes:
        axes.set_axis_off()
    for axes, image, caption in zip(all_axes, page.images, page.captions, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.text(
            0.5,
            -0.04,
            wrapped(drawable(caption), _CAPTION_LINE, _CAPTION_LINES),
            transform=axes.transAxes,
            fontsize=8.5,
            ha="center",
            va="top",
            in_layout=False,  # a long caption would push its column away from the others
        )


def _draw_labels(axes: Axes, page: Page) -> None:
    first = next(iter(page.counts))  # "images" or "positive"
    several = len(page.counts) > 1
    rows, gap = rows_to_draw(page.counts[first])
    longest = max(1, int(np.sum(list(page.counts.values()), axis=0).max()))
    left, places = np.zeros(len(rows), dtype=np.int64), np.arange(len(rows))
    for number, (name, of_class) in enumerate(page.counts.items()):
        values = np.where(rows >= 0, of_class[rows], 0)
        axes.barh(places, values, left=left, color=_SHADES.get(name, _BLUE), height=0.78)
        left = left + values
        column = longest * (1.15 + 0.18 * number)  # of numbers beside stacked bars: its right edge
        for place in places[rows >= 0]:
            x, ha = (column, "right") if several else (values[place] + 0.012 * longest, "left")
            axes.text(x, float(place), f"{values[place]:,}", fontsize=9, ha=ha, va="center")
        if several:
            axes.text(column, -0.9, name, fontsize=9, ha="right", va="center")
            axes.barh(-0.58, 0.13 * longest, left=column - 0.13 * longest, height=0.1, color=_SHADES[name])
    names = [class_title(drawable(page.classes[row])) if row >= 0 else f"({gap:,} more between)" for row in rows]
    axes.set_yticks(places, names, fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -1.2 if several else -0.6)
    axes.set_xlim(0, longest * (0.99 + 0.18 * len(page.counts)))
    _count_axis(axes, longest, page.split)
    least, most = page.counts[first].min(), page.counts[first].max()
    each = f"{least:,} to {most:,} {first} each" if least < most else f"{first} of each: {least:,}"
    noun, ends = "findings" if several else "classes", "; the largest and the smallest" if gap else ""
    axes.set_title(f"{len(page.classes):,} {noun}, {each}{ends}", loc="left", fontsize=12)


def _draw_splits(axes: Axes, splits: dict[str, int]) -> None:
    total = sum(splits.values())
    texts = [f"{count:,} ({count / total:.1%})" for count in splits.values()]
    _draw_bars(axes, list(splits), texts, np.array(list(splits.values())))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title(f"splits of {total:,} images", loc="left", fontsize=12)


def _draw_sizes(axes: Axes, page: Page) -> None:
    axes.set_title(f"stored height × width, pixels ({len(page.sizes):,} different)", loc="left", fontsize=12)
    if len(page.sizes) > _MAX_SIZE_BARS:
        _draw_size_map(axes, page.sizes, page.size_counts)
        return
    order = np.argsort(-page.size_counts, kind="stable")
    counts = page.size_counts[order]
    names = [f"{height} × {width}" for height, width in page.sizes[order]]
    _draw_bars(axes, names, [f"{count:,}" for count in counts], counts)
    axes.set_ylim(max(5, len(counts)) - 0.4, -0.6)
    _count_axis(axes, counts.max(), page.split)


def _draw_bars(axes: Axes, names: list[str], texts: list[str], values: Counts) -> None:
    places = np.arange(len(names))
    axes.barh(places, values, color=_BLUE, height=0.7)
    for place, text, value in zip(places, texts, values, strict=True):
        axes.text(value + 0.02 * values.max(), float(place), text, fontsize=9, va="center")
    axes.set_yticks(places, names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * values.max())
    _tidy(axes)


def _draw_size_map(axes: Axes, sizes: Counts, counts: Counts) -> None:
    """Width to the right and height upwards, on logarithmic axes: the longest side is often ten times the shortest."""
    edges = [np.geomspace(side.min() * 0.97, side.max() * 1.03, 41) for side in (sizes[:, 1], sizes[:, 0])]
    in_bins, *_, shades = axes.hist2d(sizes[:, 1], sizes[:, 0], bins=edges, weights=counts, cmin=1, norm=LogNorm())
    plain = StrMethodFormatter("{x:,.0f}")
    bar = axes.figure.colorbar(shades, ax=axes, label="images", format=plain)
    steps = np.outer(10 ** np.arange(9), [1, 2, 5]).ravel()
    bar.set_ticks(steps[steps <= np.nanmax(in_bins)].tolist())
    bar.minorticks_off()
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("width")
    axes.set_ylabel("height")
    for axis, edge in ((axes.xaxis, edges[0]), (axes.yaxis, edges[1])):
        steps = np.outer(10.0 ** np.arange(6), [1, 2, 3, 5] if edge[-1] < 8 * edge[0] else [1, 2, 5]).ravel()
        axis.set_ticks(steps[(steps >= edge[0]) & (steps <= edge[-1])])
        axis.set_major_formatter(plain)
        axis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)


def _count_axis(axes: Axes, longest: int, split: str) -> None:
    ticks = np.asarray(MaxNLocator(5, integer=True).tick_values(0, longest))
    axes.set_xticks(ticks[ticks <= longest])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel(f"images of {split}")
    axes.spines["bottom"].set_bounds(0, longest)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
