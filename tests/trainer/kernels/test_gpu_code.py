"""What the interpreter cannot tell: Triton's compiler accepts each kernel for the GPUs there are, and reads and writes
activations 16 bytes at a time. No GPU is needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")
compiler = pytest.importorskip("triton.compiler")
backends = pytest.importorskip("triton.backends.compiler")

from trainer.kernels import group_norm_split, group_norm_tile  # noqa: E402
from trainer.kernels.tiling import split, tile  # noqa: E402

TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}
TILE, SPLIT = (14, 1024), (56, 256)  # H = W, C of r50x1
OF_TILE = ("forward_tile", "backward_tile")
OF_SPLIT = ("channel_moments", "merge_moments", "forward_apply", "backward_sums", "merge_sums", "backward_apply")
MERGES = {"merge_moments", "merge_sums"}  # they see no activation


class Launch(NamedTuple):
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class Recorder:
    """Stands in for a kernel and keeps what it would be launched with."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def __getitem__(self, _: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: self.launches.append(Launch(arguments, options))


def launch_of(name: str, residual: bool) -> Launch:
    module, names, (side, channels) = (
        (group_norm_tile, OF_TILE, TILE) if name in OF_TILE else (group_norm_split, OF_SPLIT, SPLIT)
    )
    recorders = {each: Recorder() for each in names}
    x = torch.empty(2, channels, side, side, dtype=torch.bfloat16)
    other = x if residual else None
    moments, weight = torch.empty(2, 32), torch.empty(channels)
    shape = (side * side, 32, channels // 32, 2)
    blocks = (tile("forward", *shape), tile("backward", *shape)) if module is group_norm_tile else (split(*shape),) * 2
    with pytest.MonkeyPatch.context() as patch:
        for each, recorder in recorders.items():
            patch.setattr(module, each, recorder)
        module.forward(x, other, other, x, moments, moments, weight, weight, 1e-5, blocks[0])  # type: ignore[arg-type]
        module.backward(x, x, other, x, moments, moments, weight, weight, blocks[1])  # type: ignore[arg-type]
    (launch,) = recorders[name].launches
    return launch


def ptx(kernel: Any, launch: Launch, capability: int) -> str:
    signature, constants, hints = {}, {}, {}
    for position, (parameter, value) in enumerate(zip(kernel.params, launch.arguments, strict=True)):
        if value is None or parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[parameter.name], hints[position,] = TYPES[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[parameter.name] = "i32"
            if value % 16 == 0 and not parameter.do_not_specialize:
                hints[position,] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32"
    source = compiler.ASTSource(kernel, signature, constants, hints)
    target = backends.GPUTarget("cuda", capability, 32)
    return str(triton.compile(source, target=target, options=launch.options).asm["ptx"])


@pytest.mark.parametrize(
    ("name", "residual", "capability"),
    [
        *((name, False, 90) for name in (*OF_TILE, *OF_SPLIT)),
        ("forward_tile", True, 80),
        ("backward_tile", True, 80),
        ("channel_moments", True, 80),
        ("backward_apply", True, 80),
    ],
)
def test_compiles_and_reads_in_vectors(
    name: str, residual: bool, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(group_norm_tile if name in OF_TILE else group_norm_split, name)
    code = ptx(kernel, launch_of(name, residual), capability)
    accesses = [line for line in code.splitlines() if "ld.global" in line or "st.global" in line]
    assert accesses
    # An activation of 16 bits that is accessed alone shows as .b16 or .u16.
    assert not [line for line in accesses if ".b16" in line or ".u16" in line]
    assert name in MERGES or any(".v4.b32" in line for line in accesses)
