"""Where a run was made: versions, machine and commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_pipelines.common.files import write_json
from trainer.run_files import ENVIRONMENT
from trainer.run_folder.lock_file import job_name

if TYPE_CHECKING:
    import torch

_PACKAGES = ("bitscale", "torch", "torchvision", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy")


class Machine(Protocol):
    """What is asked of an engine."""

    device: "torch.device"
    world_size: int
    threads: int


def describe_environment(engine: Machine, loader_name: str) -> dict[str, Any]:
    """What to know about this start to repeat it, as plain JSON types."""
    on_gpu = engine.device.type == "cuda"
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "host": platform.node(),
        "torchrun": os.environ.get("TORCHELASTIC_RUN_ID"),
        "device": _gpu_name(engine.device) if on_gpu else cpu_name(),
        "world_size": engine.world_size,
        "threads_per_rank": engine.threads,
        "loader": loader_name,
    }


def write_environment(run_dir: Path, environment: dict[str, Any]) -> None:
    """Let the folder of a run say where its last start was made, and by which job. Raises OSError."""
    write_json(run_dir / ENVIRONMENT, environment | {"job": job_name()})


def _gpu_name(device: "torch.device") -> str:
    import torch  # not for programs that only look at run folders

    return torch.cuda.get_device_name(device)


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str | None:
    """The commit of the source tree this program runs from, with "+changes" if it was edited; None outside git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changes else "")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", root, *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True
    ).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
