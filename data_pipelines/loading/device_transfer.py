"""Copies decoded batches to a GPU through pinned buffers, on a stream of its own."""

from collections import deque
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from data_pipelines.loading.batch import Batch


class Done(Protocol):
    """Completion of a copy; a CUDA event."""

    def synchronize(self) -> None:
        """Wait until the copy is done."""


class Transfer(Protocol):
    """Copies batches to a device without waiting. The loader's thread calls `allocate` and `send`, the training thread
    `receive`."""

    def allocate(self, size_bytes: int) -> Tensor:
        """Memory from which copies are asynchronous, uint8 [size_bytes]."""

    def send(self, pixels: Tensor, batch_of: Callable[[Tensor], Batch]) -> tuple[Batch, Done]:
        """Copy pixels to the device and make a batch of them; the memory may be reused once the copy is done."""

    def receive(self, batch: Batch, done: Done) -> Batch:
        """The batch, ready for subsequent work on the device."""


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """One stream for all loaders: the allocator reuses memory only on the stream it was used on."""
    return torch.cuda.Stream(device)


class CudaTransfer:
    """See Transfer."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, _copying(device)

    def allocate(self, size_bytes: int) -> Tensor:
        with torch.cuda.device(self._device):  # a new thread's is the first one, where nothing of this rank belongs
            return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def send(self, pixels: Tensor, batch_of: Callable[[Tensor], Batch]) -> tuple[Batch, Done]:
        with torch.cuda.stream(self._stream):
            batch = batch_of(pixels.to(self._device, non_blocking=True))
            done = torch.cuda.Event(blocking=True)  # whoever waits sleeps
            done.record(self._stream)
        return batch, done

    def receive(self, batch: Batch, done: Done) -> Batch:
        assert isinstance(done, torch.cuda.Event)
        training = torch.cuda.current_stream(self._device)
        training.wait_event(done)
        for tensor in (batch.images, batch.labels, batch.mixup):
            if tensor is not None:  # its memory belongs to the other stream, which must not use it again too early
                tensor.record_stream(training)
        return batch


class Buffers:
    """A fixed number of buffers, filled and sent in turn. A buffer is reused only when its copy is done."""

    def __init__(self, count: int, allocate: Callable[[int], Tensor]) -> None:
        self._count, self._allocate = count, allocate
        self._filling: deque[Tensor] = deque()
        self._sent: deque[tuple[Tensor, Done]] = deque()

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A buffer to fill, uint8. Waits for the oldest copy if there is no other."""
        size, memory = prod(shape), None
        if len(self._filling) + len(self._sent) == self._count:
            memory, done = self._sent.popleft()
            done.synchronize()
        if memory is None or len(memory) < size:
            memory = self._allocate(size)
        self._filling.append(memory)
        return memory[:size].view(shape)

    def sent(self, done: Done) -> None:
        """Mark the oldest filled buffer as being copied."""
        self._sent.append((self._filling.popleft(), done))
