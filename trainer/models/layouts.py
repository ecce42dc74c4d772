"""How other programs name and order the tensors of a BiT ResNet, and conversion to and from our names.

Facts of google-research/big_transfer (NumPy and PyTorch) and of timm's `resnetv2_*_bit`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

STEM = "stem.conv.weight"
HEAD = ("head.weight", "head.bias")
_NORMS = [f"norm{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")]
_CONVS = [f"conv{i}.weight" for i in (1, 2, 3)]
_DOWNSAMPLE = "downsample.conv.weight"


@dataclass(frozen=True)
class Layout:
    """Tensor names of one program. `outside` and `inside` (of a unit) map our names to its names.

    unit, pattern: a tensor's name inside a unit, as a template and as a regular expression; stages and units count from
    `first`. conv_head: the head is a 1x1 convolution. hwio: filters are [kH, kW, C_in, C_out] instead of [C_out, C_in,
    kH, kW].
    """

    outside: Mapping[str, str]
    inside: Mapping[str, str]
    unit: str
    pattern: str
    first: int = 1
    conv_head: bool = True
    hwio: bool = False

    def to_external(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under this layout's names and in its order, contiguous."""
        return {self._external_name(name): self._to_external_order(name, tensor) for name, tensor in tensors.items()}

    def from_external(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of this layout under our names; unknown names stay as they are."""
        names = {theirs: ours for ours, theirs in self.outside.items()}
        within = {theirs: ours for ours, theirs in self.inside.items()}
        found = {}
        for name, tensor in tensors.items():
            match = re.fullmatch(self.pattern, name)
            if match and match[3] in within:
                stage, unit = int(match[1]) - self.first, int(match[2]) - self.first
                found[f"stages.{stage}.blocks.{unit}.{within[match[3]]}"] = self._from_external_order(tensor)
            else:
                found[names.get(name, name)] = self._from_external_order(tensor)
        head = found.get(HEAD[0])
        if head is not None and head.ndim == 4 and head.shape[2:] == (1, 1):
            found[HEAD[0]] = head.flatten(1)
        return found

    def _external_name(self, name: str) -> str:
        match = re.fullmatch(OURS.pattern, name)
        if match is None:
            return self.outside[name]
        stage, unit = int(match[1]) + self.first, int(match[2]) + self.first
        return self.unit.format(stage=stage, unit=unit, tensor=self.inside[match[3]])

    def _to_external_order(self, name: str, tensor: Tensor) -> Tensor:
        if self.conv_head and name == HEAD[0]:
            tensor = tensor[:, :, None, None]
        if self.hwio and tensor.ndim == 4:
            tensor = tensor.permute(2, 3, 1, 0)
        return tensor.contiguous()

    def _from_external_order(self, tensor: Tensor) -> Tensor:
        return tensor.permute(3, 2, 0, 1).contiguous() if self.hwio and tensor.ndim == 4 else tensor


def _same(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


_TRUNK = [STEM, "norm.weight", "norm.bias"]
OURS = Layout(
    outside=_same([*_TRUNK, *HEAD]),
    inside=_same([*_NORMS, *_CONVS, _DOWNSAMPLE]),
    unit="stages.{stage}.blocks.{unit}.{tensor}",
    pattern=r"stages\.(\d+)\.blocks\.(\d+)\.(.+)",
    first=0,
    conv_head=False,
)
TIMM = Layout(
    outside=_same(_TRUNK) | {"head.weight": "head.fc.weight", "head.bias": "head.fc.bias"},
    inside=OURS.inside,
    unit=OURS.unit,
    pattern=OURS.pattern,
    first=0,
)
BIT_NPZ = Layout(
    outside={
        STEM: "resnet/root_block/standardized_conv2d/kernel",
        "norm.weight": "resnet/group_norm/gamma",
        "norm.bias": "resnet/group_norm/beta",
        "head.weight": "resnet/head/conv2d/kernel",
        "head.bias": "resnet/head/conv2d/bias",
    },
    inside={f"norm{i}.weight": f"{part}/group_norm/gamma" for i, part in enumerate("abc", 1)}
    | {f"norm{i}.bias": f"{part}/group_norm/beta" for i, part in enumerate("abc", 1)}
    | {f"conv{i}.weight": f"{part}/standardized_conv2d/kernel" for i, part in enumerate("abc", 1)}
    | {_DOWNSAMPLE: "a/proj/standardized_conv2d/kernel"},
    unit="resnet/block{stage}/unit{unit:02d}/{tensor}",
    pattern=r"resnet/block(\d+)/unit(\d+)/(.+)",
    hwio=True,
)
BIT_PYTORCH = Layout(
    outside={
        STEM: "root.conv.weight",
        "norm.weight": "head.gn.weight",
        "norm.bias": "head.gn.bias",
        "head.weight": "head.conv.weight",
        "head.bias": "head.conv.bias",
    },
    inside={name: name.replace("norm", "gn") for name in _NORMS} | _same(_CONVS) | {_DOWNSAMPLE: "downsample.weight"},
    unit="body.block{stage}.unit{unit:02d}.{tensor}",
    pattern=r"body\.block(\d+)\.unit(\d+)\.(.+)",
)
LAYOUTS = (BIT_NPZ, BIT_PYTORCH, TIMM, OURS)


def layout_of(names: Iterable[str]) -> Layout | None:
    """The layout whose stem and head have these names, or whose stem if they have no head; None if there is none."""
    known = set(names)
    with_stem = [layout for layout in LAYOUTS if layout.outside[STEM] in known]
    with_head = [layout for layout in with_stem if layout.outside[HEAD[0]] in known]
    return next(iter(with_head or with_stem), None)


def scaled(tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """The same with the filters of all standardised convolutions multiplied."""
    return {name: tensor * factor if is_filter(name) else tensor for name, tensor in tensors.items()}


def standardised(tensors: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """The same with the filters as their convolutions apply them: zero mean, unit variance; computed in float64."""
    result = dict(tensors)
    for name in filter(is_filter, tensors):
        filters = tensors[name].double()
        variance, mean = torch.var_mean(filters, dim=(1, 2, 3), keepdim=True, correction=0)
        result[name] = ((filters - mean) / torch.sqrt(variance + eps)).to(tensors[name].dtype)
    return result


def is_filter(name: str) -> bool:
    """Whether one of our names is the weight of a standardised convolution."""
    return "conv" in name
