"""Host work of a rank besides decoding: startup with a large index, and all Python code run per batch.

Started with a folder, a rank and the number of ranks, this is one of the ranks that `measure_startup` measures.
"""

import json
import subprocess
import sys
import tempfile
import time
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.lib.loading.timed_pass import SIZE
from benchmarks.lib.processes import child_environment, module_command, resident_mb
from data_pipelines.common.manifest import read_manifest, write_manifest
from data_pipelines.datasets.catalog import EMBEDDED
from data_pipelines.loading.sampler import BatchSampler
from data_pipelines.shards.index import Index

TARGETS = {"host_us_per_image": 25.0, "startup_s": 3.0, "startup_mb": 250.0}
RANKS = 2
_BATCH_SIZE, _STEPS, _WARM_UP_STEPS = 256, 200, 20
_GLOBAL_BATCH_SIZE = 4096
_NUM_CLASSES = 21841  # of ImageNet-21k, whose size the large index has
_TILED = EMBEDDED / "fashion_mnist"


def measure_host(prepared: Path) -> dict[str, Any]:
    """CPU time per image of order, read-ahead, views, encoded bytes and hand-over for batches of 256, in microseconds:
    medians over steps. Decoding and the copy of the decoded pixels are not in it."""
    import torch

    from data_pipelines.loading.batch import make_batch, views_of
    from data_pipelines.loading.views import Augmentation

    index = Index.load(prepared, "train")
    order, augmentation = BatchSampler(len(index), _BATCH_SIZE, seed=0), Augmentation("random_resized_crop", SIZE, SIZE)
    pixels = torch.zeros((_BATCH_SIZE, SIZE, SIZE, 3), dtype=torch.uint8)
    parts: dict[str, list[float]] = {"order": [], "read_ahead": [], "views": [], "encoded": [], "batch": []}
    for step in range(_WARM_UP_STEPS + _STEPS):
        marks = [time.thread_time()]
        request = order.request(step)
        marks.append(time.thread_time())
        index.read_ahead(request.samples)
        marks.append(time.thread_time())
        views_of(index, request, augmentation)
        marks.append(time.thread_time())
        [index.encoded(row) for row in request.samples]
        marks.append(time.thread_time())
        make_batch(index, request, augmentation, pixels)
        marks.append(time.thread_time())
        if step >= _WARM_UP_STEPS:
            for started, ended, part in zip(marks, marks[1:], parts.values(), strict=False):
                part.append((ended - started) / _BATCH_SIZE * 1e6)
    whole = [sum(of_step) for of_step in zip(*parts.values(), strict=True)]
    return {
        "batch_size": _BATCH_SIZE,
        "us_per_image": {"median": median(whole), "min": min(whole), "max": max(whole)},
        "us_per_image_of": {name: median(part) for name, part in parts.items()},
        "target_us_per_image": TARGETS["host_us_per_image"],
        "met": median(whole) <= TARGETS["host_us_per_image"],
    }


def measure_startup(num_samples: int) -> dict[str, Any]:
    """Seconds until a rank knows the ids of its first batch, and its memory beyond the imports in MB (1e6 bytes). Two
    ranks start together over the same files, which were just written and so are in the page cache."""
    with tempfile.TemporaryDirectory(prefix="bitscale-startup-") as folder:
        written = write_tiled_set(Path(folder) / "set", num_samples)
        command = [*module_command("benchmarks.lib.loading.host"), str(Path(folder) / "set")]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(RANKS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=child_environment(),
            )
            for rank in range(RANKS)
        ]
        # Every rank has started before any is measured: what they share then counts as shared in all of them.
        started = [json.loads(rank.stdout.readline()) for rank in ranks if rank.stdout]
        memory = [json.loads(rank.communicate("measure\n")[0]) for rank in ranks]
    result = {**written, "ranks": [first | second for first, second in zip(started, memory, strict=True)]}
    seconds = max(rank["seconds"] for rank in result["ranks"])
    resident_mb = [rank["private_mb"] + rank["shared_mb"] for rank in result["ranks"] if "private_mb" in rank]
    return result | {
        "target_s": TARGETS["startup_s"],
        "target_mb": TARGETS["startup_mb"],
        "met": seconds <= TARGETS["startup_s"] and max(resident_mb, default=0.0) <= TARGETS["startup_mb"],
    }


def write_tiled_set(folder: Path, num_samples: int) -> dict[str, Any]:
    """A prepared set of at least so many samples, whose columns repeat those of the embedded set and whose shards are
    links to its shards: every row is a member of its tar, and the columns are as large as those of a real set."""
    manifest = read_manifest(_TILED)
    content = manifest["splits"]["train"]
    rows, shards = content["images"], content["shards"]
    copies = ceil(num_samples / rows)
    (folder / "train").mkdir(parents=True)
    for path in (_TILED / "train").glob("*.npy"):
        column = np.load(path)
        tiled = np.tile(column, (copies,) + (1,) * (column.ndim - 1))
        if path.stem == "shard":
            tiled += np.repeat(np.arange(copies, dtype=column.dtype) * len(shards), rows)
        np.save(folder / "train" / path.name, tiled)
    names = [f"{number:06d}.tar" for number in range(copies * len(shards))]
    for number, name in enumerate(names):
        (folder / "train" / name).symlink_to((_TILED / "train" / shards[number % len(shards)]["file"]).resolve())
    described = [{**shards[number % len(shards)], "file": name} for number, name in enumerate(names)]
    write_manifest(
        folder,
        manifest
        | {
            "name": "startup",
            "classes": [f"class {number}" for number in range(_NUM_CLASSES)],
            "splits": {"train": {**content, "images": rows * copies, "shards": described}},
        },
    )
    column_bytes = sum(path.stat().st_size for path in (folder / "train").glob("*.npy"))
    return {"samples": rows * copies, "shards": len(names), "classes": _NUM_CLASSES, "columns_mb": column_bytes / 1e6}


def _start_as_rank(folder: Path, rank: int, num_ranks: int) -> None:
    before = resident_mb()
    started = time.perf_counter()
    index = Index.load(folder, "train")
    samples = BatchSampler(len(index), _GLOBAL_BATCH_SIZE, seed=0).request(0, rank, num_ranks).samples
    print(json.dumps({"seconds": time.perf_counter() - started, "first_ids": len(samples)}), flush=True)
    sys.stdin.readline()
    after = resident_mb()
    print(json.dumps({name: after[name] - before[name] for name in after}))


if __name__ == "__main__":
    _start_as_rank(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
