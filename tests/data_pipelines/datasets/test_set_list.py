"""`prepare --list` names every set, with the address and the number of images that the page and the readers have."""

import re
from pathlib import Path

import pytest
from set_layouts import TREES, WriteTar, layout

from data_pipelines.common.command_help import grouped_help
from data_pipelines.datasets import registry
from data_pipelines.datasets.registry import DATASETS, NAMED_SETS, listed
from data_pipelines.datasets.set_list import ORIGINS

PAGE = (Path(registry.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_every_set_is_listed() -> None:
    assert set(ORIGINS) == set(DATASETS), "ORIGINS of datasets/set_list.py has a line for each"


@pytest.mark.parametrize("name", [name for name, origin in ORIGINS.items() if "https" in origin.home])
def test_addresses_are_those_of_the_page(name: str) -> None:
    row = re.search(rf"^\| `{name}` \|.*", PAGE, re.MULTILINE)
    assert row
    like = re.search(r"\| (?:as `(\w+)`|same) \|", row[0])  # as the row named, or the one above
    above = {"cifar100": "cifar10", "padchest_cl": "padchest"}.get(name, name)
    found = re.search(rf"^\| `{above}` \|.*", PAGE, re.MULTILINE) if like else row
    assert found
    assert f"({ORIGINS[name].home})" in found[0]


def test_a_download_is_said_between_size_and_address() -> None:
    assert listed(NAMED_SETS)["pets"].startswith("7,349 images, 37 classes, 0.8 GB; https://")
    assert listed(NAMED_SETS)["brax"].startswith("40,967 images, 13 findings; https://")  # not known of it


def test_the_list_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for addresses, which can be clicked only whole."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = grouped_help("", {"": listed(DATASETS)}).splitlines()
    assert [line for line in lines if len(line) >= 80 and not line.lstrip().startswith("https://")] == []


@pytest.mark.parametrize("name", sorted(NAMED_SETS.keys() & TREES.keys() - {"fashion_mnist"}))
def test_sizes_are_those_that_readers_expect(name: str, tmp_path: Path, write_tar: WriteTar) -> None:
    raw = DATASETS[name](**layout(name, tmp_path / "raw", write_tar))
    size = ORIGINS[name].size
    if raw.expected_images:
        assert size.startswith(f"{raw.expected_images:,} images, ")
    if raw.task == "multi_label":
        assert size.endswith(f", {len(raw.classes)} findings")
