"""Categories of a training step, and which category an operation or kernel belongs to, by its name."""

import re
from typing import Literal, get_args

from trainer.kernels.ranges import HOROVOD, STANDARDISATION

Category = Literal[
    "convolutions", "norms", "standardisation", "optimizer", "other",
    "communication", "copies", "data", "idle", "pause",
]  # fmt: skip
CATEGORIES: tuple[Category, ...] = get_args(Category)
COMPUTING: tuple[Category, ...] = CATEGORIES[:5]
STEP, PHASE = "ProfilerStep#", "phase: "
PAUSES = ("evaluation", "saving")

_Rules = tuple[tuple[Category, re.Pattern[str]], ...]
_OPERATIONS: _Rules = (
    ("communication", re.compile(rf"^c10d::|^{HOROVOD}")),
    ("standardisation", re.compile(rf"^{STANDARDISATION}|\b_Filters|standardise")),
    ("norms", re.compile(r"group_?norm", re.IGNORECASE)),
    ("convolutions", re.compile(r"conv(?!ert)", re.IGNORECASE)),
    ("optimizer", re.compile(r"^Optimizer\.|_amp_")),
)
_KERNELS: _Rules = (
    ("standardisation", re.compile(r"standardise")),
    ("norms", re.compile(r"group_?norm|^(for|back)ward_(tile|split)", re.IGNORECASE)),
    ("optimizer", re.compile(r"sgd_agc")),
    ("convolutions", re.compile(r"conv(?!ert)|[fdw](prop|grad)|xmma|cutlass|cudnn|gemm|nvjet", re.IGNORECASE)),
)
# What Gloo and its like do on threads of their own; NCCL's work is seen on the GPU.
_EXCHANGE = re.compile(r"^(gloo|mpi|ucc|nccl):")
_NCCL = re.compile(r"nccl", re.IGNORECASE)
# Names of autograd and of the compiler that stand around the operation that says what is done.
_FRAME = re.compile(r"^autograd::engine::|^torch::autograd::|^GeneratedBackwardFor|Backward\d*$|Compiled|^## ")
_LAYOUTS = re.compile(r"nchwToNhwc|nhwcToNchw", re.IGNORECASE)


def category_of_operation(name: str) -> Category | None:
    """None for one that belongs to what is around it."""
    return next((category for category, pattern in _OPERATIONS if pattern.search(name)), None)


def category_of_kernel(name: str, of_operation: Category | None, operation: str) -> Category:
    """By the operation that launched it; by its own name if that is NCCL's, or where no operation of PyTorch's says
    more, as in compiled code and CUDA graphs."""
    if _NCCL.search(name):
        return "communication"
    if of_operation is not None:
        return of_operation
    if operation.startswith("aten::"):
        return "other"
    return next((category for category, pattern in _KERNELS if pattern.search(name)), "other")


def is_exchange(name: str) -> bool:
    """Whether this is an exchange between ranks, from its begin to its end, on a thread that does nothing else."""
    return _EXCHANGE.match(name) is not None


def is_frame(name: str) -> bool:
    """Whether this stands around operations and says less than they do."""
    return _FRAME.search(name) is not None


def changes_layout(kernel: str) -> bool:
    """Whether this is a kernel of cuDNN's that copies activations into another memory format."""
    return _LAYOUTS.search(kernel) is not None
