"""Batches by libjpeg-turbo and torch: for CPUs, for GPUs where DALI is not to be had, and the oracle of the tests."""

import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from data_pipelines.augment import Augmentation, Views
from data_pipelines.batch import Batch, encoded_images, make_batch, views_of
from data_pipelines.index import Index
from data_pipelines.order import Request
from data_pipelines.torch_randaugment import randaugment

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
    top, left, height, width = views.window[i].tolist()
    window = torch.from_numpy(_decode(encoded, channels)[top : top + height, left : left + width])
    # torch resizes bytes that lie channels-last several times faster than DALI does.
    stored = window.permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    resized = interpolate(stored, views.resized[i].tolist(), mode="bilinear", antialias=True)[0]
    top, left = views.offset[i].tolist()
    image = resized[:, top : top + views.size, left : left + views.size]
    image = image.flip(2) if views.flip[i] else image
    image = image if views.operations is None else randaugment(image, views.operations, i)
    image = image if views.warp is None else _warp(image, views.warp[i])
    return image.permute(1, 2, 0).contiguous()


def _decode(encoded: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """Pixels [H, W, C]. JPEG goes by libjpeg-turbo, as in DALI, without Pillow's copies."""
    if encoded[0] == 0xFF:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "GRAY" if channels == 1 else "RGB")
        return pixels
    with Image.open(io.BytesIO(encoded.data)) as picture:
        array = np.array(picture.convert("L" if channels == 1 else "RGB"))
    return array.reshape(*array.shape[:2], channels)


def _warp(image: Tensor, warp: npt.NDArray[np.float32]) -> Tensor:
    """A square image, uint8 [C, S, S], warped by a map of pixels, [2, 3]."""
    # For affine_grid the square spans -1 to 1.
    linear, start = warp[:, :2], warp[:, 2:]
    start = linear.sum(axis=1, keepdims=True) + start * (2 / image.shape[-1]) - 1
    theta = torch.from_numpy(np.concatenate([linear, start], axis=1))[None]
    grid = affine_grid(theta, [1, *image.shape], align_corners=False)
    pixels = grid_sample(image[None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return pixels[0].round().to(torch.uint8)
