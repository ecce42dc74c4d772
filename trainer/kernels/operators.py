"""Operators of PyTorch's dispatcher made of Python functions."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch._ops import OpOverload


def operator(name: str) -> Callable[[Callable[..., Any]], OpOverload]:
    """Make an operator `name`, "namespace::name", of a function with annotated tensors and numbers that changes no
    argument and returns none of them. Give it a fake by `torch.library.register_fake`, and its gradients by
    `torch.library.register_autograd`: without these a backward pass through it raises RuntimeError.

    As `torch.library.custom_op`, but a call does not import the compiler, which takes more than a CPU-second,
    and does not compare the storages of what goes in and comes out.
    """

    def define(function: Callable[..., Any]) -> OpOverload:
        torch.library.define(
            name, torch.library.infer_schema(function, mutates_args=()), tags=(torch.Tag.pt2_compliant_tag,)
        )
        torch.library.impl(name, "CompositeExplicitAutograd", func=function)
        torch.library.register_autograd(name, _no_gradients)
        namespace, _, short = name.partition("::")
        overload: OpOverload = getattr(getattr(torch.ops, namespace), short).default
        return overload

    return define


def _no_gradients(ctx: Any, *gradients: Any) -> NoReturn:
    raise RuntimeError("no backward pass goes through this operator, as one for gradients of gradients would")
