"""RandAugment as the authors' program has it: operations against plain computations, draws, and where it is done."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy.stats import chisquare, kstest
from torchvision.transforms import RandAugment

from data_pipelines.common.errors import InputError
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.randaugment import ILDOONET, OPERATIONS, IldoonetName, Operations, ildoonet_operations
from data_pipelines.loading.randaugment_pillow import randaugment
from data_pipelines.loading.sampler import BatchRequest
from data_pipelines.loading.torch_loader import batches
from data_pipelines.loading.views import Augmentation, Ints
from data_pipelines.shards.index import Index

HEIGHT, WIDTH = 90, 140
STRENGTHS = [0, 1, 5, 9, 10, 15, 21, 30]
RANGES: dict[IldoonetName, tuple[float, float]] = {
    "AutoContrast": (0, 1),
    "Equalize": (0, 1),
    "Invert": (0, 1),
    "Rotate": (0, 30),
    "Posterize": (0, 4),
    "Solarize": (0, 256),
    "SolarizeAdd": (0, 110),
    "Color": (0.1, 1.9),
    "Contrast": (0.1, 1.9),
    "Brightness": (0.1, 1.9),
    "Sharpness": (0.1, 1.9),
    "ShearX": (0, 0.3),
    "ShearY": (0, 0.3),
    "CutoutAbs": (0, 40),
    "TranslateXabs": (0, 100),
    "TranslateYabs": (0, 100),
}
TWO_SIDED = ("Rotate", "ShearX", "ShearY", "TranslateXabs", "TranslateYabs")
MANY = np.arange(20_000)
CUTOUTS = [(0.0, 0.0), (0.5, 0.5), (0.999, 0.999), (0.31, 0.87)]


def moved(pixels: np.ndarray, right: float, down: float) -> np.ndarray:
    """What lies so far to the right and below, at the nearest pixel; 0 outside."""
    height, width = pixels.shape[:2]
    rows = np.floor(np.arange(height) + 0.5 + down).astype(int)
    columns = np.floor(np.arange(width) + 0.5 + right).astype(int)
    inside = np.ix_((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    result = np.zeros_like(pixels)
    result[inside] = pixels[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))][inside]
    return result


def cut_out(pixels: np.ndarray, side: float, x: float, y: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    left, top = int(max(0, x * width - side / 2)), int(max(0, y * height - side / 2))
    result = pixels.copy()
    colour = (125, 123, 114) if pixels.ndim == 3 else 123
    result[top : math.floor(top + side) + 1, left : math.floor(left + side) + 1] = colour
    return result


def plainly(name: IldoonetName, pixels: np.ndarray, value: float, cutout: tuple[float, float]) -> np.ndarray:
    """One operation by NumPy, or by Pillow where it interpolates or blends."""
    image, size = Image.fromarray(pixels), (pixels.shape[1], pixels.shape[0])
    inverted = (255 - pixels.astype(int)).astype(np.uint8)
    added = np.minimum(pixels.astype(int) + math.floor(value), 255) if name == "SolarizeAdd" else pixels.astype(int)
    results: dict[str, Callable[[], object]] = {
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: inverted,
        "Rotate": lambda: image.rotate(value, resample=Image.Resampling.NEAREST, fillcolor=0),
        "Posterize": lambda: pixels // 2 ** (8 - max(1, int(value))) * 2 ** (8 - max(1, int(value))),
        "Solarize": lambda: np.where(pixels < value, pixels, inverted),
        "SolarizeAdd": lambda: np.where(added < 128, added, 255 - added),
        "Color": lambda: ImageEnhance.Color(image).enhance(value),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(value),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(value),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(value),
        "ShearX": lambda: image.transform(size, Image.Transform.AFFINE, (1, value, 0, 0, 1, 0)),
        "ShearY": lambda: image.transform(size, Image.Transform.AFFINE, (1, 0, 0, value, 1, 0)),
        "CutoutAbs": lambda: cut_out(pixels, value, *cutout),
        "TranslateXabs": lambda: moved(pixels, value, 0),
        "TranslateYabs": lambda: moved(pixels, 0, value),
    }
    return np.asarray(results[name]())


def one_operation(name: IldoonetName, strength: int, negative: bool, cutout: tuple[float, float]) -> Operations:
    op = np.array([[ILDOONET.index(name)]])
    return ildoonet_operations(op, np.array([[negative]]), strength, np.array([[cutout]]))


def applied(pixels: np.ndarray, operations: Operations) -> np.ndarray:
    channels_first = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
    return randaugment(channels_first, operations, 0).permute(1, 2, 0).numpy().reshape(pixels.shape)


def test_names_and_their_order() -> None:
    assert tuple(RANGES) == ILDOONET
    assert len(ILDOONET) == 16


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ILDOONET)
def test_each_operation_is_a_plain_computation_at_every_strength(
    name: IldoonetName, channels: int, photo: Callable
) -> None:
    low, high = RANGES[name]
    pixels = photo(3, HEIGHT, WIDTH, channels)
    for strength in STRENGTHS:
        value = strength / 30 * (high - low) + low
        for negative, cutout in zip([False, True] * 2, CUTOUTS, strict=True):
            signed = -value if negative and name in TWO_SIDED else value
            operations = one_operation(name, strength, negative, cutout)
            assert operations.magnitude.item() == signed
            assert np.array_equal(applied(pixels, operations), plainly(name, pixels, signed, cutout))


@pytest.mark.parametrize("name", ILDOONET)
def test_each_operation_does_something(name: IldoonetName, photo: Callable) -> None:
    pixels = photo(3, HEIGHT, WIDTH) // 2 + 40
    changed = applied(pixels, one_operation(name, 9, False, (0.5, 0.5)))
    assert np.abs(changed.astype(int) - pixels).mean() > 0.3
    other = applied(pixels, one_operation(name, 9, True, (0.2, 0.5)))
    assert bool((changed != other).any()) == (name in (*TWO_SIDED, "CutoutAbs"))


def test_operations_signs_cutouts_are_even_and_independent() -> None:
    augmentation = Augmentation("squash", 64, 64, seed=4, randaugment_ops=2, randaugment_space="ildoonet")
    drawn = augmentation.views(MANY, *np.full((2, len(MANY)), 100)).operations
    assert drawn is not None
    assert drawn.cutout is not None
    assert (drawn.op.shape, drawn.magnitude.dtype, drawn.cutout.shape) == ((20_000, 2), np.float64, (20_000, 2, 2))
    for turn in range(2):
        assert chisquare(np.bincount(drawn.op[:, turn], minlength=16)).pvalue > 1e-4
        rotated = drawn.op[:, turn] == ILDOONET.index("Rotate")
        signs = drawn.magnitude[rotated, turn]
        assert set(signs.tolist()) == {-9.0, 9.0}
        assert abs((signs > 0).mean() - 0.5) < 4 * 0.5 * len(signs) ** -0.5
        for axis in range(2):
            assert kstest(drawn.cutout[:, turn, axis], "uniform").pvalue > 1e-3
            assert abs(np.corrcoef(signs, drawn.cutout[rotated, turn, axis])[0, 1]) < 0.15
    together = np.concatenate([drawn.op, drawn.cutout.reshape(-1, 4)], axis=1)
    assert np.abs(np.corrcoef(together.T) - np.eye(6)).max() < 0.03
    some = augmentation.views(MANY[77:99], *np.full((2, 22), 50)).operations
    assert some is not None
    for column in ("op", "magnitude", "cutout"):
        assert np.array_equal(getattr(some, column), getattr(drawn, column)[77:99])


@dataclass(frozen=True)
class GivenOperations(Augmentation):
    """Operations that are given instead of drawn."""

    given: Operations | None = None

    def operations(self, positions: Ints, heights: Ints, widths: Ints) -> Operations | None:
        return self.given


def load(index: Index, augmentation: Augmentation, count: int = 1, scaled_decode: bool = False) -> np.ndarray:
    """uint8 [count, S, S, C] of its first images."""
    request = BatchRequest(np.arange(count), np.arange(count))
    (batch,) = batches(index, [request], augmentation, torch.device("cpu"), 2, scaled_decode=scaled_decode)
    return batch.images.permute(0, 2, 3, 1).numpy()


def set_of(pixels: list[np.ndarray], write_set: Callable[..., Path], encode: Callable, **how: object) -> Index:
    return Index.load(write_set([0] * len(pixels), ["a"], images=[encode(one, **how) for one in pixels]), "train")


@pytest.mark.parametrize("channels", [1, 3])
def test_on_the_image_is_before_the_cut_and_on_the_crop_after_it(
    channels: int, write_set: Callable[..., Path], photo: Callable, encode: Callable
) -> None:
    pixels = photo(1, HEIGHT, WIDTH, channels)
    cutout = one_operation("CutoutAbs", 30, False, (0.5, 0.3))
    shift = one_operation("TranslateXabs", 9, True, (0, 0))
    assert cutout.cutout is not None
    given = replace(
        cutout,
        op=np.concatenate([cutout.op, shift.op], axis=1),
        magnitude=np.concatenate([cutout.magnitude, shift.magnitude], axis=1),
        cutout=np.concatenate([cutout.cutout, cutout.cutout], axis=1),
    )
    plain, changed = (set_of([one], write_set, encode) for one in (pixels, applied(pixels, given)))
    for policy in ("squash", "random_resized_crop", "shorter_side_random_crop", "xray_affine"):
        augmentation = GivenOperations(policy, 48, 56, seed=2, given=replace(given, on="image"))  # type: ignore[arg-type]
        without = replace(augmentation, given=None)
        assert np.array_equal(load(plain, augmentation), load(changed, without))
        assert not np.array_equal(load(plain, augmentation), load(plain, without))
    on_crop = GivenOperations("squash", 48, 48, flip=False, given=given)
    crop = load(plain, replace(on_crop, given=None))[0]
    expected = applied(crop if channels == 3 else crop[:, :, 0], given).reshape(crop.shape)
    assert np.array_equal(load(plain, on_crop)[0], expected)


def test_torchvisions_operations_on_whole_images(
    write_set: Callable[..., Path], photo: Callable, encode: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its own RandAugment does them, translations by shares of either side included."""
    pixels = [photo(number, HEIGHT + 10 * number, WIDTH - 20 * number) for number in range(3)]
    index = set_of(pixels, write_set, encode)
    augmentation = Augmentation(
        "shorter_side_random_crop", 48, 56, seed=2, randaugment_ops=1, randaugment_on="image", randaugment_magnitude=17
    )
    request = BatchRequest(np.arange(80) % 3, np.arange(80))
    heights, widths = (np.array([one.shape[axis] for one in pixels])[request.samples] for axis in (0, 1))
    views = augmentation.views(request.positions, heights, widths)
    assert views.operations is not None
    theirs = []
    for op, magnitude, sample in zip(views.operations.op, views.operations.magnitude, request.samples, strict=True):
        draws = [op.item(), magnitude.item() < 0]
        monkeypatch.setattr(torch, "randint", lambda *_, draws=draws: torch.tensor([int(draws.pop(0))]))
        image = torch.from_numpy(pixels[sample]).permute(2, 0, 1)
        theirs.append(RandAugment(num_ops=1, magnitude=17)(image).permute(1, 2, 0).numpy())
    assert set(views.operations.op[:, 0].tolist()) == set(range(len(OPERATIONS)))
    changed = set_of(theirs, write_set, encode)
    (ours,) = batches(index, [request], augmentation, torch.device("cpu"), 2)
    wanted = BatchRequest(np.arange(80), np.arange(80))
    (expected,) = batches(changed, [wanted], replace(augmentation, randaugment_ops=0), torch.device("cpu"), 2)
    assert (ours.images.int() - expected.images.int()).abs().max() <= 1  # rounded differently, see test_randaugment.py


