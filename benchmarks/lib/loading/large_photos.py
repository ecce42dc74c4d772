"""Training views of 12-megapixel JPEGs: full decoding, scaled decoding, and images shrunk once beforehand."""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lib.loading.comparison import PACKAGES
from benchmarks.lib.loading.contenders import LARGE
from benchmarks.lib.loading.images import generated_photo, given_photos, lay_out, prepare_raw
from benchmarks.lib.loading.timed_pass import SIZE, Setting, run_apart
from benchmarks.lib.results import header, spread_of, spread_text, write_result
from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.image_files.shrink import SUGGESTED_SIDE
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import BatchSampler
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards.index import Index

TARGET = 3.0  # scaled decoding over full decoding, images per CPU-second
# How sharp the lens is, 1/pixel as generated_photo takes it: about 1.6, 3 and 6 MB for a photo of 12 megapixels.
BLURS: dict[str, float | None] = {"soft": 0.05, "usual": 0.18, "sharp": None}
_ARGUMENTS = ("rounds", "generate", "shorter", "num_images", "batch_size")
_MORE_SHRUNK = 8  # a pass over shrunk images is that much longer, or it would end too soon to be timed
_HOW = (
    "Each way runs in a process of its own, in turn, once a round, on the same cores, over files in the page cache: "
    "the shipped order, views (random-resized crops of 224 pixels, mirrored) and torch loader. CPU seconds are user "
    "and system time of the process over a pass, after a warm-up. Ratios are medians over rounds. `rule` is the line "
    "through the medians of the full and the shrunk images: time per stored pixel and per image. `difference` is "
    "between the bytes of the same views, decoded at a scale and in full, as means over each view, of 255."
)


@dataclass(frozen=True)
class LoadingLarge:
    """What to measure and on what."""

    images: Path | None = None
    """Folder or ZIP of large JPEG files; without it some are generated, in three kinds of sharpness."""
    out: Path = Path("loading_large.json")
    """JSON file to write; its table goes beside it."""
    rounds: int = 5
    """Passes of each way."""
    generate: int = 8
    """Images to generate of each kind."""
    shorter: int = 3000
    """Shorter side of generated images, pixels; the longer one is 4/3 of it."""
    num_images: int = 48
    """Images of a pass at least; the files are repeated."""
    batch_size: int = 16
    """Images of a batch."""

    def __post_init__(self) -> None:
        for name in ("rounds", "generate", "num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if self.shorter <= SUGGESTED_SIDE:
            raise InputError(f"--shorter is {self.shorter}; large photographs have more than {SUGGESTED_SIDE}")


def measure_kind(photos: Iterator[bytes], settings: LoadingLarge, folder: Path, threads: int) -> dict[str, Any]:
    """The three ways over some photos, which are written into `folder`."""
    described = lay_out(photos, folder / "large")
    shrunk = folder / "shrunk"
    prepare_raw(folder / "large" / "raw", shrunk / "prepared", "--shorter-side", str(SUGGESTED_SIDE))
    setting = Setting(folder / "large", settings.num_images, settings.batch_size, threads)
    small = replace(setting, folder=shrunk, num_images=_MORE_SHRUNK * settings.num_images)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in LARGE}
    for _ in range(settings.rounds):
        for name in LARGE:
            cost = run_apart(
                name, small if name == "shrunk" else setting, Path(sys.executable), "benchmarks.lib.loading.contenders"
            )
            if "not_run" in cost:
                raise RunError(f"{name} could not be measured: {cost['not_run']}")
            rounds[name].append(cost)
    each = {name: [1e3 / cost["images_per_cpu_s"] for cost in costs] for name, costs in rounds.items()}
    gains = {
        name: spread_of([full / other for full, other in zip(each["full"], each[name], strict=True)])
        for name in ("scaled", "shrunk")
    }
    return {
        "images": described,
        "cpu_ms_per_image": {name: {**spread_of(values), "rounds": values} for name, values in each.items()},
        "times_as_fast": gains,
        "target": TARGET,
        "met": gains["scaled"]["median"] >= TARGET,
        "rule": rule(setting.folder / "prepared", small.folder / "prepared", each),
        "difference": difference(setting.folder / "prepared", settings.num_images),
    }


