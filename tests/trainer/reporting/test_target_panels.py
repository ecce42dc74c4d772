"""Several targets side by side: accuracies on one scale, and gains with their intervals."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import ENVIRONMENT, frame, pretrain_result, seeds, settings_of, transfer_result, write_results
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy import stats

from trainer.document.blocks import Picture
from trainer.reporting.collect import collect
from trainer.reporting.compose import compose, write
from trainer.reporting.figures import styles_of
from trainer.reporting.gains import gains
from trainer.reporting.tables import sources_of
from trainer.reporting.target_panels import side_by_side

SCRATCH, MINE = (0.50, 0.52, 0.54), (0.60, 0.66, 0.72)  # gains of 10, 14 and 18 points
CLASSES = ["Coat", "Bag"]


def results(targets: tuple[str, ...] = ("near", "far"), **changes: Any) -> list[dict[str, Any]]:
    return [
        each
        for target in targets
        for shots in ("1", "10")
        for source, tops in (("scratch", SCRATCH), ("mine", MINE))
        for each in seeds(source, tops, shots, target=target, **changes)
    ]


def of_classes(result: dict[str, Any]) -> dict[str, Any]:
    settings = settings_of(result["seed"], sets=[result["target"]], classes=CLASSES)
    return result | {"settings": settings} if result["target"] == "near" else result


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, kept after they were saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(plt, "close", kept.append)
    return kept


def draw(runs: pd.DataFrame, folder: Path) -> Picture | None:
    return side_by_side(runs, folder, styles_of(sources_of(runs)))


def test_accuracies_share_a_scale_and_gains_another(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = frame(results())
    runs["test"] -= 0.3 * (runs["target"] == "far")
    picture = draw(runs, tmp_path)
    assert picture is not None
    assert (tmp_path / f"{picture.name}.png").is_file()
    near, far, near_gain, far_gain = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in (near, far)] == ["near", "far"]
    assert near.get_ylim() == far.get_ylim() != near_gain.get_ylim() == far_gain.get_ylim()
    low, high = near.get_ylim()
    assert low < 22
    assert high > 66


def test_gains_have_the_t_interval_of_paired_seeds(tmp_path: Path, drawn: list[Figure]) -> None:
    draw(frame(results()), tmp_path)
    (bars,) = (each for each in drawn[0].axes[2].collections if isinstance(each, LineCollection))
    half = stats.t.ppf(0.975, 2) * 4 / 3**0.5
    heights = [list(bar[:, 1]) for bar in map(np.asarray, bars.get_segments())]
    assert heights == [pytest.approx([14 - half, 14 + half])] * 2


def test_no_interval_is_promised_for_one_seed(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = frame(results())
    draw(runs, tmp_path)
    draw(runs[runs["seed"] == 0], tmp_path)
    assert ["intervals" in figure.get_suptitle() for figure in drawn] == [True, False]


def test_without_scratch_there_are_no_gains_to_draw(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = frame(results())
    draw(runs[runs["source"] == "mine"], tmp_path)
    assert len(drawn[0].axes) == 2


def test_targets_that_do_not_fit_together_are_not_drawn(tmp_path: Path) -> None:
    runs = frame(results())
    assert draw(runs[runs["target"] == "near"], tmp_path) is None
    assert draw(runs[runs["shots"] == "1"], tmp_path) is None
    assert draw(runs.assign(metric=runs["target"].map({"near": "top1", "far": "auc"})), tmp_path) is None
    assert draw(frame(results(("a", "b", "c", "d"))), tmp_path) is None


def test_gains_pair_the_seed_and_the_target() -> None:
    lone = transfer_result("mine", "1", 7, 0.9, target="near")
    gained = gains(frame([*results(), lone]))
    assert set(gained["source"]) == {"mine"}
    assert sorted(gained["test"] * 100) == pytest.approx([10] * 4 + [14] * 4 + [18] * 4)


def test_a_source_that_saw_the_target_gains_nothing() -> None:
    seen = [result | {"source_sets": ["near"]} if result["source"] == "mine" else result for result in results()]
    assert set(gains(frame(seen))["target"]) == {"far"}


def test_the_classes_of_a_target_are_said(tmp_path: Path, drawn: list[Figure]) -> None:
    before = pretrain_result("mine", settings=settings_of(0, sets=["near"], classes=["Shirt"]), environment=ENVIRONMENT)
    collected = collect((write_results(tmp_path / "runs", [*map(of_classes, results()), before]),))
    page = write(compose(collected, tmp_path), collected.runs, tmp_path).read_text(encoding="utf-8")
    together = next(figure for figure in drawn if len(figure.axes) == 4)
    assert sorted(axes.get_title(loc="left") for axes in together.axes[:2]) == ["far", "near: Coat, Bag"]
    assert page.count("Only images of these classes: Coat, Bag.") == 1
    assert "near: Shirt" in page
    assert "](targets.png)" in page
    again = collect((tmp_path / "results.csv",)).runs
    assert set(again.loc[again["target"] == "near", "classes"]) == {"Coat, Bag", "Shirt"}
