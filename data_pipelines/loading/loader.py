"""The interface of a loader, and the choice of one."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple, Protocol

import torch

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from data_pipelines.loading import torch_loader
from data_pipelines.loading.batch import Batch
from data_pipelines.loading.sampler import BatchRequest
from data_pipelines.loading.unreadable import Replacement
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards.index import Index


class Loader(Protocol):
    """Batches for the requested samples, in order, decoded with `threads` CPU threads.

    A sample that cannot be read or decoded raises, unless `replacement` gives another one to show in its place."""

    def __call__(
        self,
        index: Index,
        requests: Iterable[BatchRequest],
        augmentation: Augmentation,
        device: torch.device,
        threads: int,
        *,
        replacement: Replacement | None = None,
    ) -> Iterator[Batch]: ...


def read_ahead(index: Index, requests: Iterable[BatchRequest], depth: int) -> Iterator[BatchRequest]:
    """The same requests; the system is told to read the bytes of each `depth` requests before it is yielded. 0: it is
    not."""
    if not depth:
        yield from requests
        return
    waiting: deque[BatchRequest] = deque()
    for request in requests:
        index.read_ahead(request.samples)
        waiting.append(request)
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting


class _OnlyTorch(NamedTuple):
    """A setting that DALI does not support, why, and how to train without it."""

    setting: str
    why: str
    remedy: str


def pick_loader(
    name: str, on_gpu: bool, scaled_decode: bool = False, augmentation: Augmentation | None = None
) -> tuple[str, Loader]:
    """The loader of that name, and its name. "auto" is DALI on a GPU, or torch with a warning without DALI, and
    torch on a CPU, where it is faster. With `scaled_decode`, or for an `augmentation` whose RandAugment DALI does not
    have, it is torch.

    Raises InputError when "dali" is asked for and cannot be imported, or cannot do what is asked of it.
    """
    if only_torch := _only_torch(scaled_decode, augmentation):
        settings = " and ".join(found.setting for found in only_torch)
        if name == "dali":
            why, remedy = (" and ".join(column) for column in list(zip(*only_torch, strict=True))[1:])
            raise InputError(
                f"{settings} cannot be had with DALI, which {why}; take {flag('--loader')} torch, or train {remedy}"
            )
        if name == "auto" and on_gpu:
            logger.info(f"note: {settings}: images are decoded by torch on the CPU, not by DALI.")
        name = "torch"
    if scaled_decode:
        return "torch", partial(torch_loader.batches, scaled_decode=True)
    if name == "torch" or (name == "auto" and not on_gpu):
        return "torch", torch_loader.batches
    try:
        from data_pipelines.loading import dali_loader
    except ImportError as error:
        remedy = f"DALI cannot be imported ({error}); install it with: pip install nvidia-dali-cuda130"
        if name == "dali":
            raise InputError(f"{remedy}, or take {flag('--loader')} torch") from error
        logger.warning(f"{remedy}. Going on with torch, which decodes on the CPU.")
        return "torch", torch_loader.batches
    return "dali", dali_loader.batches


def _only_torch(scaled_decode: bool, augmentation: Augmentation | None) -> list[_OnlyTorch]:
    found = []
    if scaled_decode:
        setting, why = flag("--data.scaled-decode"), "decodes every window at its full size"
        found.append(_OnlyTorch(setting, why, f"without {setting}"))
    if augmentation is None:
        return found
    has_operations = augmentation.randaugment_ops > 0
    if has_operations and augmentation.randaugment_space == "ildoonet":
        named, why = flag("--data.randaugment-space"), "has not all of its operations"
        found.append(_OnlyTorch(f"{named} ildoonet", why, f"with {named} torchvision"))
    if has_operations and augmentation.randaugment_on == "image":
        named, why = flag("--data.randaugment-on"), "decodes no more of a picture than the window"
        found.append(_OnlyTorch(f"{named} image", why, f"with {named} crop"))
    return found
