"""A training step against timm's model with the same weights, its BatchNorm twin, and the convolutions alone."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.lib.checks import require_known, require_models
from benchmarks.lib.device import exact_fp32, measured_device
from benchmarks.lib.results import header, ratio_of, spread_of, spread_text, write_result
from benchmarks.lib.throughput.memory import GPUS, kept_beside_timm, plan
from benchmarks.lib.throughput.models import (
    BATCH_NORM_TWIN,
    NUM_CLASSES,
    Compiled,
    Step,
    Turn,
    bound_step,
    images_and_labels,
    layout_probe,
    our_turn,
    timm_step,
    turn_of,
    with_cudnn_benchmark,
)
from benchmarks.lib.throughput.rounds import Deadline, make_ready, run_rounds
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.messages import logger
from trainer.engines.device import cpu_threads
from trainer.models.bit import build_model
from trainer.models.flops import training_flops
from trainer.models.timm_folder import ARCHITECTURES

OURS, OURS_COMPILED, OURS_GRAPHS, BOUND = "ours", "ours_compiled", "ours_graphs", "convolutions_only"
OURS_CUDNN_BENCHMARK = "ours_cudnn_benchmark"
EAGER_LAST, COMPILED_LAST = "timm_nhwc", "timm_nhwc_compiled"
TARGETS_CPU = {EAGER_LAST: 4.0, BOUND: 0.85}
TARGETS_GPU = {
    "r50x1": {EAGER_LAST: 2.0, COMPILED_LAST: 1.25, "batch_norm_twin_compiled": 0.9},
    "r152x4": {EAGER_LAST: 1.4},
}
TARGET_UTILISATION_GPU = {"r152x4": 0.55}
TARGET_KEPT_GPU = {"r50x1": 0.6}  # of what timm keeps for the backward pass
_TOLERANCE = 0.05  # bf16 of an untrained network: rounding flips the sign of some ReLU's input
_HOW = (
    "A step: forward, loss, backward, clipping, update (convolutions_only: forward and backward), bf16, on a batch "
    "that is on the device. Contenders take turns, once a round, after two steps each that do not count; a time is the "
    "least of a turn's steps on a CPU, their mean on a GPU. Ratios are medians over rounds of their time / ours."
)


@dataclass(frozen=True)
class Throughput:
    """What to measure."""

    model: str = "r50x1"
    """One of the models that timm has too."""
    batch_size: int | None = None
    """Images of a step; None: 8 on a CPU, 256 on a GPU."""
    image_size: int = 224
    """Height and width, pixels."""
    rounds: int = 5
    """Turns of each contender."""
    steps: int = 2
    """Steps of a turn."""
    out: Path = Path("throughput.json")
    """JSON file to write; the table goes beside it as .md."""
    contenders: tuple[str, ...] = ()
    """Which of them run beside ours; none: all."""
    limit_s: float | None = None
    """Seconds after which no contender is made ready any more, and no round but the first begins; None: no limit."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    device: str = "auto"
    """auto, cpu or cuda."""
    plan: str | None = None
    """A model whose memory is estimated instead."""
    gpu: str = "a100-40gb"
    """For --plan: the GPU."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.steps < 1 or (self.batch_size or 1) < 1:
            raise InputError("--rounds, --steps and --batch-size must be at least 1")
        if self.model not in ARCHITECTURES:
            raise InputError(f"--model {self.model} has no twin in timm; take one of {', '.join(ARCHITECTURES)}")
        if self.plan is not None:
            require_models("--plan", self.plan)
        require_known("--gpu", [self.gpu], list(GPUS))


def contenders(settings: Throughput, device: torch.device, batch: Any, threads: int) -> dict[str, Callable[[], Turn]]:
    """What makes each contender, by name."""
    twin = ARCHITECTURES[settings.model]

    def ours(compiled: Compiled) -> Callable[[], Turn]:
        return lambda: our_turn(settings.model, batch, device, compiled, threads)

    def theirs(make: Callable[..., Step], *arguments: Any, **options: Any) -> Callable[[], Turn]:
        return lambda: turn_of(make(*arguments, batch, device, **options), device)

    made = {
        OURS: ours("auto"),
        BOUND: theirs(bound_step, settings.model),
        EAGER_LAST: theirs(timm_step, twin, last=True, compiled=False),
        "timm_nchw": theirs(timm_step, twin, last=False, compiled=False),
        COMPILED_LAST: theirs(timm_step, twin, last=True, compiled=True),
        "timm_nchw_compiled": theirs(timm_step, twin, last=False, compiled=True),
        OURS_COMPILED: ours(True),
    }
    if device.type == "cuda":
        made[OURS_GRAPHS] = ours("graphs")
        made[OURS_CUDNN_BENCHMARK] = lambda: with_cudnn_benchmark(ours("auto")())
    if settings.model == "r50x1":
        made["batch_norm_twin_compiled"] = theirs(timm_step, BATCH_NORM_TWIN, last=True, compiled=True, clips=False)
    if unknown := set(settings.contenders) - set(made):
        raise InputError(f"unknown contender {', '.join(sorted(unknown))}; known: {', '.join(made)}")
    wanted = {OURS, *(settings.contenders or made)}
    return {name: make for name, make in made.items() if name in wanted}


@exact_fp32()
def check(name: str, device: torch.device) -> dict[str, float]:
    """Errors of fp32 loss and gradients against float64, as shares of the norm. Raises RunError if they are large."""
    images, labels = images_and_labels(2, 64, device)
    torch.manual_seed(0)
    model = build_model(name, 1000, "fan_in").to(device)
    results = []
    for dtype in (torch.float64, torch.float32):
        model.to(dtype)
        loss = F.cross_entropy(model(images), labels)
        grads = torch.autograd.grad(loss, [*model.parameters()])
        results.append((loss.double(), torch.cat([g.double().flatten() for g in grads])))
    (loss, gradient), (our_loss, ours) = results
    errors = {
        "loss": ((our_loss - loss).abs() / loss).item(),
        "gradient": ((ours - gradient).norm() / gradient.norm()).item(),
    }
    if not max(errors.values()) <= _TOLERANCE:
        raise RunError(f"the step is wrong by more than {_TOLERANCE:g}: {errors}")
    return errors


def measure(settings: Throughput, device: torch.device) -> dict[str, Any]:
    """Everything, as plain JSON types."""
    threads = cpu_threads(settings.threads)
    torch.set_num_threads(threads)
    checked = check("r50x1", device)
    print(f"correct: {checked}", file=sys.stderr, flush=True)
    batch_size = settings.batch_size or (256 if device.type == "cuda" else 8)
    batch = images_and_labels(batch_size, settings.image_size, device)
    deadline = Deadline(settings.limit_s)
    turns, about = make_ready(contenders(settings, device, batch, threads), device, deadline, OURS)
    rounds = run_rounds(turns, settings.rounds, settings.steps, device, deadline)
    times, gemm = rounds.seconds, rounds.gemm
    for name, joules in rounds.joules.items():
        if joules:
            about[name]["joules_per_1000_images"] = median(joules) / batch_size * 1000
    kept = kept_beside_timm(settings.model, ARCHITECTURES[settings.model], NUM_CLASSES, settings.image_size, device)
    flops = training_flops(settings.model, NUM_CLASSES, settings.image_size) * batch_size
    on_gpu = device.type == "cuda"
    targets = TARGETS_GPU.get(settings.model, {}) if on_gpu else TARGETS_CPU
    return header("throughput", device) | {
        "arguments": {
            "threads": threads,
            "model": settings.model,
            "batch_size": batch_size,
            "image_size": settings.image_size,
            "rounds": len(gemm),
        },
        "how": _HOW,
        "checked": checked,
        "gemm_tflop_per_s": median(gemm) / 1e12,
        "contenders": {name: _row(about[name], times.get(name), batch_size) for name in about},
        "ratios": {
            name: ratio_of(theirs, times[OURS], targets.get(name)) for name, theirs in times.items() if name != OURS
        },
        "utilisation_of_gemm": {
            "median": median(flops / seconds / g for seconds, g in zip(times[OURS], gemm, strict=True)),
            "target": TARGET_UTILISATION_GPU.get(settings.model) if on_gpu else None,
        },
        "kept_for_backward_per_image": kept | {"target": TARGET_KEPT_GPU.get(settings.model) if on_gpu else None},
        "leaves_channels_last": layout_probe(settings.model, batch, device),
    }


def _row(about: dict[str, Any], times: list[float] | None, batch_size: int) -> dict[str, Any]:
    return about | ({"images_per_s": spread_of([batch_size / seconds for seconds in times])} if times else {})


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    about, machine, used = result["arguments"], result["machine"], result["utilisation_of_gemm"]
    wanted = "" if used["target"] is None else f" (target >= {used['target']:.0%})"
    lines = [
        f"{about['model']}, batch {about['batch_size']}, {about['image_size']} px, bf16, "
        f"{machine['gpu'] or machine['cpu']}, {about['threads']} CPU threads; a GEMM runs at "
        f"{result['gemm_tflop_per_s']:.2f} TFLOP/s, ours at {used['median']:.0%} of that{wanted}.",
        "",
        "| | images/s: median (least-most) | ours is so many times as fast | target |",
        "|---|---|---|---|",
    ]
    for name, row in result["contenders"].items():
        rate, ratio = row.get("images_per_s"), result["ratios"].get(name)
        cell = "not measured: " + row["not_measured"] if rate is None else spread_text(rate, ".1f")
        verdict = ""
        if ratio and ratio["target"] is not None:
            verdict = f">= {ratio['target']:g}: {'met' if ratio['met'] else 'missed'}"
        lines.append(f"| {name} | {cell} | {spread_text(ratio, '.2f') if ratio else ''} | {verdict} |")
    kept = result["kept_for_backward_per_image"]
    verdict = "" if kept["target"] is None else f", target <= {kept['target']:g}"
    left = ", ".join(result["leaves_channels_last"]) or "none"
    lines += [
        "",
        f"Kept for the backward pass of each image: ours {kept['ours_mb']:.1f} MB, timm eager {kept['timm_mb']:.1f} MB "
        f"({kept['ratio']:.2f}x{verdict}). Operations that leave channels-last: {left}.",
    ]
    if any("joules_per_1000_images" in row for row in result["contenders"].values()):
        lines += ["", "| | peak memory, GB | energy, J per 1000 images |", "|---|---|---|"]
        for name, row in result["contenders"].items():
            if "images_per_s" in row:
                joules = row.get("joules_per_1000_images")
                cell = "not measured" if joules is None else f"{joules:.0f}"
                lines.append(f"| {name} | {row['peak_gb']:.1f} | {cell} |")
    return "\n".join(lines) + "\n"


def run(settings: Throughput) -> None:
    """Check, measure, write JSON and Markdown, and print the table; or print the plan that is asked for."""
    if settings.plan is not None:
        logger.info(f"estimate the memory of {settings.plan} at {settings.image_size} px on {settings.gpu}")
        print(plan(settings.plan, settings.gpu, settings.image_size))
        return
    result = measure(settings, measured_device(settings.device))
    write_result(settings.out, result, table(result))
