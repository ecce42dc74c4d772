"""DALI and torchvision hand out the same batches: the right pixels, labels and layout, from any step on."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from augmentation_values import OTHER_VALUES, before_and_after
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.catalog import EMBEDDED
from data_pipelines.loading.batch import Batch
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import BatchRequest, BatchSampler, evaluation_order
from data_pipelines.loading.views import POLICIES, Augmentation, Ints, PolicyName, Views, affine_maps
from data_pipelines.shards.index import Index

LOADERS = ["dali", "torch"]
SIDE = 40


@dataclass(frozen=True)
class GivenWarps(Augmentation):
    """Warps that are given instead of drawn."""

    warps: np.ndarray | None = None

    def views(self, positions: Ints, heights: Ints, widths: Ints) -> Views:
        return replace(super().views(positions, heights, widths), warp=self.warps)


def load(
    name: str, index: Index, requests: Iterable[BatchRequest], augmentation: Augmentation, threads: int = 2
) -> Iterator[Batch]:
    return pick_loader(name, on_gpu=False)[1](index, requests, augmentation, torch.device("cpu"), threads)


@pytest.fixture(scope="module")
def fashion() -> Index:
    return Index.load(EMBEDDED / "fashion_mnist", "val")


@pytest.fixture(scope="module")
def photos(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> Index:
    """Odd sizes, chroma at full and half resolution, progressive, grey among RGB, EXIF rotation, PNG, one pixel."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    images = [
        encode(photo(0, 299, 294), "JPEG", quality=90),
        encode(photo(1, 97, 131), "JPEG", quality=90, subsampling=0),
        encode(photo(2, 201, 67), "JPEG", quality=90, progressive=True),
        encode(photo(3, 155, 61, channels=1), "JPEG", quality=90),
        encode(photo(4, 294, 133), "JPEG", quality=90, exif=rotated),
        encode(photo(5, 33, 250), "PNG"),
        encode(photo(6, 51, 49, channels=1), "PNG"),
        encode(photo(7, 1, 1), "PNG"),
        encode(photo(8, 3, 200), "JPEG", quality=90),
    ]
    labels = [number % 2 for number in range(len(images))]
    return Index.load(write_set(labels, ["even", "odd"], images=images), "train")


@pytest.fixture(scope="module")
def squares(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> tuple[Index, np.ndarray]:
    """Lossless squares and their pixels, uint8 [11, SIDE, SIDE, 3]."""
    pixels = np.stack([photo(number, SIDE, SIDE) for number in range(11)])
    folder = write_set(np.arange(11) % 3, ["a", "b", "c"], images=[encode(picture) for picture in pixels])
    return Index.load(folder, "train"), pixels


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["fashion", "photos"])
def test_dali_and_torch_agree(name: str, policy: PolicyName, request: pytest.FixtureRequest) -> None:
    index = request.getfixturevalue(name)
    augmentation = Augmentation(policy, size=48, resize=56, seed=1, mixup_alpha=0.1)
    requests = list(islice(BatchSampler(min(len(index), 64), 36, seed=0).micro_batches(2, 0, 1, 18), 4))
    ours, oracle = (list(load(loader, index, requests, augmentation)) for loader in LOADERS)
    for one, other in zip(ours, oracle, strict=True):
        assert one.images.dtype == other.images.dtype == torch.uint8
        assert one.images.shape == other.images.shape == (18, index.channels, 48, 48)
        difference = (one.images.float() - other.images.float()).abs()
        assert difference.mean((1, 2, 3)).max() <= 1.5
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.mixup, other.mixup)
        assert np.array_equal(one.samples, other.samples)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["fashion", "photos"])
