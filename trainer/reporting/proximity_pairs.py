"""Proximities of sources and targets as factors of the joint law."""

from collections.abc import Iterable

import pandas as pd

from trainer.domain_distance.proximity_file import DISTANCES, FITS, KINDS, Distances
from trainer.reporting.names import SCRATCH, TARGET_TITLE, listed, source_title

_MEASURES = (*DISTANCES, *FITS)


def factors(found: Distances) -> list[tuple[str, str]]:
    """The (measure, features) whose values compare over sources: distances in each source's own features do not."""
    known = {(pair.measure, pair.features) for pair in found.pairs}
    compare = {pair for pair in known if pair[1] != "own" or pair[0] not in DISTANCES}
    return sorted(compare, key=lambda pair: (_MEASURES.index(pair[0]), KINDS.index(pair[1])))


def values_of(found: Distances, measure: str, features: str, cells: pd.DataFrame) -> pd.Series:
    """The value of one measure for each row of a table with source, model, title and target, or NaN."""
    pairs = {names: pair.value for names, pair in found.of(features, measure).items()}
    rows = cells[["source", "model", "title", "target"]].itertuples(index=False, name=None)
    values = [
        _value(pairs, (title, source, source_title(source, model)), (target, TARGET_TITLE.get(target, target)))
        for source, model, title, target in rows
    ]
    return pd.Series(values, index=cells.index, dtype=float)


def _value(pairs: dict[tuple[str, str], float], sources: tuple[str, ...], targets: tuple[str, ...]) -> float:
    keys = ((source, target) for source in sources for target in targets)
    return next((pairs[key] for key in keys if key in pairs), float("nan"))


def unmatched(found: Distances, cells: pd.DataFrame) -> str:
    """What to say if no pair is one of the table; "" otherwise."""
    if any(values_of(found, *factor, cells).notna().any() for factor in factors(found)):
        return ""
    return (
        "Proximity was not measured for any pair of these results: it is known for the sources "
        f"{_names(pair.source for pair in found.pairs)} and the targets "
        f"{_names(pair.target for pair in found.pairs)}, and these results have {_names(cells['title'])} and "
        f"{_names(cells['target'])}."
    )


def _names(names: Iterable[str]) -> str:
    return listed(sorted(set(names) - {SCRATCH}))
