"""The steps of an export, followed as the example of the docs does, give the pixels that a run's predictor sees."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tiny_weights import save_run, tensors_of

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import evaluation_order
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards.in_memory import in_memory_index
from trainer.config import RuntimeConfig
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.preprocessing import steps_of, words_of
from trainer.evaluation.runs import open_run

ROOT = Path(__file__).parents[3]
TENSORS = tensors_of()
SQUASH: dict[str, Any] = {"task": "single_label", "image_size": 32, "resize": 36, "eval_view": "squash"}
CROP = SQUASH | {"eval_view": "center_crop"}
XRAY = {"channels": 1, "xray_size": 40, "xray_cut": "square", "bits": None}
Pixels = Callable[[Image.Image], np.ndarray]


def example(about: dict[str, Any]) -> Pixels:
    """The function `pixels` of the page, for these metadata."""
    code = re.search(r"^def decoded.*?(?=^Image\.fromarray)", (ROOT / "docs/export.md").read_text(), re.DOTALL | re.M)
    assert code is not None
    names: dict[str, Any] = {"np": np, "Image": Image, "ImageOps": ImageOps, "about": about}
    exec(code[0], names)
    pixels: Pixels = names["pixels"]
    return pixels


def seen_by_the_model(predictor: Predictor, encoded: bytes, about: dict[str, Any]) -> np.ndarray:
    image = predictor.verified(encoded)
    assert isinstance(image, EncodedImage)
    channels: int = about["channels"]
    index = replace(in_memory_index([image], channels), channels=channels)
    views = Augmentation(about["eval_view"], about["image_size"], about["resize"], flip=False)
    _, loader = pick_loader("torch", False, False)
    (batch,) = loader(index, evaluation_order(1, 0, 1, 1), views, torch.device("cpu"), 1)
    pixels: np.ndarray = batch.images.permute(0, 2, 3, 1).numpy()[0]
    return pixels


def picture(width: int, height: int, mode: str, format_: str, orientation: int = 1) -> bytes:
    """Waves and noise, which show a shift, another filter and another rounding."""
    rows, columns = np.mgrid[:height, :width]
    waves = 128 + 60 * np.sin(columns / 3) + 40 * np.cos(rows / 5)
    noise = np.random.default_rng(width).normal(0, 12, (height, width, 3))
    image = Image.fromarray(np.clip(waves[:, :, None] + noise, 0, 255).astype(np.uint8)).convert(mode)
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(stream, format_, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "about",
    [
        SQUASH | XRAY,
        CROP | XRAY | {"xray_cut": "whole", "upright": True},
        CROP | XRAY | {"xray_size": 64},
        SQUASH | {"channels": 3, "upright": True},
        CROP | {"channels": 3},
    ],
    ids=["xray squash", "whole xray", "larger xray", "photo squash", "photo crop"],
)
def test_the_example_has_the_pixels_of_predict(about: dict[str, Any], format_: str, mode: str, tmp_path: Path) -> None:
    run = open_run(save_run(tmp_path / "run", TENSORS, **about))
    predictor = Predictor(run, RuntimeConfig(device="cpu", threads=1, loader="torch"))
    pixels = example(about | {"preprocessing": steps_of(run.described())})
    for width, height, orientation in ((97, 61, 1), (45, 83, 6), (40, 40, 1), (35, 33, 3)):
        encoded = picture(width, height, mode, format_, orientation)
        expected = seen_by_the_model(predictor, encoded, about)
        found = pixels(Image.open(io.BytesIO(encoded)))
        assert found.shape == expected.shape == (32, 32, about["channels"])
        difference = np.abs(found.astype(int) - expected)
        if format_ == "JPEG" and about.get("upright") and orientation > 1 and not about.get("xray_size"):
            assert difference.mean() < 1.5, "turned, and compressed again"
            continue
        # Pillow and PyTorch round the weights of the bilinear filter differently, in both directions.
        assert difference.max() <= 2
        assert difference.mean() < 0.1


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_the_example_refuses_what_it_cannot_decode(mode: str) -> None:
    about = SQUASH | XRAY
    with pytest.raises(AssertionError, match="bitscale predict"):
        example(about | {"preprocessing": steps_of(about)})(Image.new(mode, (50, 50)))
    shrunk = SQUASH | {"channels": 3, "shorter_side": 40}
    with pytest.raises(AssertionError, match="--shorter-side"):
        example(shrunk | {"preprocessing": steps_of(shrunk)})(Image.new("RGB", (50, 50)))


def words(**about: Any) -> list[str]:
    return [words_of(step) for step in steps_of(about)]


def test_steps_are_told_in_words() -> None:
    assert words(**SQUASH | XRAY | {"bits": 12, "bits_given": True}) == [
        "Decode to 8-bit grey, not turned, whatever the EXIF block says; of files with more than 8 bits, 0 is black "
        "and 2^12 - 1 is white; of a DICOM file the modality LUT or rescaling is applied, then the first VOI LUT or "
        "window, which then says what is black and white; MONOCHROME1 is inverted, and padding is black (DICOM PS3.3, "
        "C.11.1, C.11.2 and C.7.5.1.1.2).",
        "Cut the central square, as large as the shorter side.",
        "Resize to a shorter side of 40 pixels, the longer one in proportion, rounded to the nearest: bilinear with "
        "antialiasing, in float32, rounded at the end.",
        "Resize to 32 x 32 pixels, whatever the aspect: bilinear with antialiasing, in uint8.",
    ]
    decode, shrink, resize, crop = words(**CROP, channels=3, shorter_side=50, upright=None, scaled_decode=True)
    assert decode.startswith(
        "Decode to 8-bit RGB, turned as the EXIF block says, transparent pixels on white; what was"
    )
    assert shrink.endswith("area means, in float32, rounded at the end; smaller pictures stay as they are; what was a "
                           "JPEG file is a JPEG of quality 95 then.")  # fmt: skip
    assert "shorter side of 36 pixels, the longer one in proportion, rounded down" in resize
    assert crop == "Cut the central 32 x 32 pixels."
    found = words(**SQUASH | XRAY | {"bits": 12, "bits_given": False})[0]
    assert "2^12 - 1 is white where the file does not say it; of a DICOM file" in found
    assert "DICOM" not in decode


@pytest.mark.parametrize("view", ["random_resized_crop", "resize_random_crop", "xray_affine"])
def test_random_views_are_refused(view: str) -> None:
    with pytest.raises(InputError, match=f"evaluated on random views \\({view}\\)"):
        steps_of(SQUASH | {"channels": 3, "eval_view": view})
