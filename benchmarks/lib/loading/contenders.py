"""Contenders of `loading.py` in its own interpreter: python -m benchmarks.lib.loading.contenders NAME SETTING

Every one decodes JPEG files, cuts a random-resized crop of 224 pixels, mirrors half of them, and hands over batches.
"""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from math import ceil
from typing import Any

from benchmarks.lib.loading.timed_pass import SIZE, Run, Setting, measure, run_contender

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ours(loader_name: str, setting: Setting, scaled_decode: bool = False) -> Run:
    """The shipped order, augmentation and loader over the shipped format; uint8 batches."""
    import torch

    from data_pipelines.loading.loader import pick_loader, read_ahead
    from data_pipelines.loading.sampler import BatchSampler
    from data_pipelines.loading.views import Augmentation
    from data_pipelines.shards.index import Index
    from trainer.config import RuntimeConfig

    name, loader = pick_loader(loader_name, on_gpu=False, scaled_decode=scaled_decode)
    if name != loader_name:
        raise ImportError(f"the {loader_name} loader cannot be had")
    torch.set_num_threads(setting.threads)  # as the engine does in training
    index = Index.load(setting.folder / "prepared", "train")
    order, augmentation = (
        BatchSampler(len(index), setting.batch_size, seed=0),
        Augmentation("random_resized_crop", SIZE, SIZE),
    )

    def run(num_images: int) -> int:
        steps = map(order.request, range(ceil(num_images / setting.batch_size)))
        requests = read_ahead(index, steps, RuntimeConfig().read_ahead)
        return count(loader(index, requests, augmentation, torch.device("cpu"), setting.threads))

    return run


def torchvision_pil(as_float: bool, setting: Setting) -> Run:
    """ImageFolder and DataLoader with the usual transforms on PIL images: normalised float32, or uint8 batches."""
    from torch.utils.data import RandomSampler
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(setting.folder / "raw"), pil_transform(as_float))

    def run(num_images: int) -> int:
        sampler = RandomSampler(dataset, num_samples=num_images)
        return count(images for images, _ in data_loader(dataset, setting, sampler=sampler))

    return run


def webdataset_pil(setting: Setting) -> Run:
    """The `webdataset` package over our shards with the usual transforms on PIL images; normalised float32 batches."""
    import webdataset

    shards = sorted(str(path) for path in (setting.folder / "prepared" / "train").glob("*.tar"))
    transform = pil_transform(as_float=True)

    def run(num_images: int) -> int:
        # Each worker draws shards with replacement: the usual setting for training, and fewer shards than workers do.
        dataset = webdataset.WebDataset(shards, resampled=True, shardshuffle=False)
        samples = dataset.shuffle(1000).decode("pil").to_tuple("jpg", "json").map_tuple(transform, _label)
        each = samples.with_epoch(ceil(num_images / setting.threads))
        return count(images for images, _ in data_loader(each, setting))

    return run


def decode_limit(setting: Setting) -> Run:
    """simplejpeg decodes every whole file and nothing else: no loader that decodes whole files can be faster."""
    import simplejpeg

    paths = sorted((setting.folder / "raw").rglob("*.jpg"))

    def run(num_images: int) -> int:
        with ThreadPoolExecutor(setting.threads) as pool:
            repeated = (paths[number % len(paths)] for number in range(num_images))
            handed = 0
            while chunk := list(islice(repeated, setting.batch_size)):
                handed += len(list(pool.map(lambda path: simplejpeg.decode_jpeg(path.read_bytes(), "RGB"), chunk)))
            return handed

    return run


def pil_transform(as_float: bool) -> Callable[[Any], Any]:
    """Random-resized crop and mirroring of a PIL image, to a normalised float32 or a uint8 tensor [3, S, S]."""
    from torchvision import transforms

    last = [transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)] if as_float else [transforms.PILToTensor()]
    views = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    transform: Callable[[Any], Any] = transforms.Compose([*views, *last])
    return transform


def data_loader(dataset: Any, setting: Setting, **options: Any) -> Iterable[Any]:
    """PyTorch's DataLoader with a worker for each thread of the others."""
    from torch.utils.data import DataLoader

    # Forked workers import nothing again: their start is a part of the pass.
    options |= {"num_workers": setting.threads, "multiprocessing_context": "fork"}
    return DataLoader(dataset, batch_size=setting.batch_size, **options)


def count(batches: Iterable[Any]) -> int:
    """How many images some batches hold."""
    return sum(len(batch) for batch in batches)


def _label(about: Any) -> int:
    return int((about if isinstance(about, dict) else json.loads(about))["label"])


CONTENDERS: dict[str, Callable[[Setting], Run]] = {
    "ours_dali": partial(ours, "dali"),
    "ours_torch": partial(ours, "torch"),
    "torchvision_pil": partial(torchvision_pil, True),
    "torchvision_pil_uint8": partial(torchvision_pil, False),
    "webdataset_pil": webdataset_pil,
    "decode_limit": decode_limit,
}


# Those of loading_large.py.
LARGE: dict[str, Callable[[Setting], Run]] = {
    "full": partial(ours, "torch"),
    "scaled": partial(ours, "torch", scaled_decode=True),
    "shrunk": partial(ours, "torch"),
}


def measured(make: Callable[[Setting], Run], setting: Setting) -> dict[str, Any]:
    """The cost of one pass of a contender."""
    run = make(setting)
    return measure(run, run, setting)


if __name__ == "__main__":
    run_contender({name: partial(measured, make) for name, make in (CONTENDERS | LARGE).items()})
