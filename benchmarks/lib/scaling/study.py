"""The scaling study: measured on this machine, planned for a cluster, predicted from a hardware profile."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.lib.network.predict import Scenario, advise, predictions, sync_of, with_changes
from benchmarks.lib.network.profile import Profile, Workload, load_profile
from benchmarks.lib.results import header
from benchmarks.lib.scaling import run as runs
from benchmarks.lib.scaling.dry_run import measure_dry_worlds
from benchmarks.lib.scaling.figure import draw
from benchmarks.lib.scaling.gpu_counts import check_limit, parse_counts
from benchmarks.lib.scaling.point import SYNTHETIC, Point
from benchmarks.lib.scaling.report import MARKDOWN, write_tables
from benchmarks.lib.scaling.rows import Row, measured_rows, predicted_rows
from benchmarks.lib.scaling.settings import EngineName, Scaling
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json

_ACCURACY_BATCH = 128  # of the short recipe
_NUM_CLASSES = 1000  # of the model that is predicted
_TWO_CORES = (
    "Two ranks on two cores share caches, memory bandwidth and whatever else runs there, and the threads of Gloo "
    "compute on the same cores: this shows that the loop runs in parallel and what an exchange in memory costs. It "
    "shows nothing of a network, of GPUs, or of more ranks."
)


def template(settings: Scaling, engine: EngineName, device: str, threads: int | None) -> Point:
    """A point of this device, whose batch is one rank's, or that of all with --strong."""
    on_cpu = device == "cpu"
    batch_size = settings.batch_size or (4096 if settings.strong and not on_cpu else 32 if on_cpu else 16)
    return Point(
        run_dir=settings.out,
        global_batch_size=batch_size,
        model=settings.model or ("r14x0.5" if on_cpu else "r152x4"),
        data=settings.data or ("fashion_mnist" if on_cpu else SYNTHETIC),
        image_size=settings.image_size or (32 if on_cpu else 224),
        precision="fp32" if on_cpu else "bf16",
        device="cpu" if on_cpu else "cuda",
        engine=engine,
        threads=threads,
        window_steps=settings.window_steps,
        windows=settings.windows,
    )


