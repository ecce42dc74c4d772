"""One row per run: its setting, departures from the protocol, and metrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from data_pipelines.common.printable import printable
from data_pipelines.datasets.overlap import shares_images
from trainer.config import config_of, translated
from trainer.finetuning.paper_protocol import PREPARED, SETTINGS, Protocol, departures, match_authors, setting
from trainer.metrics import metric_of
from trainer.reporting.names import FULL, METRIC_TITLE, sets_in, shots_order, split_source

OWN, PUBLISHED = "own", "published"
DEFAULT, AUTHORS = get_args(Protocol)
# A run is one seed of one cell of a table.
CELL = ["origin", "mode", "protocol", "source", "model", "target", "shots", "setting"]
_PAPER_LR, _PAPER_BATCH = 0.001, 128
_LABELS = SETTINGS | PREPARED
_TEXT = {
    "kind": "transfer",
    "run": "",
    "origin": OWN,
    "source": "",
    "source_sets": "",
    "target": "",
    "target_sets": "",
    "classes": "",
    "content": "",
    "mode": "finetune",
    "protocol": DEFAULT,
    "model": "",
    "shots": FULL,
    "metric": "",
    "prepared": "",
    "balance": "",
    "trained_on": "train",
    "loader": "",
    "commit": "",
    "made_by": "",
    "patients": "",
    "departures": "",
    "overlap": "",
    "left_out": "",
    "weights": "",
    "setting": "",
    "chosen": "",
}
_WHOLE = ["train_images", "image_size", "resize", "total_steps"]
_REAL = ["base_lr", "seconds", "val", "test", *(f"test_{name}" for name in METRIC_TITLE)]
TEXT_COLUMNS = tuple(_TEXT)
COLUMNS = [*_TEXT, "seed", "not_a_number", *_WHOLE, *_REAL]


def row_of(result: dict[str, Any]) -> dict[str, Any]:
    """The row of a `result.json`. Raises KeyError or TypeError if it lacks what every result has."""
    settings, metric = result["settings"], metric_of(result)
    data = settings["data"]
    transfer = result["kind"] == "transfer"
    source = result["source"] if transfer else Path(result["run"]).name
    sets = [Path(name).name for name in data["sets"]]
    return {
        "kind": result["kind"],
        "run": result["run"],
        "source": source,
        "source_sets": "+".join(result.get("source_sets") or sets_in(split_source(source)[0])),
        "target": result["target"] if transfer else "+".join(sets),
        "target_sets": "+".join(sets),
        "classes": ", ".join(data.get("classes") or ()),
        "content": "+".join(sorted(result.get("set_digests", {}).values())),
        "mode": result.get("mode", "finetune"),
        "protocol": _protocol(result),
        "model": settings["model"]["name"],
        "shots": str(result.get("shots", FULL)),
        "seed": settings["seed"],
        "metric": metric,
        **_metrics(result, metric),
        "train_images": result["train_images"],
        "prepared": " x ".join(f"{side:g}" for side in result.get("prepared_size") or ()),
        "image_size": data["image_size"],
        "resize": data.get("resize"),
        "total_steps": result["total_steps"],
        "base_lr": settings["optim"]["base_lr"],
        "balance": data.get("balance", "none"),
        "trained_on": result.get("trained_on", "train"),
        "loader": result["loader"],
        "seconds": round(result["seconds"], 1),
        "commit": _version(result["environment"]),
        "made_by": _made_by(result["environment"]),
        "patients": result.get("patients", "none"),
        "departures": "; ".join(_departures(result)),
        "overlap": _overlap(result, sets) if transfer else "",
        "left_out": "; ".join(result.get("left_out", {}).get("test", ())),
        "weights": settings["model"].get("pretrained"),
    }


def _metrics(result: dict[str, Any], metric: str) -> dict[str, Any]:
    """The columns of what was measured on val and test."""
    test = result.get("test", {})
    return {
        "val": result.get("val", {}).get(metric),
        "test": test.get(metric),
        "not_a_number": bool(np.isnan(test.get(metric, 0.0))),
        **{f"test_{name}": test.get(name) for name in METRIC_TITLE},
    }


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table with every column of `COLUMNS` and its type; missing values are empty. Names are printable,
    so that a row is the same whether it comes from a result or from a table of results. Raises ValueError or TypeError
    for values that no run has."""
    frame = pd.DataFrame([_readable(row) for row in rows]).reindex(columns=COLUMNS)
    for name, default in _TEXT.items():
        frame[name] = frame[name].astype(object).where(frame[name].notna(), default).map(str)  # a folder may be "7"
    frame.loc[frame["origin"] == PUBLISHED, "protocol"] = AUTHORS  # also in tables of versions that knew no protocols
    shots_order(frame["shots"])  # refuses what is no number
    frame["seed"] = frame["seed"].astype(int)
    frame["not_a_number"] = frame["not_a_number"].astype(str) == "True"  # a table from a file may have empty places
    for name in _WHOLE:
        frame[name] = frame[name].astype("Int64")
    for name in _REAL:
        frame[name] = frame[name].astype(float)
    return frame


