"""The batch that every loader yields."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipelines.loading.sampler import BatchRequest
from data_pipelines.loading.unreadable import UnreadableSample
from data_pipelines.loading.views import Augmentation, Ints, Views
from data_pipelines.shards.index import Index


@dataclass(frozen=True)
class Batch:
    """B images and what they show.

    images: uint8 [B, C, S, S], a channels-last view of [B, S, S, C]. labels: int64 [B], or float32 [B, classes] with
    NaN = unlabelled. mixup: weight (lambda) of the own image, float32 [B], or None. samples: rows of the index.
    unreadable: samples that were replaced; `images`, `samples` and `labels` hold their replacements, or black images.
    is_padding: none of them counts, see sampler.BatchRequest.
    """

    images: Tensor
    labels: Tensor
    mixup: Tensor | None
    samples: Ints
    unreadable: tuple[UnreadableSample, ...] = ()
    is_padding: bool = False

    def __len__(self) -> int:
        return len(self.samples)


def make_batch(
    index: Index,
    request: BatchRequest,
    augmentation: Augmentation,
    images: Tensor,
    unreadable: Sequence[UnreadableSample] = (),
) -> Batch:
    """A batch from decoded images, uint8 [B, S, S, C] on their device, with labels and the rest moved to it."""
    labels = torch.from_numpy(np.asarray(index.labels[request.samples]))
    mixup = augmentation.mixup(request.positions)
    return Batch(
        images=images.permute(0, 3, 1, 2),
        labels=_beside(images, labels),
        mixup=None if mixup is None else _beside(images, torch.from_numpy(mixup)),
        samples=request.samples,
        unreadable=tuple(unreadable),
        is_padding=request.is_padding,
    )


def _beside(images: Tensor, values: Tensor) -> Tensor:
    """The values on the images' device. A copy to a GPU from unpinned memory would block."""
    return values if images.device.type == "cpu" else values.pin_memory().to(images.device, non_blocking=True)


def views_of(index: Index, request: BatchRequest, augmentation: Augmentation) -> Views:
    """The view of each requested image."""
    heights = np.asarray(index.height[request.samples], dtype=np.int64)
    widths = np.asarray(index.width[request.samples], dtype=np.int64)
    return augmentation.views(request.positions, heights, widths)
