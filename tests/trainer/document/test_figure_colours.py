"""Series of one figure are told apart, also by those who cannot see red and green, and without any colour."""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_rgb

from benchmarks.lib.scaling import figure as scaling
from trainer.evaluation.pages import figures as evaluation
from trainer.reporting import laws_figures
from trainer.reporting.claims_figure import LOOKS
from trainer.reporting.figures import styles_of
from trainer.reporting.names import SCRATCH
from trainer.reporting.tables import Source

color = pytest.importorskip("skimage.color", reason="the distance of colours is scikit-image's")
LEAST_DISTANCE = 10.0  # CIEDE2000; below 1 nobody sees a difference
IN_BLACK = 4  # series of a figure that marks or lines alone tell apart, from the first
# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
# severity 1, on linear RGB.
VISIONS = {
    "all cones": np.eye(3),
    "no green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
NATURAL = (("imagenet1k",), ("imagenet21k",))
XRAYS = (("nih_cxr14",), ("chexpert",), ("chexpert", "mimic_cxr"), ("padchest",))
OTHERS = tuple((f"set {number}",) for number in range(6))


def of_sources(*sets: tuple[str, ...]) -> list[tuple[str, str]]:
    styles = styles_of([Source("r50x1", "+".join(names) or SCRATCH, names) for names in sets])
    return [(style["color"], f"{style['marker']} {style['ls']}") for style in styles.values()]


FIGURES = {
    "report": of_sources(*NATURAL, *XRAYS, *OTHERS, ()),
    "photographs": of_sources(*NATURAL, ()),
    "X-rays": of_sources(*XRAYS, ()),
    "others": of_sources(*OTHERS, ()),
    "claims": list(LOOKS.values()),
    "laws": [(look["color"], look["marker"]) for look in map(laws_figures.look, range(8))],
    "evaluation": [(look["color"], look["ls"]) for look in map(evaluation.look, range(evaluation.MOST_CURVES))],
    "scaling": list(map(scaling.look, range(12))),
}


def seen(colour: str, vision: str) -> npt.NDArray[np.float64]:
    """A colour in CIELAB, as with this vision, [3]."""
    encoded = np.array(to_rgb(colour))
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = np.clip(VISIONS[vision] @ linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(color.rgb2lab(encoded), dtype=np.float64)


def distance(one: str, other: str, vision: str) -> float:
    """CIEDE2000 between two colours."""
    return float(color.deltaE_ciede2000(seen(one, vision), seen(other, vision)))


def test_the_simulated_vision_confuses_red_and_green() -> None:
    red, green = "#d62728", "#7d6f00"
    assert distance(red, green, "all cones") > 40
    assert distance(red, green, "no green cones") < 10
    assert distance("#0072b2", "#d55e00", "no green cones") > 40


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("figure", FIGURES)
def test_colours_of_a_figure_differ(figure: str, vision: str) -> None:
    colours = dict.fromkeys(colour for colour, _ in FIGURES[figure])
    near = {
        pair: round(apart, 1)
        for pair in combinations(colours, 2)
        if (apart := distance(*pair, vision)) < LEAST_DISTANCE
    }
    assert near == {}


@pytest.mark.parametrize("figure", [name for name in FIGURES if name != "report"])
def test_series_of_a_figure_differ_without_their_colours(figure: str) -> None:
    series = FIGURES[figure]
    assert len(set(series)) == len(series)
    marks = [mark for _, mark in series[:IN_BLACK]]
    assert len(set(marks)) == len(marks)
