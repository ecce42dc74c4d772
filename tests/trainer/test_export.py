"""Exports load in timm and agree, come back to the same weights, and are whole or absent."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from tiny_weights import CLASSES, Tensors, save_npz, save_paper, save_run, save_timm, tensors_of
from torch import Tensor, nn

from data_pipelines.common.errors import InputError
from trainer.export import main
from trainer.models import export_weights
from trainer.models.bit import MODELS, build_model
from trainer.models.export_weights import Export, export
from trainer.models.layouts import TIMM, is_filter
from trainer.models.timm_folder import ARCHITECTURES
from trainer.models.weights import load_weights

TENSORS = tensors_of()
NARROWEST = 0.5  # GroupNorm has 32 groups
DIGESTS = {"digits": "0123456789abcdef"}
IMAGES = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def our_logits(name: str, tensors: Tensors) -> Tensor:
    model = build_model(name, len(tensors["head.bias"]))
    model.load_state_dict(tensors)
    with torch.no_grad():
        return model.eval()(IMAGES)


def timm_logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()((IMAGES - 127.5) / 127.5)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A run of r50x1 with filters so small, a variance of about 1e-9, that an epsilon shows; and its logits.

    A copy of it takes 100 MB: what a test has compared is freed before it loads more.
    """
    tensors = {name: tensor * 1e-3 if is_filter(name) else tensor for name, tensor in tensors_of("r50x1").items()}
    folder = tmp_path_factory.mktemp("large") / "run"
    return save_run(folder, tensors, "r50x1", set_digests=DIGESTS), our_logits("r50x1", tensors)


def error_of_timms(folder: Path, expected: Tensor) -> float:
    """How far the logits of a folder's model in timm are from ours."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert model.pretrained_cfg["label_names"] == list(CLASSES)
    return relative_error(timm_logits(model), expected)


def largest_change(run: Path, exported: Path) -> float:
    """Of any weight, relative to it."""
    before, after = load_weights(str(run)).tensors, load_weights(str(exported)).tensors
    assert before.keys() == after.keys()
    return max(((after[name] - t).abs() / t.abs().clamp(min=1e-30)).max().item() for name, t in before.items())


@pytest.mark.slow
def test_timm_loads_and_agrees(large: tuple[Path, Tensor], tmp_path: Path) -> None:
    run, expected = large
    export(Export(str(run), tmp_path / "exact"))
    assert error_of_timms(tmp_path / "exact", expected) < 1e-5
    assert largest_change(run, tmp_path / "exact") <= 2e-7  # 10 times and a tenth: rounded twice
    back = load_weights(str(tmp_path / "exact"))
    assert (back.classes, back.sets, back.image_size, back.model_name) == (CLASSES, ("digits",), 32, "r50x1")
    assert back.set_digests == DIGESTS


@pytest.mark.slow
def test_filters_as_stored_are_not_timms(large: tuple[Path, Tensor], tmp_path: Path) -> None:
    run, expected = large
    export(Export(str(run), tmp_path / "raw", as_stored=True))
    assert error_of_timms(tmp_path / "raw", expected) > 1e-2  # what the factor makes up for
    assert load_weights(str(tmp_path / "raw")).digest == load_weights(str(run)).digest
    assert largest_change(run, tmp_path / "raw") == 0


@pytest.mark.slow
def test_timm_reads_the_npz_and_agrees(large: tuple[Path, Tensor], tmp_path: Path) -> None:
    run, expected = large
    export(Export(str(run), tmp_path / "npz", format="npz"))
    path = tmp_path / "npz" / "model.npz"
    model = timm.create_model("resnetv2_50x1_bit", num_classes=len(CLASSES), checkpoint_path=str(path))
    for part in model.modules():
        if hasattr(part, "eps") and isinstance(part, nn.Conv2d):
            part.eps = 1e-10
    assert relative_error(timm_logits(model), expected) < 1e-5
    del model
    back = load_weights(str(tmp_path / "npz"))
    assert back.digest == load_weights(str(run)).digest
    assert (back.classes, back.sets, back.set_digests) == (CLASSES, ("digits",), DIGESTS)
    del back
    assert largest_change(run, tmp_path / "npz") == 0


@pytest.mark.parametrize("name", sorted(MODELS.keys() - ARCHITECTURES.keys()))
def test_sizes_without_a_timm_name_are_built_from_arguments(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a narrow form, which takes less memory; what float32 rounds adds up over the units."""
    units, _ = MODELS[name]
    monkeypatch.setitem(MODELS, name, (units, NARROWEST))
    rounding = 2.5e-6 * sum(units)
    tensors = tensors_of(name)
    notes = export(Export(str(save_run(tmp_path / "run", tensors, name)), tmp_path / "out"))
    assert any(f"cannot build a {name}" in note for note in notes)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    expected = our_logits(name, tensors)
    assert relative_error(timm_logits(model), expected) < rounding
    back = load_weights(str(tmp_path / "out"))
    assert back.model_name == name
    assert relative_error(our_logits(name, back.tensors), expected) < rounding
    with pytest.raises(InputError, match=f"cannot build a {name} from filters as they are"):
        export(Export(str(tmp_path / "run"), tmp_path / "raw", as_stored=True))