def sizes_of_sets(runs: pd.DataFrame) -> "pd.Series[str]":
    """The stored size of each run's set as its run with the most images has it: few shots draw images of other sizes.
    Where a result does not tell its set's content, its own."""
    known = runs[runs["content"] != ""].sort_values("train_images", kind="stable")
    sizes = dict(zip(known["content"], known["prepared"], strict=True))  # the last one stays
    own = zip(runs["content"], runs["prepared"], strict=True)
    return pd.Series([sizes.get(content, size) for content, size in own], index=runs.index, dtype=object)


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    return {name: printable(value) if isinstance(value, str) else value for name, value in row.items()}


def _version(environment: dict[str, Any]) -> str:
    """The code version of a run: its commit, or outside git the version of the package."""
    return environment["commit"] or f"bitscale {environment['packages'].get('bitscale', 'of unknown version')}"


def _made_by(environment: dict[str, Any]) -> str:
    ranks = f"{environment['world_size']} x {environment['device']} ({environment['threads_per_rank']} CPU threads)"
    commit = f"commit {environment['commit']}" if environment["commit"] else _version(environment)
    return f"{commit}, {ranks}, torch {environment['packages']['torch']}"


def _protocol(result: dict[str, Any]) -> str:
    """The protocol of a run; earlier versions recorded the authors' optimiser as `paper_code`."""
    old = AUTHORS if setting(result["settings"], "optim.paper_code") is True else DEFAULT
    protocol = result.get("protocol", old)
    if protocol not in (DEFAULT, AUTHORS):
        raise KeyError("protocol")
    return str(protocol)


def _departures(result: dict[str, Any]) -> list[str]:
    """Departures of a run from its protocol, as text."""
    if result.get("mode", "finetune") != "finetune":
        return []
    found = result["departures"] if "departures" in result else _of_earlier_versions(result)
    return [
        f"{_LABELS.get(name, name)}: {_as_text(name, values['used'])} instead of {_as_text(name, values['protocol'])}"
        for name, values in found.items()
    ]


def _of_earlier_versions(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Departures that can be inferred from a result of a version that did not list them."""
    settings = translated(result["settings"])
    if result["kind"] == "pretrain":
        if _protocol(result) != AUTHORS:
            return {}
        config = config_of(settings)  # with paper_code, which did less than the authors' program
        return departures(config, match_authors(config))
    rule = result["rule"]
    pairs = {
        "schedule.steps": (result["total_steps"], rule["schedule"][-1]),
        "data.image_size": (setting(settings, "data.image_size"), rule["size"]),
        "data.resize": (setting(settings, "data.resize"), rule["resize"]),
        "data.mixup_alpha": (setting(settings, "data.mixup_alpha"), rule["mixup_alpha"]),
        "optim.base_lr": (setting(settings, "optim.base_lr"), _PAPER_LR),
        "global_batch_size": (settings["global_batch_size"], _PAPER_BATCH),
    }
    return {name: {"used": used, "protocol": by} for name, (used, by) in pairs.items() if used != by}


def _as_text(name: str, value: Any) -> str:
    """A setting's value as text."""
    if value is None:
        return "that of the weights" if name in ("model.mean", "model.std") else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "data.classes" and not value:
        return "all"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _overlap(result: dict[str, Any], target_sets: Sequence[str]) -> str:
    """Why the source has seen images or patients of the target; empty if it has not, or if they were left out."""
    if result.get("overlap_excluded"):
        return ""
    names = {*target_sets, result.get("target_set", "")}  # as its folder is called, and as its manifest says
    sources, digests = result.get("source_sets", ()), result.get("source_set_digests")
    content = "+".join(result.get("set_digests", {}).values())
    reasons = (shares_images(sources, name, digests, content) for name in sorted(names))
    return next((reason for reason in reasons if reason), "")
