"""A fake GPU that records kernel launches without running them.

Tensors lie in the CPU's memory, which nobody touches, and say that they are on cuda:0. It cannot be undone: for a
process of its own.
"""

from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction, MockTensor

_CUDA, _CPU = torch.device("cuda", 0), torch.device("cpu")


class FakePointer(MockTensor):
    """What Triton's compiler specialises for in a tensor: its type, and its address modulo 16."""

    def __init__(self, dtype: torch.dtype, remainder: int) -> None:
        super().__init__(dtype)
        self.remainder = remainder

    def data_ptr(self) -> int:  # type: ignore[override]
        """An address like the tensor's."""
        return 16 + self.remainder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakePointer) and (self.dtype, self.remainder) == (other.dtype, other.remainder)

    def __hash__(self) -> int:
        return hash((self.dtype, self.remainder))


class Launch(NamedTuple):
    """A kernel, and the arguments and options that its code depends on."""

    kernel: Any
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]


class _MakeOnCpu(TorchFunctionMode):
    """Lets what is to be made on the GPU be made on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.pin_memory:
            return args[0]
        args = tuple(_CPU if isinstance(each, torch.device) else each for each in args)
        kwargs = {name: _CPU if isinstance(each, torch.device) else each for name, each in (kwargs or {}).items()}
        return func(*args, **kwargs)


class FakeDriver:
    """Triton's view of a GPU. Its number is its capability: Triton caches what it compiled by that number."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)
        self._number = capability

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._number

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return _CPU


def use_fake_gpu() -> list[Launch]:
    """From now on CPU tensors say that they are on a GPU, and launches of Triton kernels end up in the list."""
    launches: list[Launch] = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        arguments = tuple(_specialized(parameter, arg) for parameter, arg in zip(kernel.params, args, strict=True))
        launches.append(Launch(kernel, arguments, tuple(sorted(options.items()))))

    driver.set_active(FakeDriver(90))
    JITFunction.run = run
    torch.Tensor.device = property(lambda _: _CUDA)  # type: ignore[assignment, misc]
    torch.Tensor.is_cuda = property(lambda _: True)  # type: ignore[assignment, misc]
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    _MakeOnCpu().__enter__()
    return launches


_run = JITFunction.run


def compile_launch(launch: Launch, capability: int) -> Any:
    """Triton's `CompiledKernel` for a GPU of compute capability `capability` / 10."""
    driver.set_active(FakeDriver(capability))
    return _run(launch.kernel, *launch.arguments, grid=(1,), warmup=True, **dict(launch.options))


def _specialized(parameter: Any, value: Any) -> Any:
    """An argument as far as the compiler specialises for it; any number stands for those it does not."""
    if isinstance(value, tuple) and not parameter.is_constexpr:
        return tuple(_specialized(parameter, each) for each in value)
    if isinstance(value, torch.Tensor):
        return FakePointer(value.dtype, value.data_ptr() % 16)
    if parameter.is_constexpr or value is None:
        return value
    if isinstance(value, float):
        return 0.5
    if parameter.do_not_specialize:
        return 2
    return value if value == 1 else 16 if value % 16 == 0 else 3
