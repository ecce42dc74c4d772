"""Reading, decoding and cropping against torchvision, webdataset and FFCV, and the rest of what loading costs."""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.lib.loading.contenders import CONTENDERS
from benchmarks.lib.loading.gpu import measure_gpu
from benchmarks.lib.loading.host import measure_host, measure_startup
from benchmarks.lib.loading.images import generated_photo, given_photos, lay_out
from benchmarks.lib.loading.timed_pass import Setting, run_apart
from benchmarks.lib.results import header, ratio_of, spread_of, spread_text
from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json

FFCV = ("ffcv_same_files", "ffcv")
ALL = (*CONTENDERS, *FFCV)
OURS = "ours_torch"  # what `--loader auto` takes on a CPU
TARGETS = {"torchvision_pil": 2.4, "webdataset_pil": 2.7, "ffcv_same_files": 1.0, "ffcv": 1.0}  # ours / theirs
Part = Literal["contenders", "host", "startup", "gpu"]
PACKAGES = ("torchvision", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "webdataset", "simplejpeg", "pillow")
_ARGUMENTS = ("rounds", "num_images", "batch_size", "contenders", "parts", "startup_samples")
_GENERATED = "generated: noise with the spectrum of photographs, not representative of them"
_RATES = ("images_per_cpu_s", "images_per_s")
_HOW = (
    "Each contender runs in a process of its own, in turn, once a round, on the same cores with as many threads or "
    "workers, over files in the page cache. A pass begins with nothing in flight, starts workers or builds a pipeline, "
    "and ends when all is handed over and its workers have ended. CPU seconds are getrusage SELF and CHILDREN "
    "of that process over the pass; imports, a warm-up and FFCV's compilation come before it. Ratios are medians over "
    "rounds of ours / theirs."
)


