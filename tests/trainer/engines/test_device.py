"""A GPU that cannot be used is an error with its fix, never a CPU run that nobody asked for."""

import os
import platform
import resource
import stat
import subprocess
from pathlib import Path
from statistics import median

import pytest
import torch
from run_ranks import run_ranks

from data_pipelines.common.errors import InputError
from trainer.config import RuntimeConfig
from trainer.engines.ddp import DDPEngine
from trainer.engines.device import cpu_threads, keep_freed_memory, pick_device


@pytest.fixture
def no_usable_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch sees no GPU, and programs are looked for in this empty folder alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install_nvidia_smi(folder: Path, answer: str, then: str = "") -> Path:
    """A program that answers like nvidia-smi, then runs a line of shell; returns the file that shows it was asked."""
    program, asked = folder / "nvidia-smi", folder / "asked"
    program.write_text(f'#!/bin/sh\n: > {asked}\necho "{answer}"\n{then}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return asked


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        ("12.2", "pip install .* torch torchvision --index-url https://download.pytorch.org/whl/cu126,"),
        ("12.8", "https://download.pytorch.org/whl/cu126,"),
        ("13.0", "https://download.pytorch.org/whl/cu130,"),
        ("14.1", "https://download.pytorch.org/whl/cu130,"),
        ("11.4", "update the driver to one that supports CUDA 12 or newer,"),
    ],
)
def test_driver_that_torch_cannot_use(no_usable_gpu: Path, device: str, version: str, remedy: str) -> None:
    install_nvidia_smi(no_usable_gpu, f"| NVIDIA-SMI 535.54.03   Driver Version: 535.54.03   CUDA Version: {version} |")
    with pytest.raises(InputError, match=f"driver supports CUDA {version}, .*{remedy} or run .* with --device cpu"):
        pick_device(device, 0)


def test_cpu_never_looks_for_gpus(no_usable_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = install_nvidia_smi(no_usable_gpu, "CUDA Version: 12.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("looked for a GPU"))
    assert pick_device("cpu", 3) == torch.device("cpu")
    assert not asked.exists()


def test_without_driver_auto_is_the_cpu(no_usable_gpu: Path) -> None:
    assert pick_device("auto", 0) == torch.device("cpu")


def test_cuda_without_gpu_is_refused(no_usable_gpu: Path) -> None:
    for _ in range(2):  # without nvidia-smi, then with one that finds nothing
        with pytest.raises(InputError, match="no GPU found; run on the CPU with --device cpu"):
            pick_device("cuda", 0)
        install_nvidia_smi(no_usable_gpu, "No devices were found", then="exit 6")


def test_driver_without_gpu_is_the_cpu(no_usable_gpu: Path) -> None:
    asked = install_nvidia_smi(no_usable_gpu, "No devices were found", then="exit 6")
    assert pick_device("auto", 0) == torch.device("cpu")
    assert asked.exists()


@pytest.mark.slow
@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("answer", "then", "message"),
    [
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            "exit 9",
            r"nvidia-smi fails \(NVIDIA-SMI has failed because it couldn't communicate .*\); fix the driver",
        ),
        (
            "",
            "echo Driver/library version mismatch >&2; exit 18",
            r"nvidia-smi fails \(Driver/library version mismatch",
        ),
        ("| CUDA Version: N/A |", "", r"nvidia-smi fails \(.*N/A"),
        ("", "while :; do :; done", "nvidia-smi fails .*timed out"),
    ],
    ids=["no driver", "on stderr", "no version", "hangs"],
)
def test_driver_that_does_not_answer(
    no_usable_gpu: Path, device: str, answer: str, then: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: run(*args, **options | {"timeout": 1}))
    install_nvidia_smi(no_usable_gpu, answer, then)
    with pytest.raises(InputError, match=rf"{message}.*, or run on the CPU with --device cpu"):
        pick_device(device, 0)


def test_nvidia_smi_that_cannot_be_run(no_usable_gpu: Path) -> None:
    (no_usable_gpu / "nvidia-smi").write_bytes(b"\x7fELF of another machine")
    (no_usable_gpu / "nvidia-smi").chmod(0o755)
    with pytest.raises(InputError, match=r"nvidia-smi fails .* with --device cpu"):
        pick_device("auto", 0)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_every_rank_of_a_node_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device(device, rank) for rank in range(2)] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(InputError, match=r"rank 2 of this node has no GPU of its own: 2 are visible; .*nproc-per-node"):
        pick_device(device, 2)


@pytest.mark.parametrize(("ranks", "threads"), [(None, 8), ("1", 8), ("2", 4), ("3", 2), ("16", 1)])
def test_ranks_of_a_node_share_its_cores(monkeypatch: pytest.MonkeyPatch, ranks: str | None, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(20, 28)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert cpu_threads(None) == threads
    assert cpu_threads(5) == 5


def page_faults_on_rank() -> list[int]:
    def page_faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(5 << 20) for _ in range(4)]  # 80 MB, 20,480 pages; of 20 MB alone glibc would keep them unasked
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory()
    return [page_faults() for _ in range(9)]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is asked")
def test_freed_memory_is_not_cleared_again_by_the_system() -> None:
    (counts,) = run_ranks(1, page_faults_on_rank)
    assert median(counts[4:]) < 500  # a small block may lie in the way at first


@pytest.mark.parametrize(("chosen", "expected"), [("auto", False), (False, False), (True, True)])
@pytest.mark.parametrize("before", [True, False])
def test_cudnn_tries_algorithms_only_where_asked(
    chosen: bool | str, expected: bool, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier engine of the process chose does not count."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    DDPEngine(RuntimeConfig(device="cpu", threads=1, cudnn_benchmark=chosen), "fp32").close()
    assert torch.backends.cudnn.benchmark is expected