def rule(large: Path, small: Path, cpu_ms: dict[str, list[float]]) -> dict[str, float]:
    """Nanoseconds per stored pixel and per image, by the medians of the full and the shrunk set."""
    pixels = [float((index.height.astype(np.int64) * index.width).mean()) for index in map(_train, (large, small))]
    full, shrunk = (1e6 * spread_of(cpu_ms[name])["median"] for name in ("full", "shrunk"))
    per_pixel = (full - shrunk) / (pixels[0] - pixels[1])
    return {"ns_per_pixel": per_pixel, "ns_per_image": full - per_pixel * pixels[0]}


def difference(folder: Path, num_images: int) -> dict[str, float]:
    """How far views decoded at a scale are from those decoded in full: mean, median and most over views, of 255."""
    index = _train(folder)
    request = BatchSampler(len(index), num_images, seed=0).request(0)
    augmentation = Augmentation("random_resized_crop", SIZE, SIZE)
    scaled, full = (
        next(pick_loader("torch", False, is_scaled)[1](index, [request], augmentation, torch.device("cpu"), 1)).images
        for is_scaled in (True, False)
    )
    each = (scaled.float() - full.float()).abs().mean((1, 2, 3))
    return {"mean": each.mean().item(), "median": each.median().item(), "max": each.max().item()}


def _train(folder: Path) -> Index:
    return Index.load(folder, "train")


def measure(settings: LoadingLarge) -> dict[str, Any]:
    """Every kind of photograph, as plain JSON types."""
    threads = num_usable_cpus()
    kinds: dict[str, Iterator[bytes]] = {
        kind: map(partial(generated_photo, shorter=settings.shorter, blur=blur), range(settings.generate))
        for kind, blur in BLURS.items()
    }
    if settings.images:
        kinds = {"given": given_photos(settings.images, settings.num_images)}
    result: dict[str, Any] = {
        **header("loading_large", packages=PACKAGES),
        "arguments": {name: getattr(settings, name) for name in _ARGUMENTS} | {"threads": threads},
        "how": _HOW,
        "source": settings.images.name if settings.images else "generated: noise with the spectrum of photographs",
        "kinds": {},
    }
    for kind, photos in kinds.items():
        with tempfile.TemporaryDirectory(prefix="loading-large-") as folder:
            result["kinds"][kind] = measure_kind(photos, settings, Path(folder), threads)
    return result


def table(result: dict[str, Any]) -> str:
    """The result for people, in Markdown."""
    lines = [
        f"# Reading large photographs ({result['source']})",
        "",
        f"{result['machine']['cpu']}, {result['arguments']['threads']} cores; CPU-milliseconds per image and how many "
        "times as fast as decoding in full: median (least-most).",
        "",
        "| photographs | decoded in full | scaled decode | prepared with --shorter-side 512 | difference of 255 |",
        "|---|---|---|---|---|",
    ]
    for kind, found in result["kinds"].items():
        costs = {name: spread_text(cost, ".1f") for name, cost in found["cpu_ms_per_image"].items()}
        gains = {name: f"{spread_text(gain, '.1f')}x" for name, gain in found["times_as_fast"].items()}
        verdict = f"target {found['target']:g}x {'met' if found['met'] else 'missed'}"
        size = f"{found['images']['mean_width']} x {found['images']['mean_height']}"
        lines.append(
            f"| {kind}: {size}, {found['images']['mean_bytes'] / 1e6:.1f} MB | {costs['full']} | {costs['scaled']}, "
            f"{gains['scaled']}, {verdict} | {costs['shrunk']}, {gains['shrunk']} | {found['difference']['mean']:.2f}, "
            f"at most {found['difference']['max']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def run(settings: LoadingLarge) -> None:
    """Measure, write JSON and Markdown, and print the table."""
    result = measure(settings)
    write_result(settings.out, result, table(result))
