"""Report runs: python trainer/report.py RUNS ... --out DIR

Collects every `result.json` below the given folders into tables, a CSV file and a figure.
"""

import os
import sys

if not __package__:  # run as a script: this folder on sys.path would shadow other people's modules
    sys.path = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import pandas as pd
import tyro
from scipy import stats

from data_pipelines.entry import entry_point
from data_pipelines.errors import InputError
from trainer.experiment import RESULT
from trainer.files import read_json
from trainer.metrics import METRIC_NAME, metric_of
from trainer.transfer import FULL, SCRATCH

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no display
from matplotlib.axes import Axes

_CONFIDENCE = 0.95
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]  # Okabe and Ito: told apart by everybody


@dataclass(frozen=True)
class Report:
    """Tables and figures of finished runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders to search for results."""
    out: Path = Path("report")
    """Folder for report.md, results.csv and the figures."""


def collect(folders: tuple[Path, ...]) -> list[dict[str, Any]]:
    """Every result below some folders. Raises InputError for an absent folder, or when there is none at all."""
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder of runs")
    paths = sorted({path for folder in folders for path in folder.rglob(RESULT)})
    results = [result for path in paths if isinstance(result := read_json(path), dict) and "kind" in result]
    if not results:
        raise InputError(f"no finished run below {', '.join(map(str, folders))}: no readable {RESULT}")
    return results


