"""Bad images: one is left out with a warning, more are refused, and each can be found, also where keys are hashed."""

import csv
import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member, RawImage, RawSet
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.preparation.quarantine import bad_row, image_place, most_bad
from data_pipelines.shards.index import Index


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


@pytest.fixture
def films(tmp_path: Path, encode: Callable) -> Path:
    """Twelve films of six patients, in folders that are called as these, and a table."""
    root = tmp_path / "films"
    table = "path,label,patient\n"
    for number in range(12):
        path = root / f"MILLER_{number % 6}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.full((9, 9), number, np.uint8)))
        table += f"{path.relative_to(root)},{number % 2},MILLER{number % 6}\n"
    (root / "films.csv").write_text(table)
    return root


def reader(films: Path) -> RawSet:
    """The films as the table names them, of which some may be missing."""
    images = [
        RawImage(row["path"].replace(".", "_"), "train", films / row["path"], int(row["label"]), number % 6)
        for number, row in enumerate(rows_of(films / "films.csv"))
    ]
    return RawSet("films", "single_label", ("0", "1"), images, 12, "none", xray_size=8, patients="apart")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:40])])
def test_a_refused_set_of_patients_leads_back_to_the_files(
    films: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "a set"
    before = prepare(reader(films), Output(out))
    assert before
    keymap = (tmp_path / "a set.keymap.csv").read_bytes()
    for number in (3, 7):
        damage(films / f"MILLER_{number % 6}" / f"{number}.png")
    raw = reader(films)
    with pytest.raises(InputError) as refused:
        prepare(raw, Output(out, force=True))
    assert "MILLER" not in str(refused.value)
    listed = tmp_path / "a set.quarantine.csv"
    leads_back = tmp_path / "a set.quarantine.keymap.csv"
    expected = f"listed in {listed}; {leads_back}, which you alone can read, tells the file of each key"
    assert expected in str(refused.value)
    assert stat.S_IMODE(leads_back.stat().st_mode) == 0o600
    file_of = {row["key"]: row["file"] for row in rows_of(leads_back)}
    found = {Path(file_of[row["file"]]).name for row in rows_of(listed)}
    assert found == {"3.png", "7.png"}
    assert not any("MILLER" in row["file"] + row["reason"] for row in rows_of(listed))
    # What leads back from the set that is there stays as it is.
    assert (tmp_path / "a set.keymap.csv").read_bytes() == keymap
    (tmp_path / ".a set.keymap.csv.0123.tmp").write_text("of a process that was killed")
    assert prepare(raw, Output(out, force=True, max_bad=0.2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a set", "a set.keymap.csv", "films"]


def test_one_bad_file_is_left_out_and_named(
    class_folders: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders()
    bad = root / "cat" / "cut off.png"
    bad.write_bytes((root / "cat" / "1.png").read_bytes()[:-20])
    manifest = prepare(image_folder(root, 0, 0), Output(tmp_path / "out"))
    assert manifest
    assert (manifest["quarantined"], manifest["splits"]["train"]["images"]) == (1, 12)
    error = capsys.readouterr().err
    assert f"warning: 1 of 13 images cannot be used and is left out: {bad}: PNG that is cut off" in error
    assert f"; listed in {tmp_path / 'out' / 'quarantine.csv'}; --max-bad 0 accepts none\n" in error
    with pytest.raises(InputError, match="1 of 13 images cannot be used, more than --max-bad 0 allows"):
        prepare(image_folder(root, 0, 0), Output(tmp_path / "strict", max_bad=0))


def test_several_bad_files_have_a_line_each(
    class_folders: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders()
    bad = [root / "cat" / f"empty {number}.png" for number in range(4)]
    for path in bad:
        path.touch()
    with pytest.raises(InputError) as refused:
        prepare(image_folder(root, 0, 0), Output(tmp_path / "out", max_bad=0.2))
    first, *named, remedy = str(refused.value).splitlines()
    assert first == "4 of 16 images cannot be used, more than --max-bad 0.2 allows:"
    assert named == [*(f"  {path}: an empty file" for path in bad[:3]), "  and 1 more"]
    assert remedy.startswith("The same command goes on where it was")
    prepare(image_folder(root, 0, 0), Output(tmp_path / "out", max_bad=0.3))
    assert f"  {bad[0]}: an empty file\n  {bad[1]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("share", "images", "bad"),
    [
        (0.001, 2, 1),
        (0.001, 999, 1),
        (0.001, 2000, 2),
        (0.05, 13, 1),
        (0.0, 10**6, 0),
        (0.001, 1, 0),
        (1.0, 1, 1),
        (0.3, 10, 3),
    ],
)
def test_how_many_may_be_bad(share: float, images: int, bad: int) -> None:
    assert most_bad(share, images) == bad


def test_each_refused_task_of_an_array_job_lists_its_own(films: Path, tmp_path: Path) -> None:
    for number in (2, 3, 6, 7):
        (films / f"MILLER_{number % 6}" / f"{number}.png").write_bytes(b"no picture")
    for part in range(2):
        with pytest.raises(InputError) as refused:
            prepare(reader(films), Output(tmp_path / "out", part=(part, 2)))
        listed = tmp_path / f"out.quarantine.{part}of2.csv"
        assert f"; all of these images in part {part} of 2 are listed in {listed}; " in str(refused.value)
        assert len(rows_of(listed)) == 2
        assert (tmp_path / f"out.quarantine.{part}of2.keymap.csv").is_file()
    assert prepare(reader(films), Output(tmp_path / "out", max_bad=0.5))
    assert [*tmp_path.glob("out.quarantine*")] == []


def test_a_set_of_one_bad_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images = [RawImage("bad", "train", tmp_path / "bad.png", 0)]
    with pytest.raises(InputError, match="1 of 1 images cannot be used"):
        prepare(RawSet("one", "single_label", ("a",), images, 1, "none"), Output(tmp_path / "out"))


def test_what_a_refusal_left_goes_with_the_set_that_is_prepared(
    class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    root, out = class_folders(), tmp_path / "out [1]"
    for name in ("a.png", "b.png"):
        (root / "cat" / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match="2 of 14"):
        prepare(image_folder(root, 0, 0), Output(out))
    assert (tmp_path / "out [1].quarantine.csv").is_file()
    (root / "cat" / "a.png").unlink()
    assert prepare(image_folder(root, 0, 0), Output(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out [1]", "raw"]


def test_a_list_that_cannot_be_written_is_said(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders()
    for name in ("a.png", "b.png"):
        (root / "cat" / name).write_bytes(b"no picture")
    (tmp_path / "out.quarantine.csv").mkdir()
    with pytest.raises(InputError, match=r"out cannot be written .*quarantine\.csv.*fix that"):
        prepare(image_folder(root, 0, 0), Output(tmp_path / "out"))


@pytest.mark.parametrize("with_bits", [False, True])
def test_bits_are_named_where_they_are_a_remedy(films: Path, tmp_path: Path, encode: Callable, with_bits: bool) -> None:
    for name in ("0.png", "6.png"):
        content = encode(np.full((9, 9), 5000, np.uint16)) if with_bits else b"no picture"
        (films / "MILLER_0" / name).write_bytes(content)
    with pytest.raises(InputError) as refused:
        prepare(reader(films), Output(tmp_path / "out", bits=12 if with_bits else None))
    assert ("such as --bits" in str(refused.value)) == with_bits


def test_what_images_are_called() -> None:
    path, tar = Path(os.fsdecode(b"/films/caf\xe9.png")), Path("/films/a.tar")
    assert image_place(RawImage("key", "train", path, 0)) == r"/films/caf\xe9.png"
    assert image_place(RawImage("key", "train", Member(tar, "x.png", 512, 9), 0)) == "/films/a.tar:x.png"
    assert image_place(RawImage("key", "train", b"PNG", 0)) == "key"
    hidden = RawImage("key", "train", path, 0, is_hidden=True)
    assert bad_row(hidden, "cut off") == ("key", "cut off")
    assert bad_row(hidden, f"cannot read {path}") == ("key", "it cannot be opened")


def test_bytes_that_are_no_text_are_written_and_read(
    tmp_path: Path, encode: Callable, photo: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    """In names of classes, files and keys, of the set, and of what is bad or equal."""
    name = os.fsdecode(b"Katze \xfc")
    root = tmp_path / os.fsdecode(b"Bilder \xfc")
    for number in range(4):
        path = root / (name, "dog")[number % 2] / os.fsdecode(b"%d\xe4.png" % number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(number, 8, 9)))
    (root / name / "bad.png").write_bytes(b"")
    raw = replace(image_folder(root, 0, 0), is_user_set=True)
    first, *others = raw.images
    images = [replace(first, key=os.fsdecode(b"key \xfc")), *others, replace(first, key="again", label=1)]
    out = tmp_path / os.fsdecode(b"set \xfc")
    manifest = prepare(replace(raw, images=images, num_images=6), Output(out))
    assert manifest
    assert (manifest["name"], manifest["classes"]) == (out.name, sorted([name, "dog"]))
    index = Index.load(out, "train")
    assert os.fsdecode(b"key \xfc") in index.keys(np.arange(len(index)))
    assert index.classes == (name, "dog")
    assert index.encoded(0).tobytes() == first.read()
    assert rows_of(out / "quarantine.csv")[0]["file"].endswith(r"Katze \xfc/bad.png")
    error = capfd.readouterr().err
    assert re.search(r"in one split with different labels.*Katze \\xfc", error)


def test_keymap_names_files_that_are_no_text(tmp_path: Path, encode: Callable, photo: Callable) -> None:
    path = tmp_path / os.fsdecode(b"\xfc.png")
    path.write_bytes(encode(photo(1, 8, 9)))
    images = [RawImage("a", "train", path, 0, 7)]
    prepare(RawSet("a", "single_label", ("a",), images, 1, "none", patients="apart"), Output(tmp_path / "out"))
    assert rows_of(tmp_path / "out.keymap.csv")[0]["file"].endswith(r"\xfc.png")
