"""A model normalises its images by its own mean and standard deviation, wherever and in whatever type it computes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_weights import CLASSES, SMALL, save_npz, save_run, save_timm, tensors_of
from torch import Tensor

from data_pipelines.common.errors import InputError
from trainer.config import ModelConfig
from trainer.models.bit import BiTResNet, build_model
from trainer.models.export_weights import Export, export
from trainer.models.layouts import TIMM
from trainer.models.weights import describe_weights, install, load_weights
from trainer.normalisation import BIT_MEAN, BIT_STD, IMAGENET_MEAN, IMAGENET_STD
from trainer.training.job import normalised

TENSORS = tensors_of()
IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def images_of(channels: int) -> Tensor:
    """As loaders hand them out: uint8 [N, C, H, W], a view of NHWC."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (2, 32, 40, channels), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def model_of(**options: Any) -> BiTResNet:
    model = build_model(SMALL, len(CLASSES), **options)
    model.load_state_dict(TENSORS)
    return model.eval()


def seen_by_stem(model: BiTResNet, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    with torch.no_grad(), model.stem["conv"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        model(images)
    return seen[0]


def expected(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    shares = images.to(torch.float64).expand(-1, 3, -1, -1) / 255
    columns = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std))
    return ((shares - next(columns)) / next(columns)).to(dtype)


@pytest.mark.parametrize("channels", [1, 3])
def test_by_default_nothing_changes_by_a_bit(channels: int) -> None:
    images = images_of(channels)
    for model in (model_of(), model_of(mean=BIT_MEAN, std=BIT_STD)):
        assert torch.equal(seen_by_stem(model, images), ((images.float() - 127.5) / 127.5).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize(
    ("mean", "std"),
    [(IMAGENET_MEAN, IMAGENET_STD), ((0.1, 0.1, 0.1), (0.3, 0.3, 0.3)), (BIT_MEAN, IMAGENET_STD)],
)
def test_each_channel_has_its_mean_and_deviation(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, tolerance: float, channels: int
) -> None:
    seen = seen_by_stem(model_of(mean=mean, std=std).to(dtype), images_of(channels))
    torch.testing.assert_close(
        seen, expected(images_of(channels), mean, std, dtype), atol=tolerance * 10, rtol=tolerance
    )
    assert seen.is_contiguous(memory_format=torch.channels_last)


def test_it_is_no_weight_and_ranks_do_not_exchange_it() -> None:
    model = model_of(**IMAGENET)
    assert model.state_dict().keys() == TENSORS.keys()
    assert (
        list(model.buffers()) == []
    )  # DDP sends them around in every forward pass, also where ranks make unequal many


def test_a_model_that_leaves_the_meta_device_has_it() -> None:
    with torch.device("meta"):
        model = build_model(SMALL, len(CLASSES), **IMAGENET)
    model.to_empty(device="cpu").load_state_dict(TENSORS)
    with torch.no_grad():
        assert torch.equal(model.eval()(images_of(3)), model_of(**IMAGENET)(images_of(3)))


def test_under_autocast_images_are_normalised_in_fp32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        seen = seen_by_stem(model_of(**IMAGENET), images_of(3))
    torch.testing.assert_close(seen, expected(images_of(3), **IMAGENET, dtype=torch.float32))


@pytest.mark.slow
def test_exported_and_compiled_programs_normalise_alike() -> None:
    model = model_of(**IMAGENET)
    with torch.no_grad():
        eager = model(images_of(3))
        exported = torch.export.export(model, (images_of(3),)).module()(images_of(3))
        compiled = torch.compile(model._normalised, backend="eager", fullgraph=True)(images_of(3))
    torch.testing.assert_close(exported, eager)
    assert torch.equal(compiled, model._normalised(images_of(3)))


BAD: dict[str, tuple[Any, Any, str]] = {
    "one mean": ([0.5], [0.5] * 3, r"mean is 0\.5; it must be three numbers"),
    "four deviations": ([0.5] * 3, [0.5] * 4, r"std is .*; it must be three numbers"),
    "no numbers": ([], [0.5] * 3, "mean is empty"),
    "std of 0": ([0.5] * 3, [0.5, 0.0, 0.5], r"std is 0\.5, 0, 0\.5; it must lie above 0"),
    "negative std": ([0.5] * 3, [0.5, -0.1, 0.5], "it must lie above 0"),
    "not a number": ([0.5, float("nan"), 0.5], [0.5] * 3, "mean is .*nan.* must be numbers"),
    "of bytes": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], "to be divided by 255"),
    "std of bytes": ([0.485, 0.456, 0.406], [58.395, 57.12, 57.375], "std is 58.* to be divided by 255"),
    "negative mean": ([-0.1, 0.5, 0.5], [0.5] * 3, r"it must lie in 0 to 1"),
    "mean alone": ([0.5] * 3, None, "std is missing"),
    "std alone": (None, [0.5] * 3, "mean is missing"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("place", ["header", "timm's config", "config beside npz"])
def test_files_by_which_no_image_can_be_normalised_are_refused(tmp_path: Path, name: str, place: str) -> None:
    mean, std, message = BAD[name]
    metadata = {"mean": mean, "std": std}
    if place == "header":
        path = tmp_path / "model.safetensors"
        save_file(TIMM.to_external(TENSORS), path, metadata={"bitscale": json.dumps(metadata)})
    elif place == "timm's config":
        path = save_timm(tmp_path / "model.safetensors", TENSORS)
        config: dict[str, Any] = {"architecture": "resnetv2_50x1_bit", "pretrained_cfg": metadata}
        (tmp_path / "config.json").write_text(json.dumps(config))
    else:
        path = save_npz(tmp_path / "model.npz", TENSORS)
        (tmp_path / "config.json").write_text(json.dumps({"bitscale": metadata}))
    place = f"the header of {path}" if place == "header" else str(tmp_path / "config.json")
    config = ModelConfig(SMALL, pretrained=str(path))
    with pytest.raises(InputError, match=message) as refusal:
        normalised(config, tmp_path / "run")
    assert f"{place}: " in str(refusal.value)
    assert "--model.mean and --model.std" in str(refusal.value)
    with pytest.raises(InputError, match=message):
        export(Export(str(path), tmp_path / "out"))
    # As the refusal says.
    config = replace(config, **IMAGENET)
    assert normalised(config, tmp_path / "run") == config
    model = build_model(SMALL, len(CLASSES), **IMAGENET)
    assert install(load_weights(str(path)), model, SMALL, CLASSES, keep_head=False) == []


@pytest.mark.parametrize("changed", ["bitscale", "pretrained_cfg"])
@pytest.mark.parametrize(
    ("mean", "message"), [([0.1, 0.2, 0.3], r"mean \(0\.1, 0\.2, 0\.3\)"), ([0.5], "must be three")]
)
def test_a_config_that_contradicts_its_export_is_refused(
    tmp_path: Path, changed: str, mean: list[float], message: str
) -> None:
    export(Export(str(save_run(tmp_path / "run", TENSORS, **IMAGENET)), tmp_path / "out"))
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    describe_weights(str(tmp_path / "out")).require_normalisation("")
    config[changed]["mean"] = mean
    path.write_text(json.dumps(config))
    weights = load_weights(str(tmp_path / "out"))
    assert (weights.mean, weights.std) == (None, None)
    with pytest.raises(InputError, match=message) as refusal:
        weights.require_normalisation("")
    assert f"{changed} in {path}" in str(refusal.value)


def test_checkpoints_say_theirs_and_earlier_ones_had_a_half(tmp_path: Path) -> None:
    for load in (load_weights, describe_weights):
        new = load(str(save_run(tmp_path / "new", TENSORS, mean=IMAGENET_MEAN, std=IMAGENET_STD)))
        assert (new.mean, new.std) == (IMAGENET_MEAN, IMAGENET_STD)
        old = load(str(save_run(tmp_path / "imagenet1k_bit50x1", TENSORS)))
        assert (old.mean, old.std) == (BIT_MEAN, BIT_STD)
    bad = save_run(tmp_path / "bad", TENSORS, mean=[0.5], std=[0.5])
    assert "must be three numbers" in describe_weights(str(bad)).unusable


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mean": (123.675, 116.28, 103.53)}, r"--model\.mean: mean is 123\.675, 116\.28, 103\.53.*divided by 255"),
        ({"std": (0.2, 0.0, 0.2)}, r"--model\.std: std is 0\.2, 0, 0\.2; it must lie above 0"),
    ],
)
def test_impossible_flags_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelConfig(SMALL, **flags)
