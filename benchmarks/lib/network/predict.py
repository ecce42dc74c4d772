"""Predictions for a model on a machine: calibration of the network model, what-ifs and advice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from statistics import median
from typing import Any, NamedTuple, get_args

from benchmarks.lib.network.fit import FREE, Fit, Predicted, StepWorkOf, calibrate, images_per_s, predict, uncalibrated
from benchmarks.lib.network.layers import scaled_to, step_work_of
from benchmarks.lib.network.model import Algorithm, Machine, StepWork, Sync
from benchmarks.lib.network.profile import Profile, Workload
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest

_DDP_BUCKET_MB = 25
_HOROVOD_BUCKET_MB = 64  # what the paper's Horovod fused at most
_BYTES = {"none": 4, "bf16": 2, "fp16": 2}
_IMAGE_BYTES = 110e3  # of an ImageNet JPEG file on average
_ADVISED = [(bucket, compression) for bucket in (10, 25, 50, 100) for compression in ("none", "bf16")]
Measured = Mapping[int, Sequence[float]]
"""By count of ranks, images/s of all ranks in each window; counts ascend."""


@dataclass(frozen=True)
class Scenario:
    """What is predicted: a workload, whose batch is one rank's, or that of all ranks if `strong`, at some counts."""

    work: Workload
    counts: Sequence[int]
    strong: bool = False

    def step_work_among(self, ranks: int, profile: Profile) -> StepWork:
        """What one of so many ranks computes, by the profile's rates."""
        images = max(1, self.work.images // ranks) if self.strong else self.work.images
        return step_work_of(replace(self.work, images=images), profile, _IMAGE_BYTES)


class Series(NamedTuple):
    """Predicted points of an engine; `note` says what was changed for them."""

    engine: str
    note: str
    points: list[Predicted]


def sync_of(engine: str) -> Sync:
    """How an engine's gradients travel by default."""
    if engine == "horovod":
        return Sync("cycles", _HOROVOD_BUCKET_MB)
    return Sync("end" if engine == "deepspeed" else "buckets", _DDP_BUCKET_MB)


def calibrated_on_published(profile: Profile) -> Fit:
    """The profile, fitted to what was published of the machine where there is something."""
    published = profile.published
    if published is None:
        return uncalibrated(profile)
    step_work, points = step_work_of(published.workload, profile), published.points(held_out=False)
    return calibrate(profile, step_work, sync_of(published.engine), points, published.error)


def predictions(
    scenario: Scenario, profile: Profile, measured: Mapping[str, Measured], what_if: str
) -> tuple[list[Series], dict[str, Any]]:
    """Predictions for each engine, and how they came about. What was measured, by engine, is of GPUs like the
    profile's: one rank's rate is taken from it and the model calibrated on it; without, from the profile."""
    series: list[Series] = []
    about: dict[str, Any] = {}
    for engine, rates in measured.items():
        sync = sync_of(engine)
        fit, step_work_for, rate_error = _calibrated(scenario, profile, sync, rates)
        about[engine] = {
            "fitted": {name: getattr(fit.profile.machine, name) for name in FREE} if fit.residuals else {},
            "calibrated_on": _calibrated_on(profile, rates),
            "residuals_points": fit.residuals,
            "step_s_of_one_rank": step_work_for(scenario.counts[0]).compute_s,
        }
        series.append(Series(engine, "", predict(fit, step_work_for, sync, scenario.counts, rate_error)))
        if what_if:
            sync, machine = with_changes(what_if, sync, fit.profile.machine)
            others = tuple(with_changes(what_if, sync, other)[1] for other in fit.machines)
            fit = replace(fit, profile=replace(fit.profile, machine=machine), machines=others)
            points = predict(fit, step_work_for, sync, scenario.counts, rate_error)
            series.append(Series(engine, f"what if {what_if}", points))
    return series, about


def _calibrated(scenario: Scenario, profile: Profile, sync: Sync, measured: Measured) -> tuple[Fit, StepWorkOf, float]:
    """The fit, each count's work, and the relative error of one rank's rate."""

    @cache
    def step_work_for(ranks: int) -> StepWork:
        step_work = scenario.step_work_among(ranks, profile)
        return scaled_to(step_work, step_work.compute_s * slower)

    slower, rate_error = 1.0, profile.errors["tflops"]
    if 1 not in measured:
        return calibrated_on_published(profile), step_work_for, rate_error
    alone = measured[1]
    rate = median(alone)
    slower = images_per_s(scenario.step_work_among(1, profile), profile.machine, sync, 1) / rate
    rate_error = (max(alone) - min(alone)) / rate / 2
    if scenario.strong or len(measured) == 1:
        return calibrated_on_published(profile), step_work_for, rate_error
    shares = [(ranks, 100.0 * median(rates) / ranks / rate) for ranks, rates in measured.items()]
    return calibrate(profile, step_work_for(1), sync, shares, max(0.3, 100.0 * rate_error)), step_work_for, rate_error


def _calibrated_on(profile: Profile, measured: Measured) -> str:
    if len(measured) > 1 and 1 in measured:
        return f"measured points of {', '.join(map(str, measured))} ranks"
    if profile.published is None:
        return "nothing: the profile as it is"
    return f"{profile.published.source}, up to {profile.published.calibrate_up_to} ranks"


def with_changes(what_if: str, sync: Sync, machine: Machine) -> tuple[Sync, Machine]:
    """Both with the changes of `bucket_mb=100,compression=bf16,net_gb_s=50`. Raises InputError for unknown ones."""
    numbers = {field.name for field in fields(Machine)}
    for change in what_if.split(","):
        name, _, value = (part.strip() for part in change.partition("="))
        if name == "compression" and value in _BYTES:
            sync = replace(sync, bytes_per_element=_BYTES[value])
        elif name == "algorithm" and value in get_args(Algorithm):
            sync = replace(sync, algorithm=value)  # type: ignore[arg-type]
        elif name == "bucket_mb" or name in numbers:
            number = _number(change, value)
            sync = replace(sync, bucket_mb=number) if name == "bucket_mb" else sync
            machine = replace(machine, **{name: number}) if name in numbers else machine
        else:
            known = ["bucket_mb", "compression", "algorithm", *numbers]
            raise InputError(f"--what-if {change}{nearest(name, sorted(known))}; compression is none, bf16 or fp16")
    return sync, machine


def _number(change: str, value: str) -> Any:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise InputError(f"--what-if {change}: {value!r} is not a number above 0")
    return int(number) if number.is_integer() else number


def advise(scenario: Scenario, profile: Profile, engine: str) -> list[dict[str, Any]]:
    """Settings of bucket and compression with the rate that they would give at the largest count, best first."""
    fit, ranks = calibrated_on_published(profile), scenario.counts[-1]
    step_work = scenario.step_work_among(ranks, profile)
    tried = []
    for bucket_mb, compression in _ADVISED:
        sync = replace(sync_of(engine), bucket_mb=bucket_mb, bytes_per_element=_BYTES[compression])
        rate = images_per_s(step_work, fit.profile.machine, sync, ranks)
        tried.append({"bucket_mb": bucket_mb, "compression": compression, "images_per_s": rate})
    return sorted(tried, key=lambda one: -one["images_per_s"])
