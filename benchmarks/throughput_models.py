"""What the throughput benchmark compares, and the steps that it times."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import RuntimeConfig
from trainer.engines.ddp import DDPEngine
from trainer.engines.replica import channels_last
from trainer.losses import loss_sum
from trainer.models import bit
from trainer.models.bit import BiTResNet, GroupNormReLU, PreActBottleneck, build_model
from trainer.models.filters import StdConv2d
from trainer.optim.sgd_agc import SGDAGC, param_groups

NUM_CLASSES = 1000
TIMM_TWINS = {name: f"resnetv2_{name[1:]}_bit" for name in bit.MODELS if name[1:4] in ("50x", "101", "152")}
BATCH_NORM_TWIN = "resnetv2_50"
Step = Callable[[], Any]


def images_and_labels(batch_size: int, image_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """uint8 [B, 3, S, S] channels-last and int64 [B], as loaders hand them over."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, image_size, image_size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    return images.to(device), torch.randint(0, NUM_CLASSES, (batch_size,), generator=generator).to(device)


def optimizer_of(model: nn.Module) -> SGDAGC:
    """As training makes it."""
    return SGDAGC(param_groups(model, NUM_CLASSES, 0.01), lr=1e-3, momentum=0.9, weight_decay=1e-4)


def our_step(
    name: str, batch: tuple[Tensor, Tensor], device: torch.device, compiled: bool | Literal["auto"], threads: int
) -> Step:
    """A step of the shipped engine, model, loss and optimiser, as `loop.train` makes it."""
    images, labels = batch
    runtime = RuntimeConfig(device="cuda" if device.type == "cuda" else "cpu", compile=compiled, threads=threads)
    engine = DDPEngine(runtime, "bf16")
    torch.manual_seed(0)
    model = build_model(name, NUM_CLASSES)
    engine.prepare(model, optimizer_of(model), images)
    engine.set_lr(1e-3)

    def step() -> None:
        with engine.accumulate(last=True):
            engine.backward(loss_sum(engine.model(images), labels, "single_label") / len(labels))
        engine.step()

    return step


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
    def filters(convolutions: list[StdConv2d]) -> list[Tensor]:
        return [convolution.weight for convolution in convolutions]


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


def convolution_flops(name: str, image_size: int) -> int:
    """Floating-point operations of one image's forward and backward pass in convolutions and head: 2 for each
    multiply-add, three times the forward's, without the first layer's gradient of the image."""
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, StdConv2d):
            multiply_adds = output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            multiply_adds = module.weight.numel()
        else:
            return
        total += 2 * multiply_adds * (2 if getattr(module, "in_channels", 0) == 3 else 3)

    with torch.device("meta"):
        model = build_model(name, NUM_CLASSES)
        for module in model.modules():
            module.register_forward_hook(count)
        model(torch.empty(1, 3, image_size, image_size))
    return total


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

    step = our_step(name, batch, device, False, torch.get_num_threads())
    with Probe():
        step()
    return [f"{operation} x{count}" for operation, count in sorted(left.items())]
