"""Figures hold the curves that the runs have, in both formats, and look the same wherever they are drawn."""

import math
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_results import frame, seeds
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from nasty_names import NAMES
from PIL import Image

from data_pipelines.common.figure_text import drawable
from trainer.reporting import figures
from trainer.reporting.paper import published
from trainer.reporting.tables import sources_of

TOPS = (0.5, 0.52, 0.51)
SWEEP = frame(
    [
        result
        for model in ("r50x1", "r101x3")
        for source in ("scratch", "imagenet1k", "imagenet21k", "chexpert", "mine")
        for shots in ("1", "10", "full")
        for result in seeds(source, TOPS, shots, model=model, target="cifar100")
    ]
)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, kept after they were saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(plt, "close", kept.append)
    return kept


def styles(runs: pd.DataFrame) -> figures.Styles:
    return figures.styles_of(sources_of(runs))


def lines_of(figure: Figure, panel: int) -> dict[str, list[float]]:
    """The heights of the curves of a panel, by label."""
    handles, labels = figure.axes[panel].get_legend_handles_labels()
    points = [handle if hasattr(handle, "get_ydata") else handle[0] for handle in handles]
    return {label: list(line.get_ydata()) for label, line in zip(labels, points, strict=True)}


def test_few_shot_curves_in_both_formats(tmp_path: Path) -> None:
    picture = figures.few_shot(SWEEP, tmp_path, styles(SWEEP))
    assert picture.name == "few_shot_cifar100"
    assert "CIFAR-100: top-1 accuracy on test" in picture.caption
    assert "over 3 seeds" in picture.caption
    with Image.open(tmp_path / "few_shot_cifar100.png") as image:
        assert image.format == "PNG"
        assert image.width == pytest.approx(picture.width * 200, abs=2)
        assert np.asarray(image.convert("L")).std() > 10
    assert ElementTree.parse(tmp_path / "few_shot_cifar100.svg").getroot().tag.endswith("svg")


def test_a_panel_per_model_and_a_curve_per_source(tmp_path: Path, drawn: list[Figure]) -> None:
    lost = frame(seeds("lost", (math.nan, 0.25), "10", model="r50x1", target="cifar100"))
    runs = pd.concat([SWEEP, lost])
    figures.few_shot(runs, tmp_path, styles(runs))
    (figure,) = drawn
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["r50x1", "r101x3"]
    names = {"scratch", "ImageNet-1k", "ImageNet-21k", "CheXpert", "mine"}
    assert set(lines_of(figure, 0)) == names | {"lost"}
    assert set(lines_of(figure, 1)) == names
    assert lines_of(figure, 0)["mine"] == pytest.approx([51.0] * 3)
    assert lines_of(figure, 0)["lost"] == pytest.approx([25.0])  # one seed, at 10 shots


def test_modes_have_panels_of_their_own(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = frame(seeds("mine", TOPS) + seeds("mine", TOPS, mode="knn"))
    figures.few_shot(runs, tmp_path, styles(runs))
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["r50x1", "r50x1, k-NN"]


def test_published_values_are_hollow_at_full_shot(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = SWEEP[SWEEP["model"] == "r50x1"]
    figures.few_shot(runs, tmp_path, styles(runs), published())
    hollow = [
        line for line in drawn[0].axes[0].lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    assert sorted(line.get_ydata()[0] for line in hollow) == [75.90, 82.47]
    assert all(line.get_xdata()[0] > 2 for line in hollow)
    assert "the paper" in lines_of(drawn[0], 0)


def test_spread_is_the_standard_deviation(tmp_path: Path, drawn: list[Figure]) -> None:
    assert figures.spread_by_shots(SWEEP, tmp_path, styles(SWEEP)) is not None
    assert lines_of(drawn[0], 0)["mine"] == pytest.approx([1.0] * 3)
    assert drawn[0].axes[0].get_ylim()[0] == 0
    assert figures.spread_by_shots(frame(seeds("mine", TOPS[:1])), tmp_path, {}) is None


def test_size_is_drawn_where_a_target_has_several_models(tmp_path: Path, drawn: list[Figure]) -> None:
    others = frame(seeds("mine", TOPS, target="pets"))
    assert figures.by_model_size(others, tmp_path, styles(others)) is None
    picture = figures.by_model_size(pd.concat([SWEEP, others]), tmp_path, styles(SWEEP))
    assert picture is not None
    assert picture.name == "model_size"
    (axes,) = drawn[0].axes
    assert axes.get_title(loc="left") == "CIFAR-100"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["r50x1\n23.5 M", "r101x3\n382 M"]
    assert lines_of(drawn[0], 0)["scratch"] == pytest.approx([51.0] * 2)


def test_blank_cells_are_not_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    sharing = {"source_sets": ["padchest"], "target": "padchest_cl"}
    runs = frame(seeds("mine", TOPS, **sharing) + seeds("other", TOPS, target="padchest_cl"))
    figures.few_shot(runs, tmp_path, styles(runs))
    assert set(lines_of(drawn[0], 0)) == {"other"}


def test_a_figure_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        figures.few_shot(SWEEP[SWEEP["model"] == "r50x1"], tmp_path, styles(SWEEP))
        contents.append((tmp_path / "few_shot_cifar100.svg").read_bytes())
    assert contents[0] == contents[1]


def test_sources_are_told_apart_by_colour_and_by_marker() -> None:
    names = ["scratch", "imagenet1k", "imagenet21k", "chexpert", "chexpert_mimic", "chexpert_mimic_nih"]
    found = styles(frame([r for name in names for r in seeds(name, TOPS)]))
    assert len({look["color"] for look in found.values()}) == len(names)
    assert len({look["marker"] for look in found.values()}) == len(names)
    many = styles(frame([r for i in range(20) for r in seeds(f"source {i}", TOPS)]))
    assert len({(look["color"], look["marker"]) for look in many.values()}) == 20


def test_every_source_has_its_legend(tmp_path: Path, drawn: list[Figure]) -> None:
    names = [name for name in NAMES if len(name) < 60]
    runs = frame([r for name in names for model in ("r50x1", "r101x1") for r in seeds(name, TOPS, "10", model=model)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.few_shot(runs, tmp_path, styles(runs))
    (legend,) = drawn[0].legends
    assert {text.get_text() for text in legend.get_texts()} == set(map(drawable, names))
    assert len(legend.get_texts()) == len(names)


def test_targets_of_like_names_have_figures_of_their_own(tmp_path: Path) -> None:
    targets = ["a b", "a_b", "a/b", "猫", "犬"]
    for target in targets:
        runs = frame(seeds("mine", TOPS, target=target))
        figures.few_shot(runs, tmp_path, styles(runs))
    assert len(list(tmp_path.glob("*.png"))) == len(targets)


def test_names_of_files_are_safe(tmp_path: Path) -> None:
    runs = frame(seeds("mine", TOPS, target="my set/é"))
    picture = figures.few_shot(runs, tmp_path, styles(runs))
    assert (tmp_path / f"{picture.name}.png").is_file()
    assert " " not in picture.name
