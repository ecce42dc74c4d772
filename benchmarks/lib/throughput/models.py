"""The models that the throughput benchmark compares, and their timed steps."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipelines.loading.batch import Batch
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, Precision, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine, Progress
from trainer.engines.ddp import DDPEngine
from trainer.engines.replica import channels_last
from trainer.models.bit import BiTResNet, GroupNormReLU, PreActBottleneck, build_model
from trainer.models.filters import StdConv2d
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.run_folder.metric_logger import MetricLogger
from trainer.training.job import make_job
from trainer.training.loop import train

NUM_CLASSES = 1000
BATCH_NORM_TWIN = "resnetv2_50"
Step = Callable[[], Any]
Turn = Callable[[int], float]
"""Makes so many steps and returns the seconds that one took."""
Compiled = bool | Literal["auto", "graphs"]
_ENDLESS = 10**9  # steps


def images_and_labels(batch_size: int, image_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """uint8 [B, 3, S, S] channels-last and int64 [B], as loaders hand them over."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, image_size, image_size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    return images.to(device), torch.randint(0, NUM_CLASSES, (batch_size,), generator=generator).to(device)


def optimizer_of(model: nn.Module) -> SGDAGC:
    """As training makes it."""
    return SGDAGC(param_groups(model, NUM_CLASSES, 0.01), lr=1e-3, momentum=0.9, weight_decay=1e-4)


class _TurnDone(Exception):  # noqa: N818 - nothing is wrong
    """Ends the loop before it saves."""


def our_turn(name: str, batch: tuple[Tensor, Tensor], device: torch.device, compiled: Compiled, threads: int) -> Turn:
    """The turn of `our_loop`, in bf16."""
    return our_loop(name, batch, device, compiled, threads, "bf16")[1]


def our_loop(
    name: str,
    batch: tuple[Tensor, Tensor],
    device: torch.device,
    compiled: Compiled,
    threads: int,
    precision: Precision,
) -> tuple[Engine, Turn]:
    """`loop.train` with the shipped engine, model, loss and optimiser; its loader hands over the same batch always."""
    images, labels = batch
    runtime = RuntimeConfig(
        device="cuda" if device.type == "cuda" else "cpu",
        compile=compiled,
        threads=threads,
        log_every=_ENDLESS,
        save_every=_ENDLESS,
    )
    config = _endless_run(name, images.shape[-1], len(labels), precision, runtime)
    engine = _engine_with_model(config, images)
    job = replace(make_job(config, Path()), val=None)  # whose images nobody reads
    handed_over = Batch(images, labels, None, np.arange(len(labels)))

    def turn(steps: int) -> float:
        timer = _StepTimer(device)

        def load(*_: Any, **__: Any) -> Iterator[Batch]:
            for number in range(steps):
                timer.note(waits=number == 0)
                yield handed_over
            timer.note(waits=True)
            raise _TurnDone

        with TemporaryDirectory() as folder, suppress(_TurnDone):
            run_dir = Path(folder)
            metric_logger = MetricLogger(run_dir, 1, 0, _ENDLESS, name)  # of a rank that writes nothing
            train(replace(job, run_dir=run_dir, loader=load), engine, metric_logger, Progress(0))
        return timer.seconds_of_a_step()

    return engine, turn


def _endless_run(name: str, side: int, batch_size: int, precision: Precision, runtime: RuntimeConfig) -> Config:
    """A run that neither ends nor saves of itself."""
    return Config(
        global_batch_size=batch_size,
        precision=precision,
        data=DataConfig(sets=("fashion_mnist",), image_size=side, resize=side),
        model=ModelConfig(name=name),
        optim=OptimConfig(base_lr=1e-3, rescale_lr=False),
        schedule=ScheduleConfig(kind="cosine", epochs=None, steps=_ENDLESS, warmup_steps=0),
        runtime=runtime,
    )


def _engine_with_model(config: Config, images: Tensor) -> Engine:
    engine = DDPEngine(config.runtime, config.precision)
    torch.manual_seed(0)
    model = build_model(config.model.name, NUM_CLASSES)
    engine.prepare(model, optimizer_of(model), images)
    return engine


def with_cudnn_benchmark(turn: Turn) -> Turn:
    """The turn with convolution algorithms that cuDNN timed and chose; other turns are left as they are."""

    def chosen(steps: int) -> float:
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            return turn(steps)
        finally:
            torch.backends.cudnn.benchmark = before

    return chosen


