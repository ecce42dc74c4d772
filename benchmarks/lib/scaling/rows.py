"""Rows of the scaling table: points marked measured or predicted, with their efficiency."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.lib.network.predict import Series
from benchmarks.lib.scaling.run import Measured

MEASURED, PREDICTED = "measured", "predicted"


@dataclass(frozen=True)
class Row:
    """One point. Rates in images/s of all ranks; efficiency in percent against `base` ranks. Low and high: the windows
    of a measured point, a 90 % interval of a predicted one."""

    kind: str
    engine: str
    hardware: str
    model: str
    gpus: int
    images_per_s: float | None = None
    images_per_s_low: float | None = None
    images_per_s_high: float | None = None
    efficiency: float | None = None
    efficiency_low: float | None = None
    efficiency_high: float | None = None
    base: int = 1
    data_wait_share: float | None = None
    exposed_share: float | None = None
    peak_memory_bytes: float | None = None
    joules_per_image: float | None = None
    commit: str = ""
    note: str = ""


def measured_rows(points: Sequence[Measured]) -> list[Row]:
    """Efficiency of each series (engine, hardware and model) against its smallest count: E = 100 T(N) b / (N T(b))."""
    rows = []
    mixed = len({point.commit for point in points if not point.failed}) > 1
    for point in points:
        like = next((other for other in points if other.engine == point.engine and not other.failed), point)
        point = replace(point, model=like.model, hardware=like.hardware) if point.failed else point
        same = [other for other in points if not other.failed and _series(other) == _series(point)]
        base = min(same, key=lambda other: other.ranks, default=None)
        notes = {
            f"failed: {point.failed}": bool(point.failed),
            "additional: the most that fits here": point.additional,
            "mixed commits": mixed and not point.failed,
        }
        note = "; ".join(text for text, holds in notes.items() if holds)
        row = Row(MEASURED, point.engine, point.hardware, point.model, point.ranks, note=note)
        rows.append(row if point.failed or base is None else _with_rates(row, point, base))
    return rows


def _series(point: Measured) -> tuple[str, str, str]:
    return point.engine, point.hardware, point.model


def _with_rates(row: Row, point: Measured, base: Measured) -> Row:
    alone = median(base.rates) / base.ranks
    rates = {
        "images_per_s": median(point.rates),
        "images_per_s_low": min(point.rates),
        "images_per_s_high": max(point.rates),
    }
    # The base has windows of its own: what is low against its best is lowest.
    against = {
        "efficiency": alone,
        "efficiency_low": max(base.rates) / base.ranks,
        "efficiency_high": min(base.rates) / base.ranks,
    }
    if point == base:
        against = dict.fromkeys(against, alone)
    shares = {
        name: 100.0 * rate / (point.ranks * of_one)
        for (name, of_one), rate in zip(against.items(), rates.values(), strict=True)
    }
    names = ("data_wait_share", "exposed_share", "peak_memory_bytes", "joules_per_image", "commit")
    seen = {name: getattr(point, name) for name in names}
    return Row(**{**vars(row), **rates, **shares, **seen, "base": base.ranks})


def predicted_rows(series: Series, hardware: str, model: str) -> list[Row]:
    """Rows of predicted points; the first count is what efficiency is against."""
    rows = []
    for point in series.points:
        numbers = {name: value for name, value in vars(point).items() if name not in ("ranks", "step")}
        row = Row(PREDICTED, series.engine, hardware, model, point.ranks, **numbers)
        rows.append(
            replace(
                row,
                base=series.points[0].ranks,
                data_wait_share=point.step.data_wait_s / point.step.seconds,
                exposed_share=point.step.exposed_s / point.step.seconds,
                note=series.note,
            )
        )
    return rows
