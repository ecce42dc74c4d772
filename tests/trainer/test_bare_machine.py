"""A training run on a GPU needs PyTorch, timm and four small wheels, none of the larger packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
MODULES = [
    "trainer.pretrain",
    "trainer.export",
    "trainer.status",
    "trainer.kernels.group_norm_split",
    "trainer.kernels.group_norm_tile",
    "trainer.kernels.sgd_agc_triton",
    "trainer.kernels.standardise_triton",
    "data_pipelines.loading.torch_loader",
    "data_pipelines.embedded",
    "benchmarks.group_norm",
    "benchmarks.kernel_code",
    "benchmarks.lib.loading.gpu",
    "benchmarks.optimizer",
    "benchmarks.throughput",
    "benchmarks.lib.throughput.models",
]
HEAVY = {"nvidia.dali", "deepspeed", "torchxrayvision", "horovod", "matplotlib", "webdataset", "pydicom"}


def imported(*modules: str) -> tuple[dict[str, str | None], set[str]]:
    script = Path(__file__).with_name("imports_of_a_bare_machine.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(script), *modules], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["errors"], set(found["asked"])


@pytest.mark.slow
def test_what_training_on_a_gpu_imports() -> None:
    errors, asked = imported(*MODULES)
    assert errors == dict.fromkeys(MODULES)
    assert not asked & HEAVY


@pytest.mark.slow
def test_what_is_not_there_is_missed() -> None:
    pytest.importorskip("pandas")
    errors, asked = imported("data_pipelines.datasets.chest_xray")
    assert errors["data_pipelines.datasets.chest_xray"] == "No module named 'pandas'"
    assert "pandas" in asked
