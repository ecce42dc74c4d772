"""The table and the figure of the study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.lib.union_heads.study import ALONE, JOINS, SCRATCH, Sizes, measures
from trainer.document.figure_style import STYLE, save
from trainer.reporting.cells import interval

Rows = Sequence[dict[str, Any]]
WAYS = (*JOINS, ALONE, SCRATCH)
_TITLES = {
    "alike": "AUC, findings labelled alike",
    "own": "AUC, all findings of each set",
    "Effusion of north": "AUC, Effusion of north (any)",
    "Effusion of south": "AUC, Effusion of south (large ones only)",
    "Pleural fluid of east": "AUC, Pleural fluid of east (any)",
}
_DRAWN = ("alike", "own", "Effusion of south")


def values_of(rows: Rows) -> dict[str, dict[str, dict[int, float]]]:
    """By measure and way to train, the figure of each seed, in points."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for name, value in measures(row).items():
            found.setdefault(name, {}).setdefault(row["trained"], {})[row["seed"]] = value
    return dict(sorted(found.items(), key=lambda item: list(_TITLES).index(item[0]) if item[0] in _TITLES else 99))


def less(of_seed: dict[int, float], other: dict[int, float]) -> str:
    """The paired difference with its interval."""
    seeds = sorted(of_seed.keys() & other.keys())
    return interval(np.array([of_seed[seed] - other[seed] for seed in seeds]))


def summary(rows: Rows) -> dict[str, Any]:
    """The means, and heads less the two other ways, by measure."""
    found = {}
    for name, ways in values_of(rows).items():
        means = {way: round(float(np.mean(list(values.values()))), 2) for way, values in ways.items()}
        others = {f"heads less {way}": less(ways["heads"], ways[way]) for way in ways if way != "heads"}
        found[name] = {"mean": means} | others
    return found


def table(rows: Rows, sizes: Sizes) -> str:
    """In Markdown."""
    seeds = len({row["seed"] for row in rows if row["trained"] == JOINS[-1]})
    trained = [way for way in WAYS if any(row["trained"] == way for row in rows)]
    alone = " (one set: as many of north)" if ALONE in trained else ""
    lines = [
        "# Intersection, union or heads\n",
        f"Phantoms of {sizes.side} pixels, r14x0.5, {sizes.images:,} images evenly from three sets{alone}, "
        f"{sizes.steps} steps of {sizes.batch}, {seeds} seed{'s' * (seeds != 1)}. In points: mean over the seeds, "
        "standard deviation; heads less each, paired by seed, with a 95% t interval.\n",
        f"| | {' | '.join(trained)} | heads less intersection | heads less union |",
        "|---|" + "---|" * (len(trained) + 2),
    ]
    for name, ways in values_of(rows).items():
        cells = [_cell(ways.get(way, {})) for way in trained]
        cells += [less(ways["heads"], ways.get(way, {})) for way in ("intersection", "union")]
        title = _TITLES.get(name, f"AUC of a linear probe, {name}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(of_seed: dict[int, float]) -> str:
    values = list(of_seed.values())
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def draw(rows: Rows, folder: Path, name: str) -> None:
    """Write NAME.png and NAME.svg: each seed a point, the means as lines."""
    values = values_of(rows)
    shown = [*(one for one in _DRAWN if one in values), *(one for one in values if one.startswith("fourth"))]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(shown), figsize=(2.1 * len(shown), 2.6), layout="constrained")
        for axis, measure in zip(np.atleast_1d(axes), shown, strict=True):
            ways = [way for way in WAYS if way in values[measure]]
            for place, way in enumerate(ways):
                points = list(values[measure][way].values())
                color = "C3" if way == "heads" else "0.45"
                axis.plot([place] * len(points), points, "o", color=color, markersize=3.5, alpha=0.7)
                axis.plot([place - 0.3, place + 0.3], [np.mean(points)] * 2, color=color)
            axis.set_xticks(range(len(ways)), ways, rotation=40, ha="right")
            axis.set_xlim(-0.6, len(ways) - 0.4)
            axis.set_title(_short(measure))
        figure.supylabel("points", fontsize=8)
        save(figure, folder, name, also_png=True)


def _short(name: str) -> str:
    titles = {"alike": "AUC,\nlabelled alike", "own": "AUC,\nall of each set"}
    titles["Effusion of south"] = "AUC,\nlarge effusions (south)"
    return titles.get(name, f"AUC of a probe,\n{name}")
