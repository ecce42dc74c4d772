"""The section on proximity: heat maps, gain against distance, and a report that is as before without it."""

import re
from pathlib import Path

import pytest
from made_results import seeds, write_results
from PIL import Image

from trainer.document.blocks import Paragraph, Picture, Table
from trainer.domain_distance.proximity_file import Distances, Pair, write_distances
from trainer.reporting.proximity_section import proximity_section
from trainer.reporting.proximity_words import rounded, value_text
from trainer.reporting.report_runs import Report, write_report

SWEEP = [
    result
    for target in ("pets", "digits")
    for source, high in (("scratch", 0.2), ("near", 0.5), ("far", 0.3))
    for shots in ("5", "full")
    for result in seeds(source, (high, high + 0.02, high + 0.01), shots, target=target)
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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_distances(distances(), tmp_path / "proximity.json")
    return tmp_path / "proximity.json"


def test_report_has_the_section_where_it_is_asked_for(tmp_path: Path, file: Path) -> None:
    runs = write_results(tmp_path / "runs", SWEEP)
    before = write_report(Report((runs,), tmp_path / "plain")).read_text()
    text = write_report(Report((runs,), tmp_path / "with", proximity=file)).read_text()
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


def test_gains_stand_at_their_distances(tmp_path: Path, file: Path) -> None:
    write_report(Report((write_results(tmp_path / "runs", SWEEP),), tmp_path / "out", proximity=file.parent))
    drawn = (tmp_path / "out" / "gain_by_distance.svg").read_text()
    assert "5 per class" in drawn
    assert "all images" in drawn
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Points gained by pre-training over training from scratch against the kernel distance" in text
    assert "paired by seed, 3 seeds" in text


def test_gains_of_unmeasured_pairs_are_not_drawn(tmp_path: Path) -> None:
    write_distances(distances(("other",)), tmp_path / "other.json")
    runs = write_results(tmp_path / "runs", SWEEP)
    text = write_report(Report((runs,), tmp_path / "out", proximity=tmp_path / "other.json")).read_text()
    assert "Gain against distance is not drawn: no fine-tuning here has a source and a target" in text
    assert not (tmp_path / "out" / "gain_by_distance.png").exists()


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
