"""Device and CPU threads of a rank; a CPU is never used by mistake."""

import ctypes
import os
import re
import shutil
import subprocess
from contextlib import suppress

import torch

from data_pipelines.common.advice import flag
from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.errors import InputError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def pick_device(device: str, local_rank: int, bound: bool = False) -> torch.device:
    """The rank's device for "auto", "cpu" or "cuda"; `bound` where the launcher may make only one GPU visible to each
    rank.

    Raises InputError for a GPU that is present but unusable, for "cuda" without one, and for more ranks than GPUs.
    """
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if "CUDA_VISIBLE_DEVICES" in os.environ and shutil.which("nvidia-smi"):
            hidden = os.environ["CUDA_VISIBLE_DEVICES"]
            raise InputError(f"CUDA_VISIBLE_DEVICES={hidden!r} shows no usable GPU; unset it, or {_on_the_cpu()}")
        driver = _driver_cuda_version()
        if driver is not None:
            raise InputError(
                f"this machine has an NVIDIA GPU, but torch {torch.__version__} cannot use it (the driver supports "
                f"CUDA {driver[0]}.{driver[1]}, torch was built for {torch.version.cuda or 'the CPU'}); "
                f"{_install_line(driver)}, or {_on_the_cpu()}"
            )
        if device == "cuda":
            raise InputError(f"no GPU found; {_on_the_cpu()}")
        return torch.device("cpu")
    if bound and torch.cuda.device_count() == 1:
        return torch.device("cuda", 0)  # whether it is this rank's own is checked when the ranks meet
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"rank {local_rank} of this node has no GPU of its own: {torch.cuda.device_count()} are visible; "
            "start as many ranks per node as it has GPUs (torchrun --nproc-per-node)"
        )
    return torch.device("cuda", local_rank)


def _on_the_cpu() -> str:
    return f"run on the CPU with {flag('--device')} cpu"


def _driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA version that the driver supports; None without a GPU.

    Raises InputError for a driver that does not answer.
    """
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        answer = subprocess.run(
            ["nvidia-smi"], capture_output=True, encoding="utf-8", errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"nvidia-smi fails ({error}); fix the driver, or {_on_the_cpu()}") from error
    version = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", answer.stdout)
    if version:
        return int(version[1]), int(version[2])
    output = (answer.stdout + answer.stderr).strip()
    if "No devices were found" in output:
        return None
    raise InputError(f"nvidia-smi fails ({output[:200]}); fix the driver, or {_on_the_cpu()}")


def _install_line(driver: tuple[int, int]) -> str:
    # A driver runs every build of its own major version of CUDA, older or newer (CUDA's minor version compatibility).
    builds = {13: "cu130", 12: "cu126"}
    build = next((name for major, name in builds.items() if driver[0] >= major), None)
    if build is None:
        return "update the driver to one that supports CUDA 12 or newer"
    return f"pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/{build}"


def keep_freed_memory() -> None:
    """Tell malloc to keep large freed blocks for the next step, instead of returning them to the system, which zeroes
    them again: glibc does so for blocks of up to 32 MB, if asked."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Return freed memory to the system, wherever it lies between blocks in use: for a process that lives through many
    groups of ranks, whose buffers would leave gaps that add up."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def cpu_threads(threads: int | None) -> int:
    """CPU threads of this rank: as asked, or an equal share of the cores that this process may use."""
    if threads is not None:
        return threads
    return max(1, num_usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
