"""Batches by NVIDIA DALI, on the CPU and on the GPU from one pipeline definition.

DALI draws nothing: an external source hands it the encoded bytes and the parameters of each view.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def
from nvidia.dali.types import DALIImageType, DALIInterpType

from data_pipelines.augment import Augmentation
from data_pipelines.batch import Batch, make_batch, views_of
from data_pipelines.dali_randaugment import INPUTS, host_inputs, randaugment
from data_pipelines.faults import Encoded, Instead, Unseen, damage, readable, replaced
from data_pipelines.index import Index
from data_pipelines.order import Request

# Encoded bytes, anchor, shape, resized, offset, flip; those of RandAugment; the warp. One entry for each image.
Inputs = tuple[Any, ...]
HW_DECODER_LOAD = 0.65  # DALI's own default
_PREFETCH = 2


@pipeline_def(enable_conditionals=True)
def _cut(
    source: Any,
    decoder: str,
    channels: int,
    size: int,
    operations: int,
    warped: bool,
    hw_decoder_load: float = HW_DECODER_LOAD,
) -> Any:
    count = 6 + INPUTS * operations + (1 if warped else 0)
    inputs: Any = fn.external_source(source=source, num_outputs=count, no_copy=True)
    encoded, anchor, shape, resized, offset, flip = inputs[:6]
    # The header's size is what the windows were drawn for: an EXIF rotation would turn the picture under them.
    images: Any = fn.decoders.image_slice(
        encoded,
        anchor,
        shape,
        axis_names="HW",
        normalized_anchor=False,
        normalized_shape=False,
        device=decoder,
        output_type=DALIImageType.GRAY if channels == 1 else DALIImageType.RGB,
        adjust_orientation=False,
        hw_decoder_load=hw_decoder_load,
    )
    images = fn.resize(images, size=resized, antialias=True, interp_type=DALIInterpType.INTERP_LINEAR)
    images = fn.slice(images, start=offset, shape=[size, size], axes=[0, 1])
    images = fn.flip(images, horizontal=flip)
    for first in range(6, 6 + INPUTS * operations, INPUTS):
        op, warp, value = inputs[first : first + INPUTS]
        images = randaugment(images, op, warp, value, size, channels)
    if warped:
        images = fn.warp_affine(images, matrix=inputs[-1], fill_value=0, interp_type=DALIInterpType.INTERP_LINEAR)
    return images


def batches(
    index: Index,
    requests: Iterable[Request],
    augmentation: Augmentation,
    device: torch.device,
    threads: int,
    hw_decoder_load: float = HW_DECODER_LOAD,
    *,
    instead: Instead | None = None,
) -> Iterator[Batch]:
    """A batch for each request, in order, decoded on `device` with `threads` CPU threads; see loaders.Loader.

    Finite and endless request streams both work; the requests of the batches in flight are kept beside them.
    hw_decoder_load is the share of JPEG files for the hardware decoder of GPUs that have one.
    """
    stream = iter(requests)
    largest = next(stream, None)  # every stream begins with a batch of full size
    if largest is None:
        return
    stream = chain([largest], stream)
    # DALI reads the inputs in place: they live until the batch does.
    in_flight: deque[tuple[_Read, Inputs]] = deque()
    again: deque[_Read] = deque()

    def source() -> Inputs:
        read = again.popleft() if again else _Read(*readable(index, next(stream), instead))
        inputs = _inputs(index, read, augmentation)
        in_flight.append((read, inputs))
        return inputs

    def build() -> Any:
        return _cut(
            source,
            decoder="mixed" if device.type == "cuda" else "cpu",
            channels=index.channels,
            size=augmentation.size,
            operations=augmentation.randaugment_ops,
            warped=views_of(index, largest, augmentation).warp is not None,
            hw_decoder_load=hw_decoder_load,
            batch_size=len(largest.samples),
            num_threads=threads,
            device_id=device.index or 0 if device.type == "cuda" else None,
            prefetch_queue_depth=_PREFETCH,
        )

    pipeline = build()
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None
    while True:
        try:
            (images,) = pipeline.run()
        except StopIteration:
            return
        except RuntimeError as error:
            if instead is None:
                raise
            # A pipeline that has failed is of no use any more, and does not say which image it was.
            again.extendleft(reversed(_mended(index, [read for read, _ in in_flight], instead, error)))
            in_flight.clear()
            pipeline = build()
            continue
        read, _ = in_flight.popleft()
        yield make_batch(index, read.request, augmentation, _copy(images.as_tensor(), copying), read.unseen)


class _Read(NamedTuple):
    """A request, the encoded bytes of its images, and those that could not be shown."""

    request: Request
    encoded: list[Encoded]
    unseen: tuple[Unseen, ...]


def _mended(index: Index, reads: Sequence[_Read], instead: Instead, error: RuntimeError) -> list[_Read]:
    """The reads with what is damaged in the first of them that has damage replaced. Raises the pipeline's own error if
    nothing is."""
    for number, (request, encoded, unseen) in enumerate(reads):
        reasons = [damage(index, row, content) for row, content in zip(request.samples, encoded, strict=True)]
        if not any(reasons):
            continue
        encoded = list(encoded)
        for i, reason in enumerate(reasons):
            if reason is not None:
                request, encoded[i], lost = replaced(index, request, i, reason, False, instead)
                unseen = (*unseen, lost)
        return [*reads[:number], _Read(request, encoded, unseen), *reads[number + 1 :]]
    raise error


def _copy(pixels: Any, stream: torch.cuda.Stream | None) -> torch.Tensor:
    """DALI's pixels in memory of our own, because it uses its buffers again."""
    if stream is None:
        return torch.from_dlpack(pixels).clone()
    # On a stream of its own that is waited for: behind the training kernels the copy would come after the reuse.
    with torch.cuda.stream(stream):
        copied = torch.from_dlpack(pixels).clone()
    stream.synchronize()
    copied.record_stream(torch.cuda.current_stream())
    return copied


def _inputs(index: Index, read: _Read, augmentation: Augmentation) -> Inputs:
    views = views_of(index, read.request, augmentation)
    inputs: list[Any] = [
        read.encoded,
        views.window[:, :2].astype(np.int32),
        views.window[:, 2:].astype(np.int32),
        views.resized.astype(np.float32),
        views.offset.astype(np.int32),
        views.flip.astype(np.int32),
    ]
    if views.operations is not None:
        inputs += host_inputs(views.operations, views.size, index.channels)
    if views.warp is not None:
        inputs.append(views.warp)
    return tuple(inputs)
