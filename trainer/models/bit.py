"""BiT ResNets: pre-activation ResNets with GroupNorm and weight standardisation.

Source: Kolesnikov et al., "Big Transfer", arXiv:1912.11370; weight standardisation: Qiao et al., arXiv:1903.10520.
Parameters carry timm's names (`stages.0.blocks.0.conv1.weight`), except that the head is a linear layer.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest
from trainer.kernels.group_norm_relu import add_group_norm_relu, group_norm_relu
from trainer.models.architectures import MODELS as MODELS
from trainer.models.architectures import NUM_STAGES as NUM_STAGES
from trainer.models.architectures import FilterInit, HeadInit
from trainer.models.filters import STANDARDISATION_EPS as STANDARDISATION_EPS
from trainer.models.filters import FilterSharing, StdConv2d
from trainer.normalisation import BIT_MEAN, BIT_STD, PerChannel

NUM_GROUPS = 32


class GroupNormReLU(nn.GroupNorm):
    """GroupNorm over 32 groups of channels, then ReLU, of x or of x + residual; and that sum. All [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__(NUM_GROUPS, channels)

    def forward(  # type: ignore[override]
        self, x: Tensor, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            return group_norm_relu(x, self.num_groups, self.weight, self.bias, self.eps), x
        return add_group_norm_relu(x, residual, self.num_groups, self.weight, self.bias, self.eps)


class PreActBottleneck(nn.Module):
    """Pre-activation residual unit, stride on the 3x3. [N, C, H, W] -> [N, C_out, H/stride, W/stride].

    Takes its input as one tensor or as two whose sum it is, and returns its output as two, branch and shortcut: the
    next norm adds them in the same pass. `filters`: those of the convolutions in order, if the caller has them. Source:
    BiT (arXiv:1912.11370). Raises ValueError unless C and C_out / 4 divide by 32.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        mid = out_channels // 4
        self.norm1 = GroupNormReLU(in_channels)
        self.conv1 = StdConv2d(in_channels, mid, 1, bias=False)
        self.norm2 = GroupNormReLU(mid)
        self.conv2 = StdConv2d(mid, mid, 3, stride, padding=1, bias=False)
        self.norm3 = GroupNormReLU(mid)
        self.conv3 = StdConv2d(mid, out_channels, 1, bias=False)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.ModuleDict({"conv": StdConv2d(in_channels, out_channels, 1, stride, bias=False)})

    def forward(
        self, x: Tensor, residual: Tensor | None = None, filters: Sequence[Tensor | None] = (None,) * 4
    ) -> tuple[Tensor, Tensor]:
        pre, total = self.norm1(x, residual)
        shortcut = self.downsample["conv"](pre, filters[3]) if self.downsample else total
        y = self.conv1(pre, filters[0])
        y = self.conv2(self.norm2(y)[0], filters[1])
        return self.conv3(self.norm3(y)[0], filters[2]), shortcut

    @property
    def convolutions(self) -> list[StdConv2d]:
        """In the order in which `forward` takes their filters."""
        own = [self.conv1, self.conv2, self.conv3]
        return [*own, self.downsample["conv"]] if self.downsample else own  # type: ignore[list-item]


class Stage(nn.Module):
    """Residual units of one width; the first one strides. Inputs and outputs are those of its units."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, stride: int) -> None:
        super().__init__()
        first = PreActBottleneck(in_channels, out_channels, stride)
        self.blocks = nn.Sequential(first, *(PreActBottleneck(out_channels, out_channels, 1) for _ in range(depth - 1)))


class BiTResNet(nn.Module):
    """uint8 or float images [N, 1 or 3, H, W] in [0, 255] -> logits [N, num_classes], in the weights' type.

    Normalisation happens inside, by `mean` and `std` of pixels in [0, 1]; grey images are replicated to three channels.
    The first `checkpoint_stages` stages keep only what enters their units and compute the rest again in the backward
    pass. The stem and the first `frozen_stages` stages keep nothing and have no backward pass; see `freeze`.
    """

    checkpoint_stages = 0
    frozen_stages = 0

    def __init__(
        self,
        depths: tuple[int, ...],
        width_factor: float,
        num_classes: int,
        head_init: HeadInit = "zero",
        filter_init: FilterInit = "kaiming",
        mean: PerChannel = BIT_MEAN,
        std: PerChannel = BIT_STD,
    ) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        stem_channels = int(64 * width_factor)
        widths = [stem_channels, *(int(256 * width_factor) * 2**i for i in range(len(depths)))]
        self.stem = nn.ModuleDict({"conv": StdConv2d(3, stem_channels, 7, stride=2, padding=3, bias=False)})
        self.stages = nn.Sequential(
            *(
                Stage(in_channels, out_channels, depth, stride=1 if i == 0 else 2)
                for i, (depth, (in_channels, out_channels)) in enumerate(zip(depths, pairwise(widths), strict=True))
            )
        )
        self.norm = GroupNormReLU(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)
        self.filter_sharing = FilterSharing()
        self._init_weights(head_init, filter_init)
        self._place_normalisation()

    @property
    def units(self) -> list[PreActBottleneck]:
        """The residual units, in their order."""
        return [unit for stage in self.stages for unit in stage.blocks]  # type: ignore[union-attr, misc]

    @property
    def convolutions(self) -> list[list[StdConv2d]]:
        """That of the stem, then those of each unit, in the order in which `features` takes their filters."""
        stem: Any = self.stem["conv"]
        return [[stem], *(unit.convolutions for unit in self.units)]

    def freeze(self, stages: int) -> None:
        """Train neither the stem nor so many of the first stages from now on; with 0 stages, all of the model."""
        self.frozen_stages = stages
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen_prefixes(stages)))

    def _init_weights(self, head_init: HeadInit, filter_init: FilterInit) -> None:
        """torch: as the layers drew them when they were made, uniformly, variance 1/(3 inputs); the head's bias too."""
        for module in self.modules():
            if isinstance(module, StdConv2d) and filter_init == "kaiming":
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if head_init == "torch":
            return
        nn.init.zeros_(self.head.bias)
        if head_init == "zero":
            nn.init.zeros_(self.head.weight)
        else:
            nn.init.normal_(self.head.weight, std=math.sqrt(1 / self.head.in_features))

    def _apply(self, fn: Any, recurse: bool = True) -> "BiTResNet":
        super()._apply(fn, recurse)
        self._place_normalisation()
        return self

    def _place_normalisation(self) -> None:
        """Mean and standard deviation of pixels in [0, 255], [1, 3, 1, 1], where the weights are and of their type.

        No buffers: DDP would send these from rank to rank in every forward pass. Made anew, not moved: in float64 they
        are as exact as they were given, and a model that leaves the meta device has them.
        """
        weight = self.norm.weight
        self._pixel_mean, self._pixel_std = (
            torch.tensor([255 * value for value in values], dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )

    def _normalised(self, images: Tensor) -> Tensor:
        x = images.to(self.norm.weight.dtype)
        is_grey = x.shape[1] == 1
        if len({*zip(self.mean, self.std, strict=True)}) == 1:  # all channels alike: grey images stay one until here
            x = (x - 255 * self.mean[0]) / (255 * self.std[0])
            # expand() would leave a stride of 0, which convolutions copy anyway, into the wrong memory format.
            x = x.repeat(1, 3, 1, 1) if is_grey else x
        else:
            x = (x - self._pixel_mean.to(x)) / self._pixel_std.to(x)
        return x.contiguous(memory_format=torch.channels_last) if is_grey else x

    def features(self, images: Tensor) -> Tensor:
        """Input of the head: float [N, C] after the last norm and global average pooling."""
        return self.activations(images).mean(dim=(2, 3))

    def activations(self, images: Tensor) -> Tensor:
        """Those of the last stage: float [N, C, H/32, W/32] after the last norm, before pooling."""
        x = self._normalised(images)
        filters = self.filter_sharing.filters(self.convolutions)
        with torch.no_grad() if self.frozen_stages else nullcontext():
            x = self.stem["conv"](x, *next(filters))
            x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2)
            frozen = self._through(range(self.frozen_stages), (x, None), filters)
        x, residual = self._through(range(self.frozen_stages, len(self.stages)), frozen, filters)
        activations: Tensor = self.norm(x, residual)[0]
        return activations

    def _through(
        self, stages: range, inputs: tuple[Tensor, Tensor | None], filters: Iterator[tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor | None]:
        """Branch and shortcut after some stages; `filters`: those of each unit from these on."""
        x, residual = inputs
        for i in stages:
            for unit in self.stages[i].blocks:  # type: ignore[union-attr]
                its_filters = next(filters)
                if i < self.checkpoint_stages and torch.is_grad_enabled():
                    total = x if residual is None else x + residual  # one tensor to keep instead of two
                    x, residual = checkpoint(
                        unit, total, None, its_filters, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    x, residual = unit(x, residual, its_filters)
        return x, residual

    def forward(self, images: Tensor) -> Tensor:
        # In the weights' own type: of the scores of 4,000 images rounded to bf16 hardly a tenth differ.
        features = self.features(images).to(self.norm.weight.dtype)
        with _without_autocast(features.device.type):
            logits: Tensor = self.head(features)
        return logits


def frozen_prefixes(stages: int) -> tuple[str, ...]:
    """What the names of the parameters begin with that `BiTResNet.freeze` freezes."""
    return ("stem.", *(f"stages.{i}." for i in range(stages))) if stages else ()


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Nothing where there is none: the meta device does not know it, and exported graphs need not show it."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def build_model(
    name: str,
    num_classes: int,
    head_init: HeadInit = "zero",
    filter_init: FilterInit = "kaiming",
    mean: PerChannel = BIT_MEAN,
    std: PerChannel = BIT_STD,
) -> BiTResNet:
    """A freshly initialised model of `MODELS`; draws from torch's global generator. Raises InputError naming the
    nearest model for an unknown name."""
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}{nearest(name, list(MODELS))}")
    depths, width_factor = MODELS[name]
    return BiTResNet(depths, width_factor, num_classes, head_init, filter_init, mean, std)
