"""The phantoms are pure functions of their number, their labels tell the truth, and no patient is in two splits."""

import io
from collections import defaultdict
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawImage
from data_pipelines.datasets.phantom import (
    FINDINGS,
    PREVALENCE,
    WITHHELD_SHARE,
    draw_phantom,
    patient_of,
    phantom,
    render,
)

phantom_module = import_module("data_pipelines.datasets.phantom")  # the package has a function of that name
CLASSES = tuple(FINDINGS)
NONE = np.zeros(len(CLASSES))


@pytest.fixture(scope="module")
def some_images() -> list[RawImage]:
    return list(phantom(images=600, size=32, seed=3).images)


def change(finding: str, image: int, size: int = 64, seed: int = 5) -> np.ndarray:
    """What the finding alone adds to an otherwise normal image, [size, size]."""
    present = np.eye(len(CLASSES))[CLASSES.index(finding)]
    return render(seed, image, size, present).astype(float) - render(seed, image, size, NONE)


def test_image_is_a_function_of_seed_and_number() -> None:
    pixels, labels = draw_phantom(7, 11, 48)
    again, labels_again = draw_phantom(7, 11, 48)
    assert pixels.shape == (48, 48)
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.float32
    assert np.array_equal(pixels, again)
    assert np.array_equal(labels, labels_again)
    assert not np.array_equal(pixels, draw_phantom(8, 11, 48)[0])
    assert not np.array_equal(pixels, draw_phantom(7, 12, 48)[0])


def test_size_changes_the_resolution_not_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(phantom_module._EXPOSURE, "noise", (0.0, 0.0))  # the one part that is drawn for each pixel
    for image in range(5):
        small = render(0, image, 64, np.ones(len(CLASSES))).astype(float)
        halved = render(0, image, 128, np.ones(len(CLASSES))).reshape(64, 2, 64, 2).mean((1, 3))
        assert np.abs(small - halved).mean() < 1.5


@pytest.mark.slow
def test_set_is_lazy_repeatable_and_a_prefix_of_a_larger_one(some_images: list[RawImage]) -> None:
    raw = phantom(images=5, size=32, seed=3)
    assert raw.classes == CLASSES
    assert raw.task == "multi_label"
    assert raw.synthetic
    assert raw.num_images == 5
    first_pass, second_pass = list(raw.images), list(raw.images)
    assert [image.key for image in first_pass] == [f"phantom-{number:06d}" for number in range(5)]
    for one, two, longer in zip(first_pass, second_pass, some_images, strict=False):
        assert one.image == two.image == longer.image
        assert (one.split, one.group) == (two.split, two.group) == (longer.split, longer.group)
        np.testing.assert_array_equal(one.label, longer.label)
    next(iter(phantom(images=10**9).images))


def test_encoded_bytes_are_the_drawn_picture(some_images: list[RawImage]) -> None:
    encoded = some_images[42].image
    assert isinstance(encoded, bytes)
    with Image.open(io.BytesIO(encoded)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(picture), draw_phantom(3, 42, 32)[0])


def test_labels_are_the_drawn_findings_or_withheld(some_images: list[RawImage]) -> None:
    labels = np.stack([image.label for image in some_images])
    complete = np.stack([draw_phantom(3, number, 32)[1] for number in range(len(some_images))])
    assert labels.dtype == np.float32
    assert set(np.unique(complete)) == {0.0, 1.0}
    known = ~np.isnan(labels)
    assert np.array_equal(labels[known], complete[known])
    # Five standard deviations of a binomial draw of 600; of 3600 for the share over all findings.
    np.testing.assert_allclose(complete.mean(0), PREVALENCE, atol=0.09)
    np.testing.assert_allclose(1 - known.mean(), WITHHELD_SHARE, atol=0.033)
    np.testing.assert_allclose(1 - known.mean(0), WITHHELD_SHARE, atol=0.082)
    both = (complete.T @ complete / len(complete))[~np.eye(len(CLASSES), dtype=bool)]
    np.testing.assert_allclose(both, PREVALENCE**2, atol=0.055)