def turn_of(step: Step, device: torch.device) -> Turn:
    """A turn of steps that need no loop."""

    def turn(steps: int) -> float:
        timer = _StepTimer(device)
        timer.note(waits=True)
        for number in range(1, steps + 1):
            step()
            timer.note(waits=number == steps)
        return timer.seconds_of_a_step()

    return turn


class _StepTimer:
    """Notes when steps begin, and when the last one ends. A GPU is waited for at both ends of a turn only.

    triton.testing.do_bench takes a function to call and overwrites the cache before each call: it could not drive the
    shipped loop, and the steps of a training run find the cache as the step before left it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []

    def note(self, waits: bool) -> None:
        if waits and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._times.append(time.perf_counter())

    def seconds_of_a_step(self) -> float:
        """The least on a CPU, where other work disturbs; the mean on a GPU, which runs behind."""
        if self._device.type == "cuda":
            return (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        return min(after - before for before, after in pairwise(self._times))


def timm_step(
    name: str, batch: tuple[Tensor, Tensor], device: torch.device, last: bool, compiled: bool, clips: bool = True
) -> Step:
    """timm's model under autocast, its adaptive clipping, torch's fused SGD; `last`: channels-last."""
    import timm
    from timm.utils.agc import adaptive_clip_grad

    torch.manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    model = timm.create_model(name, num_classes=NUM_CLASSES).to(device).to(memory_format=layout)
    run = torch.compile(model) if compiled else model
    images = ((batch[0].float() - 127.5) / 127.5).contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, weight_decay=1e-4, fused=True)
    clipped = [p for n, p in model.named_parameters() if not n.startswith("head.")]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(run(images).float(), batch[1])
        loss.backward()
        if clips:
            adaptive_clip_grad(clipped, 0.01, 1e-3)
        optimizer.step()
        optimizer.zero_grad()

    return step


class _NoNorm(nn.Module):
    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x if residual is None else x + residual
        return total, total


class _PlainFilters:
    @staticmethod
    def filters(units: list[list[StdConv2d]]) -> Iterator[tuple[Tensor, ...]]:
        return iter([tuple(convolution.weight for convolution in unit) for unit in units])


def bound_step(name: str, batch: tuple[Tensor, Tensor], device: torch.device) -> Step:
    """Forward and backward of the same convolutions, bf16, channels-last, compiled, without norms, standardisation,
    clipping and update."""
    torch.manual_seed(0)
    model: BiTResNet = build_model(name, NUM_CLASSES)
    for module in list(model.modules()):
        for child, norm in list(module.named_children()):
            if isinstance(norm, GroupNormReLU):
                without = _NoNorm()
                without.weight = nn.Parameter(torch.zeros(()), requires_grad=False)  # whose type the model looks at
                setattr(module, child, without)
    model.filter_sharing = _PlainFilters()  # type: ignore[assignment]
    model.to(device, torch.bfloat16)
    for parameter in model.parameters():
        parameter.data = channels_last(parameter.data * 0.1)
    for unit in model.modules():
        if isinstance(unit, PreActBottleneck):
            unit.compile()

    def step() -> None:
        F.cross_entropy(model(batch[0]).float(), batch[1]).backward()
        model.zero_grad()

    return step


def layout_probe(name: str, batch: tuple[Tensor, Tensor], device: torch.device) -> list[str]:
    """Operations of a step whose input activations are channels-last and whose output is not."""
    from torch.utils._python_dispatch import TorchDispatchMode

    left: dict[str, int] = {}

    def is_last(t: Any) -> bool:
        last = isinstance(t, Tensor) and t.ndim == 4 and min(t.shape[1:]) > 1
        return last and t.is_contiguous(memory_format=torch.channels_last)

    def is_first(t: Any) -> bool:
        return isinstance(t, Tensor) and t.ndim == 4 and min(t.shape[1:]) > 1 and not is_last(t) and 0 not in t.stride()

    class Probe(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            outputs = result if isinstance(result, (tuple, list)) else (result,)
            if any(map(is_last, args)) and any(is_first(t) and t.shape[0] == len(batch[0]) for t in outputs):
                left[str(func)] = left.get(str(func), 0) + 1
            return result

    turn = our_turn(name, batch, device, False, torch.get_num_threads())
    with Probe():
        turn(1)
    return [f"{operation} x{count}" for operation, count in sorted(left.items())]
