"""A claim's contrast on results: which cells it weighs, and the independent blocks of numbers that estimate it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainer.reporting.analysis.claim_file import Cells, Claim, Names

Floats = npt.NDArray[np.float64]
_FULL = "full"
_FEWEST_FOR_SPREAD = 3
_KEYS = ("source", "model", "target", "shots")


class CellKey(NamedTuple):
    """One setting over its seeds."""

    source: str
    model: str
    target: str
    shots: str

    @property
    def title(self) -> str:
        """As a message has it."""
        shots = self.shots if self.shots == _FULL else f"{self.shots}-shot"
        return f"{self.source}, {self.model} on {self.target}, {shots}"


@dataclass(frozen=True)
class Measured:
    """What was measured in some cells. values: by cell, percent by seed, without NaN; failed: runs whose metric is NaN;
    seen: cells left out, as their source has seen images of the target; shared: those in which it has, and that are
    published all the same; metrics: of each target."""

    values: Mapping[CellKey, "pd.Series[float]"]
    failed: Mapping[CellKey, int]
    seen: frozenset[CellKey]
    shared: frozenset[CellKey]
    metrics: Mapping[str, frozenset[str]]
    models: Names


def measured(runs: pd.DataFrame) -> Measured:
    """The cells of some runs of one kind: a row per run, with `source`, `model`, `target`, `shots`, `seed`, `metric`,
    `test` (a fraction), `not_a_number`, `overlap` and `shares_images`, both as `Measured` has them."""
    values, failed, seen, shared = {}, {}, set(), set()
    for names, cell in runs.groupby(list(_KEYS), sort=False):
        key = CellKey(*map(str, names))
        if (cell["overlap"] != "").any():
            seen.add(key)
            continue
        if cell["shares_images"].any():
            shared.add(key)
        tested = cell[cell["test"].notna()]
        failed[key] = int(cell["not_a_number"].sum())
        if len(tested):
            values[key] = tested.set_index("seed")["test"] * 100
    metrics = {str(target): frozenset(found) for target, found in runs.groupby("target")["metric"].unique().items()}
    return Measured(values, failed, frozenset(seen), frozenset(shared), metrics, tuple(dict.fromkeys(runs["model"])))


Weights = dict[CellKey, float]


def strata(claim: Claim, results: Measured, images: Mapping[str, float]) -> list[Weights]:
    """The contrasts that a claim averages: of each combination of what `cells` lists, the mean of the cells of `first`
    minus that of `second`."""
    dimensions = {key: _listed(key, claim.cells, results) for key in _KEYS}
    for key in _KEYS:
        if getattr(claim.first, key) or getattr(claim.second, key):
            dimensions[key] = ()
    chosen = claim.first.source_size or claim.second.source_size
    candidates = claim.cells.source
    if chosen or claim.cells.source_size:
        dimensions["source"] = ()
    size = claim.cells.source_size
    common = Cells(source=candidates if size else (), source_size=size) if size else Cells(source=candidates)
    found = []
    for values in product(*(dimensions[key] or ("",) for key in _KEYS)):
        fixed = dict(zip(_KEYS, values, strict=True))
        weights: Weights = defaultdict(float)
        for side, sign in ((claim.first, 1.0), (claim.second, -1.0)):
            cells = _cells_of(side, common, fixed, results, images)
            for cell in cells:
                weights[cell] += sign / len(cells)
        found.append(dict(weights))
    return found


def _listed(key: str, cells: Cells, results: Measured) -> Names:
    names: Names = getattr(cells, key)
    return results.models if key == "model" and not names else names


def _cells_of(
    side: Cells, common: Cells, fixed: Mapping[str, str], results: Measured, images: Mapping[str, float]
) -> list[CellKey]:
    """The cells of one side of a stratum."""
    size = side.source_size or common.source_size
    lists = {key: getattr(side, key) or ((fixed[key],) if fixed[key] else ()) for key in _KEYS}
    lists["source"] = lists["source"] or common.source
    if size is None:
        return [CellKey(*values) for values in product(*(lists[key] for key in _KEYS))]
    pick: Callable[..., str] = min if size == "smallest" else max
    cells = []
    for values in product(*(lists[key] for key in _KEYS[1:])):
        there = [source for source in lists["source"] if CellKey(source, *values) in results.values]
        cells.append(CellKey(pick(there or lists["source"], key=lambda name: images[name]), *values))
    return cells


def average(contrasts: Sequence[Weights]) -> Weights:
    """The mean of some contrasts as one."""
    weights: Weights = defaultdict(float)
    for contrast in contrasts:
        for cell, weight in contrast.items():
            weights[cell] += weight / len(contrasts)
    return {cell: weight for cell, weight in weights.items() if abs(weight) > 1e-12}


@dataclass(frozen=True)
class Block:
    """Numbers of independent seeds; their mean is a part of a contrast. cells: whose seeds they are."""

    numbers: Floats
    cells: tuple[CellKey, ...]


def blocks(weights: Weights, results: Measured, paired: bool | None) -> list[Block]:
    """The independent parts of a contrast of means.

    Runs of one target with the same seed are trained on the same images where not all are used: their weighted sum is
    one number per seed, over all of these cells. With all images a seed draws none, and each cell is a part by itself.
    paired: otherwise for all cells, or for none.
    """
    groups: dict[object, list[CellKey]] = defaultdict(list)
    for cell in weights:
        is_paired = cell.shots != _FULL if paired is None else paired
        groups[cell.target if is_paired else cell].append(cell)
    found = []
    for cells in groups.values():
        together = [cells] if len(_common_seeds(cells, results)) > 1 else [[cell] for cell in cells]
        found += [_block(part, weights, results) for part in together]
    return found


def _block(cells: Sequence[CellKey], weights: Weights, results: Measured) -> Block:
    seeds = _common_seeds(cells, results)
    parts = [weights[cell] * _numbers(cell, seeds, results) for cell in cells]
    return Block(np.sum(parts, axis=0), tuple(cells))


def spread_blocks(weights: Weights, results: Measured) -> list[Block]:
    """The independent parts, one per target, of a contrast of logarithms of standard deviations over seeds, by their
    jackknife values (Miller 1968), for which it takes three seeds. The variances of a target's cells are averaged on
    each side."""
    groups: dict[str, list[CellKey]] = defaultdict(list)
    for cell in weights:
        groups[cell.target].append(cell)
    return [_spread_block(cells, weights, results) for cells in groups.values()]


def _spread_block(cells: Sequence[CellKey], weights: Weights, results: Measured) -> Block:
    seeds = _common_seeds(cells, results)
    numbers = np.array([_numbers(cell, seeds, results) for cell in cells])
    if len(seeds) < _FEWEST_FOR_SPREAD:
        return Block(np.full(len(seeds), np.nan), tuple(cells))
    sides = np.array([weights[cell] for cell in cells])

    def contrast(values: Floats) -> float:
        variances, total = values.var(axis=1, ddof=1), 0.0
        for sign in (1, -1):
            share = np.maximum(sign * sides, 0)
            if share.any():
                total += sign * share.sum() * float(np.log(share @ variances / share.sum())) / 2
        return total

    with np.errstate(divide="ignore", invalid="ignore"):
        without = [contrast(np.delete(numbers, place, axis=1)) for place in range(len(seeds))]
        values = len(seeds) * contrast(numbers) - (len(seeds) - 1) * np.array(without)
    return Block(np.where(np.isfinite(values), values, np.nan), tuple(cells))


def _common_seeds(cells: Sequence[CellKey], results: Measured) -> list[int]:
    return sorted(set.intersection(*(set(results.values[cell].index) for cell in cells)))


def _numbers(cell: CellKey, seeds: Sequence[int], results: Measured) -> Floats:
    return np.array(results.values[cell].loc[list(seeds)], dtype=np.float64)
