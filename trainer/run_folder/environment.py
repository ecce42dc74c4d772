"""Where a run was made: versions, machine and commit."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from data_pipelines.common.version import commit, version
from trainer.engines.base import Engine

_PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy")


def describe_environment(engine: Engine, loader_name: str) -> dict[str, Any]:
    """What to know about this start to repeat it, as plain JSON types."""
    on_gpu = engine.device.type == "cuda"
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {"bitscale": version()} | {name: found for name in _PACKAGES if (found := _installed(name))},
        "host": platform.node(),
        "torchrun": os.environ.get("TORCHELASTIC_RUN_ID"),
        "device": torch.cuda.get_device_name(engine.device) if on_gpu else cpu_name(),
        "world_size": engine.world_size,
        "threads_per_rank": engine.threads,
        "loader": loader_name,
    }


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
