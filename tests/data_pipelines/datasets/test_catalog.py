"""A set is found by path, below the data root, or in the package; or the message says how to get it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.catalog import EMBEDDED, data_root, find


@pytest.fixture
def root(write_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with one prepared set, `animals`; the current folder is another, empty one."""
    shutil.copytree(write_set([0, 1], ["cat", "dog"]), tmp_path / "root" / "animals")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("BITSCALE_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


def test_data_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_root() == root
    monkeypatch.delenv("BITSCALE_DATA")
    assert data_root() == Path("data")
    shutil.copytree(root / "animals", "data/animals")
    assert find("animals") == Path("data/animals")


def test_sets_are_found_by_path_by_name_and_in_the_package(root: Path) -> None:
    assert find(str(root / "animals")) == root / "animals"
    assert find("../root/animals").resolve() == root / "animals"
    assert find("animals") == root / "animals"
    assert find("fashion_mnist") == EMBEDDED / "fashion_mnist"


def test_own_sets_come_before_those_of_the_package(root: Path) -> None:
    shutil.copytree(root / "animals", root / "fashion_mnist")
    assert find("fashion_mnist") == root / "fashion_mnist"
    Path("animals").mkdir()  # no prepared set, so it hides nothing
    assert find("animals") == root / "animals"
    shutil.copytree(root / "animals", "animals", dirs_exist_ok=True)
    assert find("animals") == Path("animals")


def test_unfinished_sets_are_not_found(root: Path) -> None:
    (root / "animals" / "manifest.json").unlink()
    with pytest.raises(InputError, match="no prepared data set 'animals'"):
        find("animals")


@pytest.mark.parametrize(("name", "flags"), [("digits", ""), ("phantom", ""), ("chexpert", "--root DIR ")])
def test_known_sets_come_with_the_line_that_prepares_them(root: Path, name: str, flags: str) -> None:
    with pytest.raises(InputError) as raised:
        find(name)
    assert f"prepare it with: bitscale prepare {name} {flags}--out {root / name}" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "nearest"), [("animal", "animals"), ("fashion-mnist", "fashion_mnist"), ("phantoms", "phantom")]
)
def test_unknown_sets_come_with_the_nearest_name(root: Path, name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{nearest}'") as raised:
        find(name)
    assert f"no prepared data set {name!r} in {root} (set BITSCALE_DATA to look elsewhere)" in str(raised.value)
    assert f"bitscale prepare image-folder --root DIR --out {root / name}" in str(raised.value)


def test_names_in_one_word_are_told_apart(root: Path) -> None:
    with pytest.raises(InputError, match=f"'animals,digits' in {root}; separate names by spaces: animals digits$"):
        find("animals,digits", is_listed=True)
    for name, is_listed in (("animals,digits", False), ("animals,zebra", True), ("animals,", True)):
        with pytest.raises(InputError) as raised:
            find(name, is_listed)
        assert "spaces" not in str(raised.value)


def test_names_like_no_other_come_with_the_sets_that_are_here(root: Path) -> None:
    with pytest.raises(InputError, match="; known: animals, fashion_mnist; class folders"):
        find("zzz")
    with pytest.raises(InputError, match="; did you mean 'animals'"):
        find("elsewhere/animal")


def test_a_folder_of_images_comes_with_the_line_that_prepares_it(root: Path) -> None:
    Path("photos/cats").mkdir(parents=True)
    with pytest.raises(InputError, match=f"bitscale prepare image-folder --root photos --out {root / 'photos'}"):
        find("photos")
