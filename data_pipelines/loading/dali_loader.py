"""Loader using NVIDIA DALI, with one pipeline definition for CPU and GPU.

DALI draws nothing: an external source hands it the encoded bytes and the parameters of each view. Its default execution
model, of 2.2 and newer, leaves its outputs to whoever holds them, and gives their memory back in the order of the
stream that they were asked for on: batches are not copied, and no GPU is waited for.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def
from nvidia.dali.types import DALIImageType, DALIInterpType

from data_pipelines.loading.batch import Batch, make_batch, views_of
from data_pipelines.loading.randaugment_dali import INPUTS, host_inputs, randaugment
from data_pipelines.loading.sampler import BatchRequest
from data_pipelines.loading.unreadable import Encoded, Replacement, UnreadableSample, damage, readable, replaced
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards.index import Index

# DALI's inputs, with one entry for each image: those of `_ViewInputs`, those of RandAugment, the warp.
Inputs = tuple[Any, ...]
HW_DECODER_LOAD = 0.65  # DALI's own default
_PREFETCH = 2
_NEARLY_ALL = 0.99
_SIZED_ROWS = 10_000  # spread evenly, of however many there are
_MOST_BUFFER_BYTES = 128 << 20


class _ViewInputs(NamedTuple):
    """The inputs that every view has, in this order; `Views` says what they mean."""

    encoded: Any
    anchor: Any
    shape: Any
    resized: Any
    offset: Any
    flip: Any


_NUM_VIEW_INPUTS = len(_ViewInputs._fields)


class _Buffers(NamedTuple):
    """Hints for the GPU decoder's buffers, with DALI's defaults: largest image for the hardware decoder, pixels, and
    bytes per thread. Buffers between operators need no hint: DALI takes them from a pool."""

    height: int = 0
    width: int = 0
    device_bytes: int = 16 << 20
    host_bytes: int = 8 << 20


@pipeline_def(enable_conditionals=True)
def _cut(
    source: Any,
    decoder: str,
    channels: int,
    size: int,
    operations: int,
    warped: bool,
    buffers: _Buffers,
    hw_decoder_load: float = HW_DECODER_LOAD,
    reflections: int = 0,
) -> Any:
    count = _NUM_VIEW_INPUTS + INPUTS * operations + (1 if warped else 0)
    inputs: Any = fn.external_source(source=source, num_outputs=count, no_copy=True)
    encoded, anchor, shape, resized, offset, flip = inputs[:_NUM_VIEW_INPUTS]
    images: Any = _decoded(encoded, anchor, shape, decoder, channels, buffers, hw_decoder_load)
    images = fn.resize(images, size=resized, antialias=True, interp_type=DALIInterpType.INTERP_LINEAR)
    images = fn.slice(images, start=offset, shape=[size, size], axes=[0, 1])
    images = fn.flip(images, horizontal=flip)
    for operation in range(operations):
        first = _NUM_VIEW_INPUTS + INPUTS * operation
        op, warp, value = inputs[first : first + INPUTS]
        images = randaugment(images, op, warp, value, size, channels)
    if warped:
        for axis in (0, 1):
            images = _reflected(images, reflections, axis, size) if reflections else images
        images = fn.warp_affine(
            images, matrix=inputs[-1], size=[size, size], fill_value=0, interp_type=DALIInterpType.INTERP_LINEAR
        )
    return images


def _decoded(
    encoded: Any, anchor: Any, shape: Any, decoder: str, channels: int, buffers: _Buffers, hw_decoder_load: float
) -> Any:
    """The windows of encoded images, pixels as stored."""
    # The header's size is what the windows were drawn for: an EXIF rotation would turn the picture under them.
    return fn.decoders.image_slice(
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
        preallocate_height_hint=buffers.height,
        preallocate_width_hint=buffers.width,
        device_memory_padding=buffers.device_bytes,
        host_memory_padding=buffers.host_bytes,
    )


def _reflected(images: Any, reflections: int, axis: int, size: int) -> Any:
    """Images with this many mirrored copies on both sides along an axis, as DALI's warps cannot reflect; the pixels at
    the seams are not doubled. The image itself begins at reflections * (size - 1)."""
    mirrored = fn.flip(images, horizontal=int(axis == 1), vertical=int(axis == 0))
    places = range(-reflections, reflections + 1)
    copies = [mirrored if place % 2 else images for place in places]
    parts = [fn.slice(copy, start=[0], shape=[size - 1], axes=[axis]) for copy in copies[:-1]]
    return fn.cat(*parts, copies[-1], axis=axis)


def batches(
    index: Index,
    requests: Iterable[BatchRequest],
    augmentation: Augmentation,
    device: torch.device,
    threads: int,
    hw_decoder_load: float = HW_DECODER_LOAD,
    *,
    replacement: Replacement | None = None,
) -> Iterator[Batch]:
    """A batch for each request, in order, decoded on `device` with `threads` CPU threads; see loader.Loader.

    Finite and endless request streams both work; requests of batches in flight are queued. hw_decoder_load is the share
    of JPEG files for the hardware decoder of GPUs that have one.
    """
    stream = iter(requests)
    largest = next(stream, None)  # every stream begins with a batch of full size
    if largest is None:
        return
    source, in_use = _Source(index, chain([largest], stream), augmentation, replacement), _InUse()
    build = partial(_pipeline, source, index, largest, augmentation, device, threads, hw_decoder_load)
    pipeline = build()
    while True:
        training = torch.cuda.current_stream(device) if device.type == "cuda" else None
        try:
            (images,) = pipeline.run(training)
        except StopIteration:
            return
        except RuntimeError as error:
            if replacement is None:
                raise
            # A pipeline that has failed is of no use any more, and does not say which image it was.
            source.rewind(replacement, error)
            pipeline = build()
            source.in_flight.clear()  # only now: the one before may still have been reading
            continue
        read, inputs = source.in_flight.popleft()
        in_use.keep(inputs, training)
        yield make_batch(index, read.request, augmentation, torch.from_dlpack(images.as_tensor()), read.unreadable)


class _Source:
    """What DALI calls for the inputs of each batch.

    `in_flight` has the batches that are being made, oldest first. DALI reads their inputs in place: they live there
    until the batch is made.
    """

    def __init__(
        self,
        index: Index,
        requests: Iterator[BatchRequest],
        augmentation: Augmentation,
        replacement: Replacement | None,
    ) -> None:
        self._index, self._requests, self._augmentation = index, requests, augmentation
        self._replacement = replacement
        self._again: deque[_Read] = deque()
        self.in_flight: deque[tuple[_Read, Inputs]] = deque()

    def __call__(self) -> Inputs:
        if self._again:
            read = self._again.popleft()
        else:
            read = _Read(*readable(self._index, next(self._requests), self._replacement))
        inputs = _inputs(self._index, read, self._augmentation)
        self.in_flight.append((read, inputs))
        return inputs

    def rewind(self, replacement: Replacement, error: RuntimeError) -> None:
        """Have the batches in flight made again, with damaged images replaced. Raises the pipeline's error if there are
        none."""
        reads = [read for read, _ in self.in_flight]
        self._again.extendleft(reversed(_mended(self._index, reads, replacement, error)))


def _pipeline(
    source: "_Source",
    index: Index,
    largest: BatchRequest,
    augmentation: Augmentation,
    device: torch.device,
    threads: int,
    hw_decoder_load: float,
) -> Any:
    """The pipeline that cuts what `source` returns for batches of up to the size of `largest`."""
    on_gpu = device.type == "cuda"
    return _cut(
        source,
        decoder="mixed" if on_gpu else "cpu",
        channels=index.channels,
        size=augmentation.size,
        operations=augmentation.randaugment_ops,
        warped=views_of(index, largest, augmentation).warp is not None,
        buffers=_buffers_for(index) if on_gpu else _Buffers(),
        hw_decoder_load=hw_decoder_load,
        reflections=augmentation.reflections,
        batch_size=len(largest.samples),
        num_threads=threads,
        device_id=device.index or 0 if on_gpu else None,
        prefetch_queue_depth=_PREFETCH,
        exec_dynamic=True,  # whose outputs may be kept
    )


class _Read(NamedTuple):
    """A request, the encoded bytes of its images, and the samples that were replaced."""

    request: BatchRequest
    encoded: list[Encoded]
    unreadable: tuple[UnreadableSample, ...]


def _mended(index: Index, reads: Sequence[_Read], replacement: Replacement, error: RuntimeError) -> list[_Read]:
    """The reads, with damaged images replaced in the first of them that has any. Raises the pipeline's own error if
    none has."""
    for number, (request, encoded, unreadable) in enumerate(reads):
        reasons = [damage(index, row, content) for row, content in zip(request.samples, encoded, strict=True)]
        if not any(reasons):
            continue
        encoded = list(encoded)
        for i, reason in enumerate(reasons):
            if reason is not None:
                request, encoded[i], lost = replaced(index, request, i, reason, False, replacement)
                unreadable = (*unreadable, lost)
        return [*reads[:number], _Read(request, encoded, unreadable), *reads[number + 1 :]]
    raise error


class _InUse:
    """Keeps buffers alive that a GPU may still read, without waiting for it."""

    def __init__(self) -> None:
        self._kept: deque[tuple[Inputs, torch.cuda.Event]] = deque()

    def keep(self, inputs: Inputs, stream: torch.cuda.Stream | None) -> None:
        """Inputs of the batch that `stream` waits for; None: of a finished one."""
        if stream is None:
            return
        done = torch.cuda.Event()
        done.record(stream)
        self._kept.append((inputs, done))
        while self._kept and self._kept[0][1].query():
            self._kept.popleft()


def _buffers_for(index: Index) -> _Buffers:
    """Buffer sizes for nearly all images of an index; for the few very large ones the decoder allocates more."""
    rows = np.linspace(0, len(index) - 1, min(len(index), _SIZED_ROWS), dtype=np.int64)
    heights, widths = (np.asarray(column[rows], dtype=np.int64) for column in (index.height, index.width))
    # nvJPEG's coefficients: two bytes for each pixel and channel.
    needed = min(2 * index.channels * _nearly_largest(heights * widths), _MOST_BUFFER_BYTES)
    usual = _Buffers()
    return _Buffers(
        _nearly_largest(heights),
        _nearly_largest(widths),
        max(needed, usual.device_bytes),
        max(needed, usual.host_bytes),
    )


def _nearly_largest(values: npt.NDArray[np.int64]) -> int:
    return int(np.quantile(values, _NEARLY_ALL, method="inverted_cdf"))


def _inputs(index: Index, read: _Read, augmentation: Augmentation) -> Inputs:
    views = views_of(index, read.request, augmentation)
    view = _ViewInputs(
        encoded=read.encoded,
        anchor=views.window[:, :2].astype(np.int32),
        shape=views.window[:, 2:].astype(np.int32),
        resized=views.resized.astype(np.float32),
        offset=views.offset.astype(np.int32),
        flip=views.flip.astype(np.int32),
    )
    inputs: list[Any] = [*view]
    if views.operations is not None:
        inputs += host_inputs(views.operations, views.size, index.channels)
    if views.warp is not None:
        begins = np.array([[0, 0, augmentation.reflections * (views.size - 1)]], np.float32)
        inputs.append(views.warp + begins)
    return tuple(inputs)
