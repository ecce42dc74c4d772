"""How often prediction sets hold the truth: python benchmarks/set_coverage.py [--runs RUN ...]

Val and test sets of patients with several, correlated images are drawn; what val decides is fitted as a run does it,
and judged as `bitscale evaluate` does. Beside the coverage stands the most that it can be on average. With --runs, the
images of val and test of finished runs are parted anew, by patient, 20 times.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.lib.results import header, write_result
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.progress import Progress
from trainer.evaluation.assessment.set_coverage import set_coverage
from trainer.evaluation.calibration.coverages import COVERAGE, ROUNDING
from trainer.evaluation.calibration.operating import fit_operating_points
from trainer.evaluation.statistics.bootstrap import Ints, clusters_of
from trainer.evaluation.statistics.predictions import Predictions, concat_predictions, load_predictions

_NEW_PATIENTS, _SPLITS, _BAND = 200, 20, 0.99


@dataclass(frozen=True)
class Design:
    """A kind of set. patients: of val. most_images: a patient has 1 to so many, alike by `correlation` in labels and in
    scores. classes: of which each image has one; 0 for a finding of that prevalence."""

    patients: int
    most_images: int
    classes: int
    prevalence: float = 0.0
    correlation: float = 0.5

    def draw(self, rng: np.random.Generator, patients: int) -> Predictions:
        """The predictions for the images of so many patients."""
        owner: Ints = np.repeat(np.arange(patients), rng.integers(1, self.most_images + 1, patients))

        def correlated(columns: int) -> Any:
            shared = rng.normal(size=(patients, columns))[owner]
            alone = rng.normal(size=(len(owner), columns))
            return np.sqrt(self.correlation) * shared + np.sqrt(1 - self.correlation) * alone

        keys = tuple(map(str, range(len(owner))))
        if not self.classes:
            labels = (correlated(1) > stats.norm.isf(self.prevalence)).astype(np.float32)
            logits = (1.5 * labels + correlated(1)).astype(np.float32)
            return Predictions(("finding",), keys, logits, labels, owner)
        frequency = np.log(np.arange(self.classes, 0, -1))
        labels = (frequency + correlated(self.classes)).argmax(axis=1)
        # Too sure of themselves by far: the temperature is fitted on the same val.
        logits = 4 * (1.5 * np.eye(self.classes)[labels] + correlated(self.classes))
        return Predictions(tuple(map(str, range(self.classes))), keys, logits.astype(np.float32), labels, owner)


DESIGNS = (
    Design(60, 1, 3),
    Design(60, 5, 3),
    Design(200, 1, 5),
    Design(300, 4, 3),
    Design(300, 1, 0, 0.3),
    Design(300, 3, 0, 0.1),
    Design(1000, 2, 0, 0.05),
)


@dataclass(frozen=True)
class SetCoverage:
    """How many simulations of each design, the runs, and where the result goes."""

    simulations: int = 2000
    """Of each design."""
    runs: tuple[Path, ...] = ()
    """Run folders with predictions for val and test."""
    seed: int = 11
    """Decides what is drawn, and how the images of runs are parted."""
    out: Path = Path("set_coverage.json")
    """JSON file to write; a table of the same name with .md goes beside it."""

    def __post_init__(self) -> None:
        if self.simulations < 2:
            raise InputError(f"--simulations is {self.simulations}; it must be at least 2")


class Found(NamedTuple):
    """units: patients of val that decided on the threshold. patients: whose images are covered. size: mean of sets."""

    coverage: float
    units: int
    patients: int
    size: float


def coverages(val: Predictions, new: Predictions) -> dict[str, Found]:
    """What new images show of each label that is promised something."""
    points = fit_operating_points(val)
    rows = set_coverage(new, points.set_rule(val.classes, val.task, None), 1, 0).rows
    rows = rows[:1] if val.task == "single_label" else rows
    units = [points.sets.get(row.name, next(iter(points.sets.values()))).units for row in rows]
    found = zip(rows, units, strict=True)
    return {row.name: Found(row.coverage.value, own, row.patients, row.mean_size) for row, own in found if row.patients}


def most_expected(units: int, most_images: int) -> float:
    """The most that the coverage can be on average over val sets of so many patients, if no scores are equal.

    With one image a patient it is the coverage itself. With several, all images of the new patient count as uncovered,
    which costs less than one patient, and so does rounding: Lee, Barber and Willett, arXiv:2306.06342.
    """
    return _rank(units) / (units + 1) if most_images == 1 else COVERAGE + 2 / (units + 1)


def _rank(units: int) -> int:
    """Place of the threshold among the scores of so many patients with one image each, the most usual first."""
    return math.ceil((units + 1) * COVERAGE - ROUNDING)


def simulate(design: Design, settings: SetCoverage) -> list[dict[str, Any]]:
    """The mean coverage over simulations, for each label that is promised something; `most` is what it can be."""
    rng = np.random.default_rng(settings.seed)
    found: dict[str, list[Found]] = {}
    label = f"{design.patients} patients, {design.most_images} images"
    with Progress(label, settings.simulations, "set", leave=False) as bar:
        for _ in range(settings.simulations):
            drawn = coverages(design.draw(rng, design.patients), design.draw(rng, _NEW_PATIENTS))
            for name, values in drawn.items():
                found.setdefault(name, []).append(values)
            bar.update()
    rows = []
    for name, each in found.items():
        share, units, _, size = np.array(each).T
        error = float(share.std(ddof=1)) / len(share) ** 0.5
        most = float(np.mean([most_expected(one.units, design.most_images) for one in each]))
        mean = {"coverage": float(share.mean()), "standard_error": error, "most": most, "units": float(units.mean())}
        mean["mean_size"] = float(size.mean())
        rows.append({"design": asdict(design), "label": name, "simulations": len(share), **mean})
    return rows


def part_anew(run: Path, seed: int) -> list[dict[str, Any]]:
    """The images of val and test of a run, parted 20 times by patient into a new val and a new test of the same sizes:
    the coverage of each, the binomial band in which 99% of such coverages lie if the threshold is exact, and the
    beta-binomial one of a threshold from so many patients."""
    parts = [load_predictions(run, "val"), load_predictions(run, "test")]
    pooled, rng = concat_predictions(parts), np.random.default_rng(seed)
    clusters = clusters_of(pooled.patients)
    number = int(clusters.max()) + 1
    share = len(np.unique(clusters[: len(parts[0])])) / number
    found = []
    for split in range(_SPLITS):
        is_val = rng.permutation(number)[clusters] < round(share * number)
        val, new = (pooled.take(np.flatnonzero(rows)) for rows in (is_val, ~is_val))
        for name, each in coverages(val, new).items():
            found.append({"run": run.name, "split": split, "label": name, **each._asdict(), **_bands(each)})
    return found


def _bands(found: Found) -> dict[str, Any]:
    rank = _rank(found.units)
    exact = stats.binom(found.patients, COVERAGE)
    drawn = stats.betabinom(found.patients, rank, found.units + 1 - rank)
    tails = [(1 - _BAND) / 2, (1 + _BAND) / 2]
    bands = {name: (each.ppf(tails) / found.patients).tolist() for name, each in (("exact", exact), ("drawn", drawn))}
    inside = {f"inside_{name}": bool(low <= found.coverage <= high) for name, (low, high) in bands.items()}
    return {f"band_{name}": band for name, band in bands.items()} | inside


def table(rows: Sequence[dict[str, Any]], splits: Sequence[dict[str, Any]]) -> str:
    """Simulations and splits as Markdown."""
    titles = ("val", "true label", "patients that decide", "coverage ± standard error", "at most", "mean size")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        design = row["design"]
        images = "an image" if design["most_images"] == 1 else f"1 to {design['most_images']} images"
        kind = f"{design['classes']} classes" if design["classes"] else f"prevalence {design['prevalence']:g}"
        lines.append(
            f"| {design['patients']} patients of {images}, {kind} | {row['label']} | {row['units']:.0f} | "
            f"{row['coverage']:.2%} ± {row['standard_error']:.2%} | {row['most']:.2%} | {row['mean_size']:.2f} |"
        )
    if splits:
        columns = (
            f"mean coverage of {_SPLITS} splits",
            "least to most",
            "in the binomial band",
            "in the beta-binomial one",
        )
        lines += ["", f"| run | true label | {' | '.join(columns)} |", "|---" * 6 + "|"]
    for run, label in dict.fromkeys((row["run"], row["label"]) for row in splits):
        own = [row for row in splits if (row["run"], row["label"]) == (run, label)]
        shares = [row["coverage"] for row in own]
        inside, drawn = (sum(row[f"inside_{name}"] for row in own) for name in ("exact", "drawn"))
        spread = f"{min(shares):.1%} to {max(shares):.1%}"
        lines.append(
            f"| {run} | {label} | {np.mean(shares):.1%} | {spread} | {inside} of {len(own)} | {drawn} of {len(own)} |"
        )
    return "\n".join(lines) + "\n"


@entry_point
def main() -> None:
    """Parse the command line, simulate, and write JSON and Markdown."""
    settings = parse(SetCoverage, __doc__)
    splits = [row for run in settings.runs for row in part_anew(run, settings.seed)]
    rows = [row for design in DESIGNS for row in simulate(design, settings)]
    about = {"simulations": settings.simulations, "seed": settings.seed, "promised": COVERAGE, "band": _BAND}
    write_result(
        settings.out, header("set_coverage") | about | {"designs": rows, "splits": splits}, table(rows, splits)
    )


if __name__ == "__main__":
    main()
