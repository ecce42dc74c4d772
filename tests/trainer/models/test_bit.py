"""The model is BiT: timm's weights give timm's logits and gradients, and every size has timm's parameters."""

from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from data_pipelines.common.errors import InputError
from trainer.models import bit
from trainer.models.bit import BiTResNet, HeadInit, PreActBottleneck, build_model
from trainer.models.filters import StdConv2d

TIMM_NAMES = {
    "r50x1": "resnetv2_50x1_bit",
    "r50x3": "resnetv2_50x3_bit",
    "r101x1": "resnetv2_101x1_bit",
    "r101x3": "resnetv2_101x3_bit",
    "r152x2": "resnetv2_152x2_bit",
    "r152x4": "resnetv2_152x4_bit",
}
TIMM_EPS = 1e-8
SMALL = "r14x0.5"
DEPTHS, WIDTH = (1, 2, 1, 2), 0.5


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def timm_logits(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    return model((images.to(dtype) - 127.5) / 127.5)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.reshape(theirs.shape) - theirs).norm() / theirs.norm()).item()


def filters_of(conv: StdConv2d) -> Tensor:
    """The filters as the convolution applies them, [C_out, C_in * kH * kW]: its answers to unit impulses."""
    shape = conv.weight.shape[1:]
    impulses = torch.eye(shape.numel(), dtype=conv.weight.dtype).view(-1, *shape)
    return conv(impulses).flatten(1).T


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, nn.Module]:
    """Our model and timm's in float64, with the same random weights and timm's eps. Units of both kinds in two stages;
    narrow, because r50x1 twice takes hundreds of MB. `test_export.py` holds r50x1 itself against timm."""
    monkeypatch.setattr(StdConv2d, "eps", TIMM_EPS)
    torch.manual_seed(0)
    ours = BiTResNet(DEPTHS, WIDTH, 7, "fan_in")
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.2)
    conv = partial(timm.layers.StdConv2d, eps=TIMM_EPS)
    theirs = ResNetV2(list(DEPTHS), width_factor=WIDTH, stem_type="fixed", conv_layer=conv, num_classes=7)
    weights = {name.replace("head.", "head.fc."): weight for name, weight in ours.state_dict().items()}
    weights["head.fc.weight"] = weights["head.fc.weight"][:, :, None, None]
    theirs.load_state_dict(weights)
    return ours.double(), theirs.double()


@pytest.mark.parametrize("size", [(96, 96), (33, 47)])
def test_fp32_logits_are_timms(twins: tuple[nn.Module, nn.Module], size: tuple[int, int]) -> None:
    ours, theirs = twins
    images = random_images(2, 3, *size)
    with torch.no_grad():
        logits, expected = ours.float()(images), timm_logits(theirs.float(), images, torch.float32)
    assert logits.dtype == torch.float32
    assert relative_error(logits, expected) < 1e-4


def test_float64_logits_and_gradients_are_timms(twins: tuple[nn.Module, nn.Module]) -> None:
    # In fp32 both implementations' gradients lie about 1e-2 from the truth at random weights, because rounding flips
    # the sign of some ReLU inputs: only float64 tells an error of the model from rounding.
    ours, theirs = twins
    images, labels = random_images(2, 3, 96, 96), torch.tensor([1, 6])
    logits, expected = ours(images), timm_logits(theirs, images, torch.float64)
    assert relative_error(logits, expected) < 1e-9
    F.cross_entropy(logits, labels).backward()
    F.cross_entropy(expected, labels).backward()
    gradients = {name.replace("head.", "head.fc."): p.grad for name, p in ours.named_parameters()}
    errors = {name: relative_error(gradients.pop(name), p.grad) for name, p in theirs.named_parameters()}
    assert not gradients
    assert {name: error for name, error in errors.items() if not error < 1e-9} == {}


