"""How often the 95% intervals of an evaluation hold the truth: python benchmarks/interval_coverage.py [--sets 400]

Test sets of patients with several, correlated images are drawn from a population whose metrics are known, and each is
assessed as `bitscale evaluate` does.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split


from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.lib.results import write_result
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.progress import Progress
from data_pipelines.common.version import commit
from trainer.evaluation.assessment.assess import SHARES, assess
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.statistics.bootstrap import Ints
from trainer.evaluation.statistics.curves import observed_areas
from trainer.evaluation.statistics.predictions import Predictions

METRICS = ("auc", "ap", *SHARES)
_POPULATION = 300_000  # patients, from whom the truth is taken


@dataclass(frozen=True)
class Design:
    """A kind of test set. prevalence: share of positive images. separation: between the mean scores of positives and
    negatives, in standard deviations. correlation: of labels, and of scores, between the images of a patient.
    most_images: a patient has 1 to so many."""

    patients: int
    prevalence: float
    separation: float
    correlation: float
    most_images: int

    def draw(self, rng: np.random.Generator, patients: int) -> Predictions:
        """The predictions of one finding for the images of so many patients."""
        owner: Ints = np.repeat(np.arange(patients), rng.integers(1, self.most_images + 1, patients))

        def correlated() -> Any:
            shared = rng.normal(size=patients)[owner]
            return np.sqrt(self.correlation) * shared + np.sqrt(1 - self.correlation) * rng.normal(size=len(owner))

        positive = correlated() > stats.norm.isf(self.prevalence)
        scores = self.separation * positive + correlated()
        return Predictions(
            classes=("finding",),
            keys=tuple(map(str, range(len(owner)))),
            logits=scores[:, None].astype(np.float32),
            labels=positive[:, None].astype(np.float32),
            patients=owner,
        )


DESIGNS = (
    Design(60, 0.25, 1.2, 0.5, 3),
    Design(200, 0.1, 1.2, 0.5, 3),
    Design(200, 0.3, 0.8, 0.5, 3),
    Design(400, 0.3, 1.5, 0.5, 4),
    Design(120, 0.15, 2.5, 0.5, 2),
    Design(1000, 0.02, 1.0, 0.3, 2),
    Design(300, 0.05, 2.0, 0.3, 2),
)


@dataclass(frozen=True)
class Coverage:
    """How many sets of each design, and where the result goes."""

    sets: int = 400
    """Simulated test sets of each design."""
    resamples: int = 1000
    """Of each set."""
    seed: int = 77
    """Decides what is drawn."""
    out: Path = Path("interval_coverage.json")
    """JSON file to write; a table of the same name with .md goes beside it."""

    def __post_init__(self) -> None:
        for name in ("sets", "resamples"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}; it must be at least 1")


def true_values(population: Predictions, threshold: float) -> dict[str, float]:
    """The metrics of all patients that there are."""
    ((positive, negative),), (scores,) = population.known(), population.scores()
    auc, ap = observed_areas(scores, positive, negative)
    called = scores >= threshold
    shares = (called[positive], ~called[negative], positive[called], negative[~called])
    return {"auc": auc, "ap": ap} | {name: float(hits.mean()) for name, hits in zip(SHARES, shares, strict=True)}


def cover(design: Design, settings: Coverage) -> dict[str, Any]:
    """In which share of the sets that have an interval it holds the truth."""
    rng = np.random.default_rng(settings.seed)
    threshold = design.separation / 2
    points = OperatingPoints(thresholds={"finding": threshold})
    truth = true_values(design.draw(rng, _POPULATION), threshold)
    held, sets, positives = dict.fromkeys(METRICS, 0), dict.fromkeys(METRICS, 0), 0
    with Progress(f"{design.patients} patients", settings.sets, "set", leave=False) as bar:
        for number in range(settings.sets):
            drawn = assess(design.draw(rng, design.patients), points, settings.resamples, number).findings[0]
            positives += drawn.positives
            for name, estimate in {"auc": drawn.auc, "ap": drawn.ap, **drawn.shares}.items():
                if estimate.has_interval:
                    sets[name] += 1
                    held[name] += estimate.low <= truth[name] <= estimate.high
            bar.update()
    return {
        "design": asdict(design),
        "truth": truth,
        "mean_positives": positives / settings.sets,
        "sets_with_an_interval": sets,
        "coverage": {name: held[name] / sets[name] if sets[name] else None for name in METRICS},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The shares as Markdown."""
    lines = [f"| patients | positive images, about | true AUC | {' | '.join(METRICS)} |", "|---" * 9 + "|"]
    for row in rows:
        shares = (row["coverage"][name] for name in METRICS)
        texts = " | ".join("–" if share is None else f"{share:.1%}" for share in shares)
        design = row["design"]
        lines.append(f"| {design['patients']} | {row['mean_positives']:.0f} | {row['truth']['auc']:.2f} | {texts} |")
    return "\n".join(lines) + "\n"


@entry_point
def main() -> None:
    """Parse the command line, simulate, and write JSON and Markdown."""
    settings = parse(Coverage, __doc__)
    rows = [cover(design, settings) for design in DESIGNS]
    about = {"sets": settings.sets, "resamples": settings.resamples, "seed": settings.seed}
    result = {"benchmark": "interval_coverage", "commit": commit(), **about, "designs": rows}
    write_result(settings.out, result, table(rows))


if __name__ == "__main__":
    main()
