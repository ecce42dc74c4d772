"""Loader using libjpeg-turbo and torch: for CPUs, for GPUs without DALI, and the reference in tests."""

import io
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from data_pipelines.common.errors import InputError
from data_pipelines.loading.batch import Batch, make_batch, views_of
from data_pipelines.loading.device_transfer import Buffers, CudaTransfer, Done, Transfer
from data_pipelines.loading.randaugment import Operations
from data_pipelines.loading.sampler import BatchRequest
from data_pipelines.loading.scaled_decode import decode_scale, scaled_window
from data_pipelines.loading.unreadable import Replacement, UnreadableSample, one_line, readable, replaced
from data_pipelines.loading.views import Augmentation, Border, Views
from data_pipelines.shards.index import Index

PREFETCH = 2  # batches that are being decoded
SENT_AHEAD = 2  # batches that a GPU has or gets before they are asked for
_JPEG = 0xFF  # its first byte


def batches(
    index: Index,
    requests: Iterable[BatchRequest],
    augmentation: Augmentation,
    device: torch.device,
    threads: int,
    *,
    replacement: Replacement | None = None,
    scaled_decode: bool = False,
    transfer: Transfer | None = None,
) -> Iterator[Batch]:
    """See loader.Loader. Uses threads: decoding and resizing release the GIL.

    scaled_decode: JPEG files are decoded at 1/2, 1/4 or 1/8 where the window is that many times larger than needed,
    unless RandAugment is applied to the whole image. For a GPU, with `transfer`, all work is done in the background:
    the calling thread only waits.
    """
    if transfer is None and device.type == "cuda":
        transfer = CudaTransfer(device)
    work = _Work(index, augmentation, replacement, scaled_decode)
    if transfer is not None:
        buffers = Buffers(PREFETCH + 1, transfer.allocate)
        yield from _sent(_decoded(work, requests, threads, buffers.take), work, transfer, buffers)
        return
    with closing(_decoded(work, requests, threads, _memory)) as decoded:
        for request, unreadable, pixels in decoded:
            yield make_batch(index, request, augmentation, pixels, unreadable)


@dataclass(frozen=True)
class _Work:
    """What all requests have in common."""

    index: Index
    augmentation: Augmentation
    replacement: Replacement | None
    scaled_decode: bool


class _Decoded(NamedTuple):
    """A request with its pixels, uint8 [B, S, S, C], decoded or being decoded."""

    request: BatchRequest
    unreadable: tuple[UnreadableSample, ...]
    pixels: Tensor


def _memory(shape: tuple[int, ...]) -> Tensor:
    with torch.inference_mode(False):  # other threads could not write into what evaluation makes
        return torch.empty(shape, dtype=torch.uint8)


def _sent(
    decoded: Generator[_Decoded, None, None], work: _Work, transfer: Transfer, buffers: Buffers
) -> Iterator[Batch]:
    """Batches on the device; later ones are decoded and copied by a background thread."""

    def make() -> tuple[Batch, Done] | None:
        found = next(decoded, None)
        if found is None:
            return None
        request, unreadable, pixels = found
        batch, done = transfer.send(
            pixels, lambda images: make_batch(work.index, request, work.augmentation, images, unreadable)
        )
        buffers.sent(done)
        return batch, done

    with closing(decoded), ThreadPoolExecutor(1, thread_name_prefix="batches") as maker:
        waiting = deque(maker.submit(make) for _ in range(SENT_AHEAD))
        try:
            while (sent := waiting.popleft().result()) is not None:
                waiting.append(maker.submit(make))
                yield transfer.receive(*sent)
        finally:
            for later in waiting:
                later.cancel()


def _decoded(
    work: _Work, requests: Iterable[BatchRequest], threads: int, memory: Callable[[tuple[int, ...]], Tensor]
) -> Generator[_Decoded, None, None]:
    """Requests in order, with all their pixels in the memory provided; some are decoded ahead."""
    index, augmentation, replacement = work.index, work.augmentation, work.replacement
    stream = iter(requests)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:

        def begin(request: BatchRequest) -> tuple[_Decoded, list[Future[None]]]:
            request, encoded, unreadable = readable(index, request, replacement)
            views, sizes = views_of(index, request, augmentation), _sizes(index, request)
            pixels = memory((len(encoded), views.size, views.size, index.channels))
            images = [
                pool.submit(_cut_into, pixels[i], data, size, index.channels, views, i, work.scaled_decode)
                for i, (data, size) in enumerate(zip(encoded, sizes, strict=True))
            ]
            return _Decoded(request, unreadable, pixels), images

        def finish(begun: _Decoded, images: list[Future[None]]) -> _Decoded:
            request, unreadable, pixels = begun
            for i, image in enumerate(images):
                try:
                    image.result()
                except Exception as error:  # whatever a decoder throws at a broken file
                    if replacement is None or isinstance(error, (InputError, MemoryError)):
                        raise
                    request, data, lost = replaced(index, request, i, one_line(error), False, replacement)
                    unreadable = (*unreadable, lost)
                    alone = BatchRequest(request.samples[i : i + 1], request.positions[i : i + 1])
                    (size,), views = _sizes(index, alone), views_of(index, alone, augmentation)
                    place = pixels[i]
                    pool.submit(_cut_into, place, data, size, index.channels, views, 0, work.scaled_decode).result()
            return _Decoded(request, unreadable, pixels)

        waiting = deque(begin(request) for request in islice(stream, PREFETCH))
        while waiting:
            done = finish(*waiting.popleft())
            waiting.extend(begin(request) for request in islice(stream, 1))
            yield done


