"""Claims judged on results: effects, p values corrected over all claims, verdicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from data_pipelines.common.message_parts import nearest, some_of
from trainer.reporting.analysis.claim_file import Claim, ClaimFile
from trainer.reporting.analysis.contrasts import (
    Block,
    CellKey,
    Measured,
    Weights,
    average,
    blocks,
    measured,
    spread_blocks,
    strata,
)
from trainer.reporting.analysis.estimates import Estimate, estimate

ALPHA = 0.05
SUPPORTED, CONTRADICTED = "supported", "contradicted"
EQUIVALENT = "no difference (equivalence shown)"
UNDECIDED, NOT_TESTED = "undecided", "not tested"
_MOST_NAMED = 4


@dataclass(frozen=True)
class Judged:
    """A claim on results of one kind.

    verdict: one of the five words above. reason: why it is not tested, or why the seeds cannot decide. effect, low,
    high: in points, of a spread as a ratio; NaN without. cells: the effect of each combination that is averaged. p:
    corrected, of the test that the verdict is by. smallest: the effect, or of an equality the margin, that these seeds
    could have shown. method: of the test. notes: what else to know.
    """

    claim: Claim
    verdict: str
    reason: str = ""
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    cells: tuple[float, ...] = ()
    p: float = math.nan
    smallest: float = math.nan
    seeds: tuple[int, int] = (0, 0)
    method: str = ""
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What the effect is in."""
        return "times" if self.claim.statistic == "spread" else "points"

    @property
    def holds(self) -> bool | None:
        """Whether it is as the claim says; None where that is open."""
        if self.verdict in (UNDECIDED, NOT_TESTED):
            return None
        return self.verdict == (EQUIVALENT if self.claim.direction == "equal" else SUPPORTED)

    @property
    def text(self) -> str:
        """The verdict in full."""
        if self.verdict not in (UNDECIDED, NOT_TESTED):
            return self.verdict
        if self.reason:
            return f"{self.verdict}: {self.reason}"
        what = "margin" if self.claim.direction == "equal" else "effect"
        where = " in a single cell" if self.claim.direction == "inconsistent" else ""
        return f"{UNDECIDED}, smallest {what} these seeds could have shown: {self.smallest:.2f}{where}"


@dataclass(frozen=True)
class _Tested:
    """A claim with its estimates, before the correction. tests: the p value of each verdict that can be shown."""

    claim: Claim
    estimate: Estimate
    cells: tuple[Estimate, ...]
    tests: dict[str, float]
    parts: tuple[Block, ...]
    notes: tuple[str, ...] = field(default=())


def judge(file: ClaimFile, runs: pd.DataFrame) -> list[Judged]:
    """Judge claims by runs of one kind (see `measured`); the p values are corrected over those that can be tested."""
    results = measured(runs)
    prepared = [_prepared(claim, results, file) for claim in file.claim]
    tested = [one for one in prepared if isinstance(one, _Tested)]
    corrected, rest = correct([list(one.tests.values()) for one in tested])
    judged = iter([_judged(one, ps, ALPHA / rest) for one, ps in zip(tested, corrected, strict=True)])
    return [next(judged) if isinstance(one, _Tested) else one for one in prepared]


def correct(families: Sequence[Sequence[float]]) -> tuple[list[list[float]], int]:
    """p values corrected by Holm's method, those of each claim in a list; and what the smallest of those above 0.05 was
    multiplied by.

    The null hypotheses of one claim exclude each other, so no more can be true at once than there are claims (Shaffer
    1986): a p value is multiplied by the number of claims, or of the tests left, whichever is less.
    """
    flat = sorted((p, place, number) for place, ps in enumerate(families) for number, p in enumerate(ps))
    corrected = [[math.nan] * len(ps) for ps in families]
    largest, rest = 0.0, 1
    for rank, (p, place, number) in enumerate(flat):
        factor = min(len(families), len(flat) - rank)
        rest = factor if largest < ALPHA else rest
        largest = max(largest, min(1.0, p * factor))
        corrected[place][number] = largest
    return corrected, rest


def _prepared(claim: Claim, results: Measured, file: ClaimFile) -> Judged | _Tested:
    contrasts = strata(claim, results, file.source_images)
    weights = average(contrasts)
    if reason := _missing(weights, results):
        return Judged(claim, NOT_TESTED, reason)
    if reason := _different_metrics(weights, results):
        return Judged(claim, NOT_TESTED, reason)
    of_spread = claim.statistic == "spread"

    def parts_of(contrast: Weights) -> list[Block]:
        return spread_blocks(contrast, results) if of_spread else blocks(contrast, results, claim.paired)

    parts = parts_of(weights)
    effect = estimate([part.numbers for part in parts])
    cells = tuple(
        estimate([part.numbers for part in parts_of(contrast)]) for contrast in contrasts if any(contrast.values())
    )
    notes = _notes(weights, parts, results)
    is_testable = all(cell.is_testable for cell in cells) if claim.direction == "inconsistent" else effect.is_testable
    if not is_testable:
        shown = np.exp(effect.effect) if of_spread else effect.effect
        found = tuple(float(np.exp(one.effect)) if of_spread else one.effect for one in cells)
        reason = _no_spread(parts, of_spread)
        return Judged(claim, UNDECIDED, reason, float(shown), cells=found, seeds=_seeds(parts), notes=notes)
    return _Tested(claim, effect, cells, _tests(claim, effect, cells), tuple(parts), notes)


