"""Proximities of sources and targets, from the file that `bitscale proximity` writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json
from trainer.reporting.laws_data import target_names
from trainer.reporting.names import listed, source_title

FORMAT = 1
_COLUMNS = ["source", "target", "features", "measure", "value"]
_DISTANCES = {"frechet", "kernel", "classifier"}
# Which one a figure shows: the first there is.
_MEASURES = ["frechet", "kernel", "classifier", "spectrum", "grey-levels", "logme", "leep", "h-score"]
_FEATURES = ["common", "random", "pixels", "own"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """table: a row per source, target, features and measure, with its value."""

    path: Path
    table: pd.DataFrame

    def measures(self) -> list[tuple[str, str]]:
        """The different (measure, features) whose values compare over sources, in the order of tables: distances in
        each source's own features do not."""
        found = set(self.table[["measure", "features"]].itertuples(index=False, name=None))
        found = {pair for pair in found if pair[1] != "own" or pair[0] not in _DISTANCES}
        return sorted(found, key=lambda pair: (_place(_MEASURES, pair[0]), _place(_FEATURES, pair[1]), pair))

    def of(self, measure: str, features: str, cells: pd.DataFrame) -> pd.Series:
        """The value of one measure for each row of a table with source, title and target; NaN where it is missing."""
        chosen = self.table[(self.table["measure"] == measure) & (self.table["features"] == features)]
        values = dict(zip(zip(chosen["source"], chosen["target"], strict=True), chosen["value"], strict=True))
        rows = cells[["source", "model", "title", "target"]].itertuples(index=False, name=None)
        found = [
            _value(values, {source, source_title(source, model), title}, target)
            for source, model, title, target in rows
        ]
        return pd.Series(found, index=cells.index, dtype=float)

    def require_some(self, cells: pd.DataFrame) -> None:
        """Raise InputError if no pair of the file is one of the table."""
        if all(self.of(*pair, cells).isna().all() for pair in self.measures()):
            raise InputError(
                f"{self.path} has none of these results' pairs: its sources are {_names(self.table['source'])} and its targets "
                f"{_names(self.table['target'])}, theirs {_names(cells['source'])} and {_names(cells['target'])}; measure "
                "the proximity of the sets by the names that the report uses"
            )


def _place(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _names(column: pd.Series) -> str:
    return listed(sorted(set(column)))


def _value(values: dict[tuple[str, str], float], sources: set[str], target: str) -> float:
    keys = ((source, name) for source in sources for name in target_names(target))
    return next((values[key] for key in keys if key in values), float("nan"))


def read_pairs(path: Path) -> Pairs:
    """Read a file of proximities. Raises InputError for a file that is missing, damaged, or of another kind."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; bitscale proximity writes it")
    content: Any = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("pairs"), list):
        raise InputError(f"{path} is not what bitscale proximity writes (format {FORMAT}); measure the proximity anew")
    try:
        rows = [{name: pair[name] for name in _COLUMNS} for pair in content["pairs"]]
        table = pd.DataFrame(rows, columns=_COLUMNS).astype({"value": float})
        if not all(isinstance(row[name], str) for row in rows for name in _COLUMNS[:-1]):
            raise TypeError("a name that is no text")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged, or was edited ({error}); measure the proximity anew") from error
    table = table[table["value"].notna()]
    twice = table[table.duplicated(_COLUMNS[:-1])]
    if not twice.empty:
        names = ", ".join(twice.iloc[0][_COLUMNS[:-1]])
        raise InputError(f"{path} has two values of one pair ({names}); measure the proximity anew")
    return Pairs(path, table)
