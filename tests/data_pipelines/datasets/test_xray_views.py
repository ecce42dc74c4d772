"""`--views` of the X-ray sets: what it takes, where it is written down, and what is refused."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from dicom_roots import brax_root, vindr_root
from empty_files import splits_of
from set_layouts import fill
from xray_roots import chexpert_root, mimic_root, nih_root, padchest_root

from data_pipelines import prepare as prepare_module
from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.brax import brax
from data_pipelines.datasets.chest_xray import chexpert, mimic_cxr, nih_cxr14, padchest
from data_pipelines.datasets.chest_xray_targets import padchest_cl
from data_pipelines.datasets.vindr_cxr import vindr_cxr
from data_pipelines.datasets.xray_views import VIEWS, ViewNames, different_views, views_named

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`prepare` as it is typed, in `tmp_path`: exit code, and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
        code: Any = 0
        try:
            prepare_module.main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.mark.parametrize(
    ("names", "views"),
    [
        (("all",), VIEWS),
        (("frontal",), ("PA", "AP", "AP Supine")),
        (("L", "AP", "L"), ("AP", "L")),
        (("L", "frontal"), ("PA", "AP", "AP Supine", "L")),
    ],
)
def test_names_of_views(names: ViewNames, views: tuple[str, ...]) -> None:
    assert views_named(names) == views


def test_no_view_is_refused() -> None:
    with pytest.raises(InputError, match="write --views frontal, --views all"):
        views_named(())


SETS: list[tuple[Callable[[Path], Path], Callable[..., RawSet], Sequence[str], Sequence[str]]] = [
    (chexpert_root, chexpert, ("AP",), ("AP", "L")),
    (mimic_root, mimic_cxr, ("PA", "AP"), ("PA", "AP", "L")),
    (nih_root, nih_cxr14, ("PA", "AP"), ("PA", "AP")),
    (brax_root, brax, ("PA", "AP"), ("PA", "AP", "L")),
    (vindr_root, vindr_cxr, ("PA",), ("PA",)),
    (padchest_root, padchest, ("PA", "AP Supine"), ("PA", "AP Supine", "L", "COSTAL")),
    (padchest_root, padchest_cl, ("PA", "AP Supine"), ("PA", "AP Supine", "L", "COSTAL")),
]


@pytest.mark.parametrize(("make", "read", "frontal", "every"), SETS, ids=[row[1].__name__ for row in SETS])
def test_frontal_and_all(
    make: Callable[[Path], Path],
    read: Callable[..., RawSet],
    frontal: Sequence[str],
    every: Sequence[str],
    tmp_path: Path,
) -> None:
    root = make(tmp_path)
    whole, front = read(root), read(root, views=("frontal",))
    assert splits_of(read(root, views=("all",))) == splits_of(whole)
    assert (whole.views, front.views) == (tuple(every), tuple(frontal))
    assert f"views: {', '.join(frontal)}" in front.notes
    assert {image.facts["view"] for image in front.images} == set(frontal)
    kept = {image.key: image.split for image in whole.images if image.facts["view"] in frontal}
    assert splits_of(front) == kept


def test_the_papers_test_images_do_not_depend_on_the_views(tmp_path: Path) -> None:
    root = padchest_root(tmp_path)
    whole = padchest_cl(root, split_by="image", val_fraction=0.2)
    front = padchest_cl(root, split_by="image", val_fraction=0.2, views=("frontal",))
    assert splits_of(front).items() < splits_of(whole).items()
    assert "test" in splits_of(front).values()
    assert front.expected_images is None


@pytest.mark.slow
def test_an_interrupted_preparation_keeps_its_choice(command: Command, tmp_path: Path) -> None:
    fill(chexpert_root(tmp_path / "raw", 40))
    words = ("chexpert", "--root", "raw", "--out", "set", "--test-fraction", "0.2", "--size", "32")
    assert command(*words, "--views", "frontal", "--part", "0/2")[0] == 0
    code, printed = command(*words)
    assert (code, "interrupted preparation with other views" in printed) == (2, True)
    plan = tmp_path / ".set.partial" / "plan.json"
    former = json.loads(plan.read_text())
    assert former.pop("views") == ["AP"]
    plan.write_text(json.dumps(former))  # as versions wrote it that did not know of views
    code, printed = command(*words, "--views", "frontal")
    assert code == 0, printed
    manifest = read_manifest(tmp_path / "set")
    assert manifest["views"] == ["AP"]
    assert "views: AP" in manifest["notes"]
    assert sum(split["images"] for split in manifest["splits"].values()) == 43


@pytest.mark.parametrize(
    "name", ["covidx", "tuberculosis", "rsna_pneumonia", "cifar10", "image-folder", "csv", "phantom"]
)
def test_sets_without_views_refuse_the_option(name: str, command: Command, tmp_path: Path) -> None:
    for words in (("--views", "frontal"), ("--views=all",)):
        code, printed = command(name, "--root", "raw", "--out", "set", *words)
        assert code == 2
        assert f"{name} does not say the view of its images" in printed
        assert "--views is for chexpert, mimic_cxr, nih_cxr14, padchest, brax, padchest_cl, vindr_cxr" in printed
        assert ("--laterals drop" in printed) == (name in ("image-folder", "csv"))
    assert not list(tmp_path.iterdir())


def test_wrong_views_are_refused_with_the_right_ones(command: Command) -> None:
    code, printed = command("chexpert", "--root", "raw", "--out", "set", "--views", "front")
    assert code == 2
    assert "frontal" in printed


def test_sets_that_differ_in_views() -> None:
    front, lying, sides = ("PA", "AP"), ("PA", "AP Supine"), ("PA", "AP", "L")
    assert different_views([]) is None
    assert different_views([("a", front)]) is None
    assert different_views([("a", front), ("b", lying)]) is None
    assert different_views([("a", sides), ("b", ("PA", "COSTAL"))]) is None
    confound = different_views([("a", front), ("b", sides)])
    assert confound is not None
    assert "(a: PA, AP; b: PA, AP, L)" in confound
    assert different_views([("a", ("L",)), ("b", sides)]) is not None


def test_sets_of_unknown_views_are_named_beside_the_others() -> None:
    assert different_views([("a", ()), ("b", ())]) is None
    for others in ([("c", ("PA", "AP"))], [("c", ("PA", "AP")), ("d", ("L",))]):
        note = different_views([("a", ()), *others, ("b", ())])
        assert note is not None
        assert "the views of a, b are not known" in note
        assert "c: PA, AP" in note
        assert "--views frontal" in note
