"""Says which classes or findings have too few images in test for an interval, or none in val."""

from collections.abc import Sequence

from data_pipelines.common.patients import NO_GROUP
from data_pipelines.common.raw_set import RawImage, RawSet

FEWEST = 10  # images, and patients, below which the evaluation gives no interval
_NAMED = 10  # classes in a message
_TEST, _VAL = 0.3, 0.2  # shares that are advised


def few_in_test(raw: RawSet) -> str | None:
    """Message on the classes with fewer than ten images in test, or findings with fewer than ten positives there; where
    patients are known, patients are counted. None where all have enough, without test, and for images that are not held
    in memory."""
    if not isinstance(raw.images, Sequence):
        return None
    test = [image for image in raw.images if image.split == "test"]
    known = any(image.group != NO_GROUP for image in test)
    found = [_count(test, number, known) for number in range(len(raw.classes))]
    few = [f"{name} ({count})" for name, count in zip(raw.classes, found, strict=True) if count < FEWEST]
    if not test or not few:
        return None
    return f"test has few {_what(raw)}{' by patients' * known}: {_listed(few)}; an interval needs {FEWEST}. " + _remedy(
        "test", _TEST, len(test) / len(raw.images)
    )


def none_in_val(raw: RawSet) -> str | None:
    """Message on the classes without an image in val, or findings without a positive there. None where all have one,
    without val, and for images that are not held in memory."""
    if not isinstance(raw.images, Sequence):
        return None
    val = [image for image in raw.images if image.split == "val"]
    none = [name for number, name in enumerate(raw.classes) if not any(_has(image, number) for image in val)]
    if not val or not none:
        return None
    return f"val has no {_what(raw)} of: {_listed(none)}; no threshold can be chosen for them. " + _remedy(
        "val", _VAL, len(val) / len(raw.images)
    )


def _what(raw: RawSet) -> str:
    return "images" if raw.task == "single_label" else "positives"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")


def _remedy(split: str, advised: float, has: float) -> str:
    """What to do; has: the split's share of all images, which a fraction much like it would not change."""
    again = f", or prepare again with --{split}-fraction {advised:g} --force" if has < 0.8 * advised else ""
    return f"Add images{again}"


def _count(test: Sequence[RawImage], number: int, by_patient: bool) -> int:
    having = [image for image in test if _has(image, number)]
    return len({image.group for image in having}) if by_patient else len(having)


def _has(image: RawImage, number: int) -> bool:
    return image.label == number if isinstance(image.label, int) else bool(image.label[number] == 1)
