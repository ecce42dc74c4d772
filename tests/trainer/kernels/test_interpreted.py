"""Triton decides when it is imported whether it interprets: the kernels' tests run in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.kernels import native


@pytest.mark.slow
def test_standardisation_and_update_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    tests = Path(__file__).with_name("interpreted_update.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--show-capture=no", str(tests)]
    root = str(Path(native.__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
