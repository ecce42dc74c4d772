"""`environment.json` of a run: versions, machine and commit."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_pipelines.common.cpus import cpu_name
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json, write_json
from data_pipelines.common.version import commit, version
from trainer.run_files import ENVIRONMENT
from trainer.run_folder.lock_file import job_name

if TYPE_CHECKING:
    import torch

JOINS = "BITSCALE_JOINS"
"""Set by launchers for the check before a node joins a run that may be under way."""
_PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy")


class Machine(Protocol):
    """The attributes of an engine that are recorded."""

    device: "torch.device"
    world_size: int
    threads: int


def describe_environment(engine: Machine, loader_name: str) -> dict[str, Any]:
    """What is needed to repeat this start, as plain JSON types."""
    on_gpu = engine.device.type == "cuda"
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {"bitscale": version()} | {name: found for name in _PACKAGES if (found := _installed(name))},
        "host": platform.node(),
        "torchrun": os.environ.get("TORCHELASTIC_RUN_ID"),
        "device": _gpu_name(engine.device) if on_gpu else cpu_name(),
        "world_size": engine.world_size,
        "threads_per_rank": engine.threads,
        "loader": loader_name,
    }


def refuse_other_versions(run_dir: Path, environment: dict[str, Any]) -> None:
    """Raises InputError where a node is to join a run of another commit or of other packages: its ranks would end all
    others in their pre-flight check."""
    before = read_json(run_dir / ENVIRONMENT)
    if JOINS not in os.environ or not isinstance(before, dict):
        return
    mine, theirs = _versions(environment), _versions(before)
    other = [f"{name}: {mine[name]} here, {theirs.get(name)} there" for name in mine if mine[name] != theirs.get(name)]
    if other:
        listed = "\n  ".join(other)
        raise InputError(f"this node cannot join the run in {run_dir}:\n  {listed}\nGive it what the others have")


def _versions(environment: dict[str, Any]) -> dict[str, Any]:
    return {
        "commit": environment.get("commit"),
        "python": environment.get("python"),
        **(environment.get("packages") or {}),
    }


def write_environment(run_dir: Path, environment: dict[str, Any]) -> None:
    """Write `environment.json` for the last start of a run, with its job. Raises OSError."""
    write_json(run_dir / ENVIRONMENT, environment | {"job": job_name()})


def _gpu_name(device: "torch.device") -> str:
    import torch  # not for programs that only look at run folders

    return torch.cuda.get_device_name(device)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
