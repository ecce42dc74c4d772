"""One setting per cell, chosen among its trials by the metric on val."""

import pandas as pd

from data_pipelines.common.errors import InputError
from trainer.document.blocks import Entry, Heading, Table
from trainer.reporting.names import (
    METRIC_TITLE,
    MODE_TITLE,
    listed,
    setting_order,
    shots_order,
    shots_title,
    target_title,
)
from trainer.reporting.rows import AUTHORS, OWN
from trainer.reporting.trials import WITHIN

CHOSEN, NOT_CHOSEN = "yes", "no"
_LOWEST = float("-inf")


def choose_on_val(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `chosen`: of each cell with several settings, the one with the highest mean val metric over the
    seeds that all of its settings have, or over all seeds where they share none. Nothing is read of test but whether
    a run's metric is NaN: such runs count as lowest.

    Raises InputError where runs to choose from have no val metric.
    """
    chosen = pd.Series("", index=runs.index)
    transfers = runs[(runs["kind"] == "transfer") & (runs["origin"] == OWN)]
    cells = [cell for _, cell in transfers.groupby(WITHIN, sort=False) if cell["setting"].nunique() > 1]
    _require_val([cell[cell["val"].isna() & ~cell["not_a_number"]] for cell in cells])
    for cell in cells:
        means = _val_means(cell)
        chosen[cell.index] = (cell["setting"] == means.index[0]).map({True: CHOSEN, False: NOT_CHOSEN})
    return runs.assign(chosen=chosen)


def _require_val(lacking: list[pd.DataFrame]) -> None:
    runs = pd.concat(lacking) if lacking else pd.DataFrame()
    if runs.empty:
        return
    by_all = (runs["trained_on"] == "train+val").any()
    why = "they were trained on train and val" if by_all else "their data has no val split, or they report none of it"
    remedy = "bitscale sweep with --data.train-on train" if by_all else "prepare it with a val split"
    raise InputError(
        f"--best-on val: {len(runs)} of the runs to choose from have no metric on val: {listed(list(runs['run']))}; "
        f"{why}. Leave out --best-on, and each setting has a row of its own; to choose, make them again: {remedy}"
    )


def _val_means(cell: pd.DataFrame) -> "pd.Series[float]":
    """Mean val metric of each setting of a cell, percent, the highest first; NaN counts as lowest."""
    by_seed = cell.assign(val=cell["val"].fillna(_LOWEST)).pivot(index="seed", columns="setting", values="val")
    common = by_seed.dropna()
    means = (by_seed if common.empty else common).mean() * 100
    in_order = means[sorted(means.index, key=setting_order)]
    return in_order.sort_values(ascending=False, kind="stable")


def choices(runs: pd.DataFrame) -> Table | None:
    """A row per cell whose setting was chosen on val: which, of how many, and by what; None without any. Takes runs
    with titles."""
    picked = runs[runs["chosen"] != ""]
    if picked.empty:
        return None
    rows = []
    for cell in _in_order(picked):
        means = _val_means(cell)
        best, following = means.iloc[:2]
        seeds = cell.groupby("setting")["seed"].nunique()
        words = [str(means.index[0]), str(len(means)), _seeds(seeds), _percent(best)]
        words.append(f"{_percent(following)} ({means.index[1]})")
        rows.append((_cell_title(cell), tuple(Entry(words=word) for word in words)))
    metrics = dict.fromkeys(METRIC_TITLE.get(metric, metric) for metric in picked["metric"])
    hidden = int((picked["chosen"] == NOT_CHOSEN).sum())
    caption = (
        f"The setting of each cell with the highest mean on val ({', '.join(metrics)}; percent), over the seeds that "
        f"its settings share. Test was not looked at. The {hidden} runs of other settings are in results.csv alone."
    )
    titles = ("chosen", "settings tried", "seeds", "mean on val", "next best on val")
    return Table("chosen_on_val", caption, "cell", tuple(Heading("", title) for title in titles), tuple(rows))


def _in_order(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """The cells of some runs, whatever their settings: by target, source and model, then shots."""
    order, targets = shots_order(runs["shots"]), list(dict.fromkeys(runs["target"]))
    cells = [cell for _, cell in runs.groupby(WITHIN, sort=False)]
    sources = list(dict.fromkeys(zip(runs["source"], runs["model"], strict=True)))

    def key(cell: pd.DataFrame) -> tuple[int, ...]:
        first = cell.iloc[0]
        source = sources.index((first["source"], first["model"]))
        return targets.index(first["target"]), source, order.index(first["shots"])

    return sorted(cells, key=key)


def choices_text(runs: pd.DataFrame) -> list[str]:
    """Note on how many settings were chosen on val, of how many trials."""
    cells = [cell["setting"].nunique() for cell in _in_order(runs[runs["chosen"] != ""])]
    if not cells:
        return []
    few, many = min(cells), max(cells)
    of = str(many) if few == many else f"{few} to {many}"
    return [
        f"Chosen on val: one of {of} settings for each of {len(cells)} cell{'s' * (len(cells) > 1)}, {sum(cells)} "
        "trials in all; test was not looked at"
    ]


def _percent(mean: float) -> str:
    return "NaN" if mean == _LOWEST else f"{mean:.2f}"


def _seeds(counts: "pd.Series[int]") -> str:
    low, high = counts.min(), counts.max()
    return str(high) if low == high else f"{low} to {high}"


def _cell_title(cell: pd.DataFrame) -> str:
    first = cell.iloc[0]
    parts = [target_title(first["target"]), first["title"], first["model"], shots_title(first["shots"])]
    parts += [] if first["mode"] == "finetune" else [MODE_TITLE.get(first["mode"], first["mode"])]
    return ", ".join([*parts, *(["authors' protocol"] if first["protocol"] == AUTHORS else [])])
