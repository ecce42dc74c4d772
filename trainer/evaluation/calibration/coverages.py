"""The coverages that prediction sets may promise, and how many patients each needs. Without PyTorch, which flags do not
need."""

import math

from data_pipelines.common.errors import InputError

STEPS = 200  # they are multiples of 1 / 200, so that a checkpoint needs few thresholds for all of them
LEVELS = tuple(step / STEPS for step in range(STEPS // 2, STEPS))
COVERAGE = 0.9
ROUNDING = 1e-9


def require_coverage(coverage: float | None, called: str = "--coverage") -> None:
    """Raise InputError for a coverage that is not one of `LEVELS`. called: its name where it is given."""
    if coverage is not None and not any(math.isclose(coverage, level) for level in LEVELS):
        raise InputError(
            f"{called} is {coverage:g}; it must be a multiple of {1 / STEPS:g} from {LEVELS[0]:g} to {LEVELS[-1]:g}"
        )


def fewest_units(coverage: float) -> int:
    """How many patients a promised coverage needs: with fewer, a set could only hold everything."""
    return math.ceil(coverage / (1 - coverage) - ROUNDING)


def most_covered(units: int) -> float | None:
    """The largest of `LEVELS` that so many patients can promise; None without any."""
    return max((level for level in LEVELS if fewest_units(level) <= units), default=None)
