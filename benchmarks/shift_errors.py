"""How often an evaluation by groups warns, of sets in which nothing moved and of others:
python benchmarks/shift_errors.py [--sets 2000]

Predictions of patients with several, correlated images are drawn, calibrated and alike in all groups but maybe the
last, and compared as the groups of an evaluation are.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import expit, ndtr

from benchmarks.lib.results import write_result
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.progress import Progress
from data_pipelines.common.version import commit
from trainer.document.blocks import SIGNIFICANT
from trainer.evaluation.assessment.shifts import compare
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.statistics.bootstrap import Ints
from trainer.evaluation.statistics.predictions import Predictions

_CORRELATION = 0.5  # of log odds, and of labels beyond these, between the images of a patient
_SPREAD = 1.5  # of the log odds


@dataclass(frozen=True)
class Design:
    """A kind of set. odds: median of the log odds. most_images: a patient has 1 to so many. return_later: they may lie
    in several groups, else all are in one. moved: what differs in the last group, by `by` in log odds: the prevalence
    and with it the predictions; the labels alone (calibration); or the predictions tell nothing (slope)."""

    groups: int
    patients: int
    findings: int
    odds: float
    most_images: int = 3
    return_later: bool = False
    moved: Literal["nothing", "prevalence", "calibration", "slope"] = "nothing"
    by: float = 0.0

    def draw(self, rng: np.random.Generator) -> tuple[Predictions, Ints]:
        """The predictions and the group of each image."""
        owner: Ints = np.repeat(np.arange(self.patients), rng.integers(1, self.most_images + 1, self.patients))
        of_patient = rng.integers(0, self.groups, self.patients)
        group = rng.integers(0, self.groups, len(owner)) if self.return_later else of_patient[owner]
        is_last = (group == self.groups - 1)[:, None]
        predicted = self.odds + _SPREAD * self._correlated(rng, owner)
        predicted += self.by * (is_last & (self.moved == "prevalence"))
        true = predicted + self.by * (is_last & (self.moved == "calibration"))
        labels = ndtr(self._correlated(rng, owner)) < expit(true)
        if self.moved == "slope":
            rows = np.flatnonzero(is_last)
            predicted[rows] = predicted[rng.permutation(rows)]
        return (
            Predictions(
                classes=tuple(f"finding {number}" for number in range(self.findings)),
                keys=tuple(map(str, range(len(owner)))),
                logits=predicted.astype(np.float32),
                labels=labels.astype(np.float32),
                patients=owner,
            ),
            group,
        )

    def _correlated(self, rng: np.random.Generator, owner: Ints) -> Any:
        shared = rng.normal(size=(self.patients, self.findings))[owner]
        return np.sqrt(_CORRELATION) * shared + np.sqrt(1 - _CORRELATION) * rng.normal(size=shared.shape)


DESIGNS = (
    Design(12, 300, 1, -1.5),
    Design(12, 300, 5, -2.5),
    Design(12, 300, 1, -4.5),
    Design(2, 100, 5, -1.5),
    Design(24, 480, 2, -2.5, most_images=1),
    Design(12, 300, 3, -1.5, most_images=6, return_later=True),
    Design(12, 600, 3, -1.5, moved="prevalence", by=1.0),
    Design(12, 600, 3, -1.5, moved="calibration", by=1.0),
    Design(12, 600, 3, -1.5, moved="slope"),
)


@dataclass(frozen=True)
class ShiftErrors:
    """How many sets of each design, and where the result goes."""

    sets: int = 2000
    """Simulated sets of each design in which nothing moved; of each other a quarter of that."""
    resamples: int = 100
    """Permutations of each set."""
    seed: int = 5
    """Decides what is drawn."""
    out: Path = Path("shift_errors.json")
    """JSON file to write; a table of the same name with .md goes beside it."""

    def __post_init__(self) -> None:
        if self.sets < 1 or self.resamples < 100:
            raise InputError("--sets must be at least 1, --resamples at least 100")


def count_warnings(design: Design, settings: ShiftErrors) -> dict[str, Any]:
    """In which share of the sets anything is significant, and in which the last group is, in what moved there."""
    rng = np.random.default_rng(settings.seed)
    names = [str(number) for number in range(design.groups)]
    sets = settings.sets if design.moved == "nothing" else -(-settings.sets // 4)
    warned, named, positives = 0, 0, 0.0
    with Progress(f"{design.groups} groups", sets, "set", leave=False) as bar:
        for number in range(sets):
            predictions, group = design.draw(rng)
            places = range(design.groups)
            found = compare(predictions, OperatingPoints(), group, names, places, settings.resamples, number)
            moved = [each for each in found if each.p <= SIGNIFICANT]
            warned += bool(moved)
            named += any((each.measure, each.group) == (design.moved, names[-1]) for each in moved)
            positives += float(np.mean(predictions.labels.sum(axis=0)))
            bar.update()
    return {
        "design": asdict(design),
        "sets": sets,
        "mean_positives": positives / sets,
        "warned": warned / sets,
        "named": None if design.moved == "nothing" else named / sets,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The shares as Markdown."""
    titles = ("groups", "patients", "images of each", "findings", "positives of each, about", "moved in the last group")
    lines = [f"| {' | '.join((*titles, 'sets with a warning', 'of that'))} |", "|---" * 8 + "|"]
    for row in rows:
        design = row["design"]
        images = f"1 to {design['most_images']}{', in several groups' * design['return_later']}"
        by = f", by {design['by']:g} in log odds" if design["by"] else ""
        named = "" if row["named"] is None else f"{row['named']:.1%}"
        lines.append(
            f"| {design['groups']} | {design['patients']} | {images} | {design['findings']} | "
            f"{row['mean_positives']:.0f} | {design['moved']}{by} | {row['warned']:.1%} | {named} |"
        )
    return "\n".join(lines) + "\n"


@entry_point
def main() -> None:
    """Parse the command line, simulate, and write JSON and Markdown."""
    settings = parse(ShiftErrors, __doc__)
    rows = [count_warnings(design, settings) for design in DESIGNS]
    about = {"sets": settings.sets, "resamples": settings.resamples, "seed": settings.seed}
    write_result(settings.out, {"benchmark": "shift_errors", "commit": commit(), **about, "designs": rows}, table(rows))


if __name__ == "__main__":
    main()
