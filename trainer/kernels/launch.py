"""Launches Triton kernels with less host time than Triton's launcher, which inspects every argument on each call."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

_compiled: dict[tuple[Any, ...], tuple[Any, Any]] = {}  # with the kernel itself, so that its id stays its own
_ALIGNED_BYTES = 16  # what Triton asks of an address before it reads 16 bytes at a time


def launch(
    kernel: Any,
    programs: int,
    tensors: Sequence[Tensor | None],
    numbers: tuple[Any, ...],
    arguments: Sequence[Any] | None = None,
    **options: Any,
) -> None:
    """kernel[(programs,)](*tensors, *numbers, **options) on the current device, that of the first tensor; with
    `arguments`, these instead, made of the tensors and numbers in whatever order and tuples the kernel has them.

    What Triton compiles depends on the numbers, and on the tensors' types and whether their addresses divide by 16: for
    the like of an earlier launch its kernel is launched again. No number may change from step to step: what was
    compiled is kept for each.
    """
    first = tensors[0]
    assert first is not None
    likeness = [None if t is None else (t.dtype, t.data_ptr() % _ALIGNED_BYTES == 0) for t in tensors]
    key = (id(kernel), first.device.index, numbers, *options.values(), *likeness)
    given = (*tensors, *numbers) if arguments is None else arguments
    _, compiled = _compiled.get(key, (None, None))
    if compiled is None:
        compiled = kernel[(programs,)](*given, **options)  # None where Triton interprets
        _compiled[key] = kernel, compiled
    else:
        compiled[programs, 1, 1](*given)
