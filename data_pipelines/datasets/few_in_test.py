"""Says which classes or findings have too few images in test for an interval, or none in val."""

from collections.abc import Sequence

from data_pipelines.common.message_parts import some_of
from data_pipelines.common.patients import NO_GROUP
from data_pipelines.common.raw_set import RawImage, RawSet

FEWEST = 10  # images, and patients, below which the evaluation gives no interval
_NAMED = 10  # classes in a message
_SIGNS = {"positive": 1, "negative": 0}
_LARGE_SHARE = 0.25  # of the images in test, above which a larger one is not advised
_LARGE_VAL_SHARE = 0.15


def few_in_test(raw: RawSet) -> str | None:
    """Message on the classes with fewer than ten images in test, or findings with fewer than ten positives or negatives
    there; where patients are known, patients are counted. None where all have enough, without test, and for images that
    are not held in memory."""
    if not isinstance(raw.images, Sequence):
        return None
    test = [image for image in raw.images if image.split == "test"]
    known = any(image.group != NO_GROUP for image in test)
    if raw.task == "single_label":
        wanted = {"patients with an image" if known else "images": 1}
    else:
        wanted = {f"patients with a {sign}" if known else f"{sign}s": value for sign, value in _SIGNS.items()}
    few = []
    for what, value in wanted.items():
        counts = [_count(test, number, value, known) for number in range(len(raw.classes))]
        if any(count < FEWEST for count in counts):
            few.append(f"{what}: {_named(raw.classes, counts)}")
    if not test or not few:
        return None
    carves = not raw.has_own_test and len(test) < _LARGE_SHARE * len(raw.images)
    remedy = ", or prepare again with --test-fraction 0.3 --force" if carves else " to test"
    return f"test has few {'; few '.join(few)}; an interval needs {FEWEST}. Add images{remedy}"


def none_in_val(raw: RawSet) -> str | None:
    """Message on the classes without an image in val, or findings without a positive there. None where all have one,
    without val, and for images that are not held in memory."""
    if not isinstance(raw.images, Sequence):
        return None
    val = [image for image in raw.images if image.split == "val"]
    none = [name for number, name in enumerate(raw.classes) if not any(_has(image, number, 1) for image in val)]
    if not val or not none:
        return None
    what = "images" if raw.task == "single_label" else "positives"
    carves = not raw.has_own_val and len(val) < _LARGE_VAL_SHARE * len(raw.images)
    remedy = ", or prepare again with --val-fraction 0.2 --force" if carves else " to val"
    return f"val has no {what} of: {some_of(none, _NAMED)}; no threshold can be chosen for them. Add images{remedy}"


def _named(classes: Sequence[str], counts: Sequence[int]) -> str:
    """The classes with too few, with their numbers."""
    few = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < FEWEST]
    return some_of(few, _NAMED)


def _count(test: Sequence[RawImage], number: int, value: int, by_patient: bool) -> int:
    having = [image for image in test if _has(image, number, value)]
    return len({image.group for image in having}) if by_patient else len(having)


def _has(image: RawImage, number: int, value: int) -> bool:
    return image.label == number if isinstance(image.label, int) else bool(image.label[number] == value)
