"""The flags that decide the thresholds. Without PyTorch, which their help does not need."""

from dataclasses import dataclass
from pathlib import Path

from data_pipelines.common.errors import InputError


@dataclass(frozen=True)
class ThresholdChoice:
    """thresholds, by default of the largest sensitivity + specificity - 1 on val"""

    at_sensitivity: float | None = None
    """Take the highest thresholds at which the sensitivity on val is at least this, such as 0.95."""
    at_specificity: float | None = None
    """Take the lowest thresholds at which the specificity on val is at least this."""
    thresholds: Path | None = None
    """Take them from a CSV file with the columns name (of a class or finding) and threshold, a calibrated probability
    as in predictions.csv. Findings that it does not name keep theirs."""

    def __post_init__(self) -> None:
        given = {
            "--at-sensitivity": self.at_sensitivity,
            "--at-specificity": self.at_specificity,
            "--thresholds": self.thresholds,
        }
        named = [flag for flag, value in given.items() if value is not None]
        if len(named) > 1:
            raise InputError(f"{' and '.join(named)} exclude each other; give one of them")
        for flag in ("--at-sensitivity", "--at-specificity"):
            value = given[flag]
            if isinstance(value, float) and not 0 < value <= 1:
                raise InputError(f"{flag} is {value:g}; it must lie above 0 and be at most 1")