def test_no_patient_is_in_two_splits(some_images: list[RawImage]) -> None:
    splits, counts = defaultdict(set), defaultdict(int)
    for number, image in enumerate(some_images):
        assert 0 <= image.group < 2**63
        splits[image.group].add(image.split)
        counts[image.group] += 1
        assert image.group == some_images[number - 1].group or counts[image.group] == 1
    assert all(len(split) == 1 for split in splits.values())
    assert sorted(counts.values()) == [1] * 100 + [2] * 100 + [3] * 100
    patients = [split.pop() for split in splits.values()]
    assert [patients.count(split) for split in ("train", "val", "test")] == [240, 30, 30]
    shares = np.reshape(list(counts.values()), (-1, 3))
    assert len(np.unique(shares, axis=0)) == 6
    # Neither the number of a patient's images nor the split may follow from the patient's place in the set.
    assert len({tuple(patients[start : start + 10]) for start in range(0, 300, 10)}) > 10


def test_anatomy_belongs_to_the_patient_and_pose_to_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def distances() -> tuple[list[float], list[float]]:
        """Mean grey-level difference of neighbouring healthy images: of one patient, of two."""
        pictures = [render(2, image, 32, NONE).astype(float) for image in range(60)]
        of_one, of_two = [], []
        for image, (one, two) in enumerate(pairwise(pictures)):
            (of_one if patient_of(2, image) == patient_of(2, image + 1) else of_two).append(np.abs(one - two).mean())
        return of_one, of_two

    assert min(distances()[0]) > 8
    same_pose = {name: (low, low) for name, (low, _) in phantom_module._EXPOSURE.items()}
    monkeypatch.setattr(phantom_module, "_EXPOSURE", same_pose)
    of_one, of_two = distances()
    assert max(of_one) < min(of_two)


@pytest.mark.parametrize("finding", CLASSES)
def test_every_finding_changes_its_image_only_in_the_chest(finding: str) -> None:
    for image in range(30):
        added = change(finding, image)
        assert (np.abs(added) > 12).sum() >= 8
        border = np.concatenate([added[:3].ravel(), added[-3:].ravel(), added[:, :3].ravel(), added[:, -3:].ravel()])
        assert not border.any()


def test_findings_lie_where_they_belong() -> None:
    row, column = np.indices((64, 64)) / 64
    for image in range(20):
        fluid = change("Effusion", image)
        assert np.average(row, weights=np.abs(fluid)) > 0.55
        rim = change("Pneumothorax", image)
        assert rim.min() < -12
        assert np.average(row, weights=np.clip(-rim, 0, None)) < 0.5
        nodule = np.abs(change("Nodule", image)) > 12
        assert np.ptp(row[nodule]) < 0.2
        assert np.ptp(column[nodule]) < 0.2
        for opacity in ("Atelectasis", "Consolidation", "Effusion", "Cardiomegaly", "Nodule"):
            assert change(opacity, image).sum() > 0
    sides = [np.average(column, weights=np.abs(change("Effusion", image))) > 0.5 for image in range(20)]
    assert 3 < sum(sides) < 17


def test_cardiomegaly_widens_the_heart() -> None:
    """Rows of the lower chest: how far the pixels brighter than the lungs reach around the midline."""

    def heart_width(image: int, labels: np.ndarray) -> float:
        pixels = render(9, image, 64, labels).astype(float)[36:46]
        lung, middle = np.percentile(pixels, 10), np.median(pixels[:, 30:36])
        return float((pixels[:, 10:54] > (lung + middle) / 2).sum(1).mean())

    enlarged = np.eye(len(CLASSES))[CLASSES.index("Cardiomegaly")]
    normal = [heart_width(image, NONE) for image in range(0, 120, 3)]
    wide = [heart_width(image, enlarged) for image in range(0, 120, 3)]
    assert np.mean(wide) > np.mean(normal) + 2 * np.std(normal)


@pytest.mark.parametrize(("argument", "value"), [("images", 0), ("size", 31), ("seed", -1)])
def test_wrong_arguments_are_refused_with_the_right_ones(argument: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{argument}={value}; pass {argument} >= {value + 1}"):
        phantom(**{argument: value})
