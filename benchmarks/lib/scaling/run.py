"""Runs the points that fit this machine, plans the others for a cluster, and collects their results."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.processes import child_environment
from benchmarks.lib.scaling.point import POINT, Point
from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json, write_json
from trainer.run_files import RESULT, STATUS

POINTS, PLAN = "points", "plan.json"
ROOT = Path(__file__).resolve().parents[3]
_LIMIT_S = 3600


@dataclass(frozen=True)
class Measured:
    """A point that was measured, or why it was not. Rates in images/s of all ranks, one for each window."""

    engine: str
    ranks: int
    rates: tuple[float, ...] = ()
    failed: str = ""
    model: str = ""
    hardware: str = ""
    commit: str = ""
    data_wait_share: float | None = None
    exposed_share: float | None = None
    peak_memory_bytes: float | None = None
    joules_per_image: float | None = None
    additional: bool = False


def local_ranks(device: str) -> tuple[int, str]:
    """How many ranks fit this machine, and what they run on: "cuda" or "cpu"."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count(), "cuda"
    if device == "cuda":
        return 0, "cuda"
    return num_usable_cpus(), "cpu"


def local_counts(counts: Sequence[int], most: int) -> list[int]:
    """Those that fit, and the largest power of two that fits if it is not among them."""
    fitting = [count for count in counts if count <= most]
    return sorted({*fitting, 1 << (most.bit_length() - 1)}) if most else []


def point_at(template: Point, out: Path, ranks: int, strong: bool) -> Point:
    """The point of so many ranks. The template's batch is one rank's, or with `strong` that of all."""
    batch = template.global_batch_size if strong else ranks * template.global_batch_size
    if batch < ranks:
        raise InputError(f"a global batch of {batch} does not feed {ranks} ranks; raise --batch-size")
    folder = run_dir(out, template.device, template.engine, ranks)
    return replace(template, run_dir=folder, global_batch_size=batch)


def run_dir(out: Path, device: str, engine: str, ranks: int) -> Path:
    """The run folder of a point: a login node's CPUs may measure beside a cluster's GPUs."""
    return out.resolve() / POINTS / device / f"{engine}-{ranks}"


def point_program(point: Point) -> list[str]:
    """The program that measures a point, and its arguments."""
    given = {field.name: getattr(point, field.name) for field in fields(point)}
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value is not None]
    return ["benchmarks/scaling_point.py", *(word for pair in pairs for word in pair)]


def run_here(ranks: int, program: Sequence[str]) -> str:
    """Run a program of ours on so many ranks of this machine; returns why it failed, or nothing."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, str(ROOT / program[0]), *program[1:]]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=child_environment(), timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"had not ended after {_LIMIT_S} s"
    if not done.returncode:
        return ""
    lines = [line for line in done.stderr.splitlines() if "error:" in line.lower()] or done.stderr.splitlines()
    return lines[0].strip() if lines else f"exit code {done.returncode}"


def write_plan(out: Path, programs: Sequence[tuple[str, int, list[str], Path]], ranks_per_node: int) -> Path | None:
    """`plan.json` for `launchers.submit`: a job for each (name, ranks, program and its arguments, run folder). None,
    and no file, where there is nothing to plan."""
    path = out / PLAN
    if not programs:
        path.unlink(missing_ok=True)
        return None
    tasks = [
        {
            "name": name,
            "command": ["python", str(ROOT / program[0]), *program[1:]],
            "done": str(folder / RESULT),
            "nodes": nodes,
            "ranks_per_node": ranks // nodes,
        }
        for name, ranks, program, folder in programs
        for nodes in [nodes_for(ranks, ranks_per_node)]
    ]
    write_json(path, {"name": "scaling", "tasks": tasks, "gpus_per_task": 1})
    return path


def nodes_for(ranks: int, ranks_per_node: int) -> int:
    """The fewest nodes that share so many ranks equally, with at most `ranks_per_node` on each."""
    return next(nodes for nodes in range(ceil(ranks / ranks_per_node), ranks + 1) if ranks % nodes == 0)


def collect(folders: Sequence[Path], allow_mixed: bool) -> list[Measured]:
    """Every point below some folders, those that did not end among them.

    Raises InputError for an absent folder, for none, and for points of different commits unless they are allowed.
    """
    found: dict[tuple[str, str, int], Measured] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--collect {folder}: no such folder")
        for path in sorted(folder.rglob(f"{POINTS}/*/*-*")):
            point = read_point(path)
            if point is None:
                continue
            key = path.parent.name, point.engine, point.ranks
            if not point.failed or key not in found:
                found[key] = point
    if not found:
        raise InputError(f"no measured point below {', '.join(map(str, folders))}; run their plan first")
    points = [found[key] for key in sorted(found)]
    commits = sorted({point.commit for point in points if not point.failed})
    if len(commits) > 1 and not allow_mixed:
        raise InputError(
            f"the points were measured on different commits ({', '.join(commits)}); measure them again on one, or "
            "take them all the same, marked, with --allow-mixed"
        )
    return points


def read_point(folder: Path) -> Measured | None:
    """The point of a run folder; one that failed if it has no result; None for other folders."""
    engine, _, ranks = folder.name.rpartition("-")
    if not engine or not ranks.isdigit():
        return None
    result: dict[str, Any] | None = read_json(folder / RESULT)
    if not isinstance(result, dict) or POINT not in result:
        status = read_json(folder / STATUS) or {}
        return Measured(
            engine, int(ranks), failed=status.get("reason") or f"no {RESULT}: {status.get('state', 'not run')}"
        )
    point, environment, settings = result[POINT], result["environment"], result["settings"]
    if point["world_size"] != int(ranks):
        return Measured(engine, int(ranks), failed=f"ran on {point['world_size']} ranks, not {ranks}")
    return Measured(
        engine,
        int(ranks),
        tuple(point["windows_images_per_s"]),
        model=settings["model"]["name"],
        hardware=_hardware(environment, point["device_type"]),
        commit=environment.get("commit") or "unknown",
        **{name: point[name] for name in ("data_wait_share", "exposed_share", "peak_memory_bytes", "joules_per_image")},
    )


def _hardware(environment: dict[str, Any], device_type: str) -> str:
    threads = environment.get("threads_per_rank")
    return environment["device"] if device_type == "cuda" else f"{environment['device']}, {threads} core(s) a rank"


def accuracy_program(folder: Path, steps: int, device: str) -> list[str]:
    """A short run to its end. Its global batch is the recipe's on any number of ranks."""
    words = ["--schedule.steps", str(steps), "--schedule.warmup-steps", str(steps // 10), "--device", device]
    return ["trainer/pretrain.py", "embedded", *words, "--out", str(folder)]


def accuracy_dir(out: Path, device: str, ranks: int) -> Path:
    """The run folder of that run on so many ranks."""
    return out.resolve() / "accuracy" / device / str(ranks)


def read_accuracy(folder: Path, ranks: int) -> dict[str, Any]:
    """Final accuracy on val of that run, or that there is none."""
    result = read_json(folder / RESULT)
    if not isinstance(result, dict):
        return {"gpus": ranks, "failed": "not run"}
    val = result["val"]
    return {"gpus": ranks, "accuracy": val[result["metric"]], "images": val["images"], "steps": result["total_steps"]}