def measure_here(settings: Scaling, counts: Sequence[int], fitting: Sequence[int], device: str) -> list[runs.Measured]:
    """Measure every engine on counts that fit; a point that fails is reported and does not end the others. `counts` are
    those that were asked for."""
    threads = max(1, runs.local_ranks("cpu")[0] // fitting[-1]) if device == "cpu" and fitting else None
    found = []
    for engine in settings.engines:
        for ranks in fitting:
            point = runs.point_at(template(settings, engine, device, threads), settings.out, ranks, settings.strong)
            print(f"measuring {engine} on {ranks} {device} rank(s) ...", file=sys.stderr, flush=True)
            failed = runs.run_here(ranks, runs.point_program(point))
            read = runs.read_point(point.run_dir) or runs.Measured(engine, ranks)
            failed = failed or read.failed
            found.append(replace(read, failed=failed, additional=ranks not in counts))
            if failed:
                print(f"  failed: {failed}", file=sys.stderr)
    return found


def plan(settings: Scaling, counts: Sequence[int], profile: Profile, device: str) -> Path | None:
    """The plan of some counts on the profile's machine. Raises InputError if it has not so many GPUs."""
    if not counts:
        return runs.write_plan(settings.out, [], 1)
    check_limit(counts, profile.most_ranks, profile.title)
    programs = []
    for engine in settings.engines:
        for ranks in counts:
            base = template(settings, engine, device, 1 if device == "cpu" else None)
            point = runs.point_at(base, settings.out, ranks, settings.strong)
            programs.append((f"{engine}-{ranks}", ranks, runs.point_program(point), point.run_dir))
    for ranks in counts if settings.check_accuracy else ():
        if ranks <= _ACCURACY_BATCH:
            folder = runs.accuracy_dir(settings.out, device, ranks)
            programs.append(
                (f"accuracy-{ranks}", ranks, runs.accuracy_program(folder, settings.accuracy_steps, device), folder)
            )
    return runs.write_plan(settings.out, programs, profile.machine.ranks_per_node)


def accuracies(
    settings: Scaling, fitting: Sequence[int], device: str, planned: Sequence[int], there: str
) -> list[dict[str, Any]]:
    """Final accuracies of the short run: run on counts that fit here, read for those that were planned to run there."""
    here = [(ranks, device) for ranks in fitting]
    found = []
    for ranks, where in here + [(ranks, there) for ranks in planned if ranks <= _ACCURACY_BATCH]:
        folder, failed = runs.accuracy_dir(settings.out, where, ranks), ""
        if (ranks, where) in here and not settings.collect:
            print(f"training to the end on {ranks} rank(s) ...", file=sys.stderr, flush=True)
            failed = runs.run_here(ranks, runs.accuracy_program(folder, settings.accuracy_steps, where))
        read = {"gpus": ranks, "failed": failed} if failed else runs.read_accuracy(folder, ranks)
        found.append({"device": where, **read})
    return found


def predicted_points(
    settings: Scaling, counts: Sequence[int], profile: Profile, points: Sequence[runs.Measured]
) -> tuple[list[Row], dict[str, Any]]:
    """Predicted rows for each engine, how they came about, and advice where it is asked for."""
    on_gpu = template(settings, "ddp", "cuda", None)
    work = Workload(on_gpu.model, _NUM_CLASSES, on_gpu.image_size, on_gpu.global_batch_size)
    scenario = Scenario(work, counts, settings.strong)
    measured: dict[str, dict[int, Sequence[float]]] = {engine: {} for engine in settings.engines}
    for point in points:
        of_such_gpus = point.model == work.model and " a rank" not in point.hardware
        if of_such_gpus and not point.failed and point.engine in measured:
            measured[point.engine][point.ranks] = point.rates
    found, how = predictions(scenario, profile, measured, settings.what_if)
    rows = [row for series in found for row in predicted_rows(series, profile.name, work.model)]
    about: dict[str, Any] = {"predictions": how}
    if settings.advise:
        about["advice"] = advise(scenario, profile, settings.engines[0])
    return rows, about


def scale(settings: Scaling) -> dict[str, Any]:
    """Everything that was asked for; writes it below --out and returns what scaling.json says."""
    counts, profile = parse_counts(settings.gpus), load_profile(settings.profile)
    if settings.what_if:
        with_changes(settings.what_if, sync_of("ddp"), profile.machine)
    most, device = runs.local_ranks(settings.device)
    there = "cpu" if settings.device == "cpu" else "cuda"
    fitting = runs.local_counts(counts, most) if settings.measure else []
    # What CPUs measure here is no measurement of the cluster's GPUs.
    planned = [count for count in counts if count not in fitting or there != device]
    check_limit(counts, max(most, profile.most_ranks), profile.title)
    settings.out.mkdir(parents=True, exist_ok=True)
    path = plan(settings, planned, profile, there)
    if settings.collect:
        points = runs.collect(settings.collect, settings.allow_mixed)
    else:
        points = measure_here(settings, counts, fitting, device)
    rows = measured_rows(points)
    about: dict[str, Any] = {
        **header("scaling", torch.device(device)),
        "arguments": {name: str(value) for name, value in vars(settings).items()},
        "plan": str(path) if path else None,
        "out": str(settings.out),
        "predictions": {},
    }
    if settings.predict:
        predicted, how = predicted_points(settings, counts, profile, points)
        rows += predicted
        about |= how
    if settings.check_accuracy:
        about["accuracy"] = accuracies(settings, fitting, device, planned, there)
    if not rows:
        raise InputError("nothing measured and nothing predicted; leave out --no-measure or --no-predict")
    write_tables(settings.out, rows, about, profile)
    draw(rows, settings.out, profile.published if settings.paper else None)
    return about


def measure_two_cores(window_steps: int) -> dict[str, Any]:
    """One and two CPU ranks of r14x0.5 on this machine."""
    with TemporaryDirectory(prefix="bitscale-scaling-") as folder:
        settings = Scaling(device="cpu", window_steps=window_steps, windows=5, out=Path(folder))
        rows = [asdict(row) for row in measured_rows(measure_here(settings, (1, 2), (1, 2), "cpu"))]
    return {"points": rows, "what_two_cores_show": _TWO_CORES}


def run(settings: Scaling) -> None:
    """Measure, predict, write tables and figures, and print the table."""
    if settings.dry_world is not None:
        settings.out.mkdir(parents=True, exist_ok=True)
        write_json(settings.out / "dry_world.json", measure_dry_worlds(settings.dry_world))
        print(settings.out / "dry_world.json")
        return
    scale(settings)
    print((settings.out / MARKDOWN).read_text(encoding="utf-8"))
