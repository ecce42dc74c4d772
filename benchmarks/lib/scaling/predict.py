"""Predicted points: which job, which machine, what the model is calibrated on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from statistics import median
from typing import Any, get_args

from benchmarks.lib.network.fit import FREE, Fit, JobOf, calibrate, images_per_s, predict, uncalibrated
from benchmarks.lib.network.layers import job_of, scaled_to
from benchmarks.lib.network.model import Algorithm, Job, Machine, Sync
from benchmarks.lib.network.profile import Profile
from benchmarks.lib.scaling.rows import Row, predicted_rows
from benchmarks.lib.scaling.run import Measured
from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import nearest

_DDP_BUCKET_MB = 25
_HOROVOD_BUCKET_MB = 64  # what the paper's Horovod fused at most
_BYTES = {"none": 4, "bf16": 2, "fp16": 2}
_IMAGE_BYTES = 110e3  # of an ImageNet JPEG file on average
_ADVISED = [(bucket, compression) for bucket in (10, 25, 50, 100) for compression in ("none", "bf16")]


@dataclass(frozen=True)
class Asked:
    """What is to be predicted: a model at `batch_size` images per rank, or of all ranks together if `strong`."""

    model: str
    num_classes: int
    image_size: int
    batch_size: int
    strong: bool = False


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
    size = published.model, published.num_classes, published.image_size, published.images_per_rank
    job = job_of(*size, profile.tflops, profile.update_gb_s, profile.kernel_us)
    return calibrate(profile, job, sync_of(published.engine), published.points(held_out=False), published.error)


def predictions(
    asked: Asked,
    profile: Profile,
    engines: Sequence[str],
    counts: Sequence[int],
    points: Sequence[Measured],
    what_if: str,
) -> tuple[list[Row], dict[str, Any]]:
    """Predicted rows for each engine, and how they came about. `points` were measured on GPUs like the profile's: one
    rank's rate is taken from them and the model calibrated on them; without any, from the profile."""
    rows: list[Row] = []
    about: dict[str, Any] = {}
    for engine in engines:
        mine = [point for point in points if point.engine == engine and not point.failed]
        fit, jobs, rate_error = _prepared(asked, profile, sync_of(engine), mine)
        about[engine] = {
            "fitted": {name: getattr(fit.profile.machine, name) for name in FREE} if fit.residuals else {},
            "calibrated_on": _calibrated_on(profile, mine),
            "residuals_points": fit.residuals,
            "step_s_of_one_rank": jobs(counts[0]).compute_s,
        }
        hardware = profile.name
        rows += predicted_rows(
            predict(fit, jobs, sync_of(engine), counts, rate_error), engine, hardware, asked.model, ""
        )
        if what_if:
            sync, machine = changed(what_if, sync_of(engine), fit.profile.machine)
            other = replace(fit, profile=replace(fit.profile, machine=machine), machines=_all_changed(what_if, fit))
            predicted = predict(other, jobs, sync, counts, rate_error)
            rows += predicted_rows(predicted, engine, hardware, asked.model, f"what if {what_if}")
    return rows, about


def _prepared(asked: Asked, profile: Profile, sync: Sync, points: Sequence[Measured]) -> tuple[Fit, JobOf, float]:
    @cache
    def alone_among(ranks: int) -> Job:
        images = max(1, asked.batch_size // ranks) if asked.strong else asked.batch_size
        size = asked.model, asked.num_classes, asked.image_size, images
        return job_of(*size, profile.tflops, profile.update_gb_s, profile.kernel_us, _IMAGE_BYTES)

    @cache
    def jobs(ranks: int) -> Job:
        return scaled_to(alone_among(ranks), alone_among(ranks).compute_s * factor)

    factor, rate_error = 1.0, profile.errors["tflops"]
    alone = next((point for point in points if point.ranks == 1), None)
    if alone is None:
        return calibrated_on_published(profile), jobs, rate_error
    rate = median(alone.rates)
    factor = images_per_s(alone_among(1), profile.machine, sync, 1) / rate
    rate_error = (max(alone.rates) - min(alone.rates)) / rate / 2
    if asked.strong or len(points) == 1:
        return calibrated_on_published(profile), jobs, rate_error
    shares = [(point.ranks, 100.0 * median(point.rates) / point.ranks / rate) for point in points]
    return calibrate(profile, jobs(1), sync, shares, max(0.3, 100.0 * rate_error)), jobs, rate_error


def _calibrated_on(profile: Profile, points: Sequence[Measured]) -> str:
    if len(points) > 1 and points[0].ranks == 1:
        return f"measured points of {', '.join(str(point.ranks) for point in points)} ranks"
    if profile.published is None:
        return "nothing: the profile as it is"
    return f"{profile.published.source}, up to {profile.published.calibrate_up_to} ranks"


def changed(what_if: str, sync: Sync, machine: Machine) -> tuple[Sync, Machine]:
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
        raise InputError(f"--what-if {change}: {value!r} is no number above 0")
    return int(number) if number.is_integer() else number


def _all_changed(what_if: str, fit: Fit) -> tuple[Machine, ...]:
    return tuple(changed(what_if, Sync(), machine)[1] for machine in fit.machines)


def advise(asked: Asked, profile: Profile, engine: str, ranks: int) -> list[dict[str, Any]]:
    """Settings of bucket and compression with the step time that they would give on so many ranks, best first."""
    fit, jobs, _ = _prepared(asked, profile, sync_of(engine), [])
    tried = []
    for bucket_mb, compression in _ADVISED:
        sync = replace(sync_of(engine), bucket_mb=bucket_mb, bytes_per_element=_BYTES[compression])
        rate = images_per_s(jobs(ranks), fit.profile.machine, sync, ranks)
        tried.append({"bucket_mb": bucket_mb, "compression": compression, "images_per_s": rate})
    return sorted(tried, key=lambda one: -one["images_per_s"])
