"""Memory and time of `bitscale proximity` beyond its features: python benchmarks/proximity_memory.py

Every distance between two sets of made-up features, and every measure with labels, one after the other.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.lib.results import header, write_result
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from trainer.domain_distance.labelled import Problem, fits
from trainer.domain_distance.moments import Features, Moments, frechet_distance
from trainer.domain_distance.two_samples import classifier_accuracy, kernel_distance

_KILOBYTE, _GIGABYTE = 1 << 10, 1 << 30  # ru_maxrss is in the former


@dataclass(frozen=True)
class Memory:
    """How large the sets are, and where the result goes."""

    images: int = 100_000
    """Of each of both sets."""
    width: int = 2048
    """Features of an image."""
    classes: int = 10
    out: Path = Path("proximity_memory.json")
    """JSON file to write; a table of the same name with .md goes beside it."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.classes < 2 or self.images < 2 * self.classes:
            raise InputError("--width must be at least 1, --classes 2, and --images twice --classes")


def made_features(images: int, width: int, shift: float, seed: int) -> Features:
    """float32 [images, width], made in place."""
    features = np.empty((images, width), dtype=np.float32)
    np.random.default_rng(seed).standard_normal(dtype=np.float32, out=features)
    features += shift
    return features


def measure(settings: Memory) -> list[dict[str, float | str]]:
    """Seconds of each measure, and the highest memory so far beyond the features, GiB."""
    one, other = (made_features(settings.images, settings.width, 0.02 * seed, seed) for seed in (0, 1))
    labels = np.arange(settings.images) % settings.classes
    problem = Problem(np.arange(settings.images), labels, settings.classes, is_finding=False)
    head = (other[: settings.classes].copy(), np.zeros(settings.classes, dtype=np.float32))
    before = _peak_bytes()
    measures: dict[str, Callable[[], object]] = {
        "Fréchet distance": lambda: frechet_distance(Moments.of(one), Moments.of(other)),
        "kernel distance": lambda: kernel_distance(one, other),
        "classifier": lambda: classifier_accuracy(one, other),
        "measures with labels": lambda: fits(other, [problem], head, seed=0),
    }
    rows: list[dict[str, float | str]] = []
    for name, run in measures.items():
        started = time.monotonic()
        run()
        rows.append(
            {"measure": name, "seconds": time.monotonic() - started, "gib": (_peak_bytes() - before) / _GIGABYTE}
        )
        logger.info(f"{name}: {rows[-1]['seconds']:.0f} s, so far {rows[-1]['gib']:.2f} GiB beyond the features")
    return rows


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILOBYTE


@entry_point
def main() -> None:
    """Parse the command line, measure, and write JSON and Markdown."""
    settings = parse(Memory, __doc__)
    rows = measure(settings)
    lines = ["| measure | seconds | highest memory so far beyond the features, GiB |", "|---|---|---|"]
    lines += [f"| {row['measure']} | {row['seconds']:.0f} | {row['gib']:.2f} |" for row in rows]
    sizes = {key: value for key, value in asdict(settings).items() if key != "out"}
    write_result(settings.out, header("proximity_memory") | sizes | {"rows": rows}, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
