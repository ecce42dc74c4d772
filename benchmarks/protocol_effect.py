"""What a protocol changes: python benchmarks/protocol_effect.py RUNS [RUNS ...] [--out FILE.json]

The fine-tunings by the default protocol below the first folder are compared with those that were made otherwise, by
--match-authors or by single settings, there and below the other folders: test metric, paired by seed.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split


from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from benchmarks.lib.results import write_result
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.version import commit
from trainer.reporting.cells import cell_of, interval
from trainer.reporting.collect import collect
from trainer.reporting.names import shots_order
from trainer.reporting.rows import AUTHORS, DEFAULT

_CELL = ["mode", "source", "model", "target", "shots"]


@dataclass(frozen=True)
class Settings:
    """Which runs to compare."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of fine-tunings; the first one holds those to compare with."""
    out: Path | None = None
    """Write the figures to this JSON file, and the table to a Markdown file beside it."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("RUNS must be given: folders of fine-tunings; --help tells more")


def arms(folders: tuple[Path, ...]) -> dict[str, pd.DataFrame]:
    """The runs by how they were made: first "default", those to compare with, then by what tells them from these.

    Raises InputError where the first folder has no fine-tuning by the default protocol, or another folder has more runs
    like those.
    """
    base = _fine_tunings(folders[0])
    base = base[base["protocol"] == DEFAULT]
    if base.empty:
        raise InputError(f"{folders[0]} has no fine-tuning without --match-authors to compare with")
    if base["setting"].any():
        settings = ", ".join(sorted(set(base["setting"])))
        raise InputError(f"{folders[0]} has runs of several settings to compare with ({settings}); keep one")
    usual = {key: set(row.split("; ")) for key, row in base.set_index(_CELL)["departures"].items()}
    found = {"default": [base]}
    for folder in folders:
        runs = _fine_tunings(folder)
        others = runs[runs["protocol"] != DEFAULT] if folder == folders[0] else runs
        for index, run in others.iterrows():
            key = tuple(run[_CELL])
            changes = ["--match-authors"] if run["protocol"] == AUTHORS else []
            changes += sorted(set(run["departures"].split("; ")) - usual.get(key, set()))
            if not changes:
                raise InputError(f"{run['run']} was made like the runs to compare with; leave out {folder}")
            found.setdefault("; ".join(changes), []).append(others.loc[[index]])
    return {name: pd.concat(parts) for name, parts in found.items()}


def _fine_tunings(folder: Path) -> pd.DataFrame:
    runs = collect((folder,)).runs
    return runs[runs["kind"] == "transfer"]


def compare(folders: tuple[Path, ...]) -> tuple[dict[str, Any], str]:
    """The means of every cell and the paired differences, as plain types and as a table in Markdown. In points."""
    found = arms(folders)
    base, others = found["default"], {name: runs for name, runs in found.items() if name != "default"}
    if not others:
        raise InputError(
            "all fine-tunings were made in one way; make others with --match-authors or --model.head-init torch"
        )
    lines = [
        f"| target | shots | default | {' | '.join(others)} |",
        "|---|---|---|" + "---|" * len(others),
    ]
    rows = []
    keys = base[_CELL].drop_duplicates()
    order = shots_order(base["shots"])
    for key in sorted(keys.itertuples(index=False, name=None), key=lambda key: (key[:-1], order.index(key[-1]))):
        mine = _of(base, key)
        cells, row = [], dict(zip(_CELL, key, strict=True)) | {"default": cell_of(mine).text(), "seeds": len(mine)}
        for name, runs in others.items():
            differences = ((_of(runs, key).set_index("seed")["test"] - mine.set_index("seed")["test"]).dropna()) * 100
            cells.append(interval(differences.to_numpy(dtype=float)))
            row[name] = {"points": [round(points, 3) for points in differences], "mean_and_95%": cells[-1]}
        rows.append(row)
        lines.append(f"| {key[3]} | {key[4]} | {row['default']} | {' | '.join(cells)} |")
    made_by = sorted({line for runs in found.values() for line in runs["made_by"]})
    result = {
        "benchmark": "protocol_effect",
        "commit": commit(),
        "runs": sum(map(len, found.values())),
        "made_by": made_by,
    }
    return result | {"cells": rows}, "\n".join(lines) + "\n"


def _of(runs: pd.DataFrame, key: tuple[Any, ...]) -> pd.DataFrame:
    return runs[(runs[_CELL] == list(key)).all(axis=1)]


@entry_point
def main() -> None:
    """Parse the command line and compare."""
    settings = parse(Settings, __doc__)
    result, table = compare(settings.runs)
    if settings.out is None:
        print(table)
    else:
        write_result(
            settings.out,
            result,
            "# What a protocol changes\n\nPoints of the test metric against the default, paired by "
            "seed, with a 95% t interval over the seeds.\n\n" + table,
        )


if __name__ == "__main__":
    main()
