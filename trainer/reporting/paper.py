"""The published values: Tables 1 and 2 of the paper, full-shot means and standard deviations over five seeds."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from trainer.reporting.cells import Cell


@dataclass(frozen=True)
class Published:
    """What the paper prints. cells: by target, then by (model, the sets of its source in alphabetical order)."""

    source: str
    seeds: int
    metric: dict[str, str]
    cells: dict[str, dict[tuple[str, tuple[str, ...]], Cell]]


@cache
def published() -> Published:
    """The values of `paper.json`, which ships with the package."""
    content = json.loads((resources.files(__package__) / "paper.json").read_text())
    cells: dict[str, dict[tuple[str, tuple[str, ...]], Cell]] = {}
    for table in content["tables"]:
        for target, values in table["targets"].items():
            for column, value in zip(table["columns"], values, strict=True):
                model, _, sets = column.partition("/")
                if value is not None:
                    mean, std = value
                    cell = Cell(mean, std, content["seeds"])
                    cells.setdefault(target, {})[model, tuple(sorted(sets.split("+")))] = cell
    metric = {target: content["metric"].get(target, content["metric"]["others"]) for target in cells}
    return Published(content["source"], content["seeds"], metric, cells)