def test_dali_and_torch_agree_on_two_operations(name: str, policy: PolicyName, request: pytest.FixtureRequest) -> None:
    """The first operation may round to one more or less, the second may stretch that; see test_randaugment.py."""
    index = request.getfixturevalue(name)
    augmentation = Augmentation(policy, size=48, resize=56, seed=1, randaugment_ops=2)
    requests = list(islice(BatchSampler(min(len(index), 64), 36, seed=0).micro_batches(2, 0, 1, 18), 4))
    ours, oracle, plain = (
        torch.cat([batch.images for batch in load(loader, index, requests, numbers)]).float()
        for loader, numbers in [
            ("dali", augmentation),
            ("torch", augmentation),
            ("torch", replace(augmentation, randaugment_ops=0)),
        ]
    )
    difference = (ours - oracle).abs().mean((1, 2, 3))
    assert difference.median() <= 1.5
    assert (difference > 1.5).float().mean() < 0.15
    assert ((oracle - plain).abs().mean((1, 2, 3)) > 1.5).float().mean() > 0.5


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_setting_reaches_dali_or_is_refused(name: str, photos: Index) -> None:
    before, after = before_and_after(name)
    request = BatchRequest(np.arange(8), np.arange(100, 108))
    (plain,), (oracle,) = (list(load("torch", photos, [request], numbers)) for numbers in (before, after))
    same = plain.images.shape == oracle.images.shape and torch.equal(plain.images, oracle.images)
    assert not (same and torch.equal(plain.mixup, oracle.mixup)), f"torch ignores {name}; see NEEDS"
    try:
        _, loader = pick_loader("dali", on_gpu=False, augmentation=after)
    except InputError:
        return
    (ours,) = loader(photos, [request], after, torch.device("cpu"), 2)
    difference = (ours.images.float() - oracle.images.float()).abs().mean((1, 2, 3))
    remedy = f"DALI does not do as torch with another {name}: do it in dali_loader.py, or refuse it by _only_torch"
    assert difference.median() <= 1.5, remedy
    assert (difference > 3).float().mean() < 0.2, remedy
    assert torch.equal(ours.mixup, oracle.mixup), remedy


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("operations", [0, 2])
@pytest.mark.parametrize("policy", POLICIES)
def test_images_do_not_depend_on_the_batch_they_come_in(
    loader: str, operations: int, policy: PolicyName, photos: Index
) -> None:
    augmentation = Augmentation(policy, size=32, resize=40, seed=4, randaugment_ops=operations)
    samples, positions = np.arange(8) % len(photos), np.arange(100, 108)
    halves = [BatchRequest(samples[half], positions[half]) for half in (slice(0, 4), slice(4, 8))]
    (whole,) = load(loader, photos, [BatchRequest(samples, positions)], augmentation)
    parts = torch.cat([batch.images for batch in load(loader, photos, halves, augmentation)])
    assert torch.equal(whole.images, parts)


@pytest.mark.parametrize("loader", LOADERS)
def test_warps_move_a_pixel_to_where_they_should(loader: str, write_set: Callable[..., Path], encode: Callable) -> None:
    size = 16
    pixels = np.zeros((size, size), np.uint8)
    pixels[3, 5] = 200
    index = Index.load(write_set([0], ["a"], images=[encode(pixels)]), "train")
    turns = [(0, (0, 0)), (90, (0, 0)), (180, (0, 0)), (0, (4, -2)), (90, (4, -2)), (-90, (0, 0)), (0, (0, 13))]
    places = [(3, 5), (5, 12), (12, 10), (1, 9), (3, 16), (10, 3), (16, 5)]
    warps = affine_maps(
        size, np.array([angle for angle, _ in turns]), np.ones(7), np.array([shift for _, shift in turns])
    )
    request = BatchRequest(np.zeros(7, np.int64), np.arange(7))
    augmentation = GivenWarps("squash", size, size, warps=warps)
    (batch,) = load(loader, index, [request], augmentation)
    for image, (row, column) in zip(batch.images[:, 0].numpy(), places, strict=True):
        expected = np.zeros((size, size), np.uint8)
        if row < size and column < size:
            expected[row, column] = 200
        # A coordinate that is off by a float's last digits lets a neighbour in by as much.
        np.testing.assert_allclose(image.astype(int), expected, atol=1)


@pytest.mark.parametrize("loader", LOADERS)
def test_warps_are_torchvisions_affine(loader: str, squares: tuple[Index, np.ndarray]) -> None:
    index, pixels = squares
    rng = np.random.default_rng(0)
    angle, scale, shift = rng.uniform(-45, 45, 11), rng.uniform(0.9, 1.1, 11), rng.uniform(-6, 6, (11, 2))
    augmentation = GivenWarps("squash", SIDE, SIDE, warps=affine_maps(SIDE, angle, scale, shift))
    (batch,) = load(loader, index, [BatchRequest(np.arange(11), np.arange(11))], augmentation)
    for number, image in enumerate(batch.images):
        source = torch.from_numpy(pixels[number]).permute(2, 0, 1)
        expected = F.affine(
            source,
            angle=float(angle[number]),
            translate=shift[number].tolist(),
            scale=float(scale[number]),
            shear=[0, 0],
            interpolation=InterpolationMode.BILINEAR,
        )
        difference = (image.float() - expected.float()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.01


@pytest.mark.parametrize("loader", LOADERS)
def test_pixels_are_those_of_the_window_and_the_flip(loader: str, squares: tuple[Index, np.ndarray]) -> None:
    index, pixels = squares
    request = BatchRequest(np.arange(44) % 11, np.arange(44))
    augmentation = Augmentation("resize_random_crop", size=24, resize=SIDE, seed=5)  # which then resizes nothing
    views = augmentation.views(request.positions, *np.full((2, 44), SIDE))
    (batch,) = load(loader, index, [request], augmentation)
    for image, sample, (top, left), flip in zip(
        batch.images.permute(0, 2, 3, 1).numpy(), request.samples, views.offset, views.flip, strict=True
    ):
        expected = pixels[sample, top : top + 24, left : left + 24]
        assert np.array_equal(image, expected[:, ::-1] if flip else expected)
    assert 0 < views.flip.sum() < 44
    (unflipped,) = load(loader, index, [request], replace(augmentation, policy="squash", size=SIDE))
    assert np.array_equal(unflipped.images.permute(0, 2, 3, 1).numpy(), pixels[request.samples])


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_exif_orientation_is_ignored(
    loader: str, file_format: str, write_set: Callable[..., Path], encode: Callable
) -> None:
    rotated = Image.Exif()
    rotated[0x0112] = 6
    pixels = np.zeros((80, 32, 3), np.uint8)
    pixels[:40] = 255
    folder = write_set([0], ["a"], images=[encode(pixels, file_format, exif=rotated)])
    request = BatchRequest(np.zeros(1, np.int64), np.zeros(1, np.int64))
    (batch,) = load(loader, Index.load(folder, "train"), [request], Augmentation("squash", 16, 16))
    assert batch.images[0, :, :6].min() > 240
    assert batch.images[0, :, -6:].max() < 15


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ["fashion", "photos"])
def test_layout_labels_and_samples(loader: str, name: str, request: pytest.FixtureRequest) -> None:
    index = request.getfixturevalue(name)
    order = BatchSampler(len(index), 10, seed=3, group_size=2)
    requests = list(islice(order.micro_batches(0, 0, 1, 4), 6))
    augmentation = Augmentation("random_resized_crop", 32, 40, seed=3, mixup_alpha=0.1)
    batches = list(load(loader, index, requests, augmentation))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    for batch, wanted in zip(batches, requests, strict=True):
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (len(wanted.samples), index.channels, 32, 32)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.permute(0, 2, 3, 1).is_contiguous()
        assert np.array_equal(batch.samples, wanted.samples)
        assert batch.labels.dtype == torch.int64
        assert batch.labels.tolist() == index.labels[wanted.samples].tolist()
        assert np.array_equal(batch.mixup.numpy(), augmentation.mixup(wanted.positions))
    (plain,) = load(loader, index, requests[:1], Augmentation("squash", 32, 40))
    assert plain.mixup is None