def _missing(weights: Weights, results: Measured) -> str:
    """Why cells of a claim have no results; empty if all have."""
    seen = [cell.title for cell in weights if cell in results.seen]
    if seen:
        return f"the source has seen images of the target: {_listed(seen)}"
    missing = [cell for cell in weights if cell not in results.values]
    failed = [cell.title for cell in missing if results.failed.get(cell)]
    if failed:
        return f"only NaN for {_listed(failed)}"
    return f"no results for {_listed([cell.title for cell in missing])}{_meant(missing, results)}" if missing else ""


def _meant(missing: Sequence[CellKey], results: Measured) -> str:
    """Which name of the results was meant by the first that they do not have; empty if none is near."""
    for key in CellKey._fields:
        known = {getattr(cell, key) for cell in results.values}
        for name in dict.fromkeys(getattr(cell, key) for cell in missing):
            hint = "" if name in known else nearest(name, sorted(known))
            if "did you mean" in hint:
                return f"; no {key} of the results is called {name!r}{hint}"
    return ""


def _different_metrics(weights: Weights, results: Measured) -> str:
    targets = sorted({cell.target for cell in weights if len(results.metrics[cell.target]) > 1})
    return f"runs of different metrics on {_listed(targets)}" if targets else ""


def _no_spread(parts: Sequence[Block], of_spread: bool) -> str:
    """Why these seeds give no test."""
    needed = 3 if of_spread else 2
    few = [cell.title for part in parts if len(part.numbers) < needed for cell in part.cells]
    if few:
        seeds = "fewer than three seeds" if of_spread else "one seed only"
        return f"{seeds} in {_listed(few)}; a test needs {'three' if of_spread else 'two'}"
    return "the seeds all give the same value, so that there is no spread to judge by"


def _notes(weights: Weights, parts: Sequence[Block], results: Measured) -> tuple[str, ...]:
    notes = []
    failed = [f"{cell.title} ({results.failed[cell]})" for cell in weights if results.failed.get(cell)]
    if failed:
        notes.append(f"NaN, left out: {_listed(failed)}")
    shared = list(dict.fromkeys(f"{cell.source} on {cell.target}" for cell in weights if cell in results.shared))
    if shared:
        notes.append(f"Source and target share images in {_listed(shared)}")
    for part in parts:
        most = max(len(results.values[cell]) for cell in part.cells)
        if len(part.numbers) < most:
            notes.append(f"On {part.cells[0].target} {len(part.numbers)} of {most} seeds, those that all cells have")
    return tuple(notes)


def _seeds(parts: Sequence[Block]) -> tuple[int, int]:
    counts = [len(part.numbers) for part in parts]
    return min(counts), max(counts)


def _tests(claim: Claim, effect: Estimate, cells: Sequence[Estimate]) -> dict[str, float]:
    """The p values, before the correction, of the verdicts that can be shown of a claim."""
    if claim.direction == "inconsistent":
        above = [cell.p_above for cell in cells]
        below = [1 - p for p in above]
        some_each_way = max(min(1.0, len(cells) * min(ps)) for ps in (above, below))
        all_one_way = min(1.0, 2 * min(max(above), max(below)))
        return {SUPPORTED: some_each_way, CONTRADICTED: all_one_way}
    if claim.direction == "equal":
        assert claim.margin is not None, "the file says it"
        return {EQUIVALENT: effect.p_equivalence(claim.margin), CONTRADICTED: effect.p_beyond(claim.margin)}
    wanted = 1 if claim.direction == "higher" else -1
    found = {SUPPORTED if effect.effect * wanted > 0 else CONTRADICTED: effect.p_difference}
    return found | ({EQUIVALENT: effect.p_equivalence(claim.margin)} if claim.margin is not None else {})


def _judged(one: _Tested, corrected: Sequence[float], level: float) -> Judged:
    ps = dict(zip(one.tests, corrected, strict=True))
    shown = [verdict for verdict, p in ps.items() if p < ALPHA]
    verdict = shown[0] if shown else UNDECIDED
    notes = one.notes
    if len(shown) > 1:
        notes += ("Smaller than the margin, all the same",)
    low, high = one.estimate.interval
    numbers = np.array([one.estimate.effect, low, high])
    cells = np.array([cell.effect for cell in one.cells])
    smallest = _smallest(one, level) if verdict == UNDECIDED else math.nan
    if one.claim.statistic == "spread":
        numbers, cells, smallest = np.exp(numbers), np.exp(cells), math.exp(smallest)
    effect, low, high = numbers.tolist()
    return Judged(
        one.claim,
        verdict,
        effect=effect,
        low=low,
        high=high,
        cells=tuple(cells.tolist()),
        p=ps[verdict] if shown else next(iter(ps.values())),
        smallest=smallest,
        seeds=_seeds(one.parts),
        method=_method(one),
        notes=notes,
    )


def _smallest(one: _Tested, level: float) -> float:
    """What the seeds could have shown with 80% power."""
    if one.claim.direction == "equal":
        return one.estimate.detectable_margin(level)
    if one.claim.direction == "inconsistent":
        return float(np.median([cell.detectable(2 * level / len(one.cells)) for cell in one.cells]))
    return one.estimate.detectable(level)


def _method(one: _Tested) -> str:
    """How the seeds were compared."""
    if one.claim.statistic == "spread":
        return "jackknife over seeds"
    paired = [len(part.cells) > 1 for part in one.parts]
    if all(paired):
        return "paired by seed"
    return "Welch" if not any(paired) else "in part paired by seed"


def _listed(names: Sequence[str]) -> str:
    return some_of(names, _MOST_NAMED, "; ")
