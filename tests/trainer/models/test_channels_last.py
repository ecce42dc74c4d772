"""On CUDA no activation or gradient of a step loses channels-last, found out on tensors that are not there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
KNOWN = {"aten.div.Scalar [8, 2048, 7, 7]": 1}
"""The gradient of the global average, spread out over 7x7; the last norm copies it."""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or torch.version.cuda is None, reason="needs a CUDA build of torch"),
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, torch_folder = tmp_path_factory.mktemp("pretended") / "cuda.so", Path(torch.__file__).parent
    assert COMPILER is not None
    command = [COMPILER, "-shared", "-fPIC", "-std=c++20", "-O0", f"-I{torch_folder / 'include'}"]
    command += [str(HERE / "pretended_cuda.cpp"), "-o", str(out)]
    command += [f"-L{torch_folder / 'lib'}", f"-Wl,-rpath,{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.mark.slow
def test_a_step_of_r50x1_under_autocast(library: Path) -> None:
    command = [sys.executable, str(HERE / "channels_last_on_cuda.py"), str(library)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["lost"].items() <= KNOWN.items()
    assert found["gradients"] == ["torch.float32"]
    seen = found["seen"]
    assert seen["aten.convolution.default"] == 53
    assert seen["aten.convolution_backward.default"] == 52  # the images need none
    assert seen["bitscale.group_norm_relu.default"] == 33
    assert seen["bitscale.add_group_norm_relu.default"] == 2 * 16
    assert seen["bitscale.group_norm_relu_backward.default"] == 49
