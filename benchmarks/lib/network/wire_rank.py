"""One rank of `wire.py`: PyTorch's DDP over Gloo, with layers that sleep instead of computing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.parallel import DistributedDataParallel

from benchmarks.lib.network.layers import measured_layers
from trainer.config import RuntimeConfig
from trainer.engine import Engine
from trainer.engines.ddp import DDPEngine

_BUCKETS = 8
_SETTLE = 2
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")  # of this namespace


class _Sleep(torch.autograd.Function):
    """Hands its input on; its backward pass takes a set time and leaves a gradient of ones."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, seconds: float) -> Tensor:
        ctx.seconds, ctx.ones = seconds, torch.ones_like(weight)  # type: ignore[attr-defined]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        time.sleep(ctx.seconds)
        return gradients[0], ctx.ones, None


class _Sleeper(nn.Module):
    def __init__(self, elements: int, seconds: float) -> None:
        super().__init__()
        self.weight, self.seconds = nn.Parameter(torch.zeros(elements)), seconds

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Sleep.apply(x, self.weight, self.seconds)
        return y


def main() -> None:
    """Measure every combination; rank 0 prints the list."""
    setting = json.load(sys.stdin)
    use_reno()
    engine = DDPEngine(RuntimeConfig(device="cpu", threads=1), "fp32")
    rows = [_measure(engine, setting, combination) for combination in setting["combinations"]]
    if engine.rank == 0:
        print(json.dumps(rows), flush=True)
    engine.close()
    os._exit(0)  # on a busy machine, a thread of torch that still ends may abort a process that ends as usual


def _measure(engine: Engine, setting: dict[str, Any], combination: dict[str, Any]) -> dict[str, Any]:
    elements = combination["gradient_mb"] * (1 << 20) // 4 // setting["layers"]
    bucket = torch.zeros(min(combination["bucket_mb"] * (1 << 20) // 4, elements * setting["layers"]))
    cpu = [timed(engine, lambda: engine.sum(bucket)) for _ in range(_SETTLE + _BUCKETS)][_SETTLE:]
    limit(combination["mbit_s"])
    model = nn.Sequential(*(_Sleeper(elements, setting["layer_ms"] * 1e-3) for _ in range(setting["layers"])))
    wrapped = DistributedDataParallel(model, bucket_cap_mb=combination["bucket_mb"], gradient_as_bucket_view=True)
    x = torch.zeros(1, requires_grad=True)

    def step() -> None:
        wrapped(x).sum().backward()

    for _ in range(_SETTLE):  # DDP lays out its buckets anew after the first
        step()
    times = [timed(engine, step) for _ in range(setting["steps"])]
    with wrapped.no_sync():
        started = time.perf_counter()
        loss = wrapped(x).sum()
        forward_s = time.perf_counter() - started
        alone = [timed(engine, step) for _ in range(setting["steps"])]
        layers = measured_layers(loss.backward, list(model.named_parameters()), "cpu")
    lift_limit()
    # The hooks see when a gradient is there, not when the first layer began: the rest of the pass is its.
    first = median(alone) - forward_s - sum(layer.backward_s for layer in layers)
    return {
        "step_s": median(times),
        "step_min_s": min(times),
        "step_max_s": max(times),
        "alone_s": median(alone),
        "cpu_s": median(cpu),
        "forward_s": forward_s,
        "layers": [
            (layer.name, layer.elements[0], layer.backward_s + max(0.0, first) * (place == 0))
            for place, layer in enumerate(layers)
        ],
    }


def timed(engine: Engine, work: Any) -> float:
    """Seconds from a common start until the last rank is done."""
    engine.sum(torch.zeros(1))
    started = time.perf_counter()
    work()
    seconds = torch.zeros(engine.world_size, dtype=torch.float64)
    seconds[engine.rank] = time.perf_counter() - started
    return float(engine.sum(seconds).max())


def use_reno() -> None:
    """BBR, the default of some kernels, keeps below the rate of a link on purpose."""
    _CONGESTION.write_text("reno", encoding="utf-8")


def lift_limit() -> None:
    """Give this rank's link its full speed again."""
    subprocess.run(["tc", "qdisc", "del", "dev", "wire", "root"], check=True)


def limit(mbit_s: int) -> None:
    """Hold what this rank sends to a rate."""
    # Two milliseconds' worth, so that a timer that comes late on a busy machine wastes nothing.
    burst_bytes = max(32_000, mbit_s * 250)
    shaping = ["rate", f"{mbit_s}mbit", "burst", str(burst_bytes), "latency", "500ms"]
    subprocess.run(["tc", "qdisc", "replace", "dev", "wire", "root", "tbf", *shaping], check=True)


if __name__ == "__main__":
    main()
