"""What the interpreter cannot tell: Triton compiles every launch of a step for the GPUs there are, into code that reads
16 bytes at a time, spills next to nothing and leaves a multiprocessor room for two programs. No GPU is needed.

A launch of each kernel by default; BITSCALE_AOT=all compiles all of r50x1 and r152x4, about ten minutes of a core.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from benchmarks.lib.kernels.fake_gpu import FakePointer, Launch  # noqa: E402
from benchmarks.lib.kernels.kernel_code import (  # noqa: E402
    EXCEPTIONS,
    Code,
    KernelCode,
    blocks_per_sm,
    faults,
    handed_over,
    norms,
    table,
)
from data_pipelines.common.errors import InputError  # noqa: E402
from trainer.models.bit import build_model  # noqa: E402

ROOT = Path(__file__).parents[3]
ALL = os.environ.get("BITSCALE_AOT") == "all"
KERNELS = {"forward_tile", "backward_tile", "forward_split", "backward_split"}


@pytest.mark.slow
def test_the_launches_of_a_step(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    which = ["--models", "r50x1", "r152x4"] if ALL else ["--models", "r50x1", "--sample"]
    command = [sys.executable, "-m", "benchmarks.kernel_code", *which, "--out", str(out)]
    command += ["--capabilities", "80", "90", "100", "--dtypes", "bf16", "fp16", "fp32"]
    kept = os.environ.get("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    environment = os.environ | {"TRITON_CACHE_DIR": kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    rows = json.loads(out.read_text())["kernels"]
    found = {(row["kernel"], use.split()[1]) for row in rows for use in row["uses"]}
    assert {(kernel, dtype) for kernel in KERNELS for dtype in ("bf16", "fp16", "fp32")} <= found
    assert {use.split()[2] for row in rows for use in row["uses"]} >= {"filters", "optimiser"}
    assert {row["capability"] for row in rows} == {80, 90, 100}
    assert all(row["registers"] > 0 and row["faults"] == [] for row in rows)
    assert all(row["blocks_per_sm"] >= 2 or row["kernel"] in EXCEPTIONS for row in rows)


GOOD = Code(64, 8, 1024, 8, 4, (32, 128), (32, 128), 0)


class Kernel:
    __name__ = "forward_tile"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"stack_bytes": 24}, "24 bytes of stack"),
        ({"blocks_per_sm": 1}, "1 block on a multiprocessor"),
        ({"load_bits": (16, 128)}, "reads activations 16 or 128 bits at a time"),
        ({"store_bits": (32, 64)}, "writes activations 32 or 64 bits at a time"),
        ({"handed_over": -1}, "hands stores over -1 times in order, not 0"),
    ],
)
def test_what_is_a_fault(change: dict[str, object], fault: str | None) -> None:
    code = GOOD._replace(**change)  # type: ignore[arg-type]
    assert faults(Launch(Kernel(), (), ()), code) == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("registers", "warps", "shared", "capability", "blocks"),
    [(128, 16, 0, 90, 1), (128, 8, 0, 90, 2), (129, 8, 0, 90, 1), (64, 8, 100_000, 80, 1), (32, 1, 0, 80, 32)],
)
def test_blocks_on_a_multiprocessor(registers: int, warps: int, shared: int, capability: int, blocks: int) -> None:
    assert blocks_per_sm(registers, warps, shared, capability) == blocks


def test_a_release_counts_only_after_a_barrier() -> None:
    store, barrier, release = "st.global.v4.b32 [x];", "bar.sync 0;", "atom.global.gpu.acq_rel.add.u32 r, [p], 1;"
    assert handed_over("\n".join([store, barrier, release, store, barrier, release])) == 2
    assert handed_over("\n".join([store, barrier, release, store, release])) == -1
    assert handed_over(release.replace("acq_rel", "relaxed")) == 0


def test_what_the_compiler_makes_a_difference_of() -> None:
    torch = pytest.importorskip("torch")
    assert FakePointer(torch.float32, 0) == FakePointer(torch.float32, 0) != FakePointer(torch.float32, 8)
    assert len({FakePointer(torch.bfloat16, 0), FakePointer(torch.bfloat16, 0), FakePointer(torch.float16, 0)}) == 2


def test_norms_of_a_model() -> None:
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        found = norms(build_model("r50x1", 10))
    assert len(found) == 11
    assert sum(layer.adds for layer in found) == 4
    assert (64, 56, False) in found
    assert (2048, 7, True) in found


def test_the_table_names_faults() -> None:
    row = {"kernel": "forward_tile", "capability": 90, "uses": ["r50x1 bf16 64x56x56"], "faults": ["24 bytes of stack"]}
    text = table({"how": "so", "kernels": [row | GOOD._asdict(), row | {"faults": ["does not compile: no"]}]})
    assert "2 compilations, 2 with faults." in text
    assert "- forward_tile, sm_90, r50x1 bf16 64x56x56: does not compile: no" in text


@pytest.mark.parametrize("wrong", [{"capabilities": (75,)}, {"dtypes": ("int8",)}, {"models": ()}])
def test_what_cannot_be_compiled(wrong: dict[str, tuple[object, ...]]) -> None:
    with pytest.raises(InputError, match="take some of"):
        KernelCode(**wrong)  # type: ignore[arg-type]
