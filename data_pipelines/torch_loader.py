"""Batches by torchvision: the oracle of the tests, and the fall-back where DALI is not to be had."""

import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from data_pipelines.augment import Augmentation, Views
from data_pipelines.batch import Batch, encoded_images, make_batch, views_of
from data_pipelines.index import Index
from data_pipelines.order import Request

_PREFETCH = 2


def batches(
    index: Index, requests: Iterable[Request], augmentation: Augmentation, device: torch.device, threads: int
) -> Iterator[Batch]:
    """A batch for each request, in order. Threads suffice: decoding and resizing leave the interpreter's lock."""
    stream = iter(requests)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:

        def submit(request: Request) -> tuple[Request, list[Future[Tensor]]]:
            views = views_of(index, request, augmentation)
            encoded = encoded_images(index, request)
            return request, [pool.submit(_cut, data, index.channels, views, i) for i, data in enumerate(encoded)]

        waiting = deque(submit(request) for request in islice(stream, _PREFETCH))
        while waiting:
            request, images = waiting.popleft()
            pixels = torch.stack([image.result() for image in images])
            waiting.extend(submit(request) for request in islice(stream, 1))
            if device.type == "cuda":
                pixels = pixels.pin_memory().to(device, non_blocking=True)
            yield make_batch(index, request, augmentation, pixels)


def _cut(encoded: npt.NDArray[np.uint8], channels: int, views: Views, i: int) -> Tensor:
    """One view of one image, uint8 [S, S, C]."""
    with Image.open(io.BytesIO(encoded.data)) as picture:
        image = F.pil_to_tensor(picture.convert("L" if channels == 1 else "RGB"))
    image = F.crop(image, *views.window[i].tolist())
    image = F.resize(image, views.resized[i].tolist(), antialias=True)
    image = F.crop(image, *views.offset[i].tolist(), views.size, views.size)
    return (F.horizontal_flip(image) if views.flip[i] else image).permute(1, 2, 0).contiguous()
