"""JPEG at a scale: which one, where the window lies in it, and how far its pixels are from those of a full decode."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.datasets.webdataset import webdataset
from data_pipelines.loading.batch import views_of
from data_pipelines.loading.loader import Loader, pick_loader
from data_pipelines.loading.sampler import BatchRequest
from data_pipelines.loading.scaled_decode import SCALES, decode_scale, scaled_box, scaled_size, scaled_window
from data_pipelines.loading.unreadable import blank
from data_pipelines.loading.views import POLICIES, Augmentation, PolicyName
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.in_memory import in_memory_index
from data_pipelines.shards.index import Index

CPU = torch.device("cpu")
FULL, SCALED = (pick_loader("torch", on_gpu=False, scaled_decode=scaled)[1] for scaled in (False, True))


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, int], list[int], list[int]]:
    """A picture's size, a window in it, and what it is resized to."""
    size = draw(st.integers(1, 4000)), draw(st.integers(1, 4000))
    height, width = (draw(st.integers(1, side)) for side in size)
    top, left = draw(st.integers(0, size[0] - height)), draw(st.integers(0, size[1] - width))
    return size, [top, left, height, width], [draw(st.integers(1, 600)), draw(st.integers(1, 600))]


@given(windows())
def test_the_scale_leaves_enough_and_the_window_where_it_was(case: Any) -> None:
    size, window, resized = case
    scale = decode_scale(window, resized, size)
    assert scale in (1, *SCALES)
    if scale > 1:  # at least as many pixels as come out, along both sides
        assert window[2] / scale >= resized[0]
        assert window[3] / scale >= resized[1]
    if scale < 8 and min(size) >= 16:  # and a smaller picture would have too few
        assert window[2] < 2 * scale * resized[0] or window[3] < 2 * scale * resized[1]
    left, top, right, bottom = scaled_box(window, scale)
    height, width = scaled_size(size, scale)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert [top * scale, left * scale, (bottom - top) * scale, (right - left) * scale] == window
    assert (height - 1) * scale < size[0] <= height * scale
    assert (width - 1) * scale < size[1] <= width * scale


@pytest.mark.parametrize(
    ("window", "resized", "size", "scale"),
    [
        ([0, 0, 1792, 1792], [224, 224], (1792, 1792), 8),
        ([0, 0, 1791, 1792], [224, 224], (1792, 1792), 4),
        ([5, 7, 896, 900], [224, 224], (3000, 4000), 4),
        ([5, 7, 448, 2000], [224, 224], (3000, 4000), 2),
        ([5, 7, 447, 2000], [224, 224], (3000, 4000), 1),
        ([0, 0, 300, 12000], [224, 224], (300, 12000), 1),  # a panorama that is squashed
        ([0, 0, 1, 900], [1, 9], (1, 900), 1),
    ],
)
def test_scales_change_at_twice_four_and_eight_times(
    window: list[int], resized: list[int], size: tuple[int, int], scale: int
) -> None:
    assert decode_scale(window, resized, size) == scale


@pytest.mark.parametrize("colours", ["420", "422", "444", "Gray"])
def test_the_decoder_takes_the_scale_that_is_meant(colours: str) -> None:
    """From 16 pixels on, another scale of libjpeg would give a picture of another size."""
    for height in (16, 17, 23, 24, 31, 40, 129):
        for width in (16, 19, 47, 64, 201):
            pixels = np.zeros((height, width, 1 if colours == "Gray" else 3), dtype=np.uint8)
            kind = "GRAY" if colours == "Gray" else "RGB"
            encoded = simplejpeg.encode_jpeg(pixels, colorspace=kind, colorsubsampling=colours)
            for scale in SCALES:
                expected = scaled_size((height, width), scale)
                found = simplejpeg.decode_jpeg(encoded, "RGB", min_height=expected[0], min_width=expected[1])
                assert found.shape[:2] == expected
                others = {scaled_size((height * n, width * n), 8) for n in range(1, 9) if n * scale != 8}
                assert expected not in others


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_window_is_not_moved(scale: int, axis: int) -> None:
    """On a ramp a shift shows as brightness: a pixel of the full picture is half a shade, half of one at 1/8 two."""
    ramp = np.rint(np.arange(509) * 0.47).astype(np.uint8)
    pixels = np.repeat((ramp[:, None] if axis == 0 else ramp[None, :]).repeat(509, 1 - axis)[:, :, None], 3, axis=2)
    encoded = np.frombuffer(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=100), np.uint8)
    for start in (0, 1, 3, 4, 7, 13):
        for side in (483, 480, 471):
            window, resized = [start, start, side, side], [int(side / scale / 1.17)] * 2
            found = scaled_window(encoded, (509, 509), 3, window, resized, scale).astype(float)
            centres = start + (np.arange(resized[0]) + 0.5) * side / resized[0]
            expected = (centres - 0.5) * 0.47
            line = found.mean((1 - axis, 2))
            assert abs((line - expected)[1:-1].mean()) < 0.35


