"""How many CPUs this process may use."""

import os


def num_usable_cpus() -> int:
    """CPUs that this process is bound to, or all of the machine where a system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
