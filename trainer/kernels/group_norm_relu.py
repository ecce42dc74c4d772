"""GroupNorm followed by ReLU, as before every convolution of a BiT ResNet.

It is one operation that keeps activations channels-last and saves its input and the groups' moments; the backward finds
the ReLU's mask again. On CUDA Triton makes it, on a CPU the system's C++ compiler; where these cannot, and for other
types, it is PyTorch's own pair.
"""

import importlib.util
import os
from collections import Counter
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from trainer.kernels import group_norm_cpu
from trainer.kernels.native import library
from trainer.kernels.tiling import split, tile

layout_copies: Counter[str] = Counter()
"""How often the kernel was handed a tensor that is not channels-last, "input" or "gradient", and so copied it first."""

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_PLAIN = (Tensor, torch.nn.Parameter)
_OLDEST_GPU = (8, 0)  # of Triton; also the first with bf16
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def group_norm_relu(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """relu(group_norm(x)), [N, C, H, W] -> the same shape and dtype; weight and bias are [C].

    The kernels give channels-last output for any input. Statistics are fp32.
    Raises InputError unless num_groups divides C. Source: Wu & He, "Group normalization", arXiv:1803.08494.
    """
    _check(x, num_groups)
    if _kernel_takes(x, weight):
        if _is_eager(x):
            y: Tensor = _GroupNormReLU.apply(x, None, num_groups, weight, bias, eps)
        else:
            y = _group_norm_relu(x, num_groups, weight, bias, eps)[0]
        return y
    return _plain(x, num_groups, weight, bias, eps)


def add_group_norm_relu(
    x: Tensor, residual: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """relu(group_norm(x + residual)) and x + residual, each [N, C, H, W]; otherwise as `group_norm_relu`.

    The kernels make the sum in the pass that takes the statistics, and both its gradients meet in the backward's last.
    """
    _check(x, num_groups)
    if x.shape != residual.shape or x.dtype != residual.dtype:
        raise InputError(
            f"cannot add {list(residual.shape)} {residual.dtype} to {list(x.shape)} {x.dtype}; both must be alike"
        )
    if _kernel_takes(x, weight):
        if _is_eager(x):
            both: tuple[Tensor, Tensor] = _GroupNormReLU.apply(x, residual, num_groups, weight, bias, eps)
            return both
        y, total, _, _ = _add_group_norm_relu(x, residual, num_groups, weight, bias, eps)
        return y, total
    total = x + residual
    return _plain(total, num_groups, weight, bias, eps), total


def _check(x: Tensor, num_groups: int) -> None:
    if x.shape[1] % num_groups:
        raise InputError(
            f"{x.shape[1]} channels do not divide into {num_groups} groups; choose a width that is a multiple of it"
        )


def _plain(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    # On CUDA torch wants weights of x's dtype, and autocast makes fp32 of the result.
    wide = x.float() if x.is_cuda and x.dtype != weight.dtype else x
    return F.relu(F.group_norm(wide, num_groups, weight, bias, eps)).to(x.dtype)


def _kernel_takes(x: Tensor, weight: Tensor) -> bool:
    if x.ndim != 4 or x.device.type not in ("cuda", "cpu"):
        return False
    if torch.compiler.is_exporting():  # a graph for other programs, which have no such operation
        return False
    if _is_native(x.device):
        return x.dtype in group_norm_cpu.DTYPES and weight.dtype == torch.float32 and kernel_works(x.device)
    return x.dtype in _DTYPES and kernel_works(x.device)


def _is_eager(x: Tensor) -> bool:
    """Whether this is plain eager mode: no compiler, no fake tensor, no dispatch mode, no function transform."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in _PLAIN
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
    )


def _is_native(device: torch.device) -> bool:
    return device.type == "cpu" and not INTERPRETED


def kernel_works(device: torch.device) -> bool:
    """Whether the kernels run on this device, found out by running one; where they do not, says why, once."""
    return _found_to_work(device)  # a cache that the compiler saw would be traced through


# As torch.compiler.assume_constant_result has it, which imports the whole compiler.
kernel_works._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _found_to_work(device: torch.device) -> bool:
    if _is_native(device):
        return library() is not None
    reason = _what_is_missing(device)
    if reason:
        logger.warning(f"GroupNorm runs without its Triton kernel, slower: {reason}")
    return not reason


def _what_is_missing(device: torch.device) -> str | None:
    if not HAS_TRITON:
        return "Triton is not installed (pip install triton)"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _OLDEST_GPU:
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    try:
        x = torch.zeros(1, 32, 1, 1, device=device)
        _forward(x, None, 32, x[0, :, 0, 0], x[0, :, 0, 0], 1e-5)
    except Exception as error:  # no compiler, a GPU newer than Triton: they have no common base class
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _forward(
    x: Tensor, residual: Tensor | None, num_groups: int, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    x, residual = _channels_last(x, "input"), None if residual is None else _channels_last(residual, "input")
    y, mean, rstd = _outputs(x, num_groups)
    total = None if residual is None else torch.empty_like(x)
    arguments = (x, residual, total, y, mean, rstd, weight.contiguous(), bias.contiguous(), eps)
    if x.numel() and _is_native(x.device):
        group_norm_cpu.forward(*arguments)
    elif x.numel():
        group_norm_split, group_norm_tile = _triton_kernels()
        shape = (x.shape[2] * x.shape[3], num_groups, x.shape[1] // num_groups, x.element_size())
        with torch.cuda.device_of(x):
            if in_registers := tile("forward", *shape):
                group_norm_tile.forward(*arguments, in_registers)
            else:
                group_norm_split.forward(*arguments, split(*shape))
    return y, total, mean, rstd


@cache
def _triton_kernels() -> Any:
    from trainer.kernels import group_norm_split, group_norm_tile  # need Triton, which takes its time

    return group_norm_split, group_norm_tile


def _outputs(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    moments = (x.shape[0], num_groups)
    return (
        torch.empty_like(x, memory_format=torch.channels_last),
        x.new_empty(moments, dtype=torch.float32),
        x.new_empty(moments, dtype=torch.float32),
    )


def _channels_last(tensor: Tensor, what: str) -> Tensor:
    if tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    if 0 not in tensor.stride():  # a gradient that is spread out over H and W has no layout to lose
        layout_copies[what] += 1
    return tensor.contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("bitscale::group_norm_relu", mutates_args=())
def _group_norm_relu(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, _, mean, rstd = _forward(x, None, num_groups, weight, bias, eps)
    return y, mean, rstd


@_group_norm_relu.register_fake
def _(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x, num_groups)


@torch.library.custom_op("bitscale::add_group_norm_relu", mutates_args=())
def _add_group_norm_relu(
    x: Tensor, residual: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, total, mean, rstd = _forward(x, residual, num_groups, weight, bias, eps)
    assert total is not None
    return y, total, mean, rstd


@_add_group_norm_relu.register_fake
def _(
    x: Tensor, residual: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, mean, rstd = _outputs(x, num_groups)
    return y, torch.empty_like(y), mean, rstd


def _gradients(
    dy: Tensor, dtotal: Tensor | None, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the input, weight and bias; the last two may share their memory's beginning and end."""
    dy, x = _channels_last(dy, "gradient"), _channels_last(x, "input")
    dtotal = None if dtotal is None else _channels_last(dtotal, "gradient")
    dx = torch.empty_like(x)
    if not x.numel():
        return dx, torch.zeros_like(weight), torch.zeros_like(bias)
    arguments = (dy, x, dtotal, dx, mean, rstd, weight.contiguous(), bias.contiguous())
    if _is_native(x.device):
        return dx, *group_norm_cpu.backward(*arguments)
    group_norm_split, group_norm_tile = _triton_kernels()
    num_groups = mean.shape[1]
    shape = (x.shape[2] * x.shape[3], num_groups, x.shape[1] // num_groups, x.element_size())
    with torch.cuda.device_of(x):
        if in_registers := tile("backward", *shape):
            parts = group_norm_tile.backward(*arguments, in_registers)
        else:
            parts = group_norm_split.backward(*arguments, split(*shape))
    dweight, dbias = parts.sum(1).unbind()
    if weight.dtype != torch.float32 or bias.dtype != torch.float32:
        dweight, dbias = dweight.to(weight.dtype), dbias.to(bias.dtype)
    return dx, dweight, dbias


class _GroupNormReLU(torch.autograd.Function):
    """The operation as eager mode has it; through torch.library a call takes the host several times as long."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, residual: Tensor | None, num_groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Any:
        y, total, mean, rstd = _forward(x, residual, num_groups, weight, bias, eps)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x if total is None else total, mean, rstd, weight, bias)
        return y if total is None else (y, total)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *dtotals: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        (dtotal,) = dtotals or (None,)
        dx, dweight, dbias = dtotal, None, None
        if dy is not None:
            # The library's operation can be seen, and refuses to be differentiated a second time.
            gradients = _gradients if _is_eager(dy) and not torch.is_grad_enabled() else _backward
            dx, dweight, dbias = gradients(dy, dtotal, *ctx.saved_tensors)
        return dx, dx if dtotals else None, None, dweight, dbias, None


@torch.library.custom_op("bitscale::group_norm_relu_backward", mutates_args=())
def _backward(
    dy: Tensor, dtotal: Tensor | None, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dweight, dbias = _gradients(dy, dtotal, x, mean, rstd, weight, bias)
    return dx, dweight.clone(), dbias.clone()  # an operation's results must not share memory


@_backward.register_fake
def _(
    dy: Tensor, dtotal: Tensor | None, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    return dx, torch.empty_like(weight), torch.empty_like(bias)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, weight, bias, _ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, mean, rstd, weight, bias)


def _backward_of_norm(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    dx, dweight, dbias = _backward(dy, None, *ctx.saved_tensors)
    return dx, None, dweight, dbias, None


def _save_total(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, _, weight, bias, _ = inputs
    _, total, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(total, mean, rstd, weight, bias)


def _backward_of_sum(ctx: Any, dy: Tensor | None, dtotal: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if dy is None:
        return dtotal, dtotal, None, None, None, None
    dx, dweight, dbias = _backward(dy, dtotal, *ctx.saved_tensors)
    return dx, dx, None, dweight, dbias, None


_group_norm_relu.register_autograd(_backward_of_norm, setup_context=_save)
_add_group_norm_relu.register_autograd(_backward_of_sum, setup_context=_save_total)