@pytest.mark.parametrize("loader", LOADERS)
def test_multi_label_batches(loader: str, write_set: Callable[..., Path]) -> None:
    labels = np.array([[1, np.nan], [0, 1], [np.nan, np.nan]], np.float32)
    index = Index.load(write_set(labels, ["edema", "mass"]), "train")
    batches = list(load(loader, index, evaluation_order(3, 0, 1, 2), Augmentation("center_crop", 8, 8)))
    assert all(batch.labels.dtype == torch.float32 for batch in batches)
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]).numpy(), labels)


@pytest.mark.parametrize("loader", LOADERS)
def test_finite_streams_end_and_endless_ones_do_not(loader: str, squares: tuple[Index, np.ndarray]) -> None:
    index, pixels = squares
    augmentation = Augmentation("squash", SIDE, SIDE)
    assert list(load(loader, index, [], augmentation)) == []
    batches = list(load(loader, index, evaluation_order(11, 0, 1, 4), augmentation))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert np.array_equal(torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).numpy(), pixels)
    endless = BatchSampler(11, 6, seed=0).micro_batches(0, 0, 1, 6)
    assert len(list(islice(load(loader, index, endless, augmentation), 9))) == 9
    assert next(endless).positions[0] <= 6 * 13  # only a few requests are read ahead


@pytest.mark.parametrize("loader", LOADERS)
def test_starting_in_the_middle_equals_going_on_and_batches_stay(loader: str, photos: Index) -> None:
    """Bit-equal, whatever the threads; and no batch is overwritten while later ones are made."""
    order, augmentation = BatchSampler(len(photos), 7, seed=1), Augmentation("random_resized_crop", 32, 40, seed=1)

    def from_step(first_step: int, count: int, threads: int) -> list[Batch]:
        return list(
            islice(load(loader, photos, order.micro_batches(first_step, 0, 1, 4), augmentation, threads), count)
        )

    held, as_handed_out = [], []
    for batch in islice(load(loader, photos, order.micro_batches(0, 0, 1, 4), augmentation), 16):
        held.append(batch)
        as_handed_out.append(batch.images.clone())
    fresh = from_step(0, 16, threads=1)
    resumed = from_step(5, 6, threads=2)
    for batch, copy, again in zip(held, as_handed_out, fresh, strict=True):
        assert torch.equal(batch.images, copy)
        assert torch.equal(batch.images, again.images)
    for batch, again in zip(held[10:], resumed, strict=True):
        assert torch.equal(batch.images, again.images)
        assert np.array_equal(batch.samples, again.samples)
    assert len({batch.images.data_ptr() for batch in held}) == 16


@pytest.mark.parametrize("loader", LOADERS)
def test_ranks_share_the_images_of_one_rank(loader: str, photos: Index) -> None:
    order, augmentation = BatchSampler(len(photos), 10, seed=2), Augmentation("random_resized_crop", 24, 24)
    (whole,) = load(loader, photos, [order.request(3)], augmentation)
    shares = [next(load(loader, photos, [order.request(3, rank, 3)], augmentation)).images for rank in range(3)]
    assert torch.equal(torch.cat(shares), whole.images)
