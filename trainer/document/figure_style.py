"""The common style of all figures, and saving them."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no display
from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "lines.markeredgewidth": 0.6,
    "svg.hashsalt": "bitscale",
}
_DPI = 200


def save(figure: Figure, folder: Path, name: str, also_png: bool = False) -> float:
    """Write a figure as SVG, and close it; returns its width in inches."""
    if also_png:
        figure.savefig(folder / f"{name}.png", dpi=_DPI)
        figure.set_layout_engine("none")  # as it was laid out for the first
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    return float(figure.get_figwidth())
