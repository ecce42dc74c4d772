"""One rank of `overlap.py`: steps of the shipped model and DDP engine on a rate-limited link."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.network.layers import measured_layers
from benchmarks.lib.network.model import Layer
from benchmarks.lib.network.wire import PAYLOAD_SHARE
from benchmarks.lib.network.wire_rank import lift_limit, limit, timed, use_reno
from trainer.config import RuntimeConfig
from trainer.engines.ddp import DDPEngine
from trainer.models.bit import BiTResNet, build_model
from trainer.optim.sgd_agc import SGDAGC, param_groups

UNIT_BY_UNIT, ALL_AT_ONCE = ORDERS = ("unit by unit", "all before the stem")
_NUM_CLASSES = 1000
_SETTLE = 1
_BUCKETS = 8


@contextmanager
def filters_at_once(model: BiTResNet, order: str) -> Iterator[None]:
    """With ALL_AT_ONCE, a model whose standardised filters are all made before its stem."""
    make = model.filter_sharing.filters
    if order == ALL_AT_ONCE:
        model.filter_sharing.filters = lambda units: iter(list(make(units)))  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        model.filter_sharing.filters = make  # type: ignore[method-assign]


def main() -> None:
    """Measure; rank 0 prints the list of turns."""
    setting = json.load(sys.stdin)
    use_reno()
    engine = DDPEngine(RuntimeConfig(device="cpu", threads=1, bucket_mb=setting["bucket_mb"]), "fp32")
    bucket = torch.zeros(setting["bucket_mb"] * (1 << 20) // 4)
    bucket_cpu_s = median(timed(engine, lambda: engine.sum(bucket)) for _ in range(_BUCKETS))
    rows: list[dict[str, Any]] = []
    rates: dict[float, int] = {}
    for _ in range(setting["turns"]):
        for order in ORDERS:
            model = build_model(setting["model"], _NUM_CLASSES, "fan_in")
            with filters_at_once(model, order):
                turns = _turns(engine, setting, model, rates)
            rows += [{"order": order, "bucket_cpu_s": bucket_cpu_s, **turn} for turn in turns]
    if engine.rank == 0:
        print(json.dumps(rows))
    engine.close()


@dataclass(frozen=True)
class _Work:
    """Training steps on the same images, uint8 [B, 3, S, S]."""

    engine: DDPEngine
    images: Tensor

    def loss(self) -> Tensor:
        logits: Tensor = self.engine.model(self.images)
        return logits.logsumexp(1).mean()

    def step(self) -> None:
        with self.engine.accumulate(last=True):
            self.engine.backward(self.loss(), 1)
        self.engine.step()

    def step_alone(self) -> None:
        """A step whose gradients are not exchanged."""
        model_in_ddp: Any = self.engine.model
        with model_in_ddp.no_sync():
            self.step()

    def seconds(self, step: Callable[[], None], steps: int) -> list[float]:
        """Seconds of each of so many steps, after some to settle."""
        return [timed(self.engine, step) for _ in range(_SETTLE + steps)][_SETTLE:]


def _turns(
    engine: DDPEngine, setting: dict[str, Any], model: BiTResNet, rates: dict[float, int]
) -> list[dict[str, Any]]:
    """Steps at each load. The rates of the links are found in the first turn, from its backward pass, and kept."""
    size = setting["image_size"]
    images = torch.randint(0, 256, (setting["images"], 3, size, size), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    engine.prepare(model, SGDAGC(param_groups(model, _NUM_CLASSES, 0.01), lr=0.0), images)
    work = _Work(engine, images)
    backward_s, layers = _measured_backward(engine, model, work.loss)
    gradient_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    first = next(place for place, layer in enumerate(layers) if "conv" in layer.name)
    turn = {
        "backward_s": backward_s,
        "first_filter_ready": sum(layer.backward_s for layer in layers[: first + 1]) / backward_s,
        "layers": [(layer.name, layer.elements[0], layer.backward_s) for layer in layers],
        "gradient_bytes": gradient_bytes,
        "alone_s": work.seconds(work.step_alone, setting["steps"]),
    }
    turns, bucket = [], torch.zeros(setting["bucket_mb"] * (1 << 20) // 4)
    for load in setting["loads"]:
        slowest_s = float(engine.sum(torch.tensor(backward_s))) / engine.world_size
        carried = 2 * (engine.world_size - 1) / engine.world_size * gradient_bytes / PAYLOAD_SHARE
        mbit_s = rates.setdefault(load, max(1, round(8e-6 * carried / (load * slowest_s))))
        limit(mbit_s)
        one_s = median(timed(engine, lambda: engine.sum(bucket)) for _ in range(_BUCKETS // 2))
        exchange_s = one_s * gradient_bytes / (bucket.numel() * bucket.element_size())
        steps_s = work.seconds(work.step, setting["steps"])
        turns.append({"load": load, "mbit_s": mbit_s, "exchange_s": exchange_s, "steps_s": steps_s, **turn})
        lift_limit()
    return turns


def _measured_backward(engine: DDPEngine, model: BiTResNet, loss: Callable[[], Tensor]) -> tuple[float, list[Layer]]:
    """Seconds of a backward pass without an exchange, and the layers with theirs, in their order."""
    model_in_ddp: Any = engine.model
    with model_in_ddp.no_sync(), engine.accumulate(last=True):
        found = loss()

        def backward() -> None:
            engine.backward(found, 1)

        started = time.perf_counter()
        layers = measured_layers(backward, list(model.named_parameters()), "cpu")
        backward_s = time.perf_counter() - started
    engine.step()
    # The hooks see when a gradient is there: what came before the first one is its.
    before_s = backward_s - sum(layer.backward_s for layer in layers)
    layers[0] = replace(layers[0], backward_s=before_s)
    return backward_s, layers


if __name__ == "__main__":
    main()
