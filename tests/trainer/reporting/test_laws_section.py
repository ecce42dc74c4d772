"""The section *Laws* of a report: its tables and words on results made up with known laws."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import authors_row, frame, pretrain_result, seeds, transfer_result, write_authors, write_results
from PIL import Image

from trainer.document.markdown import as_markdown
from trainer.domain_distance.proximity_file import read_distances
from trainer.reporting.collect import collect
from trainer.reporting.laws_section import laws_section
from trainer.reporting.report_runs import Report, write_report
from trainer.reporting.tables import with_titles

SHOTS = {"1": 10, "5": 50, "10": 100, "50": 500, "full": 1100}
SEEDS = 4


def results(
    target: str = "pets",
    sources: tuple[str, ...] = ("scratch", "mine"),
    num_seeds: int = SEEDS,
    gain: float = 0.0,
    **changes: Any,
) -> list[dict[str, Any]]:
    """Errors by the law 0.05 + 3 n^-0.8; other sources than scratch make them with half the images."""
    rng = np.random.default_rng(len(target))
    return [
        transfer_result(
            source,
            shots,
            seed,
            float(
                1 - (0.05 + 3 * (images * (1 if source == "scratch" else 2)) ** -0.8) * (1 + 0.04 * rng.normal()) + gain
            ),
            target=target,
            train_images=images,
            **changes,
        )
        for source in sources
        for shots, images in SHOTS.items()
        for seed in range(num_seeds)
    ]


def section(folder: Path, made: list[dict[str, Any]], distances: Path | None = None) -> str:
    """The section alone, as Markdown."""
    runs = frame(made)
    transfers, pretrained = runs[runs["kind"] == "transfer"], runs[runs["kind"] == "pretrain"]
    return as_markdown(laws_section(transfers, pretrained, folder, read_distances(distances) if distances else None))


def row(text: str, title: str) -> list[str]:
    """The entries of the first table row of that title."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [entry.strip() for entry in line.strip("|").split("|")][1:]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("told")
    runs = write_results(folder / "runs", results())
    return folder / "out", write_report(Report((runs,), folder / "out", laws=True)).read_text()


def test_a_law_that_the_data_tell_is_printed(told: tuple[Path, str]) -> None:
    floor, _, alpha, further = row(told[1].partition("## Laws")[2], "scratch, r50x1")
    assert 3.5 < float(floor.split()[0]) < 6.5
    assert 0.65 < float(alpha.split()[0]) < 0.95
    assert 3.5 < float(further.split()[0]) < 6.5


def test_effective_data_of_a_source_worth_twice_the_images(told: tuple[Path, str]) -> None:
    caption = "effective data transferred: how many more training images than the source scratch needs"
    entries = row(told[1].partition(caption)[2], "mine, r50x1")
    value, low, high = entries[1].replace("[", "").replace("]", "").replace(",", "").split()
    assert int(low) < int(value) < int(high)
    assert 30 < int(value) < 80  # 50, by lines between the points
    assert entries[-1].startswith("beyond")


def test_figures_and_tables_of_the_section_are_written(told: tuple[Path, str]) -> None:
    with Image.open(told[0] / "laws_pets.png") as figure:
        figure.load()
    assert "<h2>Laws</h2>" in (told[0] / "report.html").read_text()
    assert "the fitted law, with 95" in (told[0] / "tables.tex").read_text()


def test_without_the_flag_there_is_no_section(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", seeds("scratch", (0.5,)))
    assert "## Laws" not in write_report(Report((runs,), tmp_path / "out")).read_text()
    assert not list((tmp_path / "out").glob("laws_*"))


def test_one_seed_tells_no_parameters(tmp_path: Path) -> None:
    text = section(tmp_path, results(num_seeds=1))
    assert "- Not told, no second seed tells how sure the errors are: scratch, r50x1; mine, r50x1." in text
    assert "the fitted law, with 95% intervals" not in text
    assert "(one seed)" in text


def test_different_protocols_are_fitted_apart(tmp_path: Path) -> None:
    made = results(num_seeds=2)
    made += results(num_seeds=2, protocol="authors", sources=("scratch",), gain=-0.01)
    for number, each in enumerate(made):
        each["run"] = f"run {number}"
    text = section(tmp_path, made)
    assert "Models, protocols, modes and settings are fitted apart." in text
    assert "| scratch, r50x1, authors' protocol |" in text.partition("## Laws")[2]


def test_sizes_of_pretrained_sources_make_a_law(tmp_path: Path) -> None:
    made = []
    for place, images in enumerate((1000, 3000, 10_000, 100_000)):
        name = f"small{place}"
        made.append(pretrain_result(name, train_images=images))
        sized = results(sources=(name,), num_seeds=3, source_sets=["fashion_mnist"], gain=0.01 * place)
        made += [each for each in sized if each["shots"] in ("5", "full")]
    text = section(tmp_path, made)
    assert "error on test by images of the source: the fitted law" in text
    assert len(row(text, "fashion_mnist, r50x1, 5-shot")) == 4


def test_the_authors_files_lack_scratch_and_images_and_say_so(tmp_path: Path) -> None:
    tops = {"1": 0.5, "5": 0.7, "10": 0.8, "full": 0.9}
    rows = [
        authors_row(source, shots, seed, top + 0.01 * seed)
        for source in ("imagenet1k_bit50x1", "imagenet21k_bit50x1")
        for shots, top in tops.items()
        for seed in range(2)
    ]
    runs = collect((write_authors(tmp_path / "cifar100.csv", rows),)).runs
    text = as_markdown(laws_section(with_titles(runs), runs[:0], tmp_path, None))
    assert "No run from scratch is among the results: gains are those over the source ImageNet-1k." in text
    assert "The authors' files do not say the number of images" in text
    assert "1 target has a known proximity, and leaving one out takes at least 3." in text


def proximity(path: Path, targets: list[str], source: str = "mine") -> Path:
    pairs = [
        {"source": name, "target": target, "features": "common", "measure": "frechet", "value": 1.0 + place + number}
        for place, target in enumerate(targets)
        for number, name in enumerate((source, "other"))
    ]
    content = {"format": 1, "networks": [], "sources": {}, "targets": {}, "pairs": pairs}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_the_joint_law_is_held_to_targets_left_out(tmp_path: Path) -> None:
    targets = ["pets", "digits", "clothes"]
    made = [each for target in targets for each in results(target, ("scratch", "mine", "other"), num_seeds=2)]
    text = section(tmp_path, made, proximity(tmp_path / "proximity.json", targets))
    assert len(row(text, "frechet (common), r50x1")) == 6
    assert "frechet (common), r50x1: on 3 targets left out the joint law errs by" in text
    assert (tmp_path / "laws_prediction.png").is_file()


def test_proximity_of_other_sets_is_named(tmp_path: Path) -> None:
    path = proximity(tmp_path / "proximity.json", ["flowers"], "theirs")
    text = section(tmp_path, results(num_seeds=1), path)
    assert "known for the sources other, theirs and the targets flowers, and these results have mine and pets." in text
