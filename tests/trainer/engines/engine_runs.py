"""Every case on every engine: launched once for each number of ranks, and what each rank saw of it."""

import importlib.util
import warnings
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import RESUMED_AT, Case, flat, make_cases, reference
from run_ranks import run_ranks

from data_pipelines.common.errors import InputError
from trainer import checkpoint
from trainer.config import RuntimeConfig
from trainer.engine import Progress
from trainer.engines import ENGINES
from trainer.models.bit import BiTResNet
from trainer.run_folder.metric_logger import MetricLogger
from trainer.training.loop import train

CPU = RuntimeConfig(device="cpu", threads=1)
VARIANTS = {
    "ddp": CPU,
    "ddp-zero-1": replace(CPU, zero_stage=1),
    "horovod": replace(CPU, engine="horovod"),
    "deepspeed": replace(CPU, engine="deepspeed"),
    "deepspeed-zero-1": replace(CPU, engine="deepspeed", zero_stage=1),
    "deepspeed-zero-2": replace(CPU, engine="deepspeed", zero_stage=2),
}
WORLD_SIZES = (2, 1, 3)
SMALL = ("ddp", "ddp-zero-1")  # what also runs on three ranks; to start DeepSpeed there takes half a minute
INSTALLED = [name for name, runtime in VARIANTS.items() if importlib.util.find_spec(runtime.engine) or "ddp" in name]
VARIANT_ROWS = [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in VARIANTS]


def to_start(request: pytest.FixtureRequest) -> list[str]:
    """The variants that the selected tests of the module ask for: DDP alone where none of them is slow."""
    items = [item for item in request.session.items if item.path == request.path]
    slow = any(item.get_closest_marker("slow") for item in items)
    return [name for name in INSTALLED if slow or name in SMALL]


def runs(variant: str, case: Case) -> bool:
    """DeepSpeed trains fp32 only."""
    return not (variant.startswith("deepspeed") and case.dtype == torch.float64)


@dataclass
class Seen:
    """What one rank saw of one variant."""

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    momentum: dict[str, np.ndarray] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    sums: list[float] = field(default_factory=list)
    strides_warned: list[str] = field(default_factory=list)
    changed_by_reading: list[str] = field(default_factory=list)
    with_momentum: set[str] = field(default_factory=set)
    frozen: set[str] = field(default_factory=set)
    momentum_bytes: int = 0
    held_bytes: int = 0
    parameter_bytes: int = 0
    refusal: str = ""


def run_variants(names: list[str], cases: dict[str, Case], folder: Path, readable: list[Path]) -> dict[str, Seen]:
    """Every case of every variant on this rank, in one launch: starting a process takes longer than all of them."""
    engine, seen = None, {}
    for name in names:
        runtime = VARIANTS[name]
        if engine is not None and engine._runtime.engine == runtime.engine:
            engine._runtime = runtime  # what a start with these options would leave
        else:
            if engine is not None:
                engine.close()
            engine = ENGINES[runtime.engine](runtime, "fp32")
        seen[name] = run_variant(name, engine, cases, folder, readable)
    engine.close()
    return seen


def run_variant(name: str, engine: Any, cases: dict[str, Case], folder: Path, readable: list[Path]) -> Seen:
    seen = Seen(sums=engine.sum(torch.tensor([1.0, engine.rank])).tolist())
    for case_name, case in cases.items():
        job = case.job(engine.world_size, folder / name / case_name)
        model, optimizer = case.model_and_optimizer(job.train.num_classes)
        example = torch.zeros(2, 32, 32, job.train.channels, dtype=torch.uint8).permute(0, 3, 1, 2)
        if not runs(name, case):
            try:
                engine.prepare(model, optimizer, example)
            except InputError as error:
                seen.refusal = str(error)
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            engine.prepare(model, optimizer, example)
            first_step = 0
            if case_name.startswith("resumed"):
                first_step = RESUMED_AT
                engine.load_state_dict(checkpoint.load(folder / "reference.safetensors").state)
            updates = recorded(engine)
            train(job, engine, MetricLogger(job.run_dir, 1, 0, case.updates, "test"), Progress(first_step))
        seen.strides_warned += [str(warning.message) for warning in caught if "strides" in str(warning.message)]
        seen.weights[case_name] = flat(dict(model.named_parameters()))
        seen.clipped[case_name] = float(updates[-1].clipped_share)
        if case.frozen_stages:
            seen.with_momentum = set(engine.state_dict()["momentum"])
            seen.frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        mine = job.order.request(0, engine.rank, engine.world_size).samples
        seen.labels[case_name] = int(np.isfinite(job.train.labels[mine].astype(float)).sum())
    measure_and_exchange(name, engine, model, example, folder, readable, seen)
    return seen