def _sizes(index: Index, request: BatchRequest) -> list[tuple[int, int]]:
    """Stored height and width of each image."""
    return list(zip(index.height[request.samples].tolist(), index.width[request.samples].tolist(), strict=True))


def _cut_into(place: Tensor, *image: Any) -> None:
    place.copy_(_cut(*image))


def _cut(
    encoded: npt.NDArray[np.uint8], size: tuple[int, int], channels: int, views: Views, i: int, scaled_decode: bool
) -> Tensor:
    """One view of one image, uint8 [S, S, C]."""
    window, target = views.window[i].tolist(), views.resized[i].tolist()
    before, after = _placed(views.operations)
    may_scale = scaled_decode and encoded[0] == _JPEG and before is None
    scale = decode_scale(window, target, size) if may_scale else 1
    if scale > 1:
        _require_size(simplejpeg.decode_jpeg_header(encoded)[:2], size)
        resized = torch.from_numpy(scaled_window(encoded, size, channels, window, target, scale)).permute(2, 0, 1)
    else:
        top, left, height, width = window
        picture = torch.from_numpy(_decode(encoded, size, channels)).permute(2, 0, 1)
        picture = picture if before is None else _randaugmented(picture, before, i)
        cut = picture[:, top : top + height, left : left + width]
        # torch resizes bytes that lie channels-last several times faster than DALI does.
        stored = cut[None].contiguous(memory_format=torch.channels_last)
        resized = interpolate(stored, target, mode="bilinear", antialias=True)[0]
    top, left = views.offset[i].tolist()
    image = resized[:, top : top + views.size, left : left + views.size]
    image = image.flip(2) if views.flip[i] else image
    image = image if after is None else _randaugmented(image, after, i)
    image = image if views.warp is None else _warp(image, views.warp[i], views.border)
    return image.permute(1, 2, 0).contiguous()


def _placed(operations: Operations | None) -> tuple[Operations | None, Operations | None]:
    """RandAugment's operations before cropping, and those after it."""
    on_image = operations is not None and operations.on == "image"
    return (operations, None) if on_image else (None, operations)


def _randaugmented(image: Tensor, operations: Operations, i: int) -> Tensor:
    """The i-th image, uint8 [C, H, W], after its operations."""
    if operations.space == "ildoonet":
        from data_pipelines.loading.randaugment_pillow import randaugment
    else:
        from data_pipelines.loading.randaugment_torch import (
            randaugment,  # by torchvision, which nothing else here needs
        )
    return randaugment(image, operations, i)


def _decode(encoded: npt.NDArray[np.uint8], size: tuple[int, int], channels: int) -> npt.NDArray[np.uint8]:
    """Pixels [H, W, C]. JPEG is decoded by libjpeg-turbo, as in DALI, avoiding Pillow's copies. Raises the decoders'
    errors, and ValueError for an unexpected size, before memory is allocated."""
    if encoded[0] == _JPEG:
        _require_size(simplejpeg.decode_jpeg_header(encoded)[:2], size)
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "GRAY" if channels == 1 else "RGB")
        return pixels
    with Image.open(io.BytesIO(encoded.data)) as picture:
        _require_size((picture.height, picture.width), size)
        array = np.array(picture.convert("L" if channels == 1 else "RGB"))
    return array.reshape(*array.shape[:2], channels)


def _require_size(found: tuple[int, int], stored: tuple[int, int]) -> None:
    if found != stored:
        raise ValueError(f"it is {found[1]} x {found[0]} pixels, its index says {stored[1]} x {stored[0]}")


def _warp(image: Tensor, warp: npt.NDArray[np.float32], border: Border) -> Tensor:
    """A square image, uint8 [C, S, S], warped by a map of pixels, [2, 3]."""
    # For affine_grid the square spans -1 to 1.
    side, linear, start = image.shape[-1], warp[:, :2], warp[:, 2:]
    start = linear.sum(axis=1, keepdims=True) + start * (2 / side) - 1
    theta = torch.from_numpy(np.concatenate([linear, start], axis=1))[None]
    grid = affine_grid(theta, [1, *image.shape], align_corners=False)
    is_reflected = border == "reflect"
    if is_reflected:  # about the centres of the outermost pixels, between which the square then spans
        grid *= side / (side - 1)
    padding = "reflection" if is_reflected else "zeros"
    pixels = grid_sample(image[None].float(), grid, mode="bilinear", padding_mode=padding, align_corners=is_reflected)
    return pixels[0].round().to(torch.uint8)
