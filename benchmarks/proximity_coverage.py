"""How often the interval of the kernel distance holds the truth: python benchmarks/proximity_coverage.py

Two samples are drawn from normal distributions whose distance is known in closed form, and measured as `bitscale
proximity` does.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.results import write_result
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.progress import Progress
from data_pipelines.common.version import commit
from trainer.domain_distance.moments import Features, Floats
from trainer.domain_distance.two_samples import kernel_distance

_WIDTH, _MEAN = 16, 0.5  # as pooled activations after a ReLU: few directions with much variance, and none of mean zero


@dataclass(frozen=True)
class Design:
    """Sizes of both samples, and how far their means lie apart in each feature."""

    first: int
    second: int
    shift: float

    def draw(self, rng: np.random.Generator) -> tuple[Features, Features]:
        """float32 [first, 16] and [second, 16]."""
        spread, means = np.sqrt(_variances()), (_MEAN, _MEAN + self.shift)
        first, second = (
            (rng.normal(size=(count, _WIDTH)) * spread + mean).astype(np.float32)
            for count, mean in zip((self.first, self.second), means, strict=True)
        )
        return first, second

    def truth(self) -> float:
        """The squared distance of both distributions."""
        one, other = (np.full(_WIDTH, mean) for mean in (_MEAN, _MEAN + self.shift))
        return _mean_kernel(one, one) + _mean_kernel(other, other) - 2 * _mean_kernel(one, other)


DESIGNS = tuple(
    Design(*sizes, shift) for sizes in ((20, 60), (100, 100), (200, 1000), (1000, 1000)) for shift in (0.0, 0.1, 0.3)
)


def _variances() -> Floats:
    return 1 / np.arange(1.0, _WIDTH + 1)


def _mean_kernel(one: Floats, other: Floats) -> float:
    """Mean of (x.y / D + 1)^3 over independent normal x and y with these means, by the moments of x.y."""
    variances, product = _variances(), float(one @ other)
    both = float(np.square(variances).sum())
    of_one, of_other = float(variances @ np.square(one)), float(variances @ np.square(other))
    crossed = float(np.square(variances) @ (one * other))
    second = product**2 + of_one + of_other + both
    third = product**3 + 3 * product * (of_one + of_other + both) + 6 * crossed
    return third / _WIDTH**3 + 3 * second / _WIDTH**2 + 3 * product / _WIDTH + 1


@dataclass(frozen=True)
class Coverage:
    """How many pairs of samples of each design, and where the result goes."""

    samples: int = 2000
    seed: int = 7
    out: Path = Path("proximity_coverage.json")
    """JSON file to write; a table of the same name with .md goes beside it."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise InputError(f"--samples is {self.samples}; it must be at least 2")


def cover(design: Design, samples: int, seed: int) -> dict[str, Any]:
    """Share of samples whose interval holds the truth, and the mean of their values with its standard error."""
    rng, truth, held = np.random.default_rng(seed), design.truth(), 0
    values = np.empty(samples)
    with Progress(f"{design.first} and {design.second} images", samples, "sample", leave=False) as progress:
        for number in range(samples):
            found = kernel_distance(*design.draw(rng))
            assert found.low is not None
            assert found.high is not None
            values[number] = found.value
            held += found.low <= truth <= found.high
            progress.update()
    mean = {"mean": float(values.mean()), "standard_error": float(values.std(ddof=1)) / samples**0.5}
    return {"design": asdict(design), "truth": truth, **mean, "coverage": held / samples}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| images | shift | true distance | mean ± standard error | 95% interval holds it |", "|---" * 5 + "|"]
    for row in rows:
        design = row["design"]
        lines.append(
            f"| {design['first']} and {design['second']} | {design['shift']} | {row['truth']:.4f} | "
            f"{row['mean']:.4f} ± {row['standard_error']:.4f} | {row['coverage']:.1%} |"
        )
    return "\n".join(lines) + "\n"


@entry_point
def main() -> None:
    """Parse the command line, simulate, and write JSON and Markdown."""
    settings = parse(Coverage, __doc__)
    rows = [cover(design, settings.samples, settings.seed + place) for place, design in enumerate(DESIGNS)]
    about = {"samples": settings.samples, "seed": settings.seed}
    write_result(
        settings.out, {"benchmark": "proximity_coverage", "commit": commit(), **about, "designs": rows}, table(rows)
    )


if __name__ == "__main__":
    main()
