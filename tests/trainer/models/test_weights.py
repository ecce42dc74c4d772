"""Every format gives the same weights, what does not fit is refused by name, and a kept head keeps its meaning."""

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_weights import CLASSES, SMALL, Tensors, save_npz, save_paper, save_run, save_timm, tensors_of

from data_pipelines.common.errors import InputError
from trainer import checkpoint
from trainer.models.bit import MODELS, build_model
from trainer.models.layouts import BIT_PYTORCH, TIMM
from trainer.models.weights import Weights, describe_weights, identify, install, load_weights
from trainer.normalisation import IMAGENET_MEAN, IMAGENET_STD, PerChannel

TENSORS = tensors_of()


def save_wrapped(path: Path, tensors: Tensors) -> Path:
    """As timm's training program under DDP and torch.compile; its averaged weights count."""
    theirs = {f"module._orig_mod.{name}": tensor for name, tensor in TIMM.to_external(tensors).items()}
    blank = {name: torch.zeros_like(tensor) for name, tensor in theirs.items()}
    torch.save({"state_dict": blank, "state_dict_ema": theirs, "args": argparse.Namespace(lr=0.1), "epoch": 9}, path)
    return path


def save_old(path: Path, tensors: Tensors) -> Path:
    """As PyTorch before 1.6, by Horovod's wrapped model."""
    content = {f"module.{name}": tensor for name, tensor in BIT_PYTORCH.to_external(tensors).items()}
    torch.save({"state_dict": content}, path, _use_new_zipfile_serialization=False)
    return path


def save_state(path: Path, tensors: Tensors) -> Path:
    torch.save(tensors, path)
    return path


FILES: dict[str, Callable[[Path, Tensors], Path]] = {
    "run": save_run,
    "BiT-M-R50x1.npz": save_npz,
    "model.safetensors": save_timm,
    "chexpert_bit50x1/model.pth.tar": save_paper,
    "last.pth": save_wrapped,
    "old.tar": save_old,
    "state.pt": save_state,
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_weights(tmp_path: Path, name: str) -> None:
    source = str(FILES[name](tmp_path / name, TENSORS))
    weights = load_weights(source)
    assert weights.model_name == SMALL
    assert weights.num_classes == len(CLASSES)
    assert weights.digest == checkpoint.fingerprint(TENSORS)
    assert weights.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(weights.tensors[key], tensor) for key, tensor in TENSORS.items())
    described = describe_weights(source)
    assert (described.digest, described.model_name, described.sets) == (weights.digest, SMALL, weights.sets)
    assert described.tensors == {}


def test_what_is_known_of_weights_comes_with_them(tmp_path: Path) -> None:
    own = load_weights(str(save_run(tmp_path / "run", TENSORS)))
    assert (own.classes, own.sets, own.image_size, own.mean) == (CLASSES, ("digits",), 32, (0.5, 0.5, 0.5))
    paper = load_weights(str(save_paper(tmp_path / "imagenet1k_bit50x1" / "model.pth.tar", TENSORS).parent))
    assert (paper.classes, paper.sets, paper.std) == ((), ("imagenet1k",), (0.229, 0.224, 0.225))
    nameless = load_weights(str(save_npz(tmp_path / "some.npz", TENSORS)))
    assert (nameless.classes, nameless.sets, nameless.image_size, nameless.mean) == ((), (), None, None)


def test_timms_config_beside_a_file_is_read(tmp_path: Path) -> None:
    path = save_timm(tmp_path / "model.safetensors", TENSORS)
    settings = {"input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = {"architecture": "resnetv2_50x1_bit", "pretrained_cfg": settings, "label_names": list(CLASSES)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_weights(str(tmp_path))
    assert weights.path == path
    assert (weights.classes, weights.image_size, weights.mean, weights.std) == (
        CLASSES,
        160,
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
    )
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "resnetv2_50d"}))
    with pytest.raises(InputError, match="holds a resnetv2_50d, which is no BiT ResNet"):
        load_weights(str(path))
    (tmp_path / "config.json").write_text(json.dumps(config | {"label_names": list(CLASSES[:2])}))
    assert load_weights(str(path)).classes == ()


