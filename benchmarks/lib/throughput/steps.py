"""A few steps of the shipped loop in each precision: losses, times, host waits and a profile."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import DeviceType

from benchmarks.lib.checks import require_models
from benchmarks.lib.device import measured_device
from benchmarks.lib.results import header, write_result
from benchmarks.lib.throughput.models import Turn, images_and_labels, our_loop
from data_pipelines.common.errors import InputError, RunError
from trainer.config import Precision
from trainer.engine import Engine
from trainer.engines.device import cpu_threads

_WARM_UP_STEPS = 3
_ROWS = 25  # of the profile
_SYNCHRONISES = "called a synchronizing CUDA operation"
_HOW = (
    "The shipped loop, eager, on one batch that is on the device, over and over, after three steps that do not count. "
    "The host's waits are those that torch.cuda.set_sync_debug_mode warns of, which knows no waits for events. The "
    "loss is that of the batch before the first step and after the last."
)


@dataclass(frozen=True)
class Steps:
    """What to try."""

    model: str = "r50x1"
    """Whose steps."""
    batch_size: int = 64
    """Images of a step."""
    image_size: int = 224
    """Height and width, pixels."""
    steps: int = 20
    """Steps in each precision."""
    precisions: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
    """Which precisions; the first is profiled. fp16 needs a GPU."""
    out: Path = Path("steps.json")
    """JSON file to write; the table goes beside it as .md."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        if min(self.batch_size, self.image_size, self.steps) < 1:
            raise InputError("--batch-size, --image-size and --steps must be at least 1")
        require_models("--model", self.model)


@contextmanager
def host_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Counts, by line of Python, what makes the host wait for the GPU; empty on a CPU, which nobody waits for."""
    found: Counter[str] = Counter()
    if device.type != "cuda":
        yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
            found.update(map(_place, (warning for warning in caught if _SYNCHRONISES in str(warning.message))))


def _place(warning: warnings.WarningMessage) -> str:
    path = Path(warning.filename)
    return f"{'/'.join(path.parts[-3:])}:{warning.lineno}"


def try_precision(precision: Precision, settings: Steps, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Losses, ms of a step and the host's waits. Raises RunError if the loss does not fall."""
    device, threads = batch[0].device, torch.get_num_threads()
    engine, turn = our_loop(settings.model, batch, device, False, threads, precision)
    losses = [loss_of(engine, batch)]
    turn(_WARM_UP_STEPS)
    with host_waits(device) as waits:
        seconds = turn(settings.steps)
    losses.append(loss_of(engine, batch))
    if not losses[1] < losses[0]:  # so that NaN fails too
        raise RunError(
            f"{precision}: after {_WARM_UP_STEPS + settings.steps} steps the loss went {losses[0]} -> {losses[1]}"
        )
    print(f"{precision}: loss {losses[0]:.4f} -> {losses[1]:.4f}, {seconds * 1e3:.1f} ms", file=sys.stderr, flush=True)
    return {"losses": losses, "ms_per_step": seconds * 1e3, "host_waits": dict(waits.most_common())}


@torch.no_grad()
def loss_of(engine: Engine, batch: tuple[Tensor, Tensor]) -> float:
    """Cross-entropy of the engine's model on a batch."""
    with engine.evaluation():
        return F.cross_entropy(engine.model(batch[0]).float(), batch[1]).item()


def profile(turn: Turn, device: torch.device) -> dict[str, Any]:
    """One step's operations: those that take the device longest, and what the device does of the step's time."""
    from torch.profiler import ProfilerActivity

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    turn(_WARM_UP_STEPS)
    with torch.profiler.profile(activities=activities) as profiler:
        seconds = turn(1)
    kind, time = (DeviceType.CUDA, "self_device_time_total") if on_gpu else (DeviceType.CPU, "self_cpu_time_total")
    events = [
        event
        for event in profiler.key_averages()
        if event.device_type == kind and not getattr(event, "is_user_annotation", False)
    ]
    events.sort(key=lambda event: -getattr(event, time))
    total_us = sum(getattr(event, time) for event in events)
    return {
        "ms_of_the_step": seconds * 1e3,
        "ms_in_operations": total_us / 1e3,
        "operations": len(events),
        "launches": sum(event.count for event in events),
        "longest": [
            {
                "name": event.key,
                "calls": event.count,
                "ms": getattr(event, time) / 1e3,
                "share": getattr(event, time) / total_us,
            }
            for event in events[:_ROWS]
        ],
    }


def measure(settings: Steps, device: torch.device) -> dict[str, Any]:
    """Everything, as plain JSON types."""
    threads = cpu_threads(settings.threads)
    torch.set_num_threads(threads)
    batch = images_and_labels(settings.batch_size, settings.image_size, device)
    tried = {precision: try_precision(precision, settings, batch) for precision in settings.precisions}
    _, turn = our_loop(settings.model, batch, device, False, threads, settings.precisions[0])
    return header("steps", device) | {
        "arguments": {
            "threads": threads,
            "model": settings.model,
            "batch_size": settings.batch_size,
            "image_size": settings.image_size,
            "steps": settings.steps,
        },
        "how": _HOW,
        "precisions": tried,
        "profiled": settings.precisions[0],
        "profile": profile(turn, device),
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    about, machine, profiled = result["arguments"], result["machine"], result["profile"]
    lines = [
        f"{about['model']}, batch {about['batch_size']}, {about['image_size']} px, {about['steps']} steps of the loop, "
        f"eager, {machine['gpu'] or machine['cpu']}, {about['threads']} CPU threads.",
        "",
        "| | loss | ms of a step | host waits for the GPU |",
        "|---|---|---|---|",
    ]
    for precision, tried in result["precisions"].items():
        waits = ", ".join(f"{place} x{count}" for place, count in tried["host_waits"].items()) or "none"
        before, after = tried["losses"]
        seen = waits if machine["gpu"] else "not measured: no GPU"
        lines.append(f"| {precision} | {before:.4f} -> {after:.4f} | {tried['ms_per_step']:.1f} | {seen} |")
    lines += [
        "",
        f"One step in {result['profiled']}: {profiled['ms_of_the_step']:.1f} ms under the profiler, of which "
        f"{profiled['ms_in_operations']:.1f} ms in {profiled['launches']} calls of {profiled['operations']} "
        f"{'kernels and copies' if machine['gpu'] else 'operations'}.",
        "",
        "| longest | calls | ms | share |",
        "|---|---|---|---|",
    ]
    for row in profiled["longest"]:
        name = row["name"].replace("|", "\\|")[:80]
        lines.append(f"| {name} | {row['calls']} | {row['ms']:.3f} | {row['share']:.1%} |")
    return "\n".join(lines) + "\n"


def run(settings: Steps) -> None:
    """Try, measure, write JSON and Markdown, and print the tables."""
    result = measure(settings, measured_device(settings.device))
    write_result(settings.out, result, table(result))
