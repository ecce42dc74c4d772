"""Collects results: `result.json` in run folders, results.csv of an earlier report, the paper's authors' CSV files."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json
from data_pipelines.datasets.overlap import is_published
from trainer.document.blocks import Table
from trainer.reporting.best_on_val import NOT_CHOSEN, choices, choices_text, choose_on_val
from trainer.reporting.names import METRIC_TITLE, listed, sets_in, split_source
from trainer.reporting.rows import CELL, COLUMNS, PUBLISHED, TEXT_COLUMNS, frame_of, row_of
from trainer.reporting.tables import with_titles
from trainer.reporting.trials import several_settings, with_settings
from trainer.run_files import RESULT, STATUS, require_place

_AUTHORS_COLUMNS = {"metric_value", "metric", "path", "seed", "shot", "pretrained_model", "dataset", "last_step"}
_AUTHORS_METRIC = {"test/acc": "top1", "test/mean_auc": "auc", "test/mean_average_precision": "ap"}
AUTHORS_TARGET = {
    "padchest": "padchest_cl",
    "covidx_cxr2": "covidx",
    "flowers_oversampling": "flowers102",
    "tuberculosis_full": "tuberculosis",
}
_SHOWN_DIGITS = 8  # of a set's digest
_BY_AREA = {"padchest_cl"}  # the paper reports AUC of this target, and top-1 accuracy of all others
_OWN_COLUMNS = {"kind", "run", "source", "target", "model", "shots", "seed", "metric", "test"}
_NO_RESULT = (KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError, pd.errors.ParserError)
_TITLE_METRIC = {title: name for name, title in METRIC_TITLE.items()}


@dataclass(frozen=True, eq=False)
class Collected:
    """The runs, one row each; dropped copies, and results that could not be used. choices: how settings were chosen on
    val."""

    runs: pd.DataFrame
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]
    choices: Table | None = None

    @property
    def shown(self) -> pd.DataFrame:
        """The runs of tables and figures: those of the settings chosen on val, where these were chosen."""
        if not (self.runs["chosen"] != "").any():
            return self.runs
        shown = self.runs[self.runs["chosen"] != NOT_CHOSEN]
        return shown.assign(setting=shown["setting"].where(shown["kind"] != "transfer", ""))


def collect(places: tuple[Path, ...], metric: str | None = None, best_on_val: bool = False) -> Collected:
    """Collect all results below some folders and in some CSV files; `metric` replaces each target's own. best_on_val:
    choose one setting per cell by each target's own metric on val.

    Raises InputError for a path that does not exist, for a CSV file of another layout, for two different results of one
    run, and when there is nothing to report.
    """
    for place in places:
        require_place(place)
    paths = [path.resolve() for place in places for path in _files(place)]
    named = {place.resolve() for place in places}
    frames, remarks, warnings = [], [], []
    for path in dict.fromkeys(path for path in paths if path.name != RESULT):
        try:
            frame, copies, left_out = _read_csv(path)
        except InputError as error:
            if path in named:
                raise
            warnings.append(f"Left out: {error}")
            continue
        frames.append(frame)
        remarks += copies
        warnings += left_out
    frame, left_out = _read_results(sorted({path for path in paths if path.name == RESULT}))
    warnings += [*left_out, *_unfinished(places)]
    runs = pd.concat([part for part in (*frames, frame) if len(part)] or [frame], ignore_index=True)
    if runs.empty:
        aside = f" ({'; '.join(warnings)})" if warnings else ""
        raise InputError(f"no finished run below {', '.join(map(str, places))}: no readable {RESULT}{aside}")
    runs, namesakes = _told_apart(runs)
    runs, copies = _without_copies(runs)
    runs = with_settings(runs)
    _require_distinct(runs[runs["kind"] == "transfer"])
    runs = choose_on_val(runs) if best_on_val else runs
    chosen = choices(with_titles(runs)) if best_on_val else None
    runs = _with_metric(runs, metric) if metric else runs
    remarks += [*copies, *namesakes, *several_settings(runs), *choices_text(runs)]
    return Collected(runs, tuple(remarks), tuple(warnings), chosen)


def _files(place: Path) -> list[Path]:
    """The results of a place: itself, or below a folder each `result.json` and each table of the authors' layout."""
    if place.is_file() and place.suffix == ".csv":
        return [place]
    tables = [path for path in sorted(place.rglob("*.csv")) if _columns(path) >= _AUTHORS_COLUMNS]
    return [*tables, *place.rglob(RESULT)]


