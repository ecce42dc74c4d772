"""Every cell of the paper's full and few-shot transfer is planned, on sets of as many images as the real ones."""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.common.manifest import read_manifest, write_manifest
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.common.splits import SPLITS, hash_split
from data_pipelines.image_files.png import encode_png
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from trainer import transfer
from trainer.finetuning.paper_protocol import PAPER_TARGETS
from trainer.sweep.cost import Rate

# As in the files of results that the paper's authors published.
GRID = {
    "cifar10": ("1", "5", "10", "100", "500", "full"),
    "cifar100": ("1", "5", "10", "100", "500", "full"),
    "covidx": ("1", "5", "10", "100", "500", "full"),
    "flowers102": ("1", "5", "10", "full"),
    "padchest_cl": ("1", "5", "10", "100", "full"),
    "pets": ("1", "5", "10", "full"),
    "tuberculosis": ("1", "5", "10", "100", "full"),
}
SEEDS = 5
# The images of each class of PadChest-Cl that are not tested on with --split-by image, counted in the whole table.
PADCHEST_CL = [
    *(2376, 304, 2867, 2359, 693, 3481, 1416, 156, 2028, 495, 207, 130, 1557, 1289, 796, 741, 1943, 4182, 457, 2329),
    *(1289, 1215, 240, 3801, 836, 200),
]
# Images that are not tested on, by class; how many are; shorter and longer side in pixels; the share that is val.
SETS: dict[str, tuple[Sequence[int], int, tuple[int, int], float]] = {
    "cifar10": ([5_000] * 10, 10_000, (32, 32), 0.1),
    "cifar100": ([500] * 100, 10_000, (32, 32), 0.1),
    "covidx": ([13_793, 2_158], 400, (512, 630), 0.05),
    # Of 20 to 238 images a class, 6,149 in all: --split authors.
    "flowers102": ([*range(20, 100), *[54] * 4, *[55] * 17, 238], 2_040, (500, 667), 0.0),
    "padchest_cl": (PADCHEST_CL, 4_153, (256, 256), 0.05),
    "pets": ([100] * 17 + [99] * 20, 3_669, (375, 500), 0.1),
    "tuberculosis": ([345, 334], 121, (512, 600), 0.1),
}
XRAYS = {"covidx", "padchest_cl", "tuberculosis"}
Sweep = Callable[..., tuple[int, str, str]]


def imitated_set(folder: Path, name: str) -> None:
    """A set of a single image, whose index then says that there are as many as the real one has."""
    by_class, num_tested, (shorter, longer), val_fraction = SETS[name]
    picture = encode_png(np.zeros((8, 8), dtype=np.uint8))
    raw = RawSet(
        name=name,
        task="single_label",
        classes=tuple(f"class {number}" for number in range(len(by_class))),
        images=[RawImage(split, split, picture, 0) for split in SPLITS],
        num_images=3,
        source="imitated by a test",
        patients="apart" if name in XRAYS else "none",
        metric="auc" if name == "padchest_cl" else None,
    )
    prepare(raw, Output(folder))
    manifest = read_manifest(folder)
    labels = np.repeat(np.arange(len(by_class)), by_class)
    drawn = np.array([hash_split(f"{name}/{row}", val_fraction, 0.0) for row in range(len(labels))])
    splits = {split: labels[drawn == split] for split in ("train", "val")}
    splits["test"] = np.arange(num_tested) % len(by_class)
    for split, of_split in splits.items():
        manifest["splits"][split]["images"] = len(of_split)
        for path in (folder / split).glob("*.npy"):
            column = np.load(path)
            sides = {"height": longer, "width": shorter}
            whole = np.full(len(of_split), sides.get(path.stem, column[0]), dtype=column.dtype)
            np.save(path, of_split.astype(column.dtype) if path.stem == "labels" else whole)
    manifest |= PAPER_TARGETS[name].prepared
    del manifest["format_version"]
    write_manifest(folder, manifest)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the seven targets in data/."""
    folder = tmp_path_factory.mktemp("grid")
    for name in SETS:
        imitated_set(folder / "data" / name, name)
    return folder


@pytest.fixture
def sweep(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """A function that sweeps from scratch in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("BITSCALE_DATA", raising=False)
    monkeypatch.setattr("trainer.sweep.cost.timed", lambda config, threads: Rate(100.0))

    def run(target: str, shots: Sequence[str], *arguments: str) -> tuple[int, str, str]:
        given = ["--sources", "scratch", "--targets", target, "--shots", *shots, "--seeds", str(SEEDS)]
        given += ["--model.name", "r50x1", "--device", "cpu", *arguments]
        monkeypatch.setattr(sys, "argv", ["transfer.py", "sweep", *given])
        code = 0
        try:
            transfer.main()
        except SystemExit as end:
            code = int(end.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def planned(output: str) -> Counter[str]:
    """How often each number of shots is planned."""
    return Counter(line.split("-shot")[0].rpartition("/")[2] for line in output.splitlines() if "-shot-seed-" in line)


PROTOCOLS = [
    *((target, ()) for target in GRID),
    *((target, ("--data.train-on", "train+val")) for target in sorted(XRAYS)),  # by default the others are, too
    *((target, ("--match-authors",)) for target in GRID),
]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "protocol"), PROTOCOLS)
def test_every_cell_of_the_paper(target: str, protocol: Sequence[str], sweep: Sweep) -> None:
    code, output, error = sweep(target, GRID[target], "--dry-run", *protocol)
    assert (code, error) == (0, "")
    assert planned(output) == dict.fromkeys(GRID[target], SEEDS)
    by_authors = len(GRID[target]) * SEEDS if protocol == ("--match-authors",) else 0
    assert len(re.findall(r"-shot-seed-\d-authors\b", output)) == by_authors


@pytest.mark.slow
def test_cells_that_a_target_has_no_images_for(sweep: Sweep, place: Path) -> None:
    held_out = ("--data.train-on", "train")
    code, output, error = sweep("cifar100", GRID["cifar100"], "--dry-run", *held_out)
    assert (code, output) == (2, "")
    assert error.count("-shot: ") == error.count("scratch/cifar100/500-shot: 500 shots asked for") == 1
    expected = dict.fromkeys(("1", "5", "10", "100", "full"), SEEDS)
    code, output, error = sweep("cifar100", GRID["cifar100"], "--dry-run", "--skip-impossible", *held_out)
    assert (code, planned(output)) == (0, expected)
    assert error.startswith("skipped as impossible: scratch/cifar100/500-shot: 500 shots")
    code, output, error = sweep("cifar100", GRID["cifar100"], "--plan", "plan.json", "--skip-impossible", *held_out)
    assert (code, error.count("skipped as impossible")) == (0, 1)
    tasks = json.loads((place / "plan.json").read_text())["tasks"]
    assert Counter(task["name"].split("/")[2].split("-shot")[0] for task in tasks) == expected
    code, output, error = sweep("padchest_cl", ("500",), "--skip-impossible")
    assert (code, output) == (2, "")
    assert "error: every cell is impossible or left out" in error
