"""Training steps on real links: gradients sent during the backward pass, against filter gradients that all come
last."""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.lib.checks import require_models
from benchmarks.lib.network.overlap_rank import ORDERS, filters_at_once
from benchmarks.lib.network.wire import Combination, predicted_step_s, run_ranks
from benchmarks.lib.results import header, write_result
from data_pipelines.common.errors import InputError
from trainer.models.bit import BiTResNet, build_model

_BF16_BYTES = 2
_MODELS = ("r26x1", "r50x1", "r152x4")


@dataclass(frozen=True)
class Overlap:
    """What to measure, and where the result goes."""

    ranks: tuple[int, ...] = (2, 4)
    """Numbers of ranks."""
    loads: tuple[float, ...] = (0.5, 1.0)
    """Time that exchanging the gradients takes on each link, as a share of the backward pass."""
    model: str = "r26x1"
    """Whose gradients are exchanged."""
    images: int = 16
    """Images of a rank."""
    image_size: int = 96
    """Pixels of a side."""
    bucket_mb: int = 4
    """DDP's buckets: as many for these 54 MB as the usual 25 MB for an r152x4."""
    steps: int = 3
    """Steps to time in each turn."""
    turns: int = 3
    """Turns of each order, one after the other."""
    out: Path = Path("overlap.json")
    """JSON file to write."""

    def __post_init__(self) -> None:
        require_models("--model", self.model)
        if min(self.steps, self.turns, *self.ranks) < 1:
            raise InputError("--ranks, --steps and --turns must be at least 1")
        if min(self.loads) <= 0:
            raise InputError(f"--loads has {min(self.loads):g}; each must be above 0")


def measure(settings: Overlap) -> list[dict[str, Any]]:
    """A row for each number of ranks and load: medians over turns, with the least and most."""
    rows = []
    for ranks in settings.ranks:
        told = asdict(settings) | {"out": None}
        measured = run_ranks("benchmarks.lib.network.overlap_rank", told, ranks)
        for load in settings.loads:
            mine = [turn for turn in measured if turn["load"] == load]
            rows.append({"ranks": ranks, "load": load, **_row(settings, ranks, mine)})
    return rows


def _row(settings: Overlap, ranks: int, turns: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"mbit_s": turns[0]["mbit_s"], "exchange_s": median(turn["exchange_s"] for turn in turns)}
    for order in ORDERS:
        mine = [turn for turn in turns if turn["order"] == order]
        steps, alone = ([seconds for turn in mine for seconds in turn[name]] for name in ("steps_s", "alone_s"))
        predicted = median(_predicted_s(settings, ranks, turn) for turn in mine)
        row[order] = {
            "step_s": median(steps),
            "step_min_s": min(steps),
            "step_max_s": max(steps),
            "without_network_s": median(alone),
            "exposed_s": median(steps) - median(alone),
            "exposed_share": (median(steps) - median(alone)) / row["exchange_s"],
            "predicted_step_s": predicted,
            "first_filter_ready": median(turn["first_filter_ready"] for turn in mine),
        }
    return row


def _predicted_s(settings: Overlap, ranks: int, turn: dict[str, Any]) -> float:
    """What the model of the network says of a step, told when this order has each gradient ready."""
    combination = Combination(turn["mbit_s"], turn["gradient_bytes"] / (1 << 20), settings.bucket_mb)
    rest_s = median(turn["alone_s"]) - sum(seconds for _, _, seconds in turn["layers"])
    return predicted_step_s(combination, ranks, turn["bucket_cpu_s"], turn["layers"], rest_s)


class _FilterGradients(TorchDispatchMode):
    """Counts the bytes of the filters' gradients from the convolution that makes one to the node that takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.convolution_backward:
            self.alive += out[1].nbytes
            self.peak = max(self.peak, self.alive)
        return out

    def take(self, _: Any, gradients: tuple[torch.Tensor, ...]) -> None:
        """To be called with those that are used up."""
        self.alive -= sum(gradient.nbytes for gradient in gradients)


def peak_filter_gradient_bytes(model: BiTResNet, images: torch.Tensor) -> int:
    """Bytes of the filters' gradients that are there at once, at most, in a backward pass."""
    make, counter = model.filter_sharing.filters, _FilterGradients()

    def watched(units: Any) -> Any:
        for filters in make(units):
            filters[0].grad_fn.register_hook(counter.take)  # type: ignore[union-attr]
            yield filters

    model.filter_sharing.filters = watched  # type: ignore[method-assign]
    try:
        with counter:
            model(images).sum().backward()
    finally:
        model.filter_sharing.filters = make  # type: ignore[method-assign]
    assert counter.alive == 0
    return counter.peak


def gradient_memory(names: tuple[str, ...] = _MODELS) -> dict[str, dict[str, int]]:
    """By model and order, for filters in bf16."""
    found: dict[str, dict[str, int]] = {}
    for name in names:
        found[name] = {}
        for order in ORDERS:
            with torch.device("meta"):
                model, images = build_model(name, 1000), torch.empty(1, 3, 224, 224)
            with filters_at_once(model, order):
                peak = peak_filter_gradient_bytes(model, images)
            found[name][order] = peak * _BF16_BYTES // images.element_size()
    return found


def table(rows: list[dict[str, Any]], peaks: dict[str, dict[str, int]]) -> str:
    """Both results in Markdown."""
    lines = [
        "| ranks | exchange / backward pass | filters are made | step, s (least-most) | exposed, s | exposed share of "
        "the exchange | step by the model, s | first filter's gradient after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for order in ORDERS:
            one = row[order]
            lines.append(
                f"| {row['ranks']} | {row['load']:g} ({row['mbit_s']} Mbit/s) | {order} | {one['step_s']:.2f} "
                f"({one['step_min_s']:.2f}-{one['step_max_s']:.2f}) | {one['exposed_s']:.2f} | "
                f"{one['exposed_share']:.0%} | {one['predicted_step_s']:.2f} | {one['first_filter_ready']:.0%} |"
            )
    lines += ["", "| MB of filters' gradients at once, bf16 | " + " | ".join(ORDERS) + " |", "|---|---|---|"]
    lines += [
        f"| {name} | " + " | ".join(f"{peak[order] / 1e6:.1f}" for order in ORDERS) + " |"
        for name, peak in peaks.items()
    ]
    return "\n".join(lines) + "\n"


def run(settings: Overlap) -> None:
    """Measure, write JSON and Markdown, and print the tables."""
    rows, peaks = measure(settings), gradient_memory()
    result = header("overlap") | {
        "settings": asdict(settings) | {"out": str(settings.out)},
        "rows": rows,
        "peak_filter_gradient_bytes": peaks,
    }
    write_result(settings.out, result, table(rows, peaks))
