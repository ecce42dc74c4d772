"""proximity.json: every measured distance, for the report and for other programs."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json

FORMAT = 1
NUMBERS = "proximity.json"
KINDS = ("common", "own", "random", "pixels")
DISTANCES = ("frechet", "kernel", "classifier", "spectrum", "grey-levels")
FITS = ("logme", "leep", "h-score", "linear-probe", "knn")


@dataclass(frozen=True)
class Pair:
    """One measure between a source and a target. features: what it was measured in, of `KINDS`. low, high: its 95%
    interval, None without one. Measures with labels are of the network that `source` names and the target."""

    source: str
    target: str
    features: str
    measure: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Distances:
    """networks: name, fingerprint and kind of each. sources, targets: images and fingerprint of each, by name. notes:
    what must be known to read the numbers."""

    networks: list[dict[str, str]]
    sources: dict[str, dict[str, Any]]
    targets: dict[str, dict[str, Any]]
    pairs: list[Pair]
    notes: list[str] = field(default_factory=list)

    def of(self, features: str, measure: str) -> dict[tuple[str, str], Pair]:
        """The pairs of one measure, by source and target."""
        found = [pair for pair in self.pairs if (pair.features, pair.measure) == (features, measure)]
        return {(pair.source, pair.target): pair for pair in found}

    def network(self, kind: str) -> str:
        """The name of the first network of a kind; "" without one."""
        return next((each["name"] for each in self.networks if each["kind"] == kind), "")


def write_distances(found: Distances, path: Path) -> None:
    """Write the file atomically."""
    write_json(path, {"format": FORMAT, **asdict(found)})


def read_distances(path: Path) -> Distances:
    """Read a file, or that in a folder of `bitscale proximity`. Raises InputError for anything else."""
    path = path / NUMBERS if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InputError(f"{path} has format {content['format']!r}; this version reads format {FORMAT}")
        pairs = [Pair(**pair) for pair in content["pairs"]]
        _require_numbers(pairs)
        return Distances(
            networks=[{key: str(each[key]) for key in ("name", "fingerprint", "kind")} for each in content["networks"]],
            sources=dict(content["sources"]),
            targets=dict(content["targets"]),
            pairs=pairs,
            notes=list(map(str, content.get("notes", []))),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, AttributeError) as error:
        raise InputError(
            f"{path} is no {NUMBERS} as the command proximity writes it ({type(error).__name__}: {error}); make it anew"
        ) from error


def _require_numbers(pairs: Sequence[Pair]) -> None:
    """Raise TypeError or OverflowError for pairs of other types."""
    for pair in pairs:
        numbers = (pair.value, *(limit for limit in (pair.low, pair.high) if limit is not None))
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
            raise TypeError(f"{pair} holds what is no finite number")
        if not all(isinstance(text, str) for text in (pair.source, pair.target, pair.features, pair.measure)):
            raise TypeError(f"{pair} has a name that is no text")
