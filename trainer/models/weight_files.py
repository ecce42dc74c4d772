"""Reading weight files: tensors under the names in the file, and metadata. Nothing in them is executed."""

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json, utf8_path
from trainer.normalisation import PerChannel, require_mean, require_std

# Where exports speak of themselves: a key of the header of safetensors and of config.json.
OWN_KEY = "bitscale"
CONFIG = "config.json"
# Where training programs keep the weights in their files; averaged ones first, as timm has it.
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_WRAPPERS = re.compile(r"(module\.|_orig_mod\.)+")
_BIT_ARCHITECTURE = re.compile(r"resnetv2_\d+x\d+_bit\w*")


@dataclass(frozen=True)
class WeightMetadata:
    """Metadata of weights; empty or None where unknown.

    classes: names of the head's outputs. heads: where each set has one, the findings of each, by its name. sets: what
    they were trained on. set_digests: content digests of these sets, by name. image_size, resize (pixels) and
    eval_view: how images were cut in evaluation. channels: 1 for grey images. mean, std: of the inputs, for pixels in
    [0, 1]; if their values cannot be used, `unusable` says why. filters_times: factor by which the filters were
    multiplied at export.
    """

    classes: tuple[str, ...] = ()
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    set_digests: Mapping[str, str] = field(default_factory=dict)
    image_size: int | None = None
    resize: int | None = None
    eval_view: str | None = None
    channels: int | None = None
    mean: PerChannel | None = None
    std: PerChannel | None = None
    unusable: str = ""
    filters_times: float = 1.0

    def require_normalisation(self, remedy: str) -> None:
        """Raise InputError, with this remedy, where the mean and standard deviation are given but cannot be used."""
        if self.unusable:
            raise InputError(f"{self.unusable}; {remedy}")


def parse_metadata(raw: Mapping[str, Any], places: Mapping[str, Mapping[str, Any]]) -> WeightMetadata:
    """What is said of weights. places: what each place, by its name for people, says of mean and std; the same, unless
    one says nothing. Raises ValueError or TypeError for other values of another type."""

    def known(key: str, convert: Callable[[Any], Any]) -> Any:
        return None if raw.get(key) is None else convert(raw[key])

    times = float(raw.get("filters_times") or 1)
    if not 0 < times < float("inf"):
        raise ValueError(f"filters_times is {times}")
    return WeightMetadata(
        classes=tuple(_text(name) for name in raw.get("classes") or ()),
        heads={
            _text(head): tuple(_text(name) for name in names) for head, names in dict(raw.get("heads") or {}).items()
        },
        sets=tuple(_text(name) for name in raw.get("sets") or ()),
        set_digests={_text(name): _text(digest) for name, digest in dict(raw.get("set_digests") or {}).items()},
        image_size=known("image_size", int),
        resize=known("resize", int),
        eval_view=known("eval_view", _text),
        channels=known("channels", int),
        filters_times=times,
        **_normalisation(places),
    )


def _normalisation(places: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The mean and std of `WeightMetadata`, or what is wrong with them."""
    found: dict[str, tuple[PerChannel, PerChannel]] = {}
    for place, raw in places.items():
        mean, std = raw.get("mean"), raw.get("std")
        if mean is None and std is None:
            continue
        if mean is None or std is None:
            return {"unusable": f"{place}: {'mean' if mean is None else 'std'} is missing beside the other"}
        try:
            found[place] = _numbers(mean), _numbers(std)
            require_mean(found[place][0], f"{place}:")
            require_std(found[place][1], f"{place}:")
        except InputError as error:
            return {"unusable": str(error)}
        except (TypeError, ValueError):
            return {"unusable": f"{place}: mean {mean} and std {std} are not lists of numbers"}
    if len(set(found.values())) > 1:
        differing = [f"{place} has mean {mean} and std {std}" for place, (mean, std) in found.items()]
        return {"unusable": ", but ".join(differing)}
    return dict(zip(("mean", "std"), next(iter(found.values()), (None, None)), strict=True))


def read_weights(path: Path) -> tuple[dict[str, Tensor], WeightMetadata]:
    """The tensors of a file, and the metadata in it or in the config.json beside it. Raises InputError for a file that
    cannot be read, or that holds no weights."""
    try:
        tensors, raw = _reader_of(path)(path)
        beside, places = _beside(path)
        metadata = parse_metadata(beside | raw, {f"the header of {path}": raw} | places)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is damaged, or holds more than tensors and would have to be executed to be read. Save its state "
            f"dict alone, where it comes from ({_first_line(error)})"
        ) from error
    except Exception as error:  # on damaged files the readers raise whatever they stumble over
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {_first_line(error)}") from error
    if not tensors:
        raise InputError(f"{path} holds no weights")
    return tensors, metadata


def own_metadata(path: Path) -> dict[str, str]:
    """The header of a safetensors file, without its tensors; empty for any other file."""
    try:
        with utf8_path(path) as name, safe_open(name, framework="pt") as file:
            return file.metadata() or {}
    except Exception:  # no safetensors file: whoever reads it will say so
        return {}


def _reader_of(path: Path) -> Callable[[Path], tuple[dict[str, Tensor], dict[str, Any]]]:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return _read_safetensors
    if start[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            is_torch = any(name.endswith("/data.pkl") for name in archive.namelist())
        return _read_torch if is_torch else _read_npz
    if start[:1] == b"\x80":
        return _read_torch  # as PyTorch wrote before 1.6
    raise InputError(f"{path} is not a file of weights: neither safetensors nor .npz nor PyTorch")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with utf8_path(path) as opened, safe_open(opened, framework="pt") as file:
        raw = json.loads((file.metadata() or {}).get(OWN_KEY, "{}"))
        return {name: file.get_tensor(name) for name in file.keys()}, raw  # noqa: SIM118 - safe_open is no mapping


def _read_npz(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        names = [name for name in arrays.files if name.startswith("resnet/")]
        return {name: torch.from_numpy(arrays[name]) for name in names}, {}


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    # Training programs save their command line, too; a Namespace only holds values.
    with torch.serialization.safe_globals([argparse.Namespace]), utf8_path(path) as opened:
        content = torch.load(opened, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(opened))
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict")
    state = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content)
    return {
        _WRAPPERS.sub("", name, count=1) if _WRAPPERS.match(name) else name: tensor
        for name, tensor in state.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }, {}


def _beside(path: Path) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """What the config.json of an exported or downloaded model says, and its places of a mean and std. Raises InputError
    if it is of another network."""
    where = path.parent / CONFIG
    config = read_json(where)
    if not isinstance(config, dict):
        return {}, {}
    if OWN_KEY in config:
        raw = dict(config[OWN_KEY])
        raw.pop("filters_times", None)  # true of the file that it was written with: the file itself says it
        places: dict[str, Mapping[str, Any]] = {f"{OWN_KEY} in {where}": raw}
        if raw.get("mean") is not None:  # else timm is told a guess
            places[f"pretrained_cfg in {where}"] = config.get("pretrained_cfg", {})
        return raw, places
    if "architecture" not in config:
        return {}, {}
    architecture = _text(config["architecture"])
    if not _BIT_ARCHITECTURE.fullmatch(architecture):
        raise InputError(f"{path} holds a {architecture}, which is no BiT ResNet")
    settings = config.get("pretrained_cfg", config)
    size = settings.get("input_size")
    raw = {
        "classes": config.get("label_names") or settings.get("label_names"),
        "image_size": size[-1] if size else None,
    }
    return raw, {str(where): settings}


def _numbers(values: Any) -> Any:
    return tuple(map(float, values))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
