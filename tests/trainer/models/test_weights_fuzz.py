"""Damaged files of every format end in an InputError, or in weights when the damage is where nothing is read."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_weights import Tensors, save_npz, save_paper, save_run, save_timm, tensors_of

from data_pipelines.common.errors import InputError
from trainer.models.weights import describe_weights, load_weights

_TENSORS = {name: tensor[:1] if tensor.ndim == 4 else tensor[:2] for name, tensor in tensors_of().items()}
_EACH = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def save_old(path: Path, tensors: Tensors) -> Path:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


def in_checkpoint(path: Path, tensors: Tensors) -> Path:
    return save_run(path, tensors) / "checkpoints" / "best.safetensors"


FILES: list[Callable[[Path, Tensors], Path]] = [save_npz, save_timm, save_paper, save_old, in_checkpoint]


@pytest.mark.slow
@pytest.mark.parametrize("save", FILES)
def test_damaged_bytes_are_an_input_error_or_harmless(tmp_path: Path, save: Callable[[Path, Tensors], Path]) -> None:
    whole = save(tmp_path / "whole.npz", _TENSORS).read_bytes()
    path = tmp_path / "damaged"
    # Headers, directories and pickles are printable or at the ends; the tensors between them are mostly not.
    text = [i for i, byte in enumerate(whole) if 31 < byte < 127]
    places = st.one_of(st.integers(0, len(whole) - 1), st.integers(0, 4000), st.sampled_from(text))

    @_EACH
    @given(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
    def damaged(changes: list[tuple[int, int]], is_cut: bool) -> None:
        content = bytearray(whole)
        for place, value in changes:
            content[min(place, len(whole) - 1)] = value
        path.write_bytes(content[: changes[0][0]] if is_cut else content)
        for read in (load_weights, describe_weights):
            _only_input_errors(read, str(path))

    damaged()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["architecture", "pretrained_cfg", "label_names", "bitscale"])
ABOUT = [
    "model",
    "weights",
    "classes",
    "sets",
    "set_digests",
    "image_size",
    "mean",
    "std",
    "filters_times",
    "channels",
    "resize",
]


@_EACH
@given(content=st.dictionaries(KEYS, JSON | st.dictionaries(st.sampled_from([*ABOUT, "input_size"]), JSON)))
@pytest.mark.slow
def test_any_config_beside_a_file_is_an_input_error_or_harmless(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    path = tmp_path / "model.npz"
    if not path.exists():
        np.savez(path, **{"resnet/root_block/standardized_conv2d/kernel": np.zeros((1, 1, 1, 1), np.float32)})
    _only_input_errors(load_weights, str(path))


def _only_input_errors(read: Callable[[str], object], source: str) -> None:
    with suppress(InputError):
        read(source)
