"""How many CPUs this process may use."""

import os


def num_usable_cpus() -> int:
    """CPUs in this process's affinity mask, or all of the machine where the system has none."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
