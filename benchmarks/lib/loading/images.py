"""Images for `loading.py`: given or generated, as class folders and as a prepared set."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.lib.processes import run_module
from data_pipelines.common.errors import InputError, RunError


def generated_photo(number: int, shorter: int = 375, blur: float | None = None) -> bytes:
    """A JPEG file of 4:3 or 3:4, its shorter side of so many pixels: noise whose amplitude falls with its frequency, as
    in photographs. blur: of the lens, the frequency (1/pixel) of which 1/e passes; None for a perfect one."""
    rng = np.random.default_rng(number)
    longer = shorter * 4 // 3
    height, width = (shorter, longer) if number % 4 else (longer, shorter)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]) * width
    spectrum = np.fft.rfft2(rng.standard_normal((3, height, width))) / np.maximum(frequency, 1.0) ** 1.1
    if blur:
        spectrum *= np.exp(-((frequency / width / blur) ** 2))
    noise = np.fft.irfft2(spectrum, s=(height, width))
    noise = 0.8 * noise[:1] + 0.2 * noise  # colours go together in photographs
    pixels = np.clip(127 + 55 * noise / noise.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def given_photos(images: Path, at_most: int) -> Iterator[bytes]:
    """The JPEG files of a folder or ZIP, spread evenly over what there is. Raises InputError if there are none."""
    if images.is_dir():
        files: list[Any] = [path for path in images.rglob("*") if path.is_file()]
    elif images.is_file() and zipfile.is_zipfile(images):
        archive = zipfile.ZipFile(images)
        files = [zipfile.Path(archive, name) for name in archive.namelist()]
    else:
        raise InputError(f"--images {images} is neither a folder nor a ZIP file")
    jpegs = sorted((file for file in files if file.name.lower().endswith((".jpg", ".jpeg"))), key=str)
    if not jpegs:
        raise InputError(f"--images {images} holds no JPEG file (.jpg, .jpeg)")
    for place in np.linspace(0, len(jpegs) - 1, min(len(jpegs), at_most), dtype=np.int64):
        yield jpegs[place].read_bytes()


def lay_out(photos: Iterator[bytes], folder: Path) -> dict[str, Any]:
    """Write `raw`, two class folders of the photos, and `prepared`, those by the shipped `prepare`; describe them."""
    sizes: list[tuple[int, int, int]] = []
    left_out = 0
    for encoded in photos:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        if colours not in ("Gray", "YCbCr", "RGB"):  # not every contender decodes CMYK
            left_out += 1
            continue
        path = folder / "raw" / "ab"[len(sizes) % 2] / f"{len(sizes):06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        sizes.append((height, width, len(encoded)))
    if not sizes:
        raise InputError("none of the images is a grey or colour JPEG file that every contender decodes")
    prepare_raw(folder / "raw", folder / "prepared")
    means = (round(mean(column)) for column in zip(*sizes, strict=True))
    return {"files": len(sizes), "left_out_cmyk": left_out} | dict(
        zip(("mean_height", "mean_width", "mean_bytes"), means, strict=True)
    )


def prepare_raw(raw: Path, out: Path, *options: str) -> None:
    """The shipped `prepare` on class folders. Raises RunError where it fails."""
    arguments = ["image-folder", "--root", str(raw), "--out", str(out), "--val-fraction", "0", "--test-fraction", "0"]
    finished = run_module("data_pipelines.prepare", *arguments, *options)
    if finished.returncode:
        raise RunError(f"the images could not be prepared: {finished.stderr.strip()}")
