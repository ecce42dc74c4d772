"""A loss that leaps is warned of, and nothing else: whether it matters only people can tell."""

import math
from collections import deque
from statistics import median

WINDOW_STEPS, FEWEST_STEPS = 100, 20
_DEVIATIONS = 10.0
_SIGMA_OF_MAD = 1.4826  # of normally distributed values
_LEAST_SPREAD = 0.01  # of the median: losses may be equal for a while


class SpikeDetector:
    """Compares each loss with the last hundred by their median and median absolute deviation, which a few outliers do
    not move. It begins anew with every start of a run, so that nothing has to be saved."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._is_high = False

    def see(self, loss: float) -> float | None:
        """The median that a loss stands far above, at the first step of a spike; None else."""
        if not math.isfinite(loss):
            return None
        usual = None
        if len(self._losses) >= FEWEST_STEPS:
            middle = median(self._losses)
            spread = _SIGMA_OF_MAD * median(abs(seen - middle) for seen in self._losses)
            is_high = loss > middle + _DEVIATIONS * max(spread, _LEAST_SPREAD * abs(middle))
            usual = middle if is_high and not self._is_high else None
            self._is_high = is_high
        self._losses.append(loss)
        return usual
