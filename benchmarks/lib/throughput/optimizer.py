"""Adaptive clipping and SGD: ours against a plain loop, timm, and the memory traffic alone."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.checks import require_models
from benchmarks.lib.device import exact_fp32, measured_device, times_ms
from benchmarks.lib.results import header, ratio_of, spread_of, spread_text, write_result
from data_pipelines.common.errors import InputError, RunError
from trainer.engines.device import cpu_threads, keep_freed_memory
from trainer.engines.replica import channels_last
from trainer.models.bit import build_model
from trainer.optim.sgd_agc import SGDAGC, param_groups

OURS, LOOP, TIMM, BOUND = "ours", "loop", "timm_clip_fused_sgd", "traffic_bound"
CLIPPING, LR, MOMENTUM, DECAY = 0.01, 1e-3, 0.9, 1e-4
TARGETS_CPU = {LOOP: 4.0, BOUND: 1 / 1.5}
TARGETS_GPU = {LOOP: 10.0, BOUND: 1 / 1.3}
_TOLERANCE = 1e-6
_PASSES = 5  # weights, gradients and momentum are read, weights and momentum written
COPIED_BYTES = 1 << 28
_GPU_MS = 40  # of the updates in a contender's turn on a GPU
_HOW = (
    "Contenders take turns, once a round, over the same weights and gradients; a time is the least of three updates, "
    "on a GPU of those that triton.testing.do_bench makes in 40 ms. "
    "The bound: weights, gradients and momentum read, weights and momentum written, at the speed of a copy of 268 MB "
    "in the same round. Ratios are medians over rounds of their time / ours."
)
Update = Callable[[], Any]


@dataclass(frozen=True)
class OptimizerBenchmark:
    """What to measure."""

    model: str = "r50x1"
    """Whose tensors are updated."""
    rounds: int = 5
    """Turns of each contender."""
    out: Path = Path("optimizer.json")
    """JSON file to write; the table goes beside it as .md."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"--rounds is {self.rounds}; it must be at least 1")
        require_models("--model", self.model)


def make_model(name: str, device: torch.device) -> torch.nn.Module:
    """Weights, and gradients beside them of which some units are clipped; both as in training."""
    torch.manual_seed(0)
    model = build_model(name, 1000, "fan_in").to(device)
    for parameter in model.parameters():
        parameter.data = channels_last(parameter.data)
        sizes = torch.rand(parameter.shape[:1], device=device).view(-1, *(1,) * (parameter.ndim - 1))
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn_like(parameter) * sizes * 2e-2)
        parameter.grad *= parameter.detach().abs().mean() + 1e-3
    return model


def our_update(model: torch.nn.Module) -> Update:
    """The shipped optimiser."""
    groups = param_groups(model, 1000, CLIPPING)
    return SGDAGC(groups, lr=LR, momentum=MOMENTUM, weight_decay=DECAY).step


def loop_update(model: torch.nn.Module) -> Update:
    """Clipping tensor by tensor, norms as sums of squares, then torch's SGD over the tensors one by one."""
    parameters = list(model.parameters())
    clipped = [p for name, p in model.named_parameters() if not name.startswith("head.")]
    sgd = torch.optim.SGD(parameters, LR, MOMENTUM, weight_decay=DECAY, foreach=False, fused=False)

    def norm(x: Tensor) -> Tensor:
        dims = tuple(range(1, x.ndim)) or (0,)
        return x.square().sum(dims, keepdim=True).sqrt()

    @torch.no_grad()
    def step() -> None:
        for p in clipped:
            gradient = p.grad
            assert gradient is not None
            limit = norm(p).clamp(min=1e-3) * CLIPPING
            its_norm = norm(gradient)
            scaled = gradient * (limit / its_norm.clamp(min=1e-6))
            gradient.copy_(torch.where(its_norm > limit, scaled, gradient))
        sgd.step()

    return step


def timm_update(model: torch.nn.Module) -> Update:
    """timm's clipping, torch's fused SGD."""
    from timm.utils.agc import adaptive_clip_grad

    clipped = [p for name, p in model.named_parameters() if not name.startswith("head.")]
    sgd = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=DECAY, fused=True)

    def step() -> None:
        adaptive_clip_grad(clipped, CLIPPING, 1e-3)
        sgd.step()

    return step


@exact_fp32()
def check(name: str, device: torch.device) -> float:
    """Largest difference from the loop after two updates, as a share of a tensor's norm. Raises RunError if large."""
    ours, theirs = make_model(name, device), make_model(name, device)
    updates = our_update(ours), loop_update(theirs)
    start = {name: p.detach().clone() for name, p in theirs.named_parameters()}
    for _ in range(2):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert mine.grad is not None
            assert other.grad is not None
            other.grad.copy_(mine.grad)
        for update in updates:
            update()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    error: float = max(((a - b).norm() / b.norm().clamp(min=1e-3)).item() for a, b in pairs)
    moved = any(not torch.equal(start[name], p) for name, p in theirs.named_parameters())
    if not (moved and error <= _TOLERANCE):
        raise RunError(f"the update is wrong by more than {_TOLERANCE:g}: {error:g}")
    return error


def ms_of(update: Update, device: torch.device) -> float:
    """Least of some updates."""
    return min(times_ms(update, device, cpu_calls=3, gpu_ms=_GPU_MS))


def measure(settings: OptimizerBenchmark, device: torch.device) -> dict[str, Any]:
    """Everything, as plain JSON types."""
    threads = cpu_threads(settings.threads)
    torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()
    error = check(settings.model, device)
    print(f"correct: {error:.1e}", file=sys.stderr, flush=True)
    model = make_model(settings.model, device)
    size = sum(p.nbytes for p in model.parameters())
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    updates = {OURS: our_update(model), LOOP: loop_update(model), TIMM: timm_update(model)}
    times: dict[str, list[float]] = {name: [] for name in (*updates, BOUND)}
    for update in updates.values():
        update()
    for _ in range(settings.rounds):
        copied = ms_of(lambda: target.copy_(source), device)
        times[BOUND].append(copied / (2 * COPIED_BYTES) * _PASSES * size)
        for name, update in updates.items():
            times[name].append(ms_of(update, device))
    targets = TARGETS_GPU if device.type == "cuda" else TARGETS_CPU
    return header("optimizer", device) | {
        "arguments": {"model": settings.model, "rounds": settings.rounds, "threads": threads},
        "how": _HOW,
        "tensors": len(list(model.parameters())),
        "error": error,
        "ms": {name: spread_of(each) for name, each in times.items()},
        "ratios": {
            name: ratio_of(theirs, times[OURS], targets.get(name)) for name, theirs in times.items() if name != OURS
        },
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    machine, about = result["machine"], result["arguments"]
    lines = [
        f"Clipping and update of {about['model']}'s {result['tensors']} tensors, fp32, "
        f"{machine['gpu'] or machine['cpu']}, {about['threads']} CPU threads.",
        "",
        "| | ms: median (least-most) | ours is so many times as fast | target |",
        "|---|---|---|---|",
    ]
    for name, spread in result["ms"].items():
        ratio = result["ratios"].get(name)
        target = "" if not ratio or ratio["target"] is None else f">= {ratio['target']:.2f}: "
        verdict = target and target + ("met" if ratio["met"] else "missed")
        lines.append(
            f"| {name} | {spread_text(spread, '.2f')} | {spread_text(ratio, '.2f') if ratio else ''} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def run(settings: OptimizerBenchmark) -> None:
    """Check, measure, write JSON and Markdown, and print the table."""
    result = measure(settings, measured_device(settings.device))
    write_result(settings.out, result, table(result))
