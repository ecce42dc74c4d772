"""The published values: Tables 1 and 2 of the paper, full-shot means and standard deviations over five seeds.

What is printed is the standard deviation of the rows of the authors' files as they stand, and these mostly stand twice:
of n values twice it is sqrt(2 (n - 1) / (2 n - 1)) of the right one, 0.943 for five. The right ones are kept beside.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from trainer.document.blocks import Cell


@dataclass(frozen=True)
class Published:
    """What the paper prints. cells: by target, then by (model, the sets of its source in alphabetical order); their
    `std` and `n` are those of the different rows of the authors' files, where these have the printed mean. seeds: as
    the paper says."""

    source: str
    seeds: int
    metric: dict[str, str]
    cells: dict[str, dict[tuple[str, tuple[str, ...]], Cell]]


@cache
def published() -> Published:
    """The values in `paper.json`, which ships with the package."""
    content = json.loads((resources.files(__package__) / "paper.json").read_text(encoding="utf-8"))
    cells: dict[str, dict[tuple[str, tuple[str, ...]], Cell]] = {}
    for table in content["tables"]:
        for target, values in table["targets"].items():
            different = table["different_rows"][target]
            for column, value, of_rows in zip(table["columns"], values, different, strict=True):
                model, _, sets = column.partition("/")
                if value is not None:
                    mean, printed = value
                    cell = Cell(mean, printed, content["seeds"])
                    if of_rows is not None:
                        std, seeds = of_rows
                        cell = Cell(mean, std, seeds, printed_std=printed)
                    cells.setdefault(target, {})[model, tuple(sorted(sets.split("+")))] = cell
    metric = {target: content["metric"].get(target, content["metric"]["others"]) for target in cells}
    return Published(content["source"], content["seeds"], metric, cells)
