"""Learning rates of the X-ray recipes, by the paper's text and as shipped: python benchmarks/schedules.py [--out FILE]

Draws the learning rate against the epoch for the four unions of the paper. By the text the global batch is 4096 and the
warm-up 5,000 steps; the recipes have what its authors ran on 64 GPUs. Both are computed by the functions that train.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split


from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.lib.results import write_result
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.version import commit
from trainer.config import Config
from trainer.optim.lr_schedules import decay_steps, late_warmup, make_schedule, num_steps, num_warmup_steps
from trainer.recipes import RECIPES
from trainer.reporting.names import source_title

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no display
from matplotlib.axes import Axes

UNIONS = ("chexpert", "chexpert_mimic", "chexpert_mimic_nih", "chexpert_mimic_nih_padchest")
# Images of the train split, of all views.
IMAGES = {
    "chexpert": 219_064,  # of the 223,414 rows of train.csv, as `prepare` takes them (torchxrayvision ships the table)
    "mimic_cxr": 368_960,  # the official split of MIMIC-CXR-JPG 2.0.0, before images without labels are left out
    "nih_cxr14": 86_524,  # the official train_val_list.txt, before `prepare` takes 2% of the patients for val
    "padchest": 152_207,  # of the 158,597 images of adults, as `prepare` takes them (torchxrayvision ships the table)
}
_BEFORE, _AFTER = "by the text", "as shipped"
_COLOURS = {_BEFORE: "#d55e00", _AFTER: "#0072b2"}  # Okabe and Ito: told apart by everybody
_POINTS = 4000
_LOWEST, _HIGHEST = 1e-5, 0.5  # of the axis


@dataclass(frozen=True)
class Drawing:
    """Where the figure goes."""

    out: Path = Path("schedules.json")
    """JSON file to write; figure and text of the same name, with .png and .md, go beside it."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One schedule: at some epochs its learning rates, and in numbers what becomes of it."""

    epochs: Sequence[float]
    rates: Sequence[float]
    summary: dict[str, Any]


def by_the_text(config: Config) -> Config:
    """A recipe of X-rays with the batch and the warm-up that the paper's text gives."""
    schedule = replace(config.schedule, warmup_epochs=None, warmup_steps=5000, allow_no_decay=True)
    return replace(config, global_batch_size=4096, schedule=schedule)


def curve(config: Config, images: int) -> Curve:
    """The schedule of a configuration over a training set of so many images."""
    total, warmup = num_steps(config, images), num_warmup_steps(config, images)
    rate = make_schedule(config, total, images, images)
    steps = np.unique(np.linspace(0, total - 1, _POINTS).astype(int))
    steps_per_epoch = images / config.global_batch_size
    rates = [rate(int(step)) for step in steps]
    whole = [rate(step) for step in range(total)]
    summary = {
        "global_batch_size": config.global_batch_size,
        "steps": total,
        "warmup_steps": warmup,
        "warmup_epochs": warmup / steps_per_epoch,
        "decay_steps": decay_steps(total),
        "highest": max(whole),
        "highest_at_epoch": whole.index(max(whole)) / steps_per_epoch,
        "last": whole[-1],
        "at_the_highest": whole.count(max(whole)) / total,
        "refused": late_warmup(config.schedule, total, warmup),
    }
    return Curve((steps / steps_per_epoch).tolist(), rates, summary)


def curves_of(union: str) -> tuple[int, dict[str, Curve]]:
    """Training images of a union, and its schedules."""
    recipe = RECIPES[f"{union}_r50x1"]()
    images = sum(IMAGES[name] for name in recipe.data.sets)
    return images, {_BEFORE: curve(by_the_text(recipe), images), _AFTER: curve(recipe, images)}


