"""Names and orders of other programs' tensors, held against the programs themselves where they are installed."""

from functools import partial
from pathlib import Path

import pytest
import torch
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2
from tiny_weights import CLASSES, save_npz, tensors_of

from trainer.models import layouts
from trainer.models.bit import MODELS, build_model
from trainer.models.filters import STANDARDISATION_EPS
from trainer.models.layouts import (
    BIT_NPZ,
    BIT_PYTORCH,
    LAYOUTS,
    OURS,
    TIMM,
    Layout,
    layout_of,
    standardised,
)


def test_every_layout_is_tried_on_a_file() -> None:
    defined = {name for name, value in vars(layouts).items() if isinstance(value, Layout)}
    assert {name for name in defined if getattr(layouts, name) not in LAYOUTS} == set(), "add it to LAYOUTS"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_bit_for_bit(layout: Layout) -> None:
    tensors = tensors_of("r26x1")
    theirs = layout.to_external(tensors)
    assert layout_of(theirs) is layout
    back = layout.from_external(theirs)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("layout", "name", "shape"),
    [
        (BIT_NPZ, "resnet/root_block/standardized_conv2d/kernel", (7, 7, 3, 64)),
        (BIT_NPZ, "resnet/block3/unit02/b/standardized_conv2d/kernel", (3, 3, 256, 256)),
        (BIT_NPZ, "resnet/block4/unit01/a/proj/standardized_conv2d/kernel", (1, 1, 1024, 2048)),
        (BIT_NPZ, "resnet/block1/unit02/c/group_norm/gamma", (64,)),
        (BIT_NPZ, "resnet/group_norm/beta", (2048,)),
        (BIT_NPZ, "resnet/head/conv2d/kernel", (1, 1, 2048, 3)),
        (BIT_PYTORCH, "root.conv.weight", (64, 3, 7, 7)),
        (BIT_PYTORCH, "body.block3.unit02.conv2.weight", (256, 256, 3, 3)),
        (BIT_PYTORCH, "body.block4.unit01.downsample.weight", (2048, 1024, 1, 1)),
        (BIT_PYTORCH, "body.block1.unit02.gn3.weight", (64,)),
        (BIT_PYTORCH, "head.gn.bias", (2048,)),
        (BIT_PYTORCH, "head.conv.weight", (3, 2048, 1, 1)),
        (TIMM, "head.fc.weight", (3, 2048, 1, 1)),
        (OURS, "head.weight", (3, 2048)),
    ],
)
def test_published_names_and_shapes(layout: Layout, name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        tensors = build_model("r26x1", len(CLASSES)).state_dict()
    assert tuple(layout.to_external(tensors)[name].shape) == shape


def test_units_are_numbered_from_one_with_two_digits() -> None:
    with torch.device("meta"):
        names = BIT_NPZ.to_external(build_model("r101x1", 3).state_dict())
    units = sorted({name.split("/")[2] for name in names if name.startswith("resnet/block3/")})
    assert units == [f"unit{i:02d}" for i in range(1, 24)]


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "same_head"), [(len(CLASSES), True), (5, False)])
def test_timm_reads_our_npz(tmp_path: Path, num_classes: int, same_head: bool) -> None:
    name, tensors = "r26x1", tensors_of("r26x1")
    depths, width_factor = MODELS[name]
    conv = partial(StdConv2d, eps=STANDARDISATION_EPS)
    theirs = ResNetV2(
        list(depths), width_factor=int(width_factor), stem_type="fixed", conv_layer=conv, num_classes=num_classes
    )
    theirs.load_pretrained(str(save_npz(tmp_path / "model.npz", tensors)))
    loaded = TIMM.from_external(theirs.state_dict())
    differing = [key for key in tensors if not torch.equal(loaded[key], tensors[key])]
    assert differing == ([] if same_head else ["head.weight", "head.bias"])
    if same_head:
        ours = build_model(name, num_classes)
        ours.load_state_dict(tensors)
        images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(theirs.eval()((images - 127.5) / 127.5), ours(images), atol=1e-5, rtol=1e-5)


def test_unknown_names_stay_and_foreign_files_have_no_layout() -> None:
    extra = {**TIMM.to_external(tensors_of()), "ema.decay": torch.zeros(1)}
    assert "ema.decay" in TIMM.from_external(extra)
    assert layout_of(["conv1.weight", "layer1.0.conv1.weight"]) is None
    assert layout_of(["stem.conv.weight", "norm.weight"]) is not None  # without a head


def test_standardised_filters_are_what_the_convolution_applies() -> None:
    tensors = tensors_of()
    fixed = standardised(tensors, STANDARDISATION_EPS)
    for name, tensor in fixed.items():
        if "conv" not in name:
            assert tensor is tensors[name]
            continue
        variance, mean = torch.var_mean(tensor.double(), dim=(1, 2, 3), correction=0)
        assert mean.abs().max() < 1e-7
        torch.testing.assert_close(variance, torch.ones_like(variance), atol=1e-5, rtol=0)