@pytest.fixture(scope="module")
def photos(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> Index:
    """Large JPEG of odd sizes, all ways to encode them, EXIF rotation, grey among RGB; and what is not scaled: PNG,
    small pictures, one line, a panorama."""
    exif = {0x0112: 6}
    images = [
        encode(photo(0, 1203, 997), "JPEG", quality=92),
        encode(photo(1, 661, 1333), "JPEG", quality=92, subsampling=0),
        encode(photo(2, 1025, 700), "JPEG", quality=92, progressive=True),
        encode(photo(3, 801, 803, channels=1), "JPEG", quality=92),
        encode(photo(4, 900, 1199), "JPEG", quality=92, exif=_exif(exif)),
        encode(photo(5, 900, 1200), "PNG"),
        encode(photo(6, 60, 50), "JPEG", quality=92),
        encode(photo(7, 1, 900), "JPEG", quality=92),
        encode(photo(8, 40, 2400), "JPEG", quality=92),
    ]
    return Index.load(write_set([number % 2 for number in range(9)], ["even", "odd"], images=images), "train")


LARGE, NOT_SCALED = [0, 1, 2, 3, 4], [5, 6, 7, 8]


def _exif(tags: dict[int, int]) -> Any:
    exif = Image.Exif()
    exif.update(tags)
    return exif


def batch_of(loader: Loader, index: Index, samples: list[int], augmentation: Augmentation, **options: Any) -> Any:
    request = BatchRequest(np.array(samples), np.arange(len(samples)))
    return next(loader(index, [request], augmentation, CPU, 2, **options))


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_views_are_nearly_those_of_a_full_decode(policy: PolicyName, photos: Index) -> None:
    augmentation = Augmentation(policy, size=64, resize=72, seed=1)
    full, scaled = (batch_of(loader, photos, LARGE * 4, augmentation).images.float() for loader in (FULL, SCALED))
    difference = (full - scaled).abs().mean((1, 2, 3))
    assert difference.max() < 4  # of 255; where views have hard edges and fine stripes
    assert difference.mean() > 0.05  # it is not the full decode
    full, scaled = (batch_of(loader, photos, NOT_SCALED, augmentation).images for loader in (FULL, SCALED))
    assert torch.equal(full, scaled)


def test_smooth_pictures_differ_by_less_than_a_shade(write_set: Callable[..., Path], encode: Callable) -> None:
    row, column = np.arange(1500)[:, None, None] / 90, np.arange(1100)[None, :, None] / 90
    pixels = (127 + 100 * np.sin(row + np.arange(3)) * np.cos(column)).astype(np.uint8)
    index = Index.load(write_set([0], ["a"], images=[encode(pixels, "JPEG", quality=95)]), "train")
    for size in (64, 100, 200):
        for policy in ("random_resized_crop", "squash", "xray_affine"):
            augmentation = Augmentation(policy, size, size, seed=size)
            full, scaled = (batch_of(loader, index, [0] * 6, augmentation).images for loader in (FULL, SCALED))
            assert (full.float() - scaled.float()).abs().mean((1, 2, 3)).max() < 1


@pytest.mark.slow
def test_files_are_decoded_at_the_scale_of_their_window(photos: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, ...]] = []
    decode = simplejpeg.decode_jpeg

    def counted(*arguments: Any, **options: Any) -> Any:
        pixels = decode(*arguments, **options)
        decoded.append(pixels.shape[:2])
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
    augmentation = Augmentation("random_resized_crop", 64, 64, seed=5)
    samples = LARGE * 6
    views = views_of(photos, BatchRequest(np.array(samples), np.arange(len(samples))), augmentation)
    expected, scales = [], set()
    for sample, window in zip(samples, views.window.tolist(), strict=True):
        size = int(photos.height[sample]), int(photos.width[sample])
        scale = decode_scale(window, (64, 64), size)
        expected.append(scaled_size(size, scale))
        scales.add(scale)
    batch_of(SCALED, photos, samples, augmentation)
    assert sorted(decoded) == sorted(expected)
    assert len(scales) > 1
    decoded.clear()
    batch_of(FULL, photos, samples, augmentation)
    assert sorted(decoded) == sorted((int(photos.height[sample]), int(photos.width[sample])) for sample in samples)


