"""Layouts of r50x1's activations on CUDA tensors that are not there: run by test_channels_last.py as
`channels_last_on_cuda.py LIBRARY`, LIBRARY made of pretended_cuda.cpp.

Prints JSON: how many activations and gradients there were, and those that were not channels-last, by operation.
"""

import ctypes
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.engines.replica import channels_last
from trainer.kernels import group_norm_relu
from trainer.models.bit import build_model

DEVICE = torch.device("cuda", 0)
BATCH = 8


class Layouts(TorchDispatchMode):
    """Notes the layout of what operations make that has a batch, channels, height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.ndim == 4 and len(tensor) == BATCH and min(tensor.shape[1:]) > 1:
                self.seen[str(func)] += 1
                # A gradient that is spread out over height and width has no layout to lose.
                if not tensor.is_contiguous(memory_format=torch.channels_last) and 0 not in tensor.stride():
                    self.lost[f"{func} {list(tensor.shape)}"] += 1
        return result


@contextmanager
def autocast() -> Iterator[None]:
    """torch.autocast("cuda", torch.bfloat16), which refuses where there is no GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def main() -> None:
    """One step of forward and backward."""
    ctypes.CDLL(sys.argv[1]).pretend_cuda()
    torch._C._ensureCUDADeviceGuardSet = lambda: None  # would put a guard of its own in place of ours
    group_norm_relu.kernel_works = lambda _: True
    group_norm_relu._found_to_work = lambda _: False  # for all others: PyTorch's own operations, which are seen
    layouts = Layouts()
    with FakeTensorMode(), torch.autograd.set_multithreading_enabled(False):
        with DEVICE:
            model = build_model("r50x1", 1000)
        for part in model.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(channels_last(parameter.detach())))
        images = torch.empty(BATCH, 224, 224, 3, dtype=torch.uint8, device=DEVICE).permute(0, 3, 1, 2)
        with layouts:
            with autocast():
                logits = model(images)
            logits.float().sum().backward()
    gradients = {str(p.grad.dtype) for p in model.parameters() if p.grad is not None}
    print(json.dumps({"seen": layouts.seen, "lost": layouts.lost, "gradients": sorted(gradients)}))


if __name__ == "__main__":
    main()
