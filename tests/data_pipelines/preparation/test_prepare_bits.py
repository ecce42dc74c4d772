"""The depth of a set: looked for by `prepare`, given by --bits, kept over interruptions, and known of prepared sets."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from depth_files import SIDE, UNDECLARED, film, folder_of, packed_tiff, png, shades, tiff, with_sbit
from dicom_files import dicom_bytes

from data_pipelines import prepare as module
from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.common.xray_storage import AS_DECLARED, Depth
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation import bit_depth_of_set, plan
from data_pipelines.preparation.bit_depth_of_set import find_bits
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.concat import concat
from data_pipelines.shards.index import Index


def test_a_set_that_says_no_depth_is_looked_through_and_has_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = folder_of(tmp_path / "films", UNDECLARED)
    manifest = prepare(raw, Output(tmp_path / "out"))
    assert manifest is not None
    assert (manifest["bits"], manifest["bits_found"]) == (13, True)
    note = next(note for note in manifest["notes"] if "is white" in note)
    assert "8,191 is white" in note
    assert note in capsys.readouterr().err
    same = round(2000 / 8191 * 255)
    assert shades(tmp_path / "out") == {round(value / 8191 * 255): same for value in (4095, 4096, 3000)}
    assert Index.load(tmp_path / "out", "train").depth == Depth(13)


def test_the_brightest_of_all_splits_decides(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "films", {"a.png": png(film(2000, 2001))}, ("train", "val"))
    folder_of(tmp_path / "films", {"b.png": png(film(2000, 65_000))}, ("test",))
    raw = image_folder(tmp_path / "films", split_by="image", xray_size=SIDE)
    assert find_bits(raw) == 16


FILES: dict[str, tuple[bytes, int | None]] = {
    "dark PNG": (png(film(3, 200)), 8),
    "PNG": (png(film(3, 4095)), 12),
    "PNG of 8 bits": (png(film(3, 200, np.uint8)), None),
    "PNG that says its bits": (with_sbit(png(film(3, 65_535)), 12), None),
    "TIFF": (tiff(film(3, 4096)), 13),
    "TIFF that says its largest value": (tiff(film(3, 2000), 4095), None),
    "TIFF that says that of its picture": (tiff(film(3, 2000), 2000), 11),
    "TIFF of 12 bits": (packed_tiff(film(3, 2000)), None),
    "TIFF of 32 bits": (tiff(film(3, 100_000, np.int32)), 17),
    "negative": (tiff(film(-3, 100_000, np.int32)), None),
    "cut off": (png(film(3, 4095))[:-20], None),
    "DICOM": (dicom_bytes(film(3, 4095)), None),
    "empty": (b"", None),
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_adds_to_the_depth_of_its_set(name: str, tmp_path: Path) -> None:
    encoded, bits = FILES[name]
    path = tmp_path / "film.bin"
    path.write_bytes(encoded)
    (image,) = folder_of(tmp_path / "films", {"a.png": b""}).images
    for held in (path, encoded):
        assert find_bits(RawSet("films", "single_label", ("chest",), [replace(image, image=held)], 1, "none")) == bits


def test_jpeg_files_are_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = folder_of(tmp_path / "films", {"a.jpg": b"", "b.JPEG": b""})
    monkeypatch.setattr(bit_depth_of_set.RawImage, "read", lambda *_: pytest.fail("it was read"))
    assert find_bits(raw) is None


def test_once_16_bits_are_in_use_no_16_bit_png_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films = {f"{number}.png": png(film(1, 40_000)) for number in range(6)} | {"9.tif": tiff(film(1, 1 << 18, np.int32))}
    raw, lengths = folder_of(tmp_path / "films", films), []
    read = bit_depth_of_set.RawImage.read
    monkeypatch.setattr(bit_depth_of_set, "BLOCK", 2)
    monkeypatch.setattr(
        bit_depth_of_set.RawImage, "read", lambda image, most=-1: (lengths.append(most), read(image, most))[1]
    )
    assert find_bits(raw) == 19
    assert lengths.count(-1) == 3  # two of the first block, and the TIFF


def test_larger_values_than_the_bits_given_go_into_quarantine(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "films", UNDECLARED)
    with pytest.raises(InputError, match=r"1 of 3 images .*: a pixel of 4,096, more than 12 bits.*--bits 13 takes"):
        prepare(raw, Output(tmp_path / "out", bits=12, max_bad=0))
    manifest = prepare(raw, Output(tmp_path / "out", bits=12, max_bad=0.5))
    assert manifest is not None
    assert (manifest["bits"], manifest["bits_found"], manifest["quarantined"]) == (12, False, 1)
    assert shades(tmp_path / "out") == {round(value / 4095 * 255): round(2000 / 4095 * 255) for value in (4095, 3000)}
    assert "a pixel of 4,096" in (tmp_path / "out" / "quarantine.csv").read_text()


def test_a_set_of_known_depth_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = replace(folder_of(tmp_path / "films", UNDECLARED), bits=16)
    monkeypatch.setattr(plan, "find_bits", lambda _: pytest.fail("it was looked through"))
    manifest = prepare(raw, Output(tmp_path / "out"))
    assert manifest is not None
    assert (manifest["bits"], manifest["bits_found"]) == (16, False)
    assert set(shades(tmp_path / "out").values()) == {round(2000 / 65_535 * 255)}
    manifest = prepare(raw, Output(tmp_path / "other", bits=13))  # the user knows better
    assert manifest is not None
    assert manifest["bits"] == 13


def test_a_set_without_such_pictures_says_nothing_of_depth(tmp_path: Path) -> None:
    manifest = prepare(folder_of(tmp_path / "films", {"a.png": png(film(3, 200, np.uint8))}), Output(tmp_path / "out"))
    assert manifest is not None
    assert not {"bits", "bits_found"} & manifest.keys()
    assert Index.load(tmp_path / "out", "train").depth == AS_DECLARED


def test_tasks_of_an_array_job_and_later_starts_keep_the_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films = {f"{number}.png": png(film(2000, 3300 + 300 * number)) for number in range(4)}
    raw, looks = folder_of(tmp_path / "films", films), []
    prepare(raw, Output(tmp_path / "whole"))
    monkeypatch.setattr(plan, "find_bits", lambda raw: (looks.append(1), find_bits(raw))[1])
    for part in (1, 0):  # the brightest is in the first to be done
        assert prepare(raw, Output(tmp_path / "out", part=(part, 2))) is None
        assert json.loads((tmp_path / ".out.partial" / "plan.json").read_text())["bits found"] == 13
    prepare(raw, Output(tmp_path / "out"))
    assert len(looks) == 1
    assert set(shades(tmp_path / "out").values()) == set(shades(tmp_path / "whole").values()) == {62}


@pytest.mark.parametrize(("brightest", "bits"), [(2001, 12), (60_000, 16), (4201, 13)])
def test_pictures_replaced_meanwhile_decide_the_depth_anew(tmp_path: Path, brightest: int, bits: int) -> None:
    films = {f"{number}.png": png(film(2000, 3300 + 300 * number)) for number in range(4)}
    raw = folder_of(tmp_path / "films", films)
    for part in (1, 0):
        prepare(raw, Output(tmp_path / "out", part=(part, 2)))
    (tmp_path / "films" / "train" / "chest" / "3.png").write_bytes(png(film(2000, brightest)))
    manifest = prepare(raw, Output(tmp_path / "out"))
    prepare(raw, Output(tmp_path / "at once"))
    assert manifest is not None
    assert manifest["bits"] == bits
    assert shades(tmp_path / "out") == shades(tmp_path / "at once")


def test_a_preparation_is_not_gone_on_with_by_other_bits(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "films", UNDECLARED)
    prepare(raw, Output(tmp_path / "out", part=(0, 2)))
    with pytest.raises(InputError, match="interrupted preparation with other bits; go on with its command"):
        prepare(raw, Output(tmp_path / "out", part=(1, 2), bits=16))
    path = tmp_path / ".out.partial" / "plan.json"
    whole_plan = json.loads(path.read_text())
    earlier = {name: value for name, value in whole_plan.items() if not name.startswith(("bits", "looked"))}
    path.write_text(json.dumps(earlier))  # as the version before left it, which scaled each picture by itself
    for shard in (tmp_path / ".out.partial" / "rows").rglob("*.contents.npz"):
        shard.unlink()
    prepare(raw, Output(tmp_path / "out", part=(1, 2)))
    prepare(raw, Output(tmp_path / "out"))
    prepare(raw, Output(tmp_path / "at once"))
    assert shades(tmp_path / "out") == shades(tmp_path / "at once")
    shallow = folder_of(tmp_path / "shallow", {name: png(film(3, 200, np.uint8)) for name in ("a.png", "b.png")})
    prepare(shallow, Output(tmp_path / "second", part=(0, 2)))
    path = tmp_path / ".second.partial" / "plan.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if not k.startswith("bits")}))
    prepare(shallow, Output(tmp_path / "second", part=(1, 2)))


def test_joined_sets_have_a_depth_where_they_agree(tmp_path: Path) -> None:
    prepare(folder_of(tmp_path / "deep", UNDECLARED), Output(tmp_path / "a", bits=16))
    prepare(folder_of(tmp_path / "deep", UNDECLARED), Output(tmp_path / "b"))
    prepare(folder_of(tmp_path / "flat", {"a.png": png(film(3, 200, np.uint8))}), Output(tmp_path / "c"))
    a, b, c = (Index.load(tmp_path / name, "train") for name in "abc")
    assert concat([a, a]).depth == a.depth == Depth(16, is_given=True)
    assert (
        concat([a, c]).depth == concat([c, a]).depth == Depth(16)
    )  # nobody said it of the DICOM files that c may have
    assert concat([b, c]).depth == Depth(13)
    assert concat([a, b]).depth == AS_DECLARED


@pytest.mark.parametrize(("given", "bits_stored", "bits"), [(None, 12, 12), (None, 14, 14), (16, 12, 16), (13, 12, 13)])
def test_dicom_in_a_set_of_known_depth_goes_by_its_own_bits(
    given: int | None, bits_stored: int, bits: int, tmp_path: Path
) -> None:
    """As where DICOM lies among the PNG of PadChest."""
    films = {"a.dcm": dicom_bytes(film(2000, 4095), BitsStored=bits_stored)}
    prepare(replace(folder_of(tmp_path / "films", films), bits=16), Output(tmp_path / "out", bits=given))
    assert set(shades(tmp_path / "out").values()) == {round(2000 / (2**bits - 1) * 255)}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest.get("bits_given") == (None if given is None else True)
    assert Index.load(tmp_path / "out", "train").depth == Depth(given or 16, is_given=given is not None)


def test_other_bits_that_are_the_remedy_work_as_it_says(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "films with spaces", UNDECLARED)
    out = tmp_path / "a set"
    anew = r"--bits 13 takes it.*with other options, such as --bits, it begins anew with --force"
    with pytest.raises(InputError, match=anew):
        prepare(raw, Output(out, bits=12, max_bad=0))
    with pytest.raises(InputError, match="other bits; go on with its command, begin anew with --force, or") as refused:
        prepare(raw, Output(out, bits=13))
    shutil.copytree(tmp_path / ".a set.partial", tmp_path / "kept")
    assert (prepare(raw, Output(out, bits=13, force=True)) or {})["bits"] == 13
    shutil.rmtree(out)
    shutil.copytree(tmp_path / "kept", tmp_path / ".a set.partial")
    remedy = re.search(r"rm -r [^;]+", str(refused.value))
    assert remedy is not None
    command = shlex.split(remedy[0])
    assert command == ["rm", "-r", str(tmp_path / ".a set.partial")]
    subprocess.run(command, check=True)
    assert prepare(raw, Output(out, bits=13))


def test_the_same_bits_said_by_the_user_are_another_preparation(
    tmp_path: Path, prepare_untidily: Callable[..., None]
) -> None:
    raw = replace(folder_of(tmp_path / "films", UNDECLARED), bits=16)
    prepare(raw, Output(tmp_path / "out", part=(0, 2)))
    with pytest.raises(InputError, match="interrupted preparation with other bits; go on"):
        prepare(raw, Output(tmp_path / "out", part=(1, 2), bits=16))
    path = tmp_path / ".out.partial" / "plan.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "bits given"}))
    prepare_untidily(raw, Output(tmp_path / "out"))  # begun by a version that did not tell them apart
    with pytest.raises(InputError, match="exists; replace it with --force"):
        prepare(raw, Output(tmp_path / "out", bits=16))
    assert prepare(raw, Output(tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bits": 40}, "the bits of its pixels"),
        ({"bits": "12"}, "the bits"),
        ({"bits_found": 1}, "the bits"),
        ({"bits_given": "yes"}, "the bits"),
        ({"split_by": "site"}, "by what it was split"),
    ],
)
def test_a_manifest_of_impossible_bits_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    prepare(folder_of(tmp_path / "films", UNDECLARED), Output(tmp_path / "out"))
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=reason):
        Index.load(tmp_path / "out", "train")


def test_bits_are_for_xrays_and_in_range(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "films", UNDECLARED)
    with pytest.raises(
        InputError, match=r"--bits is for sets that are stored as X-rays, .* films is none; leave it out"
    ):
        prepare(replace(raw, xray_size=None), Output(tmp_path / "out", bits=12))
    for bits in (7, 32, -1):
        with pytest.raises(InputError, match=f"--bits is {bits}; it must lie in 8 to 31"):
            Output(tmp_path / "out", bits=bits)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("digits", "and digits is none; leave it out"),
        ("image-folder --root films --split-by image", "make these images such with --xray-size 256, or leave it out"),
    ],
)
def test_the_remedy_for_bits_is_an_option_that_the_set_has(
    words: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "films", UNDECLARED)
    monkeypatch.setattr(sys, "argv", ["prepare", *words.split(), "--out", "out", "--bits", "12"])
    with pytest.raises(SystemExit):
        module.main()
    printed = capsys.readouterr().err
    assert remedy in printed
    assert ("--xray-size" in printed) == ("--xray-size" in remedy)


def test_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "films", UNDECLARED)
    words = f"image-folder --root {tmp_path}/films --out {tmp_path}/out --split-by image --xray-size {SIDE} --bits 14"
    fractions = ["--val-fraction", "0", "--test-fraction", "0"]
    monkeypatch.setattr(sys, "argv", ["prepare", *words.split(), *fractions])
    module.main()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["bits"] == 14
