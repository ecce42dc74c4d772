"""What identifies a prepared set, and how sets of one name are told apart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.common.file_names import file_name_of
from data_pipelines.common.manifest import MANIFEST, content_digest, read_manifest
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.datasets.overlap import namesake_note, shares_images
from data_pipelines.image_files.png import encode_png
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.concat import distinct_names
from data_pipelines.shards.node_cache import stage

Make = Callable[..., dict[str, Any]]


def picture(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(256, size=(8, 8), dtype=np.uint8))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that prepares two pictures, by number and label, and returns the manifest."""

    def prepared(folder: str, name: str = "films", classes: tuple[str, ...] = ("a", "b"), **options: Any) -> Any:
        samples = options.pop("samples", ((0, 0), (1, 1)))
        images = [RawImage(f"{row}", "train", picture(number), label) for row, (number, label) in enumerate(samples)]
        raw = RawSet(name, "single_label", classes, images, len(images), "drawn by a test", **options)
        return prepare(raw, Output(tmp_path / folder))

    return prepared


def test_the_same_images_are_the_same_set_whatever_it_is_called(make: Make, tmp_path: Path) -> None:
    one = content_digest(make("one"))
    assert content_digest(make("two", name="other", notes=("prepared again",))) == one
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    assert content_digest(read_manifest(tmp_path / "moved")) == one
    turned = json.loads(json.dumps(read_manifest(tmp_path / "one"), sort_keys=True))
    assert content_digest(turned) == one


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": ((0, 0), (2, 1))},
        {"samples": ((0, 0), (1, 0))},
        {"samples": ((0, 0),)},
        {"classes": ("b", "a")},
        {"classes": ("a", "b", "c")},
    ],
)
def test_another_image_label_or_class_makes_another_set(changes: dict[str, Any], make: Make) -> None:
    assert content_digest(make("one")) != content_digest(make("two", **changes))


def test_labels_of_equal_images_count(make: Make) -> None:
    """The second label of an image that is stored once stands in a column alone."""
    merged = {"equal_images": "pairs", "classes": ("a", "b", "c")}
    digests = {content_digest(make(f"{label}", samples=((0, 0), (1, 1), (0, label)), **merged)) for label in (1, 2)}
    assert len(digests) == 2


def test_manifests_of_every_version_have_the_same_digest(make: Make) -> None:
    manifest = make("one")
    digest = content_digest(manifest)
    manifest["splits"]["train"].pop("columns")
    assert content_digest(manifest) == digest
    manifest["splits"].pop("val")  # a split without images may be left out
    assert content_digest(manifest) == digest
    other = make("two", samples=((3, 0), (4, 1)))
    for found in (manifest, other):  # without sums, sets are not all one
        for shard in found["splits"]["train"]["shards"]:
            del shard["sha256"]
    other["splits"]["train"]["shards"][0]["bytes"] += 512
    assert content_digest(manifest) != content_digest(other)


@pytest.mark.parametrize(
    ("names", "apart"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a (2)", "a (3)"]),
        (["a (3)", "a", "a"], ["a (3)", "a", "a (4)"]),
    ],
)
def test_joined_sets_of_one_name(names: list[str], apart: list[str]) -> None:
    assert distinct_names(names) == apart


def test_sets_share_images_by_content_else_by_name() -> None:
    known = {"films": "d1"}
    assert shares_images(["films"], "films", known, "d2") is None
    assert "called films there" in str(shares_images(["films"], "clinic", known, "d1"))
    assert "the target itself" in str(shares_images(["films"], "films", known, "d1"))
    assert shares_images(["films"], "films", {}, "d2")  # of an earlier version
    assert shares_images(["films"], "films", known, "")
    assert shares_images(["chexpert"], "chexpert", {"chexpert": "d1"}, "d2")  # in another size
    assert shares_images(["padchest"], "padchest_cl", {"padchest": "d1"}, "d2")
    assert "another set" in str(namesake_note(["films"], "films", known, "d2"))
    for sets, digest in ((["films"], "d1"), (["other"], "d2"), (["films"], "")):
        assert namesake_note(sets, "films", known, digest) is None


@pytest.mark.parametrize(
    ("name", "file"),
    [("films", "films"), ("../../etc", ".._.._etc"), ("a b/c", "a_b_c"), ("胸部", "_"), ("", "_"), ("n\udcfc", "n_")],
)
def test_names_become_names_of_files(name: str, file: str) -> None:
    assert file_name_of(name) == file


def test_long_names_stay_different_and_can_be_staged(make: Make, tmp_path: Path) -> None:
    long = "x" * 250
    assert len(file_name_of(long)) == 80
    assert file_name_of(long) != file_name_of(long + "y")
    make("one")
    path = tmp_path / "one" / MANIFEST
    for name in (long, "../../elsewhere"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name}))
        copy = stage(tmp_path / "one", tmp_path / "fast")
        assert copy.parent.parent == tmp_path / "fast"
        assert copy.resolve().is_relative_to(tmp_path / "fast")