def _unfinished(places: Iterable[Path]) -> list[str]:
    """Message on the runs below these places that have no result yet."""
    runs = dict.fromkeys(path.parent for place in places if place.is_dir() for path in sorted(place.rglob(STATUS)))
    names = [str(run) for run in runs if not (run / RESULT).is_file()]
    runs_said = "1 unfinished run" if len(names) == 1 else f"{len(names)} unfinished runs"
    return [f"Left out: {runs_said}: {listed(names)}"] if names else []


def _columns(path: Path) -> set[str]:
    """The columns of a CSV file; none if it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return set(file.readline().strip().split(","))
    except OSError:  # a folder or a link that leads nowhere
        return set()


def _read_results(paths: list[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Rows from these `result.json` files, and which of the files hold no result."""
    rows, unread = [], []
    for path in paths:
        result = read_json(path)
        try:
            if result["kind"] not in ("pretrain", "transfer"):
                raise KeyError("kind")
            row = row_of(result)
            if any(isinstance(value, (list, dict)) for value in row.values()):
                raise TypeError("a list where a value should be")
            frame_of([row])
            rows.append(row)
        except _NO_RESULT:
            unread.append(path)
    remarks = []
    if unread:
        paths_said = listed([str(path) for path in unread])
        remarks.append(f"Left out: {len(unread)} {RESULT}, half-written or no result of a run: {paths_said}")
    return frame_of(rows), remarks


def _read_csv(path: Path) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Rows of a table of either layout, with the copies and other rows that were dropped."""
    columns = _columns(path)
    if not columns - {""}:
        raise InputError(f"{path} is empty, or cannot be read")
    try:
        if columns >= _AUTHORS_COLUMNS:
            return _read_authors(path)
        if columns >= _OWN_COLUMNS:
            return _read_own(_table(path, TEXT_COLUMNS)), [], []
    except (*_NO_RESULT, OSError) as error:
        raise InputError(f"{path} is damaged, or was edited: {str(error) or type(error).__name__}") from error
    raise InputError(
        f"{path} is neither results.csv of a report nor a table of the paper's authors; it lacks "
        f"{listed(sorted(_OWN_COLUMNS - columns), 9)}, or {listed(sorted(_AUTHORS_COLUMNS - columns), 9)}"
    )


def _table(path: Path, text: Iterable[str]) -> pd.DataFrame:
    """A CSV file with some text columns, in which no name is parsed as a number or as missing."""
    types = dict.fromkeys(text, str)
    missing = {name: [""] if name in types else ["", "nan", "NaN"] for name in _columns(path)}
    return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing, encoding="utf-8-sig")


def _read_own(table: pd.DataFrame) -> pd.DataFrame:
    """Rows written by an earlier report, possibly of a version with fewer columns. Which settings differ, and which
    was chosen, depends on the runs beside them."""
    table = table.drop(columns=["setting", "chosen"], errors="ignore")
    table["metric"] = [_TITLE_METRIC.get(metric, metric) for metric in table["metric"]]
    for name in METRIC_TITLE:
        if f"test_{name}" not in table:
            table[f"test_{name}"] = table["test"].where(table["metric"] == name)
    return frame_of(table.to_dict("records"))


def _read_authors(path: Path) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The rows of a table of the paper's authors, a row per run and metric."""
    table = _table(path, _AUTHORS_COLUMNS - {"metric_value", "seed", "last_step"})
    whole = table.drop_duplicates()
    known = whole[whole["metric"].isin(_AUTHORS_METRIC)]
    copies, others = len(table) - len(whole), len(whole) - len(known)
    remarks = [f"Of {len(table)} rows of {path.name}, {copies} are exact duplicates and dropped; {len(whole)} are left"]
    names = listed(sorted(set(whole["metric"].astype(str)) - set(_AUTHORS_METRIC)))
    warnings = [f"Left out: {others} rows of {path.name}, of metrics that are not reported ({names})"]
    frame = frame_of([_authors_row(row) for row in known.to_dict("records")])
    return frame, remarks if copies else [], warnings if others else []


