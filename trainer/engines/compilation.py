"""torch.compile of residual units one by one: they share their code, so that a deep model compiles in about the time of
a shallow one."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from trainer.kernels.native import cache_folder
from trainer.models.bit import BiTResNet, PreActBottleneck

_GRAPH_STEPS = 3  # the first one warms up, the next records, the last replays
_GRAPH_TOLERANCE = 0.01  # of a gradient's norm: a replay runs the kernels of the first step again
_Autocast = Callable[[], AbstractContextManager[Any]]


def compile_units(model: BiTResNet, images: Tensor, autocast: _Autocast, graphs: bool) -> str | None:
    """Compile the residual units in place and try them on images, uint8 [B, C, S, S]; returns why that failed, or None.

    With `graphs` each unit is captured as CUDA graphs for batches of this one shape, and replayed results are compared
    with eager ones. Drops the gradients.
    """
    import torch._dynamo  # takes more than a second, and most runs on CPUs do without

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))  # the default does not last
    # Each shape and mode of each unit takes one place in the compiler's cache for their code.
    limit = 4 * len(model.units)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)
    for unit in model.units:
        if graphs:
            _keep_off_graphs(unit)
            unit.compile(mode="reduce-overhead", dynamic=False)
        else:
            unit.compile()
    try:
        first = _gradients(model, images, autocast)
        if graphs:
            for _ in range(_GRAPH_STEPS - 1):
                replayed = _gradients(model, images, autocast)
            _require_equal(replayed, first)
    except Exception as error:  # torch has no common base class for what its compilers and theirs may raise
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    finally:
        model.zero_grad()
    return None


def compile_no_units(model: BiTResNet) -> None:
    """Undo `compile_units`."""
    for unit in model.units:
        unit._compiled_call_impl = None


def begin_pass(*_: object) -> None:
    """Call before each forward pass with CUDA graphs: their earlier outputs may be overwritten from then on."""
    torch.compiler.cudagraph_mark_step_begin()


def _keep_off_graphs(unit: PreActBottleneck) -> None:
    """Copy gradients out of the graphs' memory, for further micro-batches and the update. Those of filters are copied
    or used up before their pass is over."""
    for norm in (unit.norm1, unit.norm2, unit.norm3):
        for parameter in norm.parameters():
            if parameter.requires_grad:
                parameter.register_hook(torch.clone)


def _gradients(model: BiTResNet, images: Tensor, autocast: _Autocast) -> dict[str, Tensor]:
    """Of the weights that the features depend on, in a step of two micro-batches."""
    for last in (False, True):
        begin_pass()
        with autocast(), model.filter_sharing.micro_batch(last):
            model.features(images).square().mean().backward()  # the head is zero at first and would hide them
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def _require_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        if not (found[name] - gradient).norm() <= _GRAPH_TOLERANCE * gradient.norm():
            raise RuntimeError(f"CUDA graphs give another gradient of {name}")