def test_damage_and_other_sizes_are_found_at_a_scale_too(photo: Callable, encode: Callable) -> None:
    whole = encode(photo(0, 900, 700), "JPEG", quality=90)
    augmentation = Augmentation("squash", 64, 64)
    for encoded, size in ((whole[: len(whole) // 2], (900, 700)), (whole, (700, 900))):
        index = in_memory_index([EncodedImage(encoded, "jpg", *size, 3)], channels=3)
        with pytest.raises(ValueError, match=r"[Pp]remature|its index says"):
            batch_of(SCALED, index, [0], augmentation)
        batch = batch_of(SCALED, index, [0], augmentation, replacement=blank)
        assert len(batch.unreadable) == 1
        assert not batch.images.any()


def test_what_is_shown_instead_is_decoded_at_a_scale_too(photo: Callable, encode: Callable) -> None:
    whole = encode(photo(0, 900, 700), "JPEG", quality=90)
    files = [whole[: len(whole) // 2], whole]
    index = in_memory_index([EncodedImage(encoded, "jpg", 900, 700, 3) for encoded in files], channels=3)
    augmentation = Augmentation("squash", 64, 64, flip=False)
    batch = batch_of(SCALED, index, [0, 1], augmentation, replacement=lambda position, attempt: 1)
    assert batch.samples.tolist() == [1, 1]
    assert torch.equal(batch.images[0], batch.images[1])
    assert not torch.equal(batch.images[0], batch_of(FULL, index, [1], augmentation).images[0])


@pytest.fixture
def tar_set(tmp_path: Path, photo: Callable, encode: Callable) -> Path:
    """Tars as others write them, prepared: progressive, CMYK, PNG, grey."""
    images = {
        "a.jpg": encode(photo(0, 700, 900), "JPEG", progressive=True),
        "b.jpg": encode(photo(1, 700, 900), "JPEG", "CMYK"),
        "c.png": encode(photo(2, 700, 900)),
        "d.jpg": encode(photo(3, 700, 900, channels=1), "JPEG"),
    }
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "train.tar", "w") as tar:
        for name, content in images.items():
            for member, data in ((name, content), (f"{name[0]}.cls", b"%d" % (name < "c"))):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    prepare(webdataset(tmp_path / "tars", val_fraction=0, test_fraction=0), Output(tmp_path / "set"))
    return tmp_path / "set"


def test_sets_of_tars_are_decoded_at_a_scale(tar_set: Path) -> None:
    index = Index.load(tar_set, "train")
    augmentation = Augmentation("squash", 64, 64)
    full, scaled = (batch_of(loader, index, [0, 1, 2, 3], augmentation).images.float() for loader in (FULL, SCALED))
    difference = (full - scaled).abs().mean((1, 2, 3))
    assert difference.max() < 4
    assert (difference > 0).tolist() == [True, False, False, True]  # CMYK is stored as PNG


@pytest.mark.parametrize("on_gpu", [False, True])
def test_only_the_torch_loader_can(on_gpu: bool, capsys: pytest.CaptureFixture[str]) -> None:
    remedy = "cannot be had with DALI.*take --loader torch, or train without --data.scaled-decode"
    with pytest.raises(InputError, match=remedy):
        pick_loader("dali", on_gpu, scaled_decode=True)
    assert capsys.readouterr().err == ""
    assert [pick_loader(name, on_gpu, scaled_decode=True)[0] for name in ("torch", "auto")] == ["torch", "torch"]
    assert capsys.readouterr().err.count("not by DALI") == on_gpu
