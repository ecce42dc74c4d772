"""Each operation is torchvision's: its strengths, what torch makes of it, and what DALI makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import RandAugment

from data_pipelines.loading import dali_loader, torch_loader
from data_pipelines.loading.dali_loader import _Buffers, _cut
from data_pipelines.loading.randaugment import (
    MAGNITUDES,
    OPERATIONS,
    OperationName,
    Operations,
    magnitude_table,
    signed_operations,
)
from data_pipelines.loading.sampler import BatchRequest
from data_pipelines.loading.views import Augmentation, Ints
from data_pipelines.shards.index import Index

SIDE = 64
STRENGTHS = [0, 1, 9, 16, 30]
# Largest difference of a value, and share of the values that may differ at all, DALI against torch.
EXACT = (0, 0.0)
TOLERANCE: dict[OperationName, tuple[int, float]] = {
    "Rotate": (255, 0.001),  # a place between two pixels may take either
    "Brightness": (1, 0.005),
    "Color": (1, 0.02),
    "Contrast": (1, 0.02),
    "Equalize": (1, 0.25),  # from DALI come 256 shades, where torchvision counts pixels
}
# torchvision has two implementations; the torch loader has the newer one, and they round these differently.
ROUNDED_DIFFERENTLY = ("Brightness", "Color", "Contrast", "Sharpness", "AutoContrast")


@dataclass(frozen=True)
class GivenOperations(Augmentation):
    """Operations that are given instead of drawn."""

    given: Operations | None = None

    def operations(self, positions: Ints, heights: Ints, widths: Ints) -> Operations | None:
        return self.given


@dataclass(frozen=True)
class Runs:
    """Every operation on every picture: op, negative, strength, number of the picture; all [R]. Images [R, C, H, W]."""

    op: Ints
    negative: np.ndarray
    strength: Ints
    picture: Ints
    sources: torch.Tensor
    dali: torch.Tensor
    torch: torch.Tensor


def draw_pictures(photo: Callable, channels: int) -> list[np.ndarray]:
    """Photos, and what stretching and equalizing treat specially; each [H, W] or [H, W, 3]."""
    pictures = [photo(number, SIDE, SIDE, channels).copy() for number in range(4)]
    pictures[1][:, : SIDE // 2] = 0
    dull = photo(4, SIDE, SIDE, channels) // 8 + 100
    one_shade = photo(5, SIDE, SIDE, channels).copy()
    one_shade[..., 0] = 77
    nearly_white = np.full_like(dull, 255)
    nearly_white[:9, :9] = dull[:9, :9]  # 81 pixels are too few to equalize
    half_white = photo(6, SIDE, SIDE, channels).copy()
    half_white[:, 20:] = 255
    return [*pictures, dull, one_shade, nearly_white, half_white]


def load(loader: object, index: Index, samples: Ints, operations: Operations) -> torch.Tensor:
    augmentation = GivenOperations("squash", SIDE, SIDE, randaugment_ops=operations.op.shape[1], given=operations)
    request = BatchRequest(samples, np.arange(len(samples)))
    (batch,) = loader.batches(index, [request], augmentation, torch.device("cpu"), 2)  # type: ignore[attr-defined]
    return batch.images


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def runs(request: pytest.FixtureRequest, write_set: Callable[..., Path], photo: Callable, encode: Callable) -> Runs:
    pictures = draw_pictures(photo, request.param)
    folder = write_set([0] * len(pictures), ["a"], images=[encode(picture) for picture in pictures])
    index = Index.load(folder, "train")
    assert index.channels == request.param
    axes = np.meshgrid(np.arange(len(OPERATIONS)), [0, 1], STRENGTHS, np.arange(len(pictures)), indexing="ij")
    op, negative, strength, picture = (axis.ravel() for axis in axes)
    given = [
        signed_operations(op[row : row + 1, None], negative[row : row + 1, None] > 0, int(strength[row]), SIDE, SIDE)
        for row in range(len(op))
    ]
    operations = Operations(*(np.concatenate([getattr(one, name) for one in given]) for name in ("op", "magnitude")))
    sources = torch.from_numpy(np.stack(pictures).reshape(len(pictures), SIDE, SIDE, -1)).permute(0, 3, 1, 2)
    made = [load(loader, index, picture, operations) for loader in (dali_loader, torch_loader)]
    return Runs(op, negative > 0, strength, picture, sources, *made)


@pytest.mark.parametrize("size", [32, 64, 224, 331, 480])
def test_names_and_magnitudes_are_torchvisions_at_every_strength(size: int) -> None:
    space = RandAugment()._augmentation_space(MAGNITUDES, (size, size))
    assert tuple(space) == OPERATIONS
    table = magnitude_table(size)
    assert table.dtype == np.float32
    assert table.shape == (14, 31)
    for row, (magnitudes, _) in zip(table, space.values(), strict=True):
        # torch counts from both ends, which moves the last digit; as whole pixels and shades they are the same.
        np.testing.assert_allclose(row, np.broadcast_to(magnitudes, 31), rtol=3e-7)
        assert row.astype(int).tolist() == np.broadcast_to(magnitudes, 31).astype(int).tolist()
    for number, (_, signed) in enumerate(space.values()):
        given = signed_operations(np.full((31, 2), number), np.array([[False, True]] * 31), 17, size, size)
        plain, negated = given.magnitude.T
        assert (plain == table[number, 17]).all()
        assert (negated == (-1 if signed else 1) * table[number, 17]).all()


@pytest.mark.parametrize("name", OPERATIONS)
def test_torch_gives_what_torchvisions_randaugment_gives(
    name: OperationName, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.flatnonzero(runs.op == OPERATIONS.index(name))
    for row in rows:
        draws = [runs.op[row], runs.negative[row]]
        monkeypatch.setattr(torch, "randint", lambda *_, draws=draws: torch.tensor([int(draws.pop(0))]))
        theirs = RandAugment(num_ops=1, magnitude=int(runs.strength[row]))(runs.sources[runs.picture[row]])
        difference = (runs.torch[row].int() - theirs.int()).abs()
        assert difference.max() <= (1 if name in ROUNDED_DIFFERENTLY else 0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_dali_gives_what_torch_gives(name: OperationName, runs: Runs) -> None:
    rows = runs.op == OPERATIONS.index(name)
    assert rows.sum() == 2 * len(STRENGTHS) * 8
    difference = (runs.dali[rows].int() - runs.torch[rows].int()).abs()
    largest, share = TOLERANCE.get(name, EXACT)
    assert difference.max() <= largest
    assert (difference > 0).float().mean() <= share


@pytest.mark.parametrize("name", OPERATIONS[1:])
def test_every_operation_does_something_and_both_signs_differ(name: OperationName, runs: Runs) -> None:
    rows = (runs.op == OPERATIONS.index(name)) & (runs.strength == 30) & (runs.picture == 0)
    assert rows.sum() == 2
    images, source = runs.dali[rows].float(), runs.sources[0].float()
    changed = (images - source).abs().mean((1, 2, 3)) > 1
    on_grey = source.shape[0] == 1
    assert changed.tolist() == [not (name == "Color" and on_grey)] * 2
    two_sided = OPERATIONS.index(name) in range(1, 10) and not (name == "Color" and on_grey)
    assert bool((images[0] != images[1]).any()) == two_sided


def test_operations_follow_each_other(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> None:
    """First to last, each on what the one before has left, and none of them on its neighbour in the batch."""
    pictures = [photo(number, SIDE, SIDE) for number in range(3)]
    index = Index.load(write_set([0] * 3, ["a"], images=[encode(picture) for picture in pictures]), "train")
    place = OPERATIONS.index
    op = np.array([[place("TranslateX"), place("Solarize")], [place("Solarize"), place("TranslateX")], [0, 0]])
    operations = Operations(op, np.array([[20, 0], [0, 20], [0, 0]], np.float32))
    for loader in (dali_loader, torch_loader):
        images = load(loader, index, np.arange(3), operations).permute(0, 2, 3, 1).numpy()
        moved = np.pad(pictures[0], ((0, 0), (20, 0), (0, 0)))[:, :SIDE]
        inverted = [255 - picture for picture in (moved, pictures[1])]
        assert np.array_equal(images[0], inverted[0])
        assert np.array_equal(images[1], np.pad(inverted[1], ((0, 0), (20, 0), (0, 0)))[:, :SIDE])
        assert np.array_equal(images[2], pictures[2])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_pipeline_for_gpus_is_put_together(channels: int) -> None:
    """DALI checks while it does so which inputs may lie where; that needs no GPU, running it would."""
    for operations, warped, reflections in [(0, False, 0), (2, False, 0), (0, True, 0), (2, True, 0), (2, True, 2)]:
        _cut(
            lambda: None,
            decoder="mixed",
            channels=channels,
            size=SIDE,
            operations=operations,
            warped=warped,
            reflections=reflections,
            buffers=_Buffers(height=480, width=640),
            batch_size=4,
            num_threads=1,
            device_id=0,
        )