@pytest.mark.slow
def test_every_architecture_is_timms(tmp_path: Path) -> None:
    for name, architecture in ARCHITECTURES.items():
        with torch.device("meta"):
            ours = TIMM.to_external(build_model(name, 3).state_dict())
            theirs = timm.create_model(architecture, num_classes=3).state_dict()
        assert {key: t.shape for key, t in ours.items()} == {key: t.shape for key, t in theirs.items()}


def transforms_of(folder: Path) -> list[str]:
    model = timm.create_model(f"local-dir:{folder}")
    return [str(step) for step in create_transform(**resolve_model_data_config(model)).transforms]


@pytest.mark.parametrize(
    ("about", "steps"),
    [
        ({"eval_view": "center_crop", "resize": 36}, ["Resize(size=36, ", "CenterCrop(size=[32, 32])"]),
        (
            {"eval_view": "center_crop", "image_size": 224, "resize": 256},
            ["Resize(size=256, ", "CenterCrop(size=[224, 224])"],
        ),
        (
            {"eval_view": "center_crop", "image_size": 224, "resize": 354},
            ["Resize(size=354, ", "CenterCrop(size=[224, 224])"],
        ),
        ({"eval_view": "squash", "resize": 36}, ["Resize(size=(32, 32), ", "CenterCrop(size=[32, 32])"]),
    ],
)
def test_timm_prepares_images_as_our_evaluation_does(tmp_path: Path, about: dict[str, Any], steps: list[str]) -> None:
    export(Export(str(save_run(tmp_path / "run", TENSORS, **about)), tmp_path / "out"))
    found = transforms_of(tmp_path / "out")
    assert [line[: len(step)] for line, step in zip(found, steps, strict=False)] == steps
    assert "interpolation=bilinear" in found[0]
    assert "mean=tensor([0.5000, 0.5000, 0.5000]), std=tensor([0.5000, 0.5000, 0.5000])" in found[-1]


def test_the_papers_normalisation_goes_with_its_weights(tmp_path: Path) -> None:
    path = save_paper(tmp_path / "imagenet1k_bit50x1" / "model.pth.tar", TENSORS)
    export(Export(str(path), tmp_path / "out"))
    assert "mean=tensor([0.4850, 0.4560, 0.4060]), std=tensor([0.2290" in transforms_of(tmp_path / "out")[-1]


def test_grey_models_and_unknown_facts_are_said(tmp_path: Path) -> None:
    notes = export(Export(str(save_run(tmp_path / "grey", TENSORS, channels=1)), tmp_path / "a"))
    assert any("grey" in note for note in notes)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["pretrained_cfg"]["notes"] == notes
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    notes = export(Export(str(save_npz(tmp_path / "some.npz", TENSORS)), tmp_path / "b"))
    assert sum("not known" in note for note in notes) == 3
    assert "label_names" not in json.loads((tmp_path / "b" / "config.json").read_text())


def test_any_source_can_be_exported_but_one_without_a_head(tmp_path: Path) -> None:
    headless = {name: tensor for name, tensor in TENSORS.items() if not name.startswith("head.")}
    with pytest.raises(InputError, match="has no head"):
        export(Export(str(save_timm(tmp_path / "headless.safetensors", headless)), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_export_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = save_run(tmp_path / "run", TENSORS), tmp_path / "deep" / "out"
    export(Export(str(run), out))
    assert sorted(os.listdir(out)) == ["config.json", "model.safetensors"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match="holds an earlier export; replace it with --force"):
        export(Export(str(run), out))

    def fill_the_disk(tensors: Any, path: str, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export_weights, "save_file", fill_the_disk)
        for settings in (Export(str(run), out, force=True), Export(str(run), tmp_path / "other")):
            with pytest.raises(InputError, match=r"cannot be written .*no space left"):
                export(settings)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["deep", "run"]
    out.rename(out.with_name(".out.old"))  # killed between the two renamings
    with pytest.raises(InputError, match="holds an earlier export"):
        export(Export(str(run), out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    export(Export(str(run), out, format="npz", force=True))
    assert sorted(os.listdir(out)) == ["config.json", "model.npz"]
    assert os.listdir(out.parent) == ["out"]


def test_folders_of_other_things_are_never_replaced(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", TENSORS)
    with pytest.raises(InputError, match=r"holds other things .*checkpoints"):
        export(Export(str(run), run, force=True))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        export(Export(str(run), tmp_path / "file", force=True))
    (tmp_path / "empty").mkdir()
    export(Export(str(run), tmp_path / "empty"))


def test_the_command_says_how_to_load_or_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = save_run(tmp_path / "run", TENSORS), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["export.py", str(run), "--out", str(out)])
    main()
    assert f'timm.create_model("local-dir:{out}", pretrained=True)' in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"error: {out} holds an earlier export" in capsys.readouterr().err