def test_whole_images_are_decoded_at_their_full_size(
    write_set: Callable[..., Path], photo: Callable, encode: Callable
) -> None:
    index = set_of([photo(1, 500, 400)], write_set, encode, file_format="JPEG")
    augmentation = Augmentation("squash", 48, 48, randaugment_ops=2, randaugment_space="ildoonet")
    for on in ("image", "crop"):
        numbers = replace(augmentation, randaugment_on=on)
        full, scaled = (load(index, numbers, scaled_decode=scaled) for scaled in (False, True))
        assert np.array_equal(full, scaled) == (on == "image")


SPACE, ON = {"randaugment_space": "ildoonet"}, {"randaugment_on": "image"}


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize(
    ("settings", "scaled_decode", "message"),
    [
        (
            SPACE,
            False,
            "randaugment-space ildoonet cannot .*--loader torch, or train with --data.randaugment-space torch",
        ),
        (
            ON,
            False,
            "randaugment-on image cannot be had with DALI.*--loader torch, or train with --data.randaugment-on c",
        ),
        (
            {**SPACE, **ON},
            True,
            "--data.scaled-decode and --data.randaugment-space ildoonet and --data.randaugment-on image cannot.*train "
            "without --data.scaled-decode and with --data.randaugment-space torchvision and with --data.randaugment-on",
        ),
    ],
)
def test_only_the_torch_loader_can_and_says_so(
    on_gpu: bool,
    settings: dict[str, str],
    scaled_decode: bool,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    augmentation = replace(Augmentation("squash", 32, 32, randaugment_ops=1), **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        pick_loader("dali", on_gpu, scaled_decode, augmentation)
    assert capsys.readouterr().err == ""
    picked = [pick_loader(name, on_gpu, scaled_decode, augmentation)[0] for name in ("torch", "auto")]
    assert picked == ["torch", "torch"]
    assert capsys.readouterr().err.count("not by DALI") == on_gpu
    # Without any operation the settings mean nothing.
    off = replace(augmentation, randaugment_ops=0)
    assert pick_loader("dali", on_gpu, False, off)[0] == "dali"