def test_a_factor_counts_only_in_the_file_that_has_it(tmp_path: Path) -> None:
    path, header = save_timm(tmp_path / "model.safetensors", TENSORS), {"filters_times": 10}
    (tmp_path / "config.json").write_text(json.dumps({"bitscale": header}))  # left behind by an export since replaced
    assert load_weights(str(path)).digest == checkpoint.fingerprint(TENSORS)
    save_file(TIMM.to_external(TENSORS), path, metadata={"bitscale": json.dumps(header)})
    filters = load_weights(str(path)).tensors["stem.conv.weight"]
    torch.testing.assert_close(filters, TENSORS["stem.conv.weight"] / 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    path = save_state(tmp_path / "half.pt", {name: tensor.to(dtype) for name, tensor in TENSORS.items()})
    weights = load_weights(str(path))
    assert {tensor.dtype for tensor in weights.tensors.values()} == {torch.float32}
    torch.testing.assert_close(weights.tensors["head.weight"], TENSORS["head.weight"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("num_classes", [0, 2])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_known_by_its_shapes(name: str, num_classes: int) -> None:
    with torch.device("meta"):
        tensors = build_model(name, max(num_classes, 1)).state_dict()
    kept = {key: tensor for key, tensor in tensors.items() if num_classes or not key.startswith("head.")}
    assert identify(kept, Path("x")) == name


def changed(**changes: torch.Tensor | None) -> Tensors:
    tensors: dict[str, Any] = TENSORS | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


WRONG: list[tuple[Any, str]] = [
    ({}, "holds no weights"),
    ({"epoch": 3}, "holds no weights"),
    ([torch.zeros(1)], "holds a list, not a state dict"),
    ({"conv1.weight": torch.zeros(1)}, "holds no BiT ResNet: none of resnet/root.* it has conv1.weight"),
    (changed(norm__bias=None), r"differs from r14x0.5 in 1 tensors: norm.bias is missing$"),
    (changed(norm__running_mean=torch.zeros(3)), "in 1 tensors: norm.running_mean is unknown"),
    (
        changed(norm__bias=torch.zeros(7), norm__weight=torch.zeros(2, 2)),
        "in 2 tensors: norm.bias is 7, not 1024; norm.weight is 2x2, not 1024",
    ),
    ({name: t for name, t in TENSORS.items() if "norm" not in name}, "in 26 tensors: .* is missing; and 21 more"),
    (changed(stages__2__blocks__0__conv1__weight=None), r"units .* if it is one of them, its file is not whole"),
    (
        changed(stem__conv__weight=torch.zeros(96, 3, 7, 7)),
        r"\(1, 1, 1, 1\) units and width 1.5, which is none of r50x1",
    ),
    (changed(stem__conv__weight=torch.tensor(1.0)), "width 0, which is none of"),
    (changed(norm__bias=torch.full((1024,), torch.nan)), "weights that are not finite: norm.bias"),
    (changed(norm__bias=torch.zeros(1024, dtype=torch.int64)), "not floating point: norm.bias"),
    (changed(head__weight=None), "in 1 tensors: head.bias is unknown"),
    (changed(head__bias=None), "in 1 tensors: head.bias is missing"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_what_does_not_fit_is_refused_with_what_differs(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(InputError, match=f"wrong.pt .*{message}"):
        load_weights(str(tmp_path / "wrong.pt"))


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pt", "old.pt", "npz"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, kind: str) -> None:
    path, trace = tmp_path / f"harm.{kind}", tmp_path / "executed"
    if kind == "npz":
        np.savez(path, **{"resnet/root_block/standardized_conv2d/kernel": np.array([Harm(trace)], dtype=object)})
    else:
        torch.save({"model": Harm(trace)}, path, _use_new_zipfile_serialization=kind == "pt")
    with pytest.raises(InputError, match=f"{path}"):
        load_weights(str(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04", pickle.dumps({"a": 1}, protocol=2), b"\x80"]
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}"):
        load_weights(str(path))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_truncated_files_are_refused_by_name(tmp_path: Path, name: str, share: float) -> None:
    path = FILES[name](tmp_path / name, TENSORS)
    path = path / "checkpoints" / "best.safetensors" if path.is_dir() else path
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=f"{path}"):
        load_weights(str(path))


def weights_with(tensors: Tensors = TENSORS, **about: Any) -> Weights:
    known: dict[str, Any] = {"path": Path("w.pt"), "model_name": SMALL, "tensors": tensors, "digest": "1"}
    return Weights(**known | {"classes": CLASSES} | about)


def test_without_keeping_it_the_head_stays_new() -> None:
    model = build_model(SMALL, 5)
    assert install(weights_with(), model, SMALL, list("abcde"), keep_head=False) == []
    state = model.state_dict()
    assert not state["head.weight"].any()
    assert all(torch.equal(state[name], TENSORS[name]) for name in state if not name.startswith("head."))


def test_a_kept_head_is_brought_into_the_order_of_the_classes() -> None:
    model, classes = build_model(SMALL, 3), ("fish", "cat", "dog")
    assert install(weights_with(), model, SMALL, classes, keep_head=True) == []
    rows = [CLASSES.index(name) for name in classes]
    assert torch.equal(model.head.weight, TENSORS["head.weight"][rows])
    assert torch.equal(model.head.bias, TENSORS["head.bias"][rows])


def test_a_kept_head_without_names_is_warned_about() -> None:
    model = build_model(SMALL, 3)
    warnings = install(weights_with(classes=()), model, SMALL, ("a", "b", "c"), keep_head=True)
    assert len(warnings) == 1
    assert "does not name its classes" in warnings[0]
    assert torch.equal(model.head.weight, TENSORS["head.weight"])


@pytest.mark.parametrize(
    ("weights", "classes", "message"),
    [
        (weights_with(), ("cat", "dog"), "has 3 outputs, the data have 2 classes"),
        (weights_with(), ("cat", "dog", "cow"), "lacks 1 of the 3 classes: cow; its own are cat, dog, fish"),
        (weights_with(changed(head__weight=None, head__bias=None)), CLASSES, "has no head to keep"),
    ],
)
def test_heads_that_cannot_be_kept_are_refused(weights: Weights, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=rf"{message}.*--(model\.)?keep-head"):
        install(weights, build_model(SMALL, len(classes)), SMALL, classes, keep_head=True)


def test_another_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"holds a r14x0.5, not a r26x1; take --model r14x0.5"):
        install(weights_with(), build_model("r26x1", 3), "r26x1", CLASSES, keep_head=False)


def test_other_normalisation_is_warned_about() -> None:
    def warnings(**normalisation: PerChannel) -> list[str]:
        model = build_model(SMALL, 3, **normalisation)
        return install(weights_with(mean=IMAGENET_MEAN, std=IMAGENET_STD), model, SMALL, CLASSES, keep_head=False)

    assert warnings(mean=IMAGENET_MEAN, std=IMAGENET_STD) == []
    assert "mean (0.485, 0.456, 0.406)" in warnings()[0]