def recorded(engine: Any) -> list[Any]:
    """The updates that the engine will make, as they are made."""
    updates = []
    step = type(engine).step

    def recording(is_nonfinite: Any = None) -> Any:
        updates.append(step(engine, is_nonfinite))
        return updates[-1]

    engine.step = recording
    return updates


def measure_and_exchange(
    name: str, engine: Any, model: BiTResNet, example: torch.Tensor, folder: Path, readable: list[Path], seen: Seen
) -> None:
    """After the last case, which is fp32 and resumed: its state, what this rank holds, and others' checkpoints."""
    state = engine.state_dict()
    seen.momentum["resumed-2-fp32"] = flat(state["momentum"])
    path = folder / f"{name}-on-{engine.world_size}.safetensors"
    if engine.rank == 0:
        checkpoint.save(path, state, {"step": 0})
    engine.sum(torch.zeros(1))  # which is written before the others read it
    optimizer = getattr(engine, "_sharded", None) or engine._optimizer
    buffers = getattr(optimizer, "optim", optimizer).state.values()
    seen.momentum_bytes = sum(entry["momentum_buffer"].nbytes for entry in buffers if "momentum_buffer" in entry)
    seen.parameter_bytes = sum(p.nbytes for p in model.parameters())
    with engine.accumulate(last=False):
        engine.backward(engine.model(example).sum(), 1)
    seen.held_bytes = held_bytes(engine, model) if name.startswith("deepspeed") else 0
    for source in [*readable, path]:
        expected = checkpoint.load(source).state
        engine.load_state_dict(expected)
        found = engine.state_dict()
        seen.changed_by_reading += [
            f"{source.name}: {part}.{key}"
            for part in ("model", "momentum")
            for key in expected[part].keys() | found[part].keys()
            if key not in expected[part]
            or key not in found[part]
            or not torch.equal(expected[part][key], found[part][key].detach())
        ]


def held_bytes(engine: Any, model: BiTResNet) -> int:
    """Bytes of this rank's weights, gradients and momentum, and of the copies that DeepSpeed makes of them."""
    held = [thing for p in model.parameters() for thing in (p, p.grad)]
    held += [entry.get("momentum_buffer") for entry in engine._optimizer.state.values()]
    held += [bank.gathered for bank in model.filter_sharing._kept or ()]  # gradients that wait for the last micro-batch
    zero = getattr(engine._engine, "optimizer", None)
    for name in ("averaged_gradients", "all_grad_tensors"):
        held += [gradient for group in getattr(zero, name, {}).values() for gradient in group or ()]
    held += getattr(zero, "single_partition_of_fp32_groups", [])
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held if t is not None}
    return sum(storages.values())


class Launched:
    """All runs, each made when it is first asked for, and kept."""

    def __init__(self, phantoms: Path, folder: Path, variants: list[str]) -> None:
        self.cases, self.folder, self.variants = make_cases(phantoms), folder, variants
        self._written: list[Path] = []
        self.expected = cache(self._expected)
        self.seen = cache(self._seen)
        self.expected("resumed-2-fp32")  # which leaves the checkpoint to resume from

    def _expected(self, case_name: str) -> dict[str, np.ndarray]:
        torch.set_num_threads(1)
        save_at = RESUMED_AT if case_name.startswith("resumed") else None
        return reference(self.cases[case_name], self.folder, save_at)

    def _seen(self, world_size: int) -> list[dict[str, Seen]] | AssertionError:
        names = [name for name in self.variants if world_size < 3 or name in SMALL]
        try:
            by_rank = run_ranks(world_size, run_variants, names, self.cases, self.folder, list(self._written))
        except AssertionError as error:  # kept, or every row would start the ranks again
            return error
        self._written += [self.folder / f"{name}-on-{world_size}.safetensors" for name in names]
        return by_rank

    def of(self, variant: str, world_size: int) -> list[Seen]:
        """What the ranks saw of a variant."""
        if variant not in INSTALLED:
            pytest.skip(f"{VARIANTS[variant].engine} is not installed")
        for size in WORLD_SIZES[: WORLD_SIZES.index(world_size) + 1]:  # those before have written checkpoints to read
            by_rank = self.seen(size)
            if isinstance(by_rank, AssertionError):
                raise by_rank
        return [rank[variant] for rank in by_rank]