def _authors_row(row: dict[str, Any]) -> dict[str, Any]:
    stem, model = split_source(row["pretrained_model"])
    if model is None:
        raise InputError(f"{row['pretrained_model']!r} does not end in a model such as _bit50x1")
    target = AUTHORS_TARGET.get(row["dataset"], row["dataset"])
    metric, value = _AUTHORS_METRIC[row["metric"]], row["metric_value"]
    return {
        "run": row["path"],
        "origin": PUBLISHED,
        "source": stem,
        "source_sets": "+".join(sets_in(stem)),
        "target": target,
        "target_sets": target,
        "model": model,
        "shots": row["shot"].removesuffix("_shot"),
        "trained_on": "train+val",  # they hold nothing out
        "seed": row["seed"],
        "metric": metric,
        "test": value,
        "not_a_number": isinstance(value, float) and math.isnan(value),
        f"test_{metric}": value,
        "total_steps": row["last_step"],
    }


def _without_copies(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Each run once, if results were found twice; and the authors' metrics of one run merged into one row."""
    kept = runs.drop_duplicates([*CELL, "kind", "run", "seed", "metric", "val", "test"])
    remarks = [] if len(kept) == len(runs) else [f"Found twice and counted once: {len(runs) - len(kept)} results"]
    published = kept["origin"] == PUBLISHED
    whole = pd.concat([_one_row_each(kept[published]), kept[~published]]) if published.any() else kept
    return whole.reset_index(drop=True), remarks


def _told_apart(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs, with the digest's beginning appended to target names that several sets share, and notes on these.
    Published sets count as the same however they were prepared."""
    known = runs[(runs["kind"] == "transfer") & (runs["content"] != "")]
    contents = known.groupby("target")["content"].unique()
    several = [name for name, found in contents.items() if len(found) > 1 and not is_published(str(name))]
    rows = known[known["target"].isin(several)]
    names = rows["target"] + " (" + rows["content"].str[:_SHOWN_DIGITS] + ")"
    runs = runs.assign(target=names.reindex(runs.index).fillna(runs["target"]))
    return runs, [f"Several sets are called {name}: they are told apart by their contents" for name in several]


def _one_row_each(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of published runs, one per metric, as one row per run that reports the metric of the paper."""
    run = [*CELL, "seed", "run"]
    if runs.duplicated([*run, "metric"]).any():
        return runs  # two values of one metric: `_require_distinct` names them
    columns = [f"test_{metric}" for metric in METRIC_TITLE]
    own_metric = runs["target"].isin(_BY_AREA).map({True: "auc", False: "top1"})
    ordered = runs.loc[(runs["metric"] != own_metric).sort_values(kind="stable").index]
    rows = ordered.drop_duplicates(run).set_index(run)
    rows[columns] = ordered.groupby(run)[columns].first().loc[rows.index]
    return rows.reset_index()[runs.columns]


def _with_metric(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs by another metric; only those that have it."""
    column = f"test_{metric}"
    if metric not in METRIC_TITLE or runs[column].isna().all():
        having = [name for name in METRIC_TITLE if runs[f"test_{name}"].notna().any()]
        raise InputError(f"no result has the metric {metric!r}; they have {', '.join(having)}")
    reported = runs.groupby("target")[column].transform("count") > 0  # where others have it, a run without it failed
    return runs.assign(metric=metric, test=runs[column], val=math.nan, not_a_number=runs[column].isna() & reported)


def _require_distinct(runs: pd.DataFrame) -> None:
    """Raise InputError if two runs would count as one seed: they differ in a setting that the tables do not show."""
    twice = runs[runs.duplicated([*CELL, "seed"], keep=False)]
    if not twice.empty:
        raise InputError(
            f"several results for the same cell: {listed(list(twice['run']))}; report their folders one by one"
        )


def write_runs(runs: pd.DataFrame, path: Path) -> None:
    """Write a row per run, in full precision; `collect` reads it again."""
    runs[COLUMNS].to_csv(path, index=False, encoding="utf-8")
