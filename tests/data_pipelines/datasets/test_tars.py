"""Members of tars, and of tars in tars, are found by their headers; what is not whole or not plain is refused."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member, RawImage
from data_pipelines.datasets import tars
from data_pipelines.datasets.tars import OpenTar, members

BIG = bytes(range(256)) * 4096
FILES = {"a.jpg": b"A" * 700, "folder/b.jpg": BIG, "empty.txt": b"", "x" * 150 + ".jpg": b"long name", "ü.jpg": b"text"}


def contents(tar: Path | Member) -> dict[str, bytes]:
    return {member.name: RawImage("key", "train", member, 0).read() for member in members(tar)}


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_where_the_headers_say(write_tar: Callable[..., Path], tar_format: int) -> None:
    files = {name: data for name, data in FILES.items() if tar_format != tarfile.USTAR_FORMAT or len(name) < 100}
    tar = write_tar("some.tar", {"folder": None, **files}, tar_format)
    assert contents(tar) == files
    assert list(members(tar)) == list(members(tar))


def test_tars_in_tars_are_ranges_of_the_outer_file(write_tar: Callable[..., Path]) -> None:
    inner = write_tar("inner.tar", FILES).read_bytes()
    outer = write_tar("outer.tar", {"first.jpg": b"1", "inner.tar": inner, "last.jpg": b"2"})
    _, nested, _ = members(outer)
    assert contents(nested) == {f"inner.tar/{name}": data for name, data in FILES.items()}
    assert {member.tar for member in members(nested)} == {outer}
    assert str(next(members(nested))) == f"{outer}:inner.tar/a.jpg"


def test_data_are_not_read(write_tar: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar("some.tar", {f"{number}.jpg": BIG for number in range(10)})
    num_bytes, pread = 0, os.pread

    def count(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal num_bytes
        data = pread(descriptor, size, offset)
        num_bytes += len(data)
        return data

    monkeypatch.setattr(tars.os, "pread", count)
    assert len(list(members(tar))) == 10
    assert num_bytes < 30_000


def test_the_end_of_a_member_is_read_by_itself(write_tar: Callable[..., Path]) -> None:
    with OpenTar(write_tar("some.tar", FILES)) as tar:
        first, second, empty, *_ = tar.members()
        assert tar.read(first) == FILES["a.jpg"]
        assert tar.read(second, last_bytes=3) == BIG[-3:]
        assert tar.read(first, last_bytes=10_000) == FILES["a.jpg"]
        assert tar.read(empty, last_bytes=3) == b""


def test_a_tar_without_members_is_one(write_tar: Callable[..., Path]) -> None:
    assert list(members(write_tar("none.tar", {}))) == []


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("length", "message"),
    [
        (0, "is not a tar file"),
        (300, "is not a tar file"),
        (512 + 700, "is incomplete"),  # in the data of the first member
        (512 + 1024, "is damaged, incomplete|is incomplete"),  # between two members
        (512 + 1024 + 512 + 5000, "is incomplete"),
        (512 + 1024 + 512 + 512 * 20, "reaches beyond its end|is incomplete"),
    ],
)
def test_a_tar_that_is_cut_is_refused(
    write_tar: Callable[..., Path], tmp_path: Path, length: int, nested: bool, message: str
) -> None:
    cut = write_tar("whole.tar", {"a.jpg": b"\0" * 700, "b.jpg": b"\0" * 50_000}).read_bytes()[:length]
    tar: Path | Member = tmp_path / "cut.tar"
    if nested:
        tar = next(members(write_tar("outer.tar", {"cut.tar": cut, "next.jpg": b"next"})))
    else:
        (tmp_path / "cut.tar").write_bytes(cut)
    with pytest.raises(InputError, match=rf"cut.tar.* ({message}).*fetch or write it again"):
        list(members(tar))


def test_a_damaged_header_does_not_end_the_tar(write_tar: Callable[..., Path]) -> None:
    tar = write_tar("some.tar", FILES)
    second = list(members(tar))[1]
    damaged = bytearray(tar.read_bytes())
    damaged[second.offset - 512 : second.offset - 500] = b"\xff" * 12
    tar.write_bytes(damaged)
    with pytest.raises(InputError, match=rf"some.tar is damaged.* at byte {second.offset - 512} there is neither"):
        list(members(tar))


def test_tars_put_together_are_refused(write_tar: Callable[..., Path]) -> None:
    """Else all but the first would be lost without a word."""
    tar = write_tar("some.tar", FILES)
    tar.write_bytes(tar.read_bytes() * 2)
    with pytest.raises(InputError, match=r"some.tar is damaged, incomplete, or several tars in one"):
        list(members(tar))


def test_a_compressed_tar_says_how_to_unpack_it(write_tar: Callable[..., Path]) -> None:
    tar = write_tar("some.tar", FILES)
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(InputError, match=r"some.tar is compressed.* unpack it with gunzip"):
        list(members(tar))


def test_other_files_are_no_tars(tmp_path: Path) -> None:
    (tmp_path / "page.tar").write_text("<html>404</html>" * 100)
    with pytest.raises(InputError, match=r"page.tar is not a tar file"):
        list(members(tmp_path / "page.tar"))
    with pytest.raises(InputError, match=r"nowhere.tar cannot be read"):
        list(members(tmp_path / "nowhere.tar"))


@pytest.mark.parametrize("name", ["../a.jpg", "folder/../../a.jpg", "/etc/a.jpg"])
def test_names_that_lead_out_are_refused(write_tar: Callable[..., Path], name: str) -> None:
    with pytest.raises(InputError, match=rf"some.tar has the member '{name}', a name that leads out"):
        list(members(write_tar("some.tar", {"a.jpg": b"A", name: b"B"})))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"Z"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        info = tarfile.TarInfo("link.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(InputError, match=r"some.tar has the member 'link.jpg', which is not a plain file but a link"):
        list(members(tmp_path / "some.tar"))


def test_sizes_below_zero_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = -512
    buffer = io.BytesIO(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    (tmp_path / "some.tar").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=r"some.tar (has the member 'a.jpg', which reaches|is damaged)"):
        list(members(tmp_path / "some.tar"))