def tabulate(results: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per run: what was run, and its primary metric on val and test as a share (NaN without such a split)."""
    rows = []
    for result in results:
        metric, settings = metric_of(result), result["settings"]
        rows.append(
            {
                "kind": result["kind"],
                "run": result["run"],
                "source": result.get("source", Path(result["run"]).name),
                "target": result.get("target", "+".join(settings["data"]["sets"])),
                "model": settings["model"]["name"],
                "shots": result.get("shots", FULL),
                "seed": settings["seed"],
                "metric": METRIC_NAME[metric],
                **{split: result.get(split, {}).get(metric, np.nan) for split in ("val", "test")},
                "train_images": result["train_images"],
                "image_size": settings["data"]["image_size"],
                "total_steps": result["total_steps"],
                "base_lr": settings["optim"]["base_lr"],
                "balance": settings["data"].get("balance", "none"),
                "loader": result["loader"],
                "seconds": round(result["seconds"], 1),
            }
        )
    return pd.DataFrame(rows)


def shots_order(shots: pd.Series) -> list[str]:
    """Shot counts in ascending order, "full" last."""
    return sorted(shots.unique(), key=lambda s: np.inf if s == FULL else int(s))


def few_shot_table(runs: pd.DataFrame) -> list[str]:
    """Markdown: a row per source, a column per shot count; mean and sample standard deviation over seeds, percent."""
    order = shots_order(runs["shots"])
    lines = [
        "| source | " + " | ".join(_shots_title(s) for s in order) + " |",
        "|---|" + "---|" * len(order),
    ]
    for (source, model), of_source in runs.groupby(["source", "model"], sort=False):
        cells = [_mean_and_std(of_source.loc[of_source["shots"] == s, "test"].dropna()) for s in order]
        lines.append(f"| {source}, {model} | " + " | ".join(cells) + " |")
    return lines


def gains_over_scratch(runs: pd.DataFrame) -> list[str]:
    """Markdown: pre-trained minus from scratch, in points, paired by seed, with a 95% t interval over the seeds."""
    order = shots_order(runs["shots"])
    scratch = runs[runs["source"] == SCRATCH].set_index(["model", "shots", "seed"])["test"]
    lines = []
    for (source, model), of_source in runs[runs["source"] != SCRATCH].groupby(["source", "model"], sort=False):
        paired = (of_source.set_index(["model", "shots", "seed"])["test"] - scratch).dropna() * 100
        cells = [_interval(paired[paired.index.get_level_values("shots") == s].to_numpy()) for s in order]
        if any(cells):
            lines.append(f"| {source} minus {SCRATCH}, {model} | " + " | ".join(cells) + " |")
    header = ["| | " + " | ".join(_shots_title(s) for s in order) + " |", "|---|" + "---|" * len(order)]
    return header + lines if lines else []


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{share:.2%}"


def _mean_and_std(values: pd.Series) -> str:
    if values.empty:
        return ""
    spread = f" ± {values.std() * 100:.2f}" if len(values) > 1 else ""
    return f"{values.mean() * 100:.2f}{spread}"


def _interval(differences: np.ndarray) -> str:
    if len(differences) == 0:
        return ""
    mean = differences.mean()
    if len(differences) == 1:
        return f"{mean:+.2f} (one seed)"
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, len(differences) - 1) * stats.sem(differences)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def _shots_title(shots: str) -> str:
    return shots if shots == FULL else f"{shots}-shot"


def deviations(results: list[dict[str, Any]]) -> list[str]:
    """Markdown: where fine-tunings left BiT-HyperRule and the paper's learning rate, one line per difference."""
    lines = set()
    for result in results:
        if result["kind"] != "transfer":
            continue
        settings, rule = result["settings"], result["rule"]
        pairs = [
            ("optimiser steps", result["total_steps"], rule["schedule"][-1]),
            ("pixels", settings["data"]["image_size"], rule["size"]),
            ("pixels before the random crop", settings["data"]["resize"], rule["resize"]),
            ("MixUp alpha", settings["data"]["mixup_alpha"], rule["mixup_alpha"]),
            ("base learning rate", settings["optim"]["base_lr"], 0.001),
            ("batch size", settings["global_batch_size"], 128),
        ]
        lines |= {f"- {what}: {used} instead of {by_rule}" for what, used, by_rule in pairs if used != by_rule}
    return sorted(lines)


def leaks(results: list[dict[str, Any]]) -> list[str]:
    """Markdown: the sets whose patients may be in training and test images alike."""
    leaking = [result for result in results if result.get("patients") == "may leak"]
    names = {name for result in leaking for name in result["settings"]["data"]["sets"]}
    if not names:
        return []
    return [
        f"**Patients may leak** in {', '.join(sorted(names))}: images of one patient may be among the training and the "
        "test images, so the numbers may be better than those on new patients.",
        "",
    ]


def origins(results: list[dict[str, Any]]) -> list[str]:
    """The different commits, machines and torch versions that the results come from."""
    lines = set()
    for environment in (result["environment"] for result in results):
        ranks = f"{environment['world_size']} x {environment['device']} ({environment['threads_per_rank']} CPU threads)"
        lines.add(f"commit {environment['commit']}, {ranks}, torch {environment['packages']['torch']}")
    return sorted(lines)


def draw_few_shot(runs: pd.DataFrame, target: str, folder: Path) -> list[str]:
    """Few-shot curves of one target as PNG and SVG; returns the file names."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    order = shots_order(runs["shots"])
    curves = runs.groupby(["source", "model"], sort=False)
    for ((source, model), of_source), colour in zip(curves, cycle(_COLOURS), strict=False):
        start = "from scratch" if source == SCRATCH else f"pre-trained: {source}"
        _draw_curve(axes, of_source, order, f"{start}, {model}", colour)
    axes.set_xticks(range(len(order)), order)
    axes.set_xlabel("training images per class")
    axes.set_ylabel(f"{runs['metric'].iloc[0]} on test, %")
    seeds = runs["seed"].nunique()
    axes.set_title(f"{target}: mean and range over {seeds} seed{'s' if seeds > 1 else ''}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower right")
    names = [f"few_shot_{target}.{suffix}" for suffix in ("png", "svg")]
    for name in names:
        figure.savefig(folder / name, dpi=160)
    plt.close(figure)
    return names


def _draw_curve(axes: Axes, runs: pd.DataFrame, order: list[str], label: str, colour: str) -> None:
    by_shots = runs.groupby("shots")["test"].agg(["mean", "min", "max"]).reindex(order).dropna() * 100
    places = [order.index(str(shots)) for shots in by_shots.index]
    errors = [by_shots["mean"] - by_shots["min"], by_shots["max"] - by_shots["mean"]]
    axes.errorbar(places, by_shots["mean"], yerr=errors, color=colour, marker="o", capsize=3, lw=1.8, label=label)


def write_report(report: Report) -> Path:
    """Write report.md, results.csv and the figures; returns the path of report.md."""
    results = collect(report.runs)
    table = tabulate(results)
    report.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(report.out / "results.csv", index=False)
    lines = ["# Report", ""]
    pretrained = table[table["kind"] == "pretrain"]
    if not pretrained.empty:
        lines += [
            "## Pre-training",
            "",
            "| run | model | data | steps | metric | val | test | minutes |",
            "|---|" + "---|" * 7,
        ]
        for row in pretrained.itertuples():
            metrics = f"{row.metric} | {_percent(row.val)} | {_percent(row.test)}"
            run = f"{row.source} | {row.model} | {row.target} | {row.total_steps}"
            lines.append(f"| {run} | {metrics} | {row.seconds / 60:.1f} |")
        lines.append("")
    transfers = table[table["kind"] == "transfer"]
    _require_distinct(transfers)
    for target, runs in transfers.groupby("target", sort=False):
        lines += _target_section(str(target), runs, report.out)
    departures = deviations(results)
    if departures:
        lines += ["## Not as BiT-HyperRule and the paper have it", "", *departures, ""]
    lines += leaks(results)
    loaders = ", ".join(sorted(table["loader"].unique()))
    lines += [f"{len(table)} runs, loader: {loaders}. Every run is a row of [results.csv](results.csv).", ""]
    lines += [f"Made by: {'; '.join(origins(results))}.", ""]
    path = report.out / "report.md"
    path.write_text("\n".join(lines))
    return path


def _require_distinct(transfers: pd.DataFrame) -> None:
    """Raise InputError if two runs would count as one seed: they differ in a setting that the tables do not show."""
    cell = ["source", "model", "target", "shots", "seed"]
    twice = transfers[transfers.duplicated(cell, keep=False)]
    if not twice.empty:
        raise InputError(
            f"several results for the same cell: {', '.join(twice['run'].head(4))}; report their folders one by one"
        )


def _target_section(target: str, runs: pd.DataFrame, folder: Path) -> list[str]:
    png, _ = draw_few_shot(runs, target, folder)
    metric = runs["metric"].iloc[0]
    lines = [f"## Transfer to {target}", "", f"{metric} on test, percent; mean ± standard deviation over seeds.", ""]
    lines += [*few_shot_table(runs), ""]
    gains = gains_over_scratch(runs)
    if gains:
        lines += [
            "Points gained by pre-training, paired by seed, with a 95% t interval:",
            "",
            *gains,
            "",
        ]
    return [*lines, f"![few-shot curves of {target}]({png})", ""]


@entry_point
def main() -> None:
    """Parse the command line and write the report."""
    print(write_report(tyro.cli(Report, description=__doc__)))


if __name__ == "__main__":
    main()
