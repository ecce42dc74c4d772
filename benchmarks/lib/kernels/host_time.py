"""Host time of this package's operations in a GPU step, measured with a driver that launches nothing."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import _engine_run_backward
from triton.runtime import driver

from benchmarks.lib.checks import require_models
from benchmarks.lib.kernels.fake_gpu import FakeDriver
from benchmarks.lib.kernels.kernel_code import Layer, norms
from benchmarks.lib.results import header, write_result
from data_pipelines.common.errors import InputError
from trainer.engines.replica import channels_last
from trainer.kernels import group_norm_relu as group_norm
from trainer.kernels import sgd_agc, sgd_agc_triton, standardise
from trainer.kernels.layout import rows_lie_together
from trainer.models.bit import NUM_GROUPS, build_model
from trainer.optim.sgd_agc import SGDAGC, param_groups

_FILTERS = 4  # of each bank: how many there are takes the host no longer
_NUM_CLASSES = 1000


@dataclass(frozen=True)
class HostTime:
    """What to measure."""

    models: tuple[str, ...] = ("r50x1", "r152x4")
    """Whose parts are timed."""
    rounds: int = 40
    """How often each part is timed."""
    out: Path = Path("host_time.json")
    """JSON file to write; the table goes beside it as .md."""

    def __post_init__(self) -> None:
        require_models("--models", *self.models)
        if self.rounds < 1:
            raise InputError(f"--rounds is {self.rounds}; it must be at least 1")


class _NoLauncher:
    def __init__(self, source: Any, metadata: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        pass


class _NoBinary:
    @staticmethod
    def load_binary(*arguments: Any) -> tuple[int, int, int, int, int]:
        """A module, a function, its registers, spills and most threads."""
        return 1, 1, 32, 0, 1024

    @staticmethod
    def get_device_properties(device: int) -> dict[str, int]:
        """Of an H100 or H200."""
        return {"max_shared_mem": 232448, "multiprocessor_count": 132}


class _DriverThatLaunchesNothing(FakeDriver):
    utils, launcher_cls = _NoBinary(), _NoLauncher

    def get_current_device(self) -> int:
        return 0


def launch_nothing() -> None:
    """From now on the Triton kernels take CPU tensors and do nothing. For a process of its own."""
    driver.set_active(_DriverThatLaunchesNothing(90))
    names: Any = group_norm, standardise, sgd_agc
    for module in names:
        module.kernel_works = lambda device: True
    group_norm._is_native = lambda device: False
    standardise._triton_takes = lambda weights: all(map(rows_lie_together, weights))
    sgd_agc.takes = lambda tensors: all(map(rows_lie_together, tensors))

    def update(weights: Any, gradients: Any, momenta: Any, hyper: Any, found_inf: Any = None) -> Any:
        stats = sgd_agc_triton.update(weights, gradients, momenta, hyper, found_inf)
        torch.autograd.graph.increment_version([*weights, *(momenta or ())])
        return stats

    sgd_agc.update = update
    torch.cuda.device_of = lambda tensor: nullcontext()  # type: ignore[assignment, misc, return-value]


def timed_ms(work: Callable[[], Any], rounds: int, begin: Callable[[], Any] = lambda: None) -> list[float]:
    """CPU milliseconds of this thread for work(begin()), where begin is not counted."""
    found = []
    for _ in range(rounds):
        given = begin()
        started = time.thread_time()
        work(*given) if given is not None else work()
        found.append(1e3 * (time.thread_time() - started))
        del given
    return found[rounds // 4 :]  # the first ones compile, and fill caches


def norms_ms(layers: Iterable[Layer], rounds: int) -> tuple[list[float], list[float]]:
    """Of the forward pass of these norms, and of one backward pass through all of them."""
    calls: list[Callable[[], Any]] = []
    inputs: list[torch.Tensor] = []
    gradients: list[torch.Tensor] = []
    for layer in layers:
        shape = (1, layer.channels, layer.side, layer.side)
        x, residual, dy = (
            torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last) for _ in range(3)
        )
        weight, bias = nn.Parameter(torch.empty(layer.channels)), nn.Parameter(torch.empty(layer.channels))
        call: Any = group_norm.add_group_norm_relu if layer.adds else group_norm.group_norm_relu
        arguments: tuple[Any, ...] = (x.requires_grad_(), *([residual] if layer.adds else []), NUM_GROUPS, weight, bias)
        calls.append(partial(call, *arguments))
        inputs += [x, weight, bias]
        gradients += [dy] * (1 + layer.adds)

    def forward() -> list[torch.Tensor]:
        made: list[torch.Tensor] = []
        for call in calls:
            outputs = call()
            made += outputs if isinstance(outputs, tuple) else [outputs]
        return made

    def backward(*outputs: torch.Tensor) -> None:
        run_backward(outputs, inputs, gradients)

    return timed_ms(forward, rounds), timed_ms(backward, rounds, forward)


def run_backward(
    outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]
) -> None:
    """Autograd's engine by itself: torch.autograd.grad would look at each of these outputs, where a step has one."""
    _engine_run_backward(tuple(outputs), tuple(gradients), False, False, tuple(inputs), accumulate_grad=False)


def host_time(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each part of a step: median, and the quartiles around it."""
    with torch.device("meta"):
        model = build_model(name, _NUM_CLASSES)
    layers = norms(model)
    for module in model.modules():
        for each, parameter in list(module.named_parameters(recurse=False)):
            shape = (min(len(parameter), _FILTERS), *parameter.shape[1:]) if parameter.ndim > 1 else parameter.shape
            setattr(module, each, nn.Parameter(channels_last(torch.empty(shape))))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = SGDAGC(param_groups(model, _NUM_CLASSES, 0.01), lr=0.1, weight_decay=1e-4)
    weights = [convolution.weight for unit in model.convolutions for convolution in unit]

    def filters() -> tuple[torch.Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            return tuple(each for unit in model.filter_sharing.filters(model.convolutions) for each in unit)

    gradients = [torch.empty_like(each) for each in filters()]
    forward, backward = norms_ms(layers.elements(), rounds)
    parts = {
        "norms, forward": forward,
        "norms, backward": backward,
        "filters, forward": timed_ms(filters, rounds),
        "filters, backward": timed_ms(lambda *made: run_backward(made, weights, gradients), rounds, filters),
        "clipping and update": timed_ms(optimizer.step, rounds),
    }
    parts["all"] = [sum(row) for row in zip(*parts.values(), strict=True)]
    return {
        part: dict(zip(("low", "median", "high"), (low, median(ms), high), strict=True))
        for part, ms in parts.items()
        for low, _, high in [quantiles(ms, n=4)]
    }


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """As Markdown."""
    lines = ["| host time of a step, ms (quartiles) | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for part in next(iter(found.values())):
        cells = (f"{of[part]['median']:.2f} ({of[part]['low']:.2f}-{of[part]['high']:.2f})" for of in found.values())
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run(settings: HostTime) -> None:
    """Measure, write JSON and Markdown, and print the table."""
    torch.set_num_threads(1)
    launch_nothing()
    found = {name: host_time(name, settings.rounds) for name in settings.models}
    write_result(settings.out, header("host_time", packages=["triton"]) | {"ms": found}, table(found))
