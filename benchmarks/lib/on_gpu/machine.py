"""Describe the machine that `on_gpu.py` measures, as a line of JSON: python -m benchmarks.lib.on_gpu.machine
cuda|cpu"""

import importlib.util
import json
import sys
from typing import Any

import torch

from benchmarks.lib.on_gpu.parts import PARTS
from benchmarks.lib.results import versions
from data_pipelines.common.cli import entry_point
from data_pipelines.common.cpus import cpu_name
from data_pipelines.common.errors import InputError
from data_pipelines.common.version import commit

_PACKAGES = ("triton", "timm", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


def describe(device: str) -> dict[str, Any]:
    """Device, machine, commit, versions, and what parts need and is not here. Raises InputError without a GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise InputError(f"no GPU: torch {torch.__version__}, {built}, sees none; --device cpu rehearses every part")
    needed = {part.needs for part in PARTS.values() if part.needs}
    return {
        "device": device,
        "machine": _gpu() | {"cpu": cpu_name()} if device == "cuda" else {"gpu": None, "cpu": cpu_name()},
        "commit": commit(),
        "versions": versions(_PACKAGES) | {"cudnn": torch.backends.cudnn.version() if device == "cuda" else None},
        "absent": sorted(name for name in needed if not _is_here(name)),
    }


def _gpu() -> dict[str, Any]:
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_gb": round(found.total_memory / 1e9, 1),
        "multiprocessors": found.multi_processor_count,
    }


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


@entry_point
def main() -> None:
    """Print it."""
    print(json.dumps(describe(sys.argv[1])))


if __name__ == "__main__":
    main()