@pytest.mark.parametrize(("name", "timm_name"), TIMM_NAMES.items())
def test_parameters_are_timms_at_every_size(name: str, timm_name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build_model(name, 1000), timm.create_model(timm_name, num_classes=1000)
    shapes = {parameter_name: tuple(p.shape) for parameter_name, p in theirs.named_parameters()}
    shapes["head.weight"] = shapes.pop("head.fc.weight")[:2]
    shapes["head.bias"] = shapes.pop("head.fc.bias")
    assert {parameter_name: tuple(p.shape) for parameter_name, p in ours.named_parameters()} == shapes
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(("name", "tensors", "millions"), [("r50x1", 153, 25.55), ("r152x4", 459, 936.53)])
def test_known_sizes(name: str, tensors: int, millions: float) -> None:
    with torch.device("meta"):
        parameters = list(build_model(name, 1000).parameters())
    assert len(parameters) == tensors
    assert round(sum(p.numel() for p in parameters) / 1e6, 2) == millions


def test_filters_are_standardised() -> None:
    torch.manual_seed(1)
    conv = StdConv2d(5, 8, 3, bias=False)
    with torch.no_grad():
        conv.weight.mul_(7).add_(3)
    variance, mean = torch.var_mean(filters_of(conv), dim=1, correction=0)
    torch.testing.assert_close(mean, torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(variance, torch.ones(8), atol=1e-5, rtol=0)


def test_eps_is_bits() -> None:
    torch.manual_seed(1)
    conv = StdConv2d(5, 8, 3, bias=False).double()
    with torch.no_grad():
        conv.weight.div_(conv.weight.flatten(1).std(dim=1, correction=0).view(-1, 1, 1, 1)).mul_(1e-5)
    # A variance of 1e-10 beside an eps of 1e-10 inside the square root.
    torch.testing.assert_close(filters_of(conv).var(dim=1, correction=0), torch.full((8,), 0.5, dtype=torch.float64))
    assert bit.STANDARDISATION_EPS == StdConv2d.eps == 1e-10


def test_filters_are_standardised_in_fp32_under_autocast() -> None:
    torch.manual_seed(1)
    conv = StdConv2d(5, 8, 3, bias=False)
    expected = filters_of(conv)
    with torch.autocast("cpu", torch.bfloat16):
        found = filters_of(conv)
    assert torch.equal(found, expected.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_head_is_fp32_under_autocast(dtype: torch.dtype, training: bool) -> None:
    torch.manual_seed(2)
    model, images = build_model(SMALL, 3, "fan_in").train(training), random_images(300, 1, 32, 32)
    seen: list[tuple[torch.dtype, bool]] = []
    model.head.register_forward_pre_hook(
        lambda _, inputs: seen.append((inputs[0].dtype, torch.is_autocast_enabled("cpu")))
    )
    with torch.set_grad_enabled(training), torch.autocast("cpu", dtype):
        logits = model(images)
        assert torch.is_autocast_enabled("cpu")  # for what comes after the model
        rounded = F.linear(model.features(images), model.head.weight, model.head.bias)
    assert (logits.dtype, rounded.dtype) == (torch.float32, dtype)
    assert seen == [(torch.float32, False)]
    assert [len(of_class.unique()) for of_class in logits.T] == [300] * 3
    assert min(len(of_class.unique()) for of_class in rounded.T) < 300  # so that the line before says something


def test_gradient_of_the_head_is_summed_in_fp32() -> None:
    torch.manual_seed(2)
    model, images = build_model(SMALL, 3, "fan_in"), random_images(8, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images).sum()
        expected = model.features(images).float().sum(0)
    loss.backward()
    assert relative_error(model.head.weight.grad[0], expected) < 1e-6  # rounded to bf16 it would be 1e-3


def test_head_keeps_the_weights_type() -> None:
    images = random_images(2, 3, 32, 32)
    model = build_model(SMALL, 3, "fan_in").double()
    assert model(images).dtype == torch.float64
    model.float().head = nn.Identity()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(images), model.features(images).float())
    with torch.device("meta"):
        assert build_model(SMALL, 3)(torch.empty(2, 3, 32, 32)).shape == (2, 3)


def test_inputs_of_every_form_show_the_same() -> None:
    torch.manual_seed(2)
    model, images = build_model(SMALL, 5, "fan_in"), random_images(2, 3, 32, 48)
    with torch.no_grad():
        logits = model(images)
        assert torch.equal(model(images.float()), logits)
        last = images.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(last), logits, atol=1e-5, rtol=1e-4)
        grey = images[:, :1]
        torch.testing.assert_close(model(grey), model(grey.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)


def test_head_starts_at_zero_or_fan_in() -> None:
    torch.manual_seed(4)
    images = random_images(1, 3, 33, 47)
    assert torch.equal(build_model(SMALL, 5)(images), torch.zeros(1, 5))
    model = build_model(SMALL, 100, "fan_in")
    assert model(images).abs().max() > 0.1
    assert model.head.weight.std().item() == pytest.approx(model.head.in_features**-0.5, rel=0.02)
    assert not model.head.bias.any()


def test_torchs_own_initial_weights_are_those_of_its_layers() -> None:
    """Linear and Conv2d of torch 1.9, which the authors ran, draw uniformly from +-1/sqrt(inputs), biases too."""
    torch.manual_seed(6)
    model = build_model(SMALL, 400, "torch", "torch")
    bound = model.head.in_features**-0.5
    for drawn in (model.head.weight, model.head.bias):
        assert 0.95 * bound < drawn.abs().max().item() <= bound
        assert drawn.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    for convolution in [layer for layers in model.convolutions for layer in layers]:
        inputs = convolution.weight[0].numel()
        assert convolution.weight.abs().max().item() <= inputs**-0.5
        assert convolution.weight.std().item() == pytest.approx((3 * inputs) ** -0.5, rel=0.05)


HEADS: list[HeadInit] = ["zero", "fan_in", "torch"]


@pytest.mark.parametrize("head_init", HEADS)
def test_weights_follow_the_global_seed(head_init: HeadInit) -> None:
    def drawn(seed: int, *how: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return build_model(SMALL, 5, *how).state_dict()

    first, second, zero = drawn(5, head_init), drawn(5, head_init), drawn(5, "zero")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(first[name], zero[name]) for name in first if not name.startswith("head."))
    assert torch.equal(first["head.weight"], drawn(6, head_init)["head.weight"]) == (head_init == "zero")
    assert not torch.equal(drawn(5)["stem.conv.weight"], drawn(5, "zero", "torch")["stem.conv.weight"])


def test_other_initial_weights_are_drawn_as_in_earlier_versions() -> None:
    torch.manual_seed(7)
    model = build_model(SMALL, 5, "fan_in")
    first = [weight.flatten()[0].item() for weight in (model.stem["conv"].weight, model.head.weight)]
    assert first == pytest.approx([0.192645073, 0.036754146], abs=1e-7)


def test_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown model 'r50x11'; did you mean 'r50x1'"):
        build_model("r50x11", 10)


@pytest.mark.parametrize(("in_channels", "out_channels"), [(48, 256), (64, 192)])
def test_channels_that_32_groups_do_not_divide_are_refused(in_channels: int, out_channels: int) -> None:
    with pytest.raises(ValueError, match="divisible by num_groups"):
        PreActBottleneck(in_channels, out_channels, stride=1)
