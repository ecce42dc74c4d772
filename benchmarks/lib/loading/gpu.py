"""Loading on a GPU: speed of DALI's mixed decoder by share of hardware decoding, and whether training waits for
data."""

import time
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from statistics import median
from typing import Any

from benchmarks.lib.loading.timed_pass import SIZE, Setting
from benchmarks.lib.processes import run_module
from trainer.run_folder.metric_logger import read_metrics

HW_DECODER_LOADS = (0.0, 0.3, 0.5, 0.65, 0.8, 0.9, 1.0)
_WARM_UP_BATCHES, _BATCHES = 10, 50
_STEPS, _LOG_EVERY = 200, 20


def measure_gpu(setting: Setting) -> dict[str, Any]:
    """Images/s of the shipped DALI loader for each share of hardware decoding, and the share of time in which training
    r50x1 in bf16 waits for data. {"not_measured": reason} without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return {"not_measured": "no CUDA device"}
    from data_pipelines.loading.dali_loader import batches

    device = torch.device("cuda", 0)
    return {
        "device": torch.cuda.get_device_name(device),
        "batch_size": setting.batch_size,
        "threads": setting.threads,
        "images_per_s_by_hw_decoder_load": {
            str(load): images_per_s(partial(batches, hw_decoder_load=load), setting, device)
            for load in HW_DECODER_LOADS
        },
        "training": train(setting, "r50x1", _STEPS, _LOG_EVERY),
    }


def images_per_s(loader: Any, setting: Setting, device: Any, num_batches: int = _BATCHES) -> float:
    """Images per second of wall time that a shipped loader hands over on a device."""
    import torch

    from data_pipelines.loading.sampler import BatchSampler
    from data_pipelines.loading.views import Augmentation
    from data_pipelines.shards.index import Index

    index = Index.load(setting.folder / "prepared", "train")
    order, augmentation = (
        BatchSampler(len(index), setting.batch_size, seed=0),
        Augmentation("random_resized_crop", SIZE, SIZE),
    )
    batches: Iterator[Any] = loader(index, map(order.request, count()), augmentation, device, setting.threads)
    consume = partial(_consume, batches, torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    consume(_WARM_UP_BATCHES)
    started = time.perf_counter()
    images = consume(num_batches)
    return images / (time.perf_counter() - started)


def _consume(batches: Iterator[Any], synchronize: Any, num_batches: int) -> int:
    images = sum(len(batch) for batch in islice(batches, num_batches))
    synchronize()
    return images


def train(setting: Setting, model: str, steps: int, log_every: int, *options: str) -> dict[str, Any]:
    """Throughput, and the share of time spent waiting for data, of the shipped training program: medians over its rows
    of metrics but the first, in which it warms up."""
    run_dir = setting.folder / f"train_{model}"
    finished = run_module(
        *("trainer.pretrain", "imagenet1k_r50x1"),
        *("--data.sets", str(setting.folder / "prepared"), "--model.name", model, "--out", str(run_dir)),
        *("--global-batch-size", str(setting.batch_size), "--micro-batch-size", str(setting.batch_size)),
        *("--schedule.steps", str(steps), "--schedule.warmup-steps", "1", "--log-every", str(log_every)),
        *("--save-every", str(10 * steps), "--threads", str(setting.threads), *options),
    )
    if finished.returncode:
        return {"not_measured": finished.stderr.strip().splitlines()[-1]}
    measured = [row for row in read_metrics(run_dir) if "train/data_wait_share" in row][1:]
    return {
        "model": model,
        "rows": len(measured),
        "images_per_s": median(row["train/images_per_s"] for row in measured),
        "data_wait_share": median(row["train/data_wait_share"] for row in measured),
    }
