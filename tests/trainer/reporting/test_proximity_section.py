"""The section on proximity: heat maps, gain against distance, and a report that is as before without it."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_results import seeds, write_results
from matplotlib.axes import Axes
from PIL import Image

from data_pipelines.common.errors import InputError
from trainer.document.blocks import Paragraph, Picture, Table
from trainer.domain_distance.proximity_file import Distances, Pair, write_distances
from trainer.reporting.collect import collect
from trainer.reporting.proximity_figures import gains_by_distance
from trainer.reporting.proximity_section import proximity_section
from trainer.reporting.proximity_words import rounded, value_text
from trainer.reporting.report_runs import Report, write_report
from trainer.reporting.tables import with_titles


def sweep(*shots: str, targets: tuple[str, ...] = ("pets",)) -> list[dict[str, Any]]:
    high = {"scratch": 0.2, "near": 0.5, "far": 0.3}
    cells = product(targets, high, shots)
    return [
        result
        for target, source, count in cells
        for result in seeds(source, (high[source], high[source] + 0.02), count, target=target)
    ]


def distances(sources: tuple[str, ...] = ("near", "far"), kind: str = "common") -> Distances:
    pairs = [
        pair
        for place, source in enumerate(sources)
        for target in ("pets", "digits")
        for pair in (
            Pair(source, target, kind, "frechet", 12.345 + place),
            Pair(source, target, kind, "kernel", 0.1 + place, 0.05 + place, 0.15 + place),
            Pair(source, target, kind, "classifier", 0.9),
            Pair(source, target, "pixels", "grey-levels", 3.0),
        )
    ]
    pairs += [Pair("near", "pets", "own", "logme", -0.25), Pair("scratch", "pets", "random", "knn", 0.5)]
    network = {"name": "near", "fingerprint": "f", "kind": kind}
    described = {"images": 5, "fingerprint": "x"}
    targets = {"pets": described, "digits": described}
    return Distances([network], dict.fromkeys(sources, described), targets, pairs, ["something to know"])


@pytest.mark.slow
def test_report_has_the_section_where_it_is_asked_for(tmp_path: Path) -> None:
    write_distances(distances(), tmp_path / "proximity.json")
    runs = write_results(tmp_path / "runs", sweep("full"))
    before = write_report(Report((runs,), tmp_path / "plain")).read_text()
    text = write_report(Report((runs,), tmp_path / "with", proximity=tmp_path)).read_text()
    start = text.index("## Proximity")
    section = text[start : text.index("\n## ", start + 1)]
    assert text.replace(section + "\n", "") == before
    assert "| Pets, near | 12.3 | 0.100 [0.050, 0.150] | 90.0 |" in section
    assert "| Pets, near | -0.250 |  |" in section
    assert "- something to know." in section
    pictures = re.findall(r"\]\((\w+)\.png\)", section)
    assert pictures == ["proximity_common", "proximity_pixels", "gain_by_distance"]
    for name in pictures:
        with Image.open(tmp_path / "with" / f"{name}.png") as figure:
            figure.load()
    page = (tmp_path / "with" / "report.html").read_text()
    assert page.count("data:image/svg+xml") == before.count(".png)") + 3
    tables = (tmp_path / "with" / "tables.tex").read_text()
    assert r"Pets, near & 12.3 & 0.100 [0.050, 0.150] & 90.0 \\" in tables


def test_a_missing_result_leaves_nothing_behind(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", sweep("full"))
    with pytest.raises(InputError, match=r"absent\.json is no proximity\.json"):
        write_report(Report((runs,), tmp_path / "out", proximity=tmp_path / "absent.json"))
    assert not (tmp_path / "out").exists()


def test_gains_stand_at_their_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float, float]] = []
    original = Axes.errorbar

    def errorbar(axes: Axes, x: Any, y: Any, xerr: Any, **options: Any) -> Any:
        drawn.append((x[0], round(y[0], 6), round(xerr[1][0], 6)))
        return original(axes, x, y, xerr=xerr, **options)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    (picture,) = gains_by_distance(
        distances(), titled(tmp_path, sweep("5", "full", targets=("pets", "digits"))), tmp_path
    )
    assert isinstance(picture, Picture)
    assert "paired by seed, 2 seeds" in picture.caption
    assert sorted(drawn) == [(0.1, 30.0, 0.05)] * 4 + [(1.1, 10.0, 0.05)] * 4
    assert {path.suffix for path in tmp_path.glob("gain_by_distance.*")} == {".png", ".svg"}


def test_gains_of_unmeasured_pairs_are_not_drawn(tmp_path: Path) -> None:
    (said,) = gains_by_distance(distances(("other",)), titled(tmp_path, sweep("full")), tmp_path)
    assert isinstance(said, Paragraph)
    assert "not drawn: no fine-tuning here has a source and a target that were compared" in str(said.text)


def titled(folder: Path, results: list[dict[str, Any]]) -> pd.DataFrame:
    return with_titles(collect((write_results(folder / "runs", results),)).shown)


def test_random_weights_alone_are_enough(tmp_path: Path) -> None:
    blocks = proximity_section(distances(kind="random"), tmp_path)
    assert [block.name for block in blocks if isinstance(block, Picture)] == ["proximity_random", "proximity_pixels"]
    names = [block.name for block in blocks if isinstance(block, Table)]
    assert names == ["proximity_random", "proximity_pixels", "proximity_labels"]


def test_section_says_what_does_not_compare(tmp_path: Path) -> None:
    found = distances()
    found.pairs.append(Pair("near", "pets", "own", "kernel", 0.5, 0.4, 0.6))
    blocks = proximity_section(found, tmp_path)
    (own,) = (block for block in blocks if isinstance(block, Table) and block.name == "proximity_own")
    assert "Rows of different sources do not compare" in own.caption
    assert any(isinstance(block, Paragraph) and "not between features" in str(block.text) for block in blocks)


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (0.0123456, 0.0123456, "0.0123"),
        (123.4, 123.4, "123"),
        (-0.5, 2.0, "-0.50"),
        (0.0, 0.0, "0"),
        (5e-9, 5e-9, "0.000000"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, scale: float, text: str) -> None:
    assert rounded(value, scale) == text


def test_accuracies_are_percent() -> None:
    assert value_text(Pair("a", "b", "own", "knn", 0.5)) == "50.0"
    assert value_text(None) == ""
