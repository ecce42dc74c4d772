"""What is said of splits that got no image, of fractions that are not used, and of findings that all images have."""

from collections.abc import Callable
from pathlib import Path

import pytest
from user_films import has_note

from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.user_images import csv_table

Listed = Callable[..., tuple[Path, Path]]


@pytest.fixture
def small(listed: Listed) -> Callable[..., RawSet]:
    """A reader of a table of six films, the last of which is in test by a column."""
    root, table = listed([["path", "Mass", "split"], *([f"{n}.png", 1, ("train", "test")[n == 5]] for n in range(6))])

    def read(**flags: object) -> RawSet:
        return csv_table(root, table, label_columns=("Mass",), **flags)  # type: ignore[arg-type]

    return read


def test_an_empty_split_is_noted_with_fractions_that_fill_it(small: Callable[..., RawSet]) -> None:
    raw = small(val_fraction=0.001, test_fraction=0.001)
    assert has_note(raw, "no image came into val or test")
    (note,) = [note for note in raw.notes if "no image came" in note]
    fractions = {name: float(note.split(f"--{name}-fraction ")[1].split()[0].strip(",")) for name in ("val", "test")}
    filled = small(val_fraction=fractions["val"], test_fraction=fractions["test"])
    assert {image.split for image in filled.images} == {"train", "val", "test"}
    assert not has_note(filled, "no image came")
    assert not has_note(small(val_fraction=0, test_fraction=0), "no image came")


def test_a_fraction_of_a_given_split_is_noted_as_unused(small: Callable[..., RawSet]) -> None:
    raw = small(split_column="split", test_fraction=0.3, val_fraction=0)
    assert has_note(raw, "--test-fraction 0.3 is not used, as test is given")
    assert raw.has_own_test
    assert not has_note(small(split_column="split", val_fraction=0), "is not used")
    assert not small().has_own_test


def test_a_finding_that_all_images_have_is_noted(small: Callable[..., RawSet]) -> None:
    assert has_note(small(val_fraction=0, test_fraction=0), "train has no image without: Mass")
