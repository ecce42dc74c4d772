"""Shared parts of benchmark results: header with machine and versions, spreads and ratios, writing the files."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch

from data_pipelines.common.cpus import cpu_name
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json
from data_pipelines.common.version import commit


def header(benchmark: str, device: torch.device | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
    """The first entries of a result: benchmark, commit, machine, and the versions of Python, torch and `packages`.
    device: the one that was measured, where it may be a GPU."""
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()}
    if device is not None:
        on_gpu = device.type == "cuda" and torch.cuda.is_available()
        machine["gpu"] = torch.cuda.get_device_name(device) if on_gpu else None
    return {"benchmark": benchmark, "commit": commit(), "machine": machine, "versions": versions(packages)}


def versions(packages: Sequence[str] = ()) -> dict[str, str | None]:
    """Versions of Python, torch, its CUDA, and of those packages that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def spread_text(spread: dict[str, float], form: str) -> str:
    """A spread as text, its figures in a format such as ".2f": median (least-most)."""
    return f"{spread['median']:{form}} ({spread['min']:{form}}-{spread['max']:{form}})"


def ratio_of(numerators: Sequence[float], denominators: Sequence[float], target: float | None) -> dict[str, Any]:
    """The spread of the ratios of each round, and whether their median reaches the target, where there is one."""
    spread = spread_of([one / other for one, other in zip(numerators, denominators, strict=True)])
    return {**spread, "target": target, "met": None if target is None else spread["median"] >= target}


def write_result(out: Path, result: dict[str, Any], table: str) -> None:
    """Print the table, and write the result as JSON and the table as Markdown beside it. Raises InputError where they
    cannot be written; what was measured is on the screen then."""
    print(table, flush=True)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, result)
        out.with_suffix(".md").write_text(table, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror or error}); choose another --out") from error
