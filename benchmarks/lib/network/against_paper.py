"""The network model against Figure 4b of arXiv:2106.00116: fitted to the smaller GPU counts, tested on the larger
ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.lib.network.fit import FREE, calibrate, efficiency, predict
from benchmarks.lib.network.layers import step_work_of
from benchmarks.lib.network.model import simulate
from benchmarks.lib.network.predict import calibrated_on_published, sync_of
from benchmarks.lib.network.profile import Profile, Workload, load_profile

TARGET = 0.7  # points of efficiency
_INTERFERENCES = (0.0, 0.05, 0.1, 0.15)


def against_paper() -> dict[str, Any]:
    """The points of Figure 4b that the fit has not seen, predicted by the model and by a straight line through
    efficiency over log2 N; and how the model's misses change with the number that is known least."""
    profile = load_profile("juwels-booster")
    published = profile.published
    assert published is not None, profile.name
    seen, held_out = published.points(held_out=False), published.points(held_out=True)
    step_work, sync = step_work_of(published.workload, profile), sync_of(published.engine)

    def misses(interference: float) -> dict[int, float]:
        other = replace(profile, machine=replace(profile.machine, interference=interference))
        machine = calibrate(other, step_work, sync, seen, published.error, draws=0).profile.machine
        return {ranks: efficiency(lambda _: step_work, machine, sync, ranks) - measured for ranks, measured in held_out}

    fit = calibrated_on_published(profile)
    found = predict(fit, lambda _: step_work, sync, [1, *(ranks for ranks, _ in held_out)])[1:]
    line = straight_line([(1, 100.0), *seen], [ranks for ranks, _ in held_out])
    rows: list[dict[str, Any]] = [
        {
            "ranks": ranks,
            "measured": measured,
            "predicted": point.efficiency,
            "interval": [point.efficiency_low, point.efficiency_high],
            "miss": point.efficiency - measured,
            "straight_line_miss": by_line - measured,
        }
        for (ranks, measured), point, by_line in zip(held_out, found, line, strict=True)
    ]
    return {
        "calibrated_on": seen,
        "free_parameters": {name: getattr(fit.profile.machine, name) for name in FREE},
        "residuals": fit.residuals,
        "held_out": rows,
        "overlap": [overlap(fit.profile, published.workload, engine) for engine in ("horovod", "ddp")],
        "misses_by_interference": {str(share): misses(share) for share in _INTERFERENCES},
        "target_points": TARGET,
        "met": all(abs(row["miss"]) <= TARGET and abs(row["miss"]) < abs(row["straight_line_miss"]) for row in rows),
    }


def overlap(profile: Profile, work: Workload, engine: str, ranks: int = 1024) -> dict[str, Any]:
    """What a step of so many ranks waits for gradients, as a share of it, and its efficiency: with the gradients in the
    shipped model's order, with those of the filters after all others, and exchanged after the backward pass."""
    shipped, last = (step_work_of(work, profile, filters_last=at_end) for at_end in (False, True))
    sync = sync_of(engine)
    cases = {
        "unit_by_unit": (shipped, sync),
        "filters_last": (last, sync),
        "after_the_pass": (shipped, replace(sync, packing="end")),
    }
    found: dict[str, Any] = {"engine": engine, "ranks": ranks}
    for name, (step_work, how) in cases.items():
        step = simulate(step_work, profile.machine, how, ranks)
        share = efficiency(lambda _, step_work=step_work: step_work, profile.machine, how, ranks)  # type: ignore[misc]
        found[name] = {"exposed_share": step.exposed_s / step.seconds, "efficiency": share}
    return found


def straight_line(points: Sequence[tuple[int, float]], ranks: Sequence[int]) -> list[float]:
    """Least squares through efficiency over log2 N, at other counts."""
    slope, offset = np.polyfit(np.log2([count for count, _ in points]), [share for _, share in points], 1)
    return [float(offset + slope * np.log2(count)) for count in ranks]
