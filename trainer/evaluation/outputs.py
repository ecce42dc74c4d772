"""Model outputs over a whole set: kept on the device if they fit, else copied to the CPU in large blocks. Beside them,
what describes an image to tell whether it is like others."""

from collections import deque

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_HELD_BYTES = 1 << 28  # on the device; for a moment it takes twice this
_BATCHES_AHEAD = 4  # of a GPU; the images of each of them take their place in its memory
QUANTILES, _SIDE = 16, 8
NUM_GREY = QUANTILES + _SIDE**2
"""Numbers that describe an image beside its features."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_MOST_SAMPLED = 64  # pixels along a side whose grey levels are sorted
_SOFT = 8.0  # grey levels of contrast below which the layout of an image is taken for noise


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


def describe(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, C], and a description float32 [B, D + 80] of uint8 images [B, 1 or 3, S, S]: the inputs of the head,
    16 quantiles of the grey levels, and an 8 x 8 picture of zero mean and unit contrast."""
    kept: list[Tensor] = []
    handle = model.get_submodule("head").register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    try:
        logits = model(images)
    finally:
        handle.remove()
    return logits, torch.cat([kept[0].float(), *_of_grey(images)], dim=1)


def _of_grey(images: Tensor) -> tuple[Tensor, Tensor]:
    pixels = images.float()
    luma = torch.tensor(_LUMA, device=images.device).view(1, 3, 1, 1)
    grey = pixels[:, 0] if images.shape[1] == 1 else (pixels * luma).sum(dim=1)
    step = max(1, grey.shape[-1] // _MOST_SAMPLED)
    ordered = grey[:, ::step, ::step].flatten(1).sort(dim=1).values
    places = (torch.arange(QUANTILES, device=images.device) + 0.5) / QUANTILES * ordered.shape[1]
    small = F.adaptive_avg_pool2d(grey[:, None], _SIDE).flatten(1)
    centred = small - small.mean(dim=1, keepdim=True)
    contrast = centred.square().mean(dim=1, keepdim=True).sqrt()
    return ordered[:, places.long()], centred / (contrast + _SOFT)