@dataclass(frozen=True)
class Loading:
    """What to measure and on what."""

    images: Path | None = None
    """Folder or ZIP of JPEG files; without it some are generated, which are not representative of photographs."""
    out: Path = Path("loading.json")
    """JSON file to write."""
    rounds: int = 5
    """Passes of each contender."""
    num_images: int = 2000
    """Images of a pass at least; the files are repeated."""
    batch_size: int = 64
    """Images of a batch."""
    threads: int | None = None
    """Cores, threads and workers of each contender; None: all cores that this process may use."""
    contenders: tuple[str, ...] = ALL
    """Which of them run."""
    parts: tuple[Part, ...] = get_args(Part)
    """Which measurements are made."""
    ffcv_python: Path = Path(sys.executable)
    """Interpreter that can import FFCV."""
    startup_samples: int = 14_000_000
    """Samples of the large index."""
    generate: int = 200
    """Images to generate where none are given."""

    def __post_init__(self) -> None:
        cores = num_usable_cpus()
        for name in ("rounds", "num_images", "batch_size", "startup_samples", "generate"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if self.threads is not None and not 1 <= self.threads <= cores:
            raise InputError(f"--threads is {self.threads}; this process may use 1 to {cores} cores")
        if unknown := set(self.contenders) - set(ALL):
            raise InputError(f"unknown contender {', '.join(sorted(unknown))}; known: {', '.join(ALL)}")


def usable_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def measure_contenders(settings: Loading, setting: Setting) -> dict[str, Any]:
    """For each contender the median, least and most of its rates over interleaved rounds, or why it was not run."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in settings.contenders}
    about: dict[str, dict[str, Any]] = {name: {} for name in settings.contenders}
    for name in set(FFCV) & set(settings.contenders):
        about[name] = _run(f"write_{name}", setting, settings)
    for number in range(settings.rounds):
        for name in settings.contenders:
            if "not_run" in about[name]:
                continue
            cost = _run(name, setting, settings)
            if "not_run" in cost:
                about[name] = cost
            else:
                rounds[name].append(cost)
                print(f"round {number + 1}: {name} {cost['images_per_cpu_s']:.0f} images/CPU-s", file=sys.stderr)
    return {
        name: about[name]
        if "not_run" in about[name]
        else {
            **about[name],
            "images": rounds[name][0]["images"],
            **{rate: spread_of([cost[rate] for cost in rounds[name]]) for rate in _RATES},
            "rounds": rounds[name],
        }
        for name in settings.contenders
    }


def _run(name: str, setting: Setting, settings: Loading) -> dict[str, Any]:
    is_ffcv = name.removeprefix("write_") in FFCV
    interpreter, module = (settings.ffcv_python, "ffcv") if is_ffcv else (Path(sys.executable), "contenders")
    return run_apart(name, setting, interpreter, f"benchmarks.lib.loading.{module}")


def ratios(contenders: dict[str, Any]) -> dict[str, Any]:
    """Ours over each other contender in images per CPU-second, round by round; with its target where there is one."""
    rates = {
        name: [cost["images_per_cpu_s"] for cost in contender["rounds"]]
        for name, contender in contenders.items()
        if "rounds" in contender
    }
    ours = rates.pop(OURS, [])
    return {name: ratio_of(ours, theirs, TARGETS.get(name)) for name, theirs in rates.items() if ours}


def measure(settings: Loading, folder: Path) -> dict[str, Any]:
    """Everything that was asked for, as plain JSON types. Paths are left out but for the name of the images."""
    cores = usable_cores()
    threads = settings.threads or len(cores)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores[:threads])  # children inherit it
    photos = (
        given_photos(settings.images, settings.num_images)
        if settings.images
        else map(generated_photo, range(settings.generate))
    )
    setting = Setting(folder, settings.num_images, settings.batch_size, threads)
    result: dict[str, Any] = {
        **header("loading", packages=PACKAGES),
        "arguments": {name: getattr(settings, name) for name in _ARGUMENTS} | {"threads": threads},
        "how": _HOW,
        "images": {"source": settings.images.name if settings.images else _GENERATED, **lay_out(photos, folder)},
    }
    if "contenders" in settings.parts:
        result["contenders"] = measure_contenders(settings, setting)
        result["ratios"] = ratios(result["contenders"])
    if "host" in settings.parts:
        result["host"] = measure_host(folder / "prepared")
    if "startup" in settings.parts:
        result["startup"] = measure_startup(settings.startup_samples)
    if "gpu" in settings.parts:
        result["gpu"] = measure_gpu(setting)
    return result


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{'':24}{'images/CPU-s':>24}{'images/s':>24}"] if "contenders" in result else []
    for name, cost in result.get("contenders", {}).items():
        cells = "".join(f"{spread_text(cost[rate], '.0f'):>24}" for rate in _RATES) if "rounds" in cost else ""
        lines.append(f"{name:24}{cells or '  not run: ' + cost['not_run']}")
    for name, ratio in result.get("ratios", {}).items():
        lines.append(f"{OURS} / {name:24}{spread_text(ratio, '.2f'):>24}{_verdict(ratio, ratio['target'], '>=')}")
    if host := result.get("host"):
        target = f"{host['target_us_per_image']:g}"
        lines.append(f"host: {spread_text(host['us_per_image'], '.1f')} us per image{_verdict(host, target, '<=')}")
    if startup := result.get("startup"):
        target = f"{startup['target_s']:g} s, {startup['target_mb']:g} MB"
        lines.append(f"start with {startup['samples']:,} samples{_verdict(startup, target, '<=')}:")
        lines += [f"  {', '.join(f'{name} {value:.4g}' for name, value in rank.items())}" for rank in startup["ranks"]]
    if gpu := result.get("gpu"):
        lines.append(f"gpu: {json.dumps(gpu)}")
    return "\n".join(lines)


def _verdict(measured: dict[str, Any], target: Any, sign: str) -> str:
    return "" if target is None else f"  target {sign} {target}: {'met' if measured['met'] else 'MISSED'}"


def run(settings: Loading) -> None:
    """Measure, write the JSON file, and print a table."""
    with tempfile.TemporaryDirectory(prefix="bitscale-loading-") as folder:
        result = measure(settings, Path(folder))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, result)
    print(table(result))
    print(settings.out)
