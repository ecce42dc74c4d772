"""Events as torch.profiler writes them into a Chrome trace. Times are microseconds."""

from itertools import count
from typing import Any

Event = dict[str, Any]
HOST, BACKWARD, POOL = 1, 2, 3
_NUMBERS = count()


def event(cat: str, name: str, start: float, end: float, thread: int = HOST, **arguments: Any) -> Event:
    return {
        "ph": "X", "cat": cat, "name": name, "ts": start, "dur": end - start, "pid": 1, "tid": thread,
        "args": arguments,
    }  # fmt: skip


def operation(name: str, start: float, end: float, thread: int = HOST, **arguments: Any) -> Event:
    return event("cpu_op", name, start, end, thread, **arguments)


def named(name: str, start: float, end: float, thread: int = HOST) -> Event:
    return event("user_annotation", name, start, end, thread)


def kernel(name: str, start: float, end: float, launch: float, thread: int = HOST, kind: str = "kernel") -> list[Event]:
    """On the GPU, and the call that launched it."""
    number = next(_NUMBERS)
    return [
        event("cuda_runtime", "cudaLaunchKernel", launch, launch + 1, thread, correlation=number),
        event(kind, name, start, end, thread=7, correlation=number),
    ]


def copy(size: list[int], target: list[int], source: list[int], at: float = 1) -> Event:
    strides = {"Input Dims": [size, size, []], "Input Strides": [target, source, []]}
    return operation("aten::copy_", at, at + 1, **strides)
