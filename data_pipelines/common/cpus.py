"""How many CPUs this process may use, and what they are."""

import os
import platform
from pathlib import Path


def num_usable_cpus() -> int:
    """CPUs in this process's affinity mask, or all of the machine where the system has none."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The model of this machine's CPU, or its architecture where Linux does not tell the model."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
