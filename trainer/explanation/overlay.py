"""Maps laid over pictures: their place, one scale of colours whose opacity grows with the map, and its legend."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from matplotlib.colors import LinearSegmentedColormap

from data_pipelines.loading.views import Views
from trainer.document.blocks import Picture
from trainer.document.figure_style import STYLE, plt, save
from trainer.explanation.maps import Floats

Bytes = npt.NDArray[np.uint8]

MOST_OPACITY = 0.6
# From yellow to red-orange: purer than any colour that black, grey and white under it leave, also without red or green.
_COLOURS = LinearSegmentedColormap.from_list("maps", ["#ffe600", "#ff3000"])
_LEGEND_WIDTH, _LEGEND_GREYS = 256, (0, 128, 255)


class Peak(NamedTuple):
    """The pixel of the largest value, counted from the upper left corner."""

    x: int
    y: int


def on_picture(of_view: Floats, views: Views, row: int, stored: tuple[int, int], shown: tuple[int, int]) -> Floats:
    """A map of what the network saw, [S, S], on the picture that it was cut out of: float32 [H, W], NaN outside.

    views, row: how it was cut out of a picture of `stored` height and width; shown: those of the same picture at
    another resolution, [H, W]. Views of evaluation alone, which mirror and warp nothing.
    """
    edges = []
    for axis in (0, 1):
        scale = views.window[row, 2 + axis] / views.resized[row, axis]
        first = views.window[row, axis] + views.offset[row, axis] * scale
        ends = np.array([first, first + views.size * scale]) / stored[axis] * shown[axis]
        begin = min(max(0, round(ends[0])), shown[axis] - 1)
        edges.append((begin, min(shown[axis], max(begin + 1, round(ends[1])))))
    (top, bottom), (left, right) = edges
    placed = np.full(shown, np.nan, dtype=np.float32)
    target = (bottom - top, right - left)
    resized = F.interpolate(torch.from_numpy(of_view)[None, None], target, mode="bilinear", antialias=True)
    placed[top:bottom, left:right] = resized[0, 0].numpy()
    return placed


def peak(placed: Floats) -> Peak | None:
    """Where a map is largest, the first such pixel in reading order; None where nothing speaks for the class."""
    if not np.nanmax(placed, initial=0) > 0:
        return None
    y, x = divmod(int(np.nanargmax(placed)), placed.shape[1])
    return Peak(x, y)


def overlay(picture: Bytes, placed: Floats) -> Bytes:
    """A grey picture, uint8 [H, W], under a map of its size, [H, W]: uint8 [H, W, 3]. 1 is the map's own maximum."""
    largest = np.nanmax(placed, initial=0)
    return _blended(picture, np.nan_to_num(placed / largest if largest > 0 else placed * 0))


def _blended(grey: Bytes, values: npt.NDArray[Any]) -> Bytes:
    colours = _COLOURS(values)[..., :3] * 255
    opacity = MOST_OPACITY * values[..., None]
    blended: Bytes = np.rint((1 - opacity) * grey[..., None] + opacity * colours).astype(np.uint8)
    return blended


def legend(folder: Path, also_png: bool = False) -> Picture:
    """The scale of colours over black, grey and white."""
    values = np.tile(np.linspace(0, 1, _LEGEND_WIDTH, dtype=np.float32), (len(_LEGEND_GREYS), 1))
    greys = np.tile(np.array(_LEGEND_GREYS, dtype=np.uint8)[:, None], (1, _LEGEND_WIDTH))
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(4.4, 1.25), layout="constrained")
        axes.imshow(_blended(greys, values), aspect="auto", extent=(0, 1, 0, 1), interpolation="nearest")
        ticks = np.linspace(0, 1, 5)
        axes.set_xticks(ticks, [f"{value:g}\n{value * MOST_OPACITY:.0%}" for value in ticks])
        axes.set_yticks([1 / 6, 0.5, 5 / 6], ["white", "grey", "black"])
        axes.set_xlabel("share of the map's own maximum; opacity below")
        width = save(figure, folder, "legend", also_png)
    return Picture("legend", "The scale of all maps, over black, grey and white.", width)
