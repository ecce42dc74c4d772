"""Model outputs over a whole set: kept on the device if they fit, else copied to the CPU in large blocks."""

from collections import deque

import torch
from torch import Tensor

MOST_HELD_BYTES = 1 << 28  # on the device; for a moment it takes twice this
_BATCHES_AHEAD = 4  # of a GPU; the images of each of them take their place in its memory


class Outputs:
    """float32 [N, C], zero where nothing was put.

    On the device if it takes at most `most_bytes`; otherwise on the CPU, filled in blocks of that size.
    """

    def __init__(self, rows: int, columns: int, device: torch.device, most_bytes: int = MOST_HELD_BYTES) -> None:
        fits = rows * columns * torch.float32.itemsize <= most_bytes
        self._whole = torch.zeros(rows, columns, device=device if fits else "cpu")
        self._device, self._most_bytes = device, most_bytes
        self._waiting: list[Tensor] = []
        self._first, self._end = 0, 0  # rows that wait
        self._done: deque[torch.cuda.Event] = deque()

    def put(self, first: int, outputs: Tensor) -> None:
        """Store rows from `first` on, [B, up to C], on the device. Waits for a GPU only if it is several batches
        behind, or if too much waits to be copied."""
        self._hold_back()
        if self._whole.device == self._device:
            self._write(first, outputs)
            return
        outputs = outputs.float()
        waiting_bytes = sum(piece.nbytes for piece in self._waiting)
        if first != self._end or waiting_bytes + outputs.nbytes > self._most_bytes:
            self._copy()
        if not self._waiting:
            self._first = first
        self._waiting.append(outputs)
        self._end = first + len(outputs)

    def whole(self) -> Tensor:
        """All outputs, on the device that holds them."""
        self._copy()
        return self._whole

    def _hold_back(self) -> None:
        if self._device.type == "cuda":
            self._done.append(torch.cuda.Event())
            self._done[-1].record()
            if len(self._done) > _BATCHES_AHEAD:
                self._done.popleft().synchronize()

    def _copy(self) -> None:
        if self._waiting:
            together = torch.cat(self._waiting)
            self._waiting.clear()
            self._write(self._first, together)

    def _write(self, first: int, outputs: Tensor) -> None:
        self._whole[first : first + len(outputs), : outputs.shape[1]] = outputs
