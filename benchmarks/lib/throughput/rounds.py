"""Contenders are set up one by one, then timed in alternating rounds within a time limit."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.lib.device import times_ms
from benchmarks.lib.throughput.models import Turn
from trainer.training.gpu_energy import EnergyCounter


def gemm_flops_per_s(device: torch.device) -> float:
    """Of a bf16 matrix product, the fastest of some."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2e3 * size**3 / min(times_ms(lambda: a @ b, device, cpu_calls=10, gpu_ms=20))


@dataclass(frozen=True)
class Deadline:
    """When nothing new begins any more."""

    limit_s: float | None
    begun: float = field(default_factory=time.perf_counter)

    def is_over(self) -> bool:
        """Whether the time is over."""
        return self.limit_s is not None and time.perf_counter() - self.begun > self.limit_s


def make_ready(
    made: dict[str, Callable[[], Turn]], device: torch.device, deadline: Deadline, required: str
) -> tuple[dict[str, Turn], dict[str, dict[str, Any]]]:
    """The contenders that run, after two steps; and of each how long that took and its peak memory, or why it does not
    run. Raises what the `required` one raises, which is made ready whatever the time."""
    turns: dict[str, Turn] = {}
    about: dict[str, dict[str, Any]] = {}
    on_gpu = device.type == "cuda"
    for name, make in made.items():
        if name != required and deadline.is_over():
            about[name] = {"not_measured": f"no time was left after {deadline.limit_s:g} s"}
            continue
        started = time.perf_counter()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if on_gpu else 0
        try:
            turn = make()
            turn(2)
        except Exception as error:  # the others can still be measured
            if name == required:
                raise
            about[name] = {"not_measured": (str(error).strip() or type(error).__name__).splitlines()[0][:200]}
            continue
        turns[name], about[name] = turn, {"ready_s": time.perf_counter() - started}
        if on_gpu:
            about[name]["peak_gb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e9
        print(f"{name}: ready after {about[name]['ready_s']:.0f} s", file=sys.stderr, flush=True)
    return turns, about


@dataclass(frozen=True)
class Rounds:
    """By contender: seconds of a step in each round, and joules of a step where a GPU counts them; and in each round
    the FLOP/s of a matrix product."""

    seconds: dict[str, list[float]]
    joules: dict[str, list[float]]
    gemm: list[float]


def run_rounds(turns: dict[str, Turn], rounds: int, steps: int, device: torch.device, deadline: Deadline) -> Rounds:
    """Let the contenders take turns, until the rounds or the time are over; one round at least."""
    found = Rounds({name: [] for name in turns}, {name: [] for name in turns}, [])
    energy = EnergyCounter(device)
    for number in range(rounds):
        if number and deadline.is_over():
            break
        found.gemm.append(gemm_flops_per_s(device))
        for name, turn in turns.items():
            energy.start()
            found.seconds[name].append(turn(steps))
            used = energy.stop()
            if used is not None:
                found.joules[name].append(used / steps)
    return found
