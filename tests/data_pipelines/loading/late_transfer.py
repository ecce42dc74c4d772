"""What stands for copies to a GPU, and copies as late as it may, so that a buffer used too early shows."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from data_pipelines.loading.batch import Batch


class Copy:
    """One copy under way: made when somebody waits for it."""

    def __init__(self, source: Tensor) -> None:
        self.source, self.target, self.is_over = source, torch.empty_like(source), False
        self._once = threading.Lock()  # both threads wait for a copy, and the source changes once one of them has

    def synchronize(self) -> None:
        with self._once:
            if not self.is_over:
                self.target.copy_(self.source)
            self.is_over = True


class LateTransfer:
    """Copies when the batch is received, or its buffer wanted, whichever comes first."""

    def __init__(self) -> None:
        self.allocated: list[Tensor] = []
        self.sent: list[Copy] = []
        self.threads: dict[str, set[str]] = {"allocate": set(), "send": set(), "receive": set()}

    def _note(self, what: str) -> None:
        self.threads[what].add(threading.current_thread().name)

    def allocate(self, size_bytes: int) -> Tensor:
        self._note("allocate")
        self.allocated.append(torch.empty(size_bytes, dtype=torch.uint8))
        return self.allocated[-1]

    def send(self, pixels: Tensor, batch_of: Callable[[Tensor], Batch]) -> tuple[Batch, Copy]:
        self._note("send")
        copy = Copy(pixels)
        self.sent.append(copy)
        return batch_of(copy.target), copy

    def receive(self, batch: Batch, done: Copy) -> Batch:
        self._note("receive")
        done.synchronize()
        return batch
