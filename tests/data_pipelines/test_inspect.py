"""`inspect` shows what training would see, and its numbers are those of the index."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augmentation_values import OTHER_VALUES, before_and_after
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

import data_pipelines
from data_pipelines import inspect
from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest
from data_pipelines.inspect import Inspect, caption, count_sizes, facts, first_batch, label_counts, make_page, summary
from data_pipelines.inspect_page import Page, draw, rows_to_draw
from data_pipelines.loading import torch_loader
from data_pipelines.loading.sampler import BatchSampler
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards.index import Index

REPOSITORY = Path(data_pipelines.__file__).parents[1]
# Whether images are mirrored is up to the set; mixtures are not drawn.
NOT_SHOWN = {"flip", "mixup_alpha", "mixup_group"}
OPTION = {"policy": "view"}
FINDINGS = ["Edema", "Mass", "Nodule"]
LABELS = np.array([[1, 0, np.nan], [1, 1, np.nan], [0, 0, 0], [np.nan] * 3], np.float32)
PAGE = Page(
    name="small",
    facts=["not synthetic"],
    sheet_title="train images",
    images=np.zeros((3, 8, 8, 3), np.uint8),
    captions=["a tabby", "a poodle", "a stray"],
    split="train",
    classes=["cat", "dog"],
    counts={"images": np.array([1234, 56])},
    sizes=np.array([[8, 9]]),
    size_counts=np.array([1290]),
    splits={"train": 1290, "val": 10, "test": 0},
)


@pytest.fixture(scope="module")
def animals(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> Path:
    images = [encode(photo(number, 20 + number % 2, 30), "JPEG") for number in range(5)]
    return write_set([0, 1, 1, 0, 1], ["cat", "dog", "emu"], images=images)


@pytest.fixture(scope="module")
def chests(write_set: Callable[..., Path]) -> Path:
    return write_set(LABELS, FINDINGS, groups=[7, 7, 8, -1])


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def texts(page: Page) -> list[str]:
    return [text.get_text() for text in draw(page).findobj(Text) if text.get_text()]


def test_counts_of_classes(animals: Path) -> None:
    counts = label_counts(Index.load(animals, "train"))
    assert {name: values.tolist() for name, values in counts.items()} == {"images": [2, 3, 0]}


def test_counts_of_findings_add_up_to_all_images(chests: Path) -> None:
    counts = label_counts(Index.load(chests, "train"))
    assert {name: values.tolist() for name, values in counts.items()} == {
        "positive": [2, 1, 0],
        "negative": [1, 2, 1],
        "unlabelled": [1, 1, 3],
    }


def test_sizes_are_height_and_width(animals: Path) -> None:
    sizes, counts = count_sizes(Index.load(animals, "train"))
    assert sizes.tolist() == [[20, 30], [21, 30]]
    assert counts.tolist() == [3, 2]


def test_captions(animals: Path, chests: Path) -> None:
    index, multi = Index.load(animals, "train"), Index.load(chests, "train")
    assert caption(index, np.asarray(1)) == "dog"
    assert [caption(multi, label) for label in LABELS] == ["Edema", "Edema, Mass", "none positive", "unlabelled"]


@pytest.mark.parametrize(
    ("patients", "line"),
    [
        ("apart", "patients apart: none is in two splits, 2 patients in train, 3 images quarantined"),
        ("may leak", "PATIENTS MAY LEAK: one may be in two splits, 2 patients in train, 3 images quarantined"),
        ("none", "2 patients in train, 3 images quarantined"),
    ],
)
def test_facts(chests: Path, patients: Any, line: str) -> None:
    index = replace(Index.load(chests, "train"), patients=patients, flip=False)
    manifest = read_manifest(chests) | {"synthetic": True, "quarantined": 3, "source": "here", "notes": ["look out"]}
    assert facts(manifest, index, "train") == [
        "synthetic, multi-label, 3 findings, RGB, must not be mirrored",
        line,
        "source: here",
        "note: look out",
    ]
    real = facts(manifest | {"synthetic": False}, index, "train")
    assert ("images of patients: the page is as confidential as they are" in real) == (patients != "none")


def test_facts_of_a_set_without_patients(animals: Path) -> None:
    lines = facts(read_manifest(animals), Index.load(animals, "train"), "train")
    assert lines[:2] == [
        "not synthetic, single-label, 3 classes, RGB, may be mirrored",
        "no patients, 0 images quarantined",
    ]


def test_the_sheet_shows_what_training_sees(animals: Path) -> None:
    index = Index.load(animals, "train")
    batch, name = first_batch(Inspect("", size=16, seed=3, images=4, loader="torch"), index)
    request = BatchSampler(len(index), 4, seed=3).request(0)
    augmentation = Augmentation("random_resized_crop", 16, 256, seed=3)
    (expected,) = torch_loader.batches(index, [request], augmentation, torch.device("cpu"), 1)
    assert name == "torch"
    assert batch.samples.tolist() == request.samples.tolist()
    assert torch.equal(batch.images, expected.images)
    page = make_page(Inspect(str(animals), size=16, seed=3, images=4, loader="torch"))
    assert np.array_equal(page.images, expected.images.permute(0, 2, 3, 1).numpy())
    assert page.sizes.tolist() == [[20, 30], [21, 30]]
    assert page.captions == [index.classes[label] for label in index.labels[request.samples]]


def test_options_reach_the_augmentation(animals: Path) -> None:
    index, look = Index.load(animals, "train"), Inspect("", size=16, resize=18, images=5, loader="torch")
    plain = first_batch(look, index)[0].images
    assert not torch.equal(first_batch(replace(look, randaugment_ops=2), index)[0].images, plain)
    with pytest.raises(InputError, match="take --loader torch"):
        first_batch(replace(look, randaugment_ops=2, randaugment_on="image", loader="dali"), index)


@pytest.mark.parametrize("name", sorted(OTHER_VALUES.keys() - NOT_SHOWN))
def test_every_setting_of_an_augmentation_reaches_the_sheet(name: str, animals: Path) -> None:
    index = Index.load(animals, "train")
    one, other = (first_batch(looking(augmentation), index)[0].images for augmentation in before_and_after(name))
    assert one.shape != other.shape or not torch.equal(one, other)


def looking(augmentation: Augmentation) -> Inspect:
    """The options that show this augmentation."""
    settings = {field.name: getattr(augmentation, field.name) for field in fields(augmentation)}
    options = {OPTION.get(name, name): value for name, value in settings.items() if name not in NOT_SHOWN}
    assert options.keys() <= {field.name for field in fields(Inspect)}, "a flag for each in Inspect, or in NOT_SHOWN"
    return Inspect("", images=16, loader="torch", **options)


def test_images_of_no_weight_are_not_shown(animals: Path) -> None:
    index = replace(Index.load(animals, "train"), weight=np.array([0, 1, 0, 0, 1.0]))
    batch, _ = first_batch(Inspect("", size=16, images=8, loader="torch"), index)
    assert set(batch.samples.tolist()) == {1, 4}


def test_images_that_must_not_be_mirrored_are_not(write_set: Callable[..., Path], encode: Callable) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255
    index = Index.load(write_set([0], ["left"], images=[encode(pixels)]), "train")
    look = Inspect("", view="resize_random_crop", size=16, resize=16, images=16, loader="torch")
    looks = [replace(look, seed=seed) for seed in range(8)]  # of the one image
    assert all((first_batch(each, replace(index, flip=False))[0].images[..., 0] == 255).all() for each in looks)
    assert not all((first_batch(each, index)[0].images[..., 0] == 255).all() for each in looks)


def test_of_many_classes_the_largest_and_the_smallest_are_drawn() -> None:
    counts = np.random.default_rng(0).permutation(100)
    rows, gap = rows_to_draw(counts)
    assert counts[rows[:14]].tolist() == list(range(99, 85, -1))
    assert rows[14] == -1
    assert counts[rows[15:]].tolist() == list(range(13, -1, -1))
    assert gap == 100 - 28
    assert rows_to_draw(counts[:30])[0].tolist() == list(range(30))


def test_the_page_says_every_number() -> None:
    shown = texts(PAGE)
    assert {"small", "not synthetic", "train images", "a tabby", "a poodle", "a stray"} <= set(shown)
    assert {"cat", "dog", "1,234", "56", "2 classes, 56 to 1,234 images each"} <= set(shown)
    assert {"8 × 9", "1,290", "splits of 1,300 images", "1,290 (99.2%)", "10 (0.8%)", "0 (0.0%)"} <= set(shown)


def test_the_page_of_findings_stacks_them() -> None:
    counts = {"positive": np.array([3, 1]), "negative": np.array([4, 2]), "unlabelled": np.array([0, 4])}
    figure = draw(replace(PAGE, counts=counts, classes=["Edema", "Mass"]))
    bars = [bar for bar in figure.findobj(Rectangle) if bar.get_height() == 0.78]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 3), (0, 1), (3, 4), (1, 2), (7, 0), (3, 4)]
    shown = texts(replace(PAGE, counts=counts, classes=["Edema", "Mass"]))
    assert {"positive", "negative", "unlabelled", "2 findings, 1 to 3 positive each"} <= set(shown)


def test_the_page_of_many_classes_and_sizes() -> None:
    sizes = np.array([[100 + 10 * number, 200 + number] for number in range(20)])
    names = [f"class $_{number} with quite a long name" for number in range(40)]
    page = replace(PAGE, classes=names, counts={"images": np.arange(40)}, sizes=sizes, size_counts=np.arange(1, 21))
    shown = texts(page)
    assert "(12 more between)" in shown
    assert "class $_39 with q…ong name" in shown
    assert {"width", "height", "stored height × width, pixels (20 different)"} <= set(shown)


def test_names_are_no_formulas() -> None:
    name = r"$\nothing"
    page = replace(PAGE, name=f"{name}$", facts=[f"{name}$"], classes=[f"{name}$", "dog"], captions=[f"{name}$"] * 3)
    draw(page).canvas.draw()


def test_summary() -> None:
    assert summary(PAGE).splitlines() == [
        "small",
        "not synthetic",
        "images: train 1,290, val 10, test 0",
        "train: height 8 to 8, width 9 to 9 pixels",
        f"  {'cat':26} 1,234 images",
        f"  {'dog':26} 56 images",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "--images is 0"),
        ({"images": 513}, "--images is 513"),
        ({"size": 0}, "--size is 0"),
        ({"out": Path("a.b/page.jpg")}, r"--out is a\.b/page\.jpg, and the page is a PNG file; name it a\.b/page\.png"),
        ({"seed": -1}, "--seed is -1"),
        ({"view": "center_crop", "resize": 200}, "--resize is 200"),
        ({"randaugment_magnitude": 31}, "--randaugment-magnitude 31"),
        ({"translation": 1.0}, "--translation is 1;"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Inspect("set", **options)


def test_one_image_and_one_class_are_not_plural(animals: Path) -> None:
    page = replace(PAGE, counts={"images": np.array([1234, 1])})
    assert summary(page).splitlines()[-1] == f"  {'dog':26} 1 image"
    index = replace(Index.load(animals, "train"), classes=("cat",))
    lines = facts(read_manifest(animals) | {"quarantined": 1}, index, "train")
    assert "single-label, 1 class, RGB" in lines[0]
    assert lines[1] == "no patients, 1 image quarantined"


def test_a_missing_set_is_all_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["inspect", "none", "--out", str(tmp_path / "page.png")])
    with pytest.raises(SystemExit):
        inspect.main()
    assert capsys.readouterr().err.startswith("error: no prepared data set 'none'")


def test_a_missing_split_is_named(animals: Path) -> None:
    with pytest.raises(InputError, match="has no test split"):
        make_page(Inspect(str(animals), split="test"))


def test_an_output_that_cannot_be_written(
    animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = [str(animals), "--out", str(tmp_path / "file" / "page.png"), "--loader", "torch", "--images", "1"]
    monkeypatch.setattr(sys, "argv", ["inspect", *arguments])
    with pytest.raises(SystemExit) as exited:
        inspect.main()
    assert exited.value.code == 2
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_script_it_does_not_shadow_the_standard_library(animals: Path, tmp_path: Path) -> None:
    """Its folder comes first on sys.path then, and half of the packages import a module of its name."""
    command = [sys.executable, str(REPOSITORY / "data_pipelines" / "inspect.py"), str(animals), "--loader", "torch"]
    command += ["--out", str(tmp_path / "pages" / "page.png"), "--images", "3", "--size", "32"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "small"
    with Image.open(tmp_path / "pages" / "page.png") as page:
        assert page.width == 1540
        assert np.asarray(page.convert("L")).std() > 10
