"""Says which classes or findings have too few images in test for an interval."""

from collections.abc import Sequence

from data_pipelines.common.patients import NO_GROUP
from data_pipelines.common.raw_set import RawImage, RawSet

FEWEST = 10  # images, and patients, below which the evaluation gives no interval
_NAMED = 10  # classes in a message


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
    what = "images" if raw.task == "single_label" else "positives"
    more = f" and {len(few) - _NAMED:,} more" if len(few) > _NAMED else ""
    return (
        f"test has few {what}{' by patients' * known}: {', '.join(few[:_NAMED])}{more}; an interval needs {FEWEST}. "
        "Add images, or prepare again with --test-fraction 0.3"
    )


def _count(test: Sequence[RawImage], number: int, by_patient: bool) -> int:
    having = [image for image in test if _has(image, number)]
    return len({image.group for image in having}) if by_patient else len(having)


def _has(image: RawImage, number: int) -> bool:
    return image.label == number if isinstance(image.label, int) else bool(image.label[number] == 1)
