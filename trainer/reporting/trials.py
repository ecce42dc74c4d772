"""Trials: runs of one cell with different settings, told apart by what differs."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from trainer.finetuning.paper_protocol import SETTINGS
from trainer.reporting.names import listed, setting_order, target_title
from trainer.reporting.rows import CELL, OWN, sizes_of_sets

WITHIN = [name for name in CELL if name != "setting"]  # runs of one cell, whatever their settings
_GROUP = ["kind", "origin", "mode", "protocol", "target"]  # settings are called alike in all cells of a group
_OF_FINE_TUNING = {"base_lr": "base_lr", "total_steps": "steps"}
_COLUMNS = _OF_FINE_TUNING | {
    "image_size": "pixels",
    "prepared": "stored at",
    "balance": "balance",
    "trained_on": "trained on",
}
_OF_COLUMNS = {
    SETTINGS[name] for name in ("optim.base_lr", "schedule.steps", "data.image_size", "data.balance", "data.train_on")
}
_RESIZE = SETTINGS["data.resize"]
_DEPTH = {"transfer": 3, "pretrain": 1}  # of run folders: source, target, shots with seed; name


def with_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with what tells the trials of a cell apart, such as "base_lr 0.003", in the column `setting`; empty
    where all runs of a target's cells have the same settings. Trials that differ in their folders alone are told apart
    by these."""
    settings = pd.Series("", index=runs.index)
    own = runs[runs["origin"] == OWN]
    for _, group in own.assign(prepared=sizes_of_sets(own)).groupby(_GROUP, sort=False):
        settings.update(_labels(group))
    runs = runs.assign(setting=settings)
    for _, group in runs[runs["origin"] == OWN].groupby([*_GROUP, "setting"], sort=False):
        if group.duplicated([*CELL, "seed"]).any():
            settings.update(_with_folders(group))
    return runs.assign(setting=settings)


def _labels(group: pd.DataFrame) -> "pd.Series[str]":
    used = pd.concat([_columns(group), _departing(group)], axis=1)
    cells = group.groupby(WITHIN, sort=False).ngroup()
    differing = [name for name in used if used[name].groupby(cells).nunique().max() > 1]
    # the steps may follow from the number of images, which a seed draws, and the resize from the pixels
    for name, leader in (("steps", group["train_images"]), (_RESIZE, used["pixels"])):
        if name in differing and used[name].groupby([cells, leader]).nunique().max() < 2:
            differing.remove(name)
    rows = used[differing].to_numpy(dtype=object)  # itertuples of no columns gives no rows in pandas 2
    words = [
        [f"{name} {value}" for name, value in zip(differing, row, strict=True) if value is not None] for row in rows
    ]
    return pd.Series([", ".join(row) for row in words], index=group.index, dtype=object)


def _columns(group: pd.DataFrame) -> pd.DataFrame:
    """The settings that have columns of their own, as text; what a run of an earlier version did not record is
    missing."""
    frame = pd.DataFrame(
        {title: group[name].map(_text, na_action="ignore") for name, title in _COLUMNS.items()}, dtype=object
    )
    if group["mode"].iloc[0] != "finetune":
        frame = frame.drop(columns=list(_OF_FINE_TUNING.values()))
    return frame.where(frame.notna() & (frame != ""), None)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _departing(group: pd.DataFrame) -> pd.DataFrame:
    """The other settings that depart from the protocol in some run, as text; in the other runs, the protocol's."""
    used: dict[str, dict[Any, str]] = {}
    planned: dict[str, dict[int, str]] = {}
    cells = group.groupby(WITHIN, sort=False).ngroup()
    for index, departures in group["departures"].items():
        for line in filter(None, departures.split("; ")):
            name, _, values = line.partition(": ")
            value, _, by_protocol = values.partition(" instead of ")
            if name not in _OF_COLUMNS:
                used.setdefault(name, {})[index] = value
                planned.setdefault(name, {})[cells[index]] = by_protocol
    columns = {
        name: [
            values.get(index, planned[name].get(cell, next(iter(planned[name].values()))))
            for index, cell in cells.items()
        ]
        for name, values in used.items()
    }
    return pd.DataFrame(columns, index=group.index, dtype=object)


def _with_folders(group: pd.DataFrame) -> "pd.Series[str]":
    """The settings with the folders that the runs are in, as far as these differ."""
    depth = _DEPTH[str(group["kind"].iloc[0])]
    outs = group["run"].map(lambda run: _out(run, depth))
    names = list(outs.unique())
    if len(names) < 2 or "" in names:
        return group["setting"]
    absolute = all(map(os.path.isabs, names))
    common = os.path.commonpath(names) if absolute else ""
    short = {name: os.path.relpath(name, common) if absolute and name != common else name for name in names}
    return group["setting"].map(lambda setting: f"{setting}, " * bool(setting)) + "in " + outs.map(short)


def _out(run: str, depth: int) -> str:
    """The folder that runs are in, of the path of one of them; "" for shorter paths."""
    above = Path(run).parents
    return str(above[depth - 1]) if len(above) >= depth else ""


def several_settings(runs: pd.DataFrame) -> list[str]:
    """Note on the targets whose cells have runs of several settings, none of which was chosen."""
    settings = runs[(runs["setting"] != "") & (runs["kind"] == "transfer")]
    if settings.empty or (runs["chosen"] != "").any():
        return []
    parts = [
        f"{target_title(str(target))} ({listed(sorted(found.unique(), key=setting_order))})"
        for target, found in settings.groupby("target", sort=False)["setting"]
    ]
    return [
        f"Runs of several settings, each a row of its own: {'; '.join(parts)}. With --best-on val, the report shows "
        "for each cell the setting with the best mean metric on val"
    ]
