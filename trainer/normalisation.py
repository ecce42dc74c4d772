"""Mean and standard deviation for normalising a model's inputs, for pixels in [0, 1]."""

import math
from collections.abc import Sequence

from data_pipelines.common.errors import InputError

PerChannel = tuple[float, float, float]
BIT_MEAN: PerChannel = (0.5, 0.5, 0.5)
BIT_STD: PerChannel = (0.5, 0.5, 0.5)
IMAGENET_MEAN: PerChannel = (0.485, 0.456, 0.406)
IMAGENET_STD: PerChannel = (0.229, 0.224, 0.225)


def require_mean(values: Sequence[float], where: str) -> None:
    """Raise InputError unless these are three numbers from 0 to 1; `where` begins the message."""
    _require_three(values, f"{where} mean")
    _require(all(0 <= value <= 1 for value in values), values, f"{where} mean", "must lie in 0 to 1")


def require_std(values: Sequence[float], where: str) -> None:
    """Raise InputError unless these are three numbers above 0 and up to 1; `where` begins the message."""
    _require_three(values, f"{where} std")
    _require(all(0 < value <= 1 for value in values), values, f"{where} std", "must lie above 0 and be at most 1")


def _require_three(values: Sequence[float], what: str) -> None:
    _require(len(values) == 3, values, what, "must be three numbers, one for each of red, green and blue")
    _require(all(map(math.isfinite, values)), values, what, "must be numbers")


def _require(holds: bool, values: Sequence[float], what: str, rule: str) -> None:
    if holds:
        return
    remedy = "; values of pixels from 0 to 255 are to be divided by 255" if any(value > 1 for value in values) else ""
    raise InputError(f"{what} is {', '.join(f'{value:g}' for value in values) or 'empty'}; it {rule}{remedy}")
