"""Tables of the fitted laws, of effective data, and of the prediction of left-out targets."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from trainer.document.blocks import Block, BulletList, Entry, Heading, Table
from trainer.reporting.analysis.effective_data import EffectiveImages
from trainer.reporting.analysis.joint_law import LAW, MEAN, MEAN_AT, HeldOut
from trainer.reporting.analysis.power_law import DECADE, PowerLaw
from trainer.reporting.names import shots_title, target_title

_NOT_TOLD = "not told"
_LAW_COLUMNS = ("e∞, %", "a, %", "α", f"error with {DECADE:.0f} times the images, %")
_LEAST_FLOOR = 5e-4  # 0.05%: printed as zero


class Fit(NamedTuple):
    """A fitted law, and what it is of."""

    title: str
    law: PowerLaw


def law_blocks(name: str, caption: str, stub: str, fits: Sequence[Fit]) -> list[Block]:
    """A table with a row per law: its parameters with 95% intervals, or that the data do not tell them, with the
    reasons below. The reasons alone, as a list, where no law is told."""
    rows = [(fit.title, tuple(Entry(words=words) for words in _law_words(fit.law))) for fit in fits]
    reasons: dict[str, list[str]] = {}
    for fit in fits:
        if not fit.law.is_told:
            reasons.setdefault(fit.law.untold, []).append(fit.title)
    notes = tuple(f"Not told, {reason}: {'; '.join(titles)}." for reason, titles in reasons.items())
    if not any(fit.law.is_told for fit in fits):
        return [BulletList(notes)]
    return [Table(name, caption, stub, tuple(Heading("", title) for title in _LAW_COLUMNS), tuple(rows), notes)]


def _law_words(law: PowerLaw) -> tuple[str, ...]:
    if not law.is_told or law.parameters is None or law.resampled is None:
        return (_NOT_TOLD,) * len(_LAW_COLUMNS)
    best, (low, high) = law.parameters, law.limits["floor"]
    floor = f"at most {max(high * 100, 0.01):.2f}" if low < _LEAST_FLOOR else _percent(float(best.floor), low, high)
    alpha = "{:.2f} [{:.2f}, {:.2f}]".format(float(best.alpha), *law.limits["alpha"])
    further = law.curve.images[-1:] * DECADE
    band = law.band(further)
    assert band is not None
    lower, upper = band
    then = _percent(float(best.at(further)[0]), float(lower[0]), float(upper[0]))
    return floor, f"{float(best.scale) * 100:.3g}", alpha, then


def _percent(value: float, low: float, high: float) -> str:
    return f"{value * 100:.2f} [{low * 100:.2f}, {high * 100:.2f}]"


def effective_table(
    target: str, baseline: str, shots: Sequence[str], rows: Iterable[tuple[str, Mapping[str, EffectiveImages]]]
) -> Table:
    """A row per pre-trained source: by shots, how many more images the baseline needs for the same error."""
    columns = tuple(Heading("", shots_title(name)) for name in shots)
    entries = [
        (title, tuple(Entry(words=_more(found[name]) if name in found else "") for name in shots))
        for title, found in rows
    ]
    caption = (
        f"{target_title(target)}: effective data transferred: how many more training images than the source {baseline} "
        "needs for the error of each other source; 95% interval over resampled seeds."
    )
    words = {part for _, line in entries for entry in line for part in ("beyond", "below") if part in entry.words}
    notes = []
    if "beyond" in words:
        notes.append(
            f"Beyond: {baseline} does not reach this error with the most images it was measured with; how many it "
            "would need is not known, and not extrapolated."
        )
    if "below" in words:
        notes.append(f"Below: {baseline} is better already with the fewest images it was measured with.")
    return Table(f"laws_effective_{target}", caption, "source", columns, tuple(entries), tuple(notes))


def _more(found: EffectiveImages) -> str:
    value = _images(found.effective, found.images)
    if found.low == found.high == found.effective:
        return value
    if math.isnan(found.low):
        return f"{value} (one seed)"
    return f"{value} [{_images(found.low, found.images)}, {_images(found.high, found.images)}]"


def _images(effective: float, images: float) -> str:
    if math.isinf(effective):
        return "beyond"
    return "below" if effective == 0 else f"{round(effective - images) + 0:+,d}"


def prediction_table(caption: str, rows: Sequence[tuple[str, HeldOut]], notes: tuple[str, ...]) -> Table:
    """A row per model and measure of proximity: the error of three predictions of targets left out."""
    titles = (
        "mean gain",
        "mean gain at the shots",
        "joint law",
        "law minus mean",
        "law minus mean at the shots",
        "law best on",
    )
    return Table(
        "laws_prediction",
        caption,
        "proximity",
        tuple(Heading("", title) for title in titles),
        tuple((title, tuple(Entry(words=words) for words in _prediction(found))) for title, found in rows),
        notes,
    )


def _prediction(found: HeldOut) -> tuple[str, ...]:
    errors = [f"{found.overall(name):.2f}" for name in (MEAN, MEAN_AT, LAW)]
    differences = ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*found.difference(LAW, name)) for name in (MEAN, MEAN_AT)]
    better = (found.rmse(LAW) < found.rmse(MEAN)) & (found.rmse(LAW) < found.rmse(MEAN_AT))
    return (*errors, *differences, f"{int(better.sum())} of {len(better)}")


def target_errors(caption: str, found: HeldOut) -> Table:
    """A row per left-out target: cells, and the error of each prediction."""
    counts = found.cells.groupby("target", sort=False).size()
    errors = [found.rmse(name) for name in (MEAN, MEAN_AT, LAW)]
    rows = tuple(
        (
            target_title(str(target)),
            (Entry(words=str(counts[target])), *(Entry(words=f"{of[target]:.2f}") for of in errors)),
        )
        for target in found.targets
    )
    columns = tuple(Heading("", title) for title in ("cells", "mean gain", "mean gain at the shots", "joint law"))
    return Table("laws_left_out", caption, "target left out", columns, rows)
