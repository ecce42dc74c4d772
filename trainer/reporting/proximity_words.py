"""Names and numbers of proximity, as tables and figures print them."""

import math

from trainer.domain_distance.proximity_file import Pair
from trainer.reporting.names import SCRATCH, source_title, split_source

MEASURE_TITLE = {
    "frechet": "Fréchet distance",
    "kernel": "kernel distance",
    "classifier": "told apart, %",
    "spectrum": "spectrum, dB",
    "grey-levels": "grey levels",
    "logme": "LogME",
    "leep": "LEEP",
    "h-score": "H-score",
    "linear-probe": "linear probe, %",
    "knn": "k-NN, %",
}
_SHARES = {"classifier", "linear-probe", "knn"}
_DIGITS, _MOST_PLACES = 3, 6
_TENTHS = 10.0  # the scale of numbers with one place


def title_of(source: str) -> str:
    """Display name of a source."""
    return source if source == SCRATCH else source_title(source, split_source(source)[1] or "")


def numbers_of(pair: Pair) -> tuple[float, float | None, float | None]:
    """Value and limits as they are printed; shares in percent."""
    factor = 100 if pair.measure in _SHARES else 1
    low, high = (None if limit is None else factor * limit for limit in (pair.low, pair.high))
    return factor * pair.value, low, high


def value_text(pair: Pair | None) -> str:
    """A measure with its interval; "" without one."""
    if pair is None:
        return ""
    value, low, high = numbers_of(pair)
    scale = max(abs(number) for number in (value, low, high) if number is not None)
    scale = _TENTHS if pair.measure in _SHARES else scale
    text = rounded(value, scale)
    return text if low is None or high is None else f"{text} [{rounded(low, scale)}, {rounded(high, scale)}]"


def rounded(value: float, scale: float) -> str:
    """A number with as many places as three significant digits of `scale` have."""
    if not math.isfinite(value):
        return str(value)
    places = _DIGITS - 1 - math.floor(math.log10(abs(scale))) if scale else 0
    return f"{value:.{min(max(places, 0), _MOST_PLACES)}f}"
