"""Figures of the evaluation page: ROC and reliability curves, confusion matrix, most confident errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from data_pipelines.common.figure_text import drawable, legend, text_style
from data_pipelines.common.printable import shortened, wrapped
from trainer.document.blocks import Picture
from trainer.document.figure_style import STYLE, save
from trainer.evaluation.assessment.assess import Assessment
from trainer.evaluation.assessment.misclassifications import Misclassification
from trainer.evaluation.calibration.operating import Reliability

MOST_CURVES, MOST_CONFUSED = 14, 20
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]  # Okabe and Ito
_LINES = ["-", "--", "-.", ":"]
_GREY = "#999999"
_COLUMNS = 6
_CAPTION_LINE, _CAPTION_LINES = 26, 2
_LONGEST_CURVE, _LONGEST_CLASS = 32, 22  # letters of a name beside a curve, and beside the table


def look(number: int) -> dict[str, Any]:
    """Colour and line of the curve of this number; no two of `MOST_CURVES` have both alike."""
    return {"color": _COLOURS[number % len(_COLOURS)], "ls": _LINES[number % len(_LINES)]}


def roc(assessment: Assessment, folder: Path) -> Picture | None:
    """The ROC curve of every class or finding that has one, with its threshold marked; only the most frequent if there
    are many."""
    having = sorted((f for f in assessment.findings if len(f.roc[0])), key=lambda f: -f.positives)
    shown = having[:MOST_CURVES]
    if not shown:
        return None
    curves, labels = [], []
    with plt.rc_context(STYLE | text_style(finding.name for finding in shown)):
        figure, axes = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
        axes.plot([0, 1], [0, 1], color=_GREY, lw=0.8)
        for number, finding in enumerate(shown):
            style = look(number)
            curves += axes.plot(*finding.roc, lw=1.2, **style)
            labels.append(f"{shortened(drawable(finding.name), _LONGEST_CURVE)}, {finding.auc.value:.3f}")
            specificity, sensitivity = (finding.shares[name].value for name in ("specificity", "sensitivity"))
            axes.plot(1 - specificity, sensitivity, "o", color=style["color"], mec="white", ms=5)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_aspect("equal")
        legend(figure, curves, labels, loc="outside right center", frameon=False, title="AUC")
        width = save(figure, folder, "roc")
    some = f"; the {len(shown)} most frequent of {len(having)}" if len(shown) < len(having) else ""
    return Picture("roc", f"ROC curves{some}. Dots: the thresholds of the next table.", width)


def reliability(assessment: Assessment, folder: Path) -> Picture:
    """Predicted probability against observed frequency, before and after the temperature; bars: number of
    predictions."""
    what = "share of correct predictions" if assessment.predictions.task == "single_label" else "share of positives"
    curves = [("as trained", assessment.raw_reliability, {"marker": "s"} | look(1))]
    if assessment.points.images:
        curves.append(
            (f"temperature {assessment.points.temperature:.3g}", assessment.reliability, {"marker": "o"} | look(0))
        )
    with plt.rc_context(STYLE):
        figure, (axes, bars) = plt.subplots(
            2, 1, figsize=(4.4, 4.2), layout="constrained", sharex=True, height_ratios=[3, 1]
        )
        axes.plot([0, 1], [0, 1], color=_GREY, lw=0.8)
        for name, curve, style in curves:
            filled = curve.count > 0
            label = f"{name}: error {curve.error:.3f}"
            axes.plot(curve.predicted[filled], curve.observed[filled], ms=4, label=label, mec="white", **style)
            _draw_counts(bars, curve, style)
        axes.set(ylabel=what, xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", frameon=False)
        bars.set(xlabel="predicted probability", ylabel="predictions")
        width = save(figure, folder, "reliability")
    kind = "of the predicted class" if assessment.predictions.task == "single_label" else "of all labelled findings"
    return Picture("reliability", f"Reliability {kind}: on the line, probabilities are what they say.", width)


def _draw_counts(axes: Axes, curve: Reliability, style: dict[str, Any]) -> None:
    edges = np.linspace(0, 1, len(curve.count) + 1)
    axes.stairs(curve.count, edges, color=style["color"], ls=style["ls"])


def confusion(assessment: Assessment, folder: Path) -> Picture | None:
    """Confusion matrix; None for findings and for many classes."""
    predictions = assessment.predictions
    number = len(predictions.classes)
    if predictions.task == "multi_label" or number > MOST_CONFUSED:
        return None
    table = np.zeros((number, number), dtype=np.int64)
    np.add.at(table, (predictions.labels, predictions.logits.argmax(axis=1)), 1)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.55 * number
    with plt.rc_context(STYLE | text_style(predictions.classes) | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(table):
            axes.text(
                column, row, f"{count:,}", ha="center", va="center", color="w" if shares[row, column] > 0.6 else "k"
            )
        names = [shortened(drawable(name), _LONGEST_CLASS) for name in predictions.classes]
        axes.set_xticks(range(number), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(number), names)
        axes.set(xlabel="predicted (most probable class)", ylabel="label")
        width = save(figure, folder, "confusion")
    return Picture("confusion", "Images by label and most probable class; shaded by the share of their label.", width)


def gallery(errors: Sequence[Misclassification], folder: Path) -> Picture:
    """The images of the most confident errors, most confident first."""
    lines = -(-len(errors) // _COLUMNS)
    texts = [text for error in errors for text in error.error]
    with plt.rc_context(STYLE | text_style(texts)):
        figure, grid = plt.subplots(lines, _COLUMNS, figsize=(8.6, 2.15 * lines), layout="constrained", squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, error in zip(grid.flat, errors, strict=False):
            assert error.pixels is not None
            axes.imshow(error.pixels, cmap="gray", vmin=0, vmax=255)
            words = [wrapped(drawable(text), _CAPTION_LINE, _CAPTION_LINES) for text in error.error]
            axes.text(0.5, -0.04, "\n".join(words), transform=axes.transAxes, ha="center", va="top", fontsize=6.5)
        width = save(figure, folder, "errors")
    return Picture("errors", "The most confident errors, the most confident first; names in the table below.", width)
