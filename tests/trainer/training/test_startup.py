"""What a start imports before its first step: counted by module, as seconds depend on the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Each takes from a tenth of a CPU-second to more than one, on every rank.
NEVER = {
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
    "deepspeed",
    "torchvision",
    "torchxrayvision",
    "timm",
    "nvidia.dali",
}
BY_ITSELF = NEVER | {"torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy"}
FIRST_STEP = """
import json, os, runpy, sys
from trainer.run_folder.metric_logger import MetricLogger

def advance(self):
    with open(f"{sys.argv[-1]}.{os.environ.get('RANK', 0)}", "w") as file:
        json.dump(list(sys.modules), file)
    os._exit(0)

MetricLogger.advance = advance
sys.argv = ["trainer/pretrain.py", "embedded", "--device", "cpu", "--global-batch-size", "4", "--out", sys.argv[1]]
runpy.run_path("trainer/pretrain.py", run_name="__main__")
"""


def imported(tmp_path: Path, *launcher: str) -> list[set[str]]:
    """The modules that each rank has after the first step of the embedded demo."""
    program, run_dir = tmp_path / "first_step.py", tmp_path / "run"
    program.write_text(FIRST_STEP)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in ("RANK", "WORLD_SIZE", "BITSCALE_DATA"):
        environment.pop(name, None)
    command = [sys.executable, *launcher, str(program), str(run_dir)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    files = sorted(tmp_path.glob("run.*"))
    assert files, done.stderr
    return [set(json.loads(file.read_text())) for file in files]


@pytest.mark.slow
def test_a_single_rank_imports_no_compiler_nor_later_needs(tmp_path: Path) -> None:
    (modules,) = imported(tmp_path)
    assert "trainer.training.loop" in modules
    assert modules & (BY_ITSELF | {"tensorboard"}) == set()


@pytest.mark.slow
def test_ranks_import_nothing_of_other_programs(tmp_path: Path) -> None:
    ranks = imported(tmp_path, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    assert len(ranks) == 2
    for modules in ranks:
        assert modules & (NEVER | {"tensorboard"}) == set()