def draw(unions: dict[str, tuple[int, dict[str, Curve]]], out: Path) -> None:
    """Write the figure as PNG, a panel for each union."""
    figure, grid = plt.subplots(2, 2, figsize=(11.0, 7.2), sharex=True, sharey=True, layout="constrained")
    for axes, (union, (images, curves)) in zip(grid.flat, unions.items(), strict=True):
        _panel(axes, f"{source_title(union, 'r50x1')}: {images:,} training images", curves)
    for axes in grid[:, 0]:
        axes.set_ylabel("learning rate")
    for axes in grid[-1]:
        axes.set_xlabel("epoch (passes over the training images)")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def _panel(axes: Axes, title: str, curves: dict[str, Curve]) -> None:
    for name, drawn in curves.items():
        warmup, batch = drawn.summary["warmup_steps"], drawn.summary["global_batch_size"]
        warmup_text = f"warm-up of {warmup:,} steps" if name == _BEFORE else "warm-up of 15 epochs"
        style = "--" if name == _BEFORE else "-"
        label = f"{name}: batch {batch}, {warmup_text}"
        axes.plot(drawn.epochs, drawn.rates, style, color=_COLOURS[name], linewidth=2.0, label=label)
    axes.set_yscale("log")
    axes.set_ylim(_LOWEST, _HIGHEST)
    axes.set_xlim(0, 90)
    axes.set_xticks([0, 15, 30, 60, 80, 90])
    axes.grid(True, axis="both", color="#dddddd", linewidth=0.7)
    axes.set_title(title, fontsize=11)
    before = curves[_BEFORE].summary
    axes.text(0.02, 0.05, _warmup_effect(before), transform=axes.transAxes, color=_COLOURS[_BEFORE], fontsize=9)


def _warmup_effect(summary: dict[str, Any]) -> str:
    """What the warm-up of the text does to a schedule, for the figure."""
    ends = f"by the text: {summary['steps']:,} steps, "
    if summary["warmup_steps"] >= summary["steps"]:
        return ends + "all of them warm-up: it never decays"
    if summary["refused"]:
        return ends + f"warm-up past the first decay, to epoch {summary['warmup_epochs']:.1f}"
    return ends + f"warm-up to epoch {summary['warmup_epochs']:.1f}"


def text(unions: dict[str, tuple[int, dict[str, Curve]]], figure: str) -> str:
    """Figure and table as Markdown."""
    lines = [
        "# Learning rates of the X-ray recipes",
        "",
        f"![Learning rate against epoch for the four unions]({figure})",
        "",
        "By the text: batch 4096, 5,000 steps of warm-up. As shipped: what the authors ran on 64 GPUs, batch 1024 and",
        "15 epochs of warm-up. Base learning rate 0.01 per 256 images, x0.1 after epochs 30, 60 and 80 of 90, in both.",
        "",
        "| union | training images | schedule | steps | warm-up, steps (epochs) | first decay at step | highest rate | "
        "share of the run at it | last rate | a run is |",
        "|---" * 10 + "|",
    ]
    for union, (images, curves) in unions.items():
        for name, drawn in curves.items():
            row = drawn.summary
            lines.append(
                f"| {source_title(union, 'r50x1')} | {images:,} | {name} | {row['steps']:,} | {row['warmup_steps']:,} "
                f"({row['warmup_epochs']:.1f}) | {row['decay_steps'][0]:,} | {row['highest']:.2g} | "
                f"{row['at_the_highest']:.1%} | {row['last']:.2g} | {'refused' if row['refused'] else 'taken'} |"
            )
    sources = [
        "",
        f"Images of the train splits, all views: CheXpert {IMAGES['chexpert']:,} and PadChest {IMAGES['padchest']:,},",
        "counted in the tables that torchxrayvision ships, with the splits of `prepare`; MIMIC-CXR",
        f"{IMAGES['mimic_cxr']:,}, its official split, before images without labels are left out; NIH",
        f"{IMAGES['nih_cxr14']:,}, its official list, before `prepare` takes 2% of the patients for val.",
    ]
    return "\n".join([*lines, *sources]) + "\n"


@entry_point
def main() -> None:
    """Parse the command line, draw, and write JSON, PNG and Markdown."""
    drawing = parse(Drawing, __doc__)
    unions = {union: curves_of(union) for union in UNIONS}
    result = {
        "commit": commit(),
        "images": IMAGES,
        "unions": {
            union: {"images": images, **{name: drawn.summary for name, drawn in curves.items()}}
            for union, (images, curves) in unions.items()
        },
    }
    figure = drawing.out.with_suffix(".png")
    write_result(drawing.out, result, text(unions, figure.name))
    draw(unions, figure)


if __name__ == "__main__":
    main()
