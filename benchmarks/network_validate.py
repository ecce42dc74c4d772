"""Hold the model of the network to what was measured: python benchmarks/network_validate.py [--parts paper wire here]

Against the paper's Figure 4b, against links of a known bandwidth, and one against two CPU ranks of this machine.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.lib.network.fit import FREE, calibrate, efficiency, predict
from benchmarks.lib.network.layers import job_of
from benchmarks.lib.network.model import simulate
from benchmarks.lib.network.profile import Profile, load_profile
from benchmarks.lib.network.wire import measure_wire
from benchmarks.lib.scaling.predict import sync_of
from benchmarks.loading import versions
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json
from trainer.run_folder.environment import commit, cpu_name

Part = Literal["paper", "wire", "here"]
PAPER_TARGET = 0.7  # points of efficiency
_INTERFERENCES = (0.0, 0.05, 0.1, 0.15)
_TWO_CORES = (
    "Two ranks on two cores share caches, memory bandwidth and whatever else runs there, and the threads of Gloo "
    "compute on the same cores: this shows that the loop runs in parallel and what an exchange in memory costs. It "
    "shows nothing of a network, of GPUs, or of more ranks."
)


@dataclass(frozen=True)
class Validation:
    """Which comparisons, and where their result goes."""

    parts: tuple[Part, ...] = get_args(Part)
    """Comparisons to make."""
    worlds: tuple[int, ...] = (2, 4, 8)
    """Ranks of the comparison with a wire."""
    window_steps: int = 20
    """Steps of a window of the comparison here."""
    out: Path = Path("network.json")
    """JSON file to write."""

    def __post_init__(self) -> None:
        if unknown := set(self.worlds) - {2, 4, 8}:
            raise InputError(f"--worlds {' '.join(map(str, sorted(unknown)))}: there are links for 2, 4 and 8 ranks")


def against_paper() -> dict[str, Any]:
    """The points of Figure 4b that the fit has not seen, predicted by the model and by a straight line through
    efficiency over log2 N; and how the model's misses change with the number that is known least."""
    profile = load_profile("juwels-booster")
    published = profile.published
    assert published is not None, profile.name
    seen, held_out = published.points(held_out=False), published.points(held_out=True)
    size = published.model, published.num_classes, published.image_size, published.images_per_rank
    job = job_of(*size, profile.tflops, profile.update_gb_s, profile.kernel_us)
    sync = sync_of(published.engine)

    def misses(interference: float) -> dict[int, float]:
        other = replace(profile, machine=replace(profile.machine, interference=interference))
        machine = calibrate(other, job, sync, seen, published.error, draws=0).profile.machine
        return {ranks: efficiency(lambda _: job, machine, sync, ranks) - measured for ranks, measured in held_out}

    fit = calibrate(profile, job, sync, seen, published.error)
    found = predict(fit, lambda _: job, sync, [1, *(ranks for ranks, _ in held_out)])[1:]
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
        "overlap": [overlap(fit.profile, size, engine) for engine in ("horovod", "ddp")],
        "misses_by_interference": {str(share): misses(share) for share in _INTERFERENCES},
        "target_points": PAPER_TARGET,
        "met": all(
            abs(row["miss"]) <= PAPER_TARGET and abs(row["miss"]) < abs(row["straight_line_miss"]) for row in rows
        ),
    }


def overlap(profile: Profile, size: tuple[str, int, int, int], engine: str, ranks: int = 1024) -> dict[str, Any]:
    """What a step of so many ranks waits for gradients, as a share of it, and its efficiency: with the gradients in the
    shipped model's order, with those of the filters after all others, and exchanged after the backward pass."""
    shipped, last = (
        job_of(*size, profile.tflops, profile.update_gb_s, profile.kernel_us, filters_last=at_end)
        for at_end in (False, True)
    )
    sync = sync_of(engine)
    cases = {
        "unit_by_unit": (shipped, sync),
        "filters_last": (last, sync),
        "after_the_pass": (shipped, replace(sync, packing="end")),
    }
    found: dict[str, Any] = {"engine": engine, "ranks": ranks}
    for name, (job, how) in cases.items():
        step = simulate(job, profile.machine, how, ranks)
        share = efficiency(lambda _, job=job: job, profile.machine, how, ranks)  # type: ignore[misc]
        found[name] = {"exposed_share": step.exposed_s / step.seconds, "efficiency": share}
    return found


def straight_line(points: Sequence[tuple[int, float]], ranks: Sequence[int]) -> list[float]:
    """Least squares through efficiency over log2 N, at other counts."""
    slope, offset = np.polyfit(np.log2([count for count, _ in points]), [share for _, share in points], 1)
    return [float(offset + slope * np.log2(count)) for count in ranks]


def here(window_steps: int) -> dict[str, Any]:
    """One and two CPU ranks of r14x0.5, by the scaling benchmark."""
    from benchmarks.lib.scaling.rows import measured_rows
    from benchmarks.scaling import Scaling, measure_here

    with tempfile.TemporaryDirectory(prefix="bitscale-scaling-") as folder:
        settings = Scaling(device="cpu", window_steps=window_steps, windows=5, out=Path(folder))
        rows = [asdict(row) for row in measured_rows(measure_here(settings, (1, 2), (1, 2), "cpu"))]
    return {"points": rows, "what_two_cores_show": _TWO_CORES}


@entry_point
def main() -> None:
    """Parse the command line, compare, and write the JSON file."""
    settings = parse(Validation, __doc__)
    result: dict[str, Any] = {
        "benchmark": "network",
        "commit": commit(),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": versions(),
    }
    if "paper" in settings.parts:
        result["paper"] = against_paper()
    if "wire" in settings.parts:
        result["wire"] = measure_wire(settings.worlds)
    if "here" in settings.parts:
        result["here"] = here(settings.window_steps)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, result)
    for part in ("paper", "wire"):
        if part in result:
            print(f"{part}: {'met' if result[part]['met'] else 'MISSED'}")
    print(settings.out)


if __name__ == "__main__":
    main()
