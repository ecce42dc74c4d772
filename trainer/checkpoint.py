"""Checkpoints: one safetensors file each, the same for every engine and number of ranks, written atomically.

Tensors are named `model.<parameter>` and `momentum.<parameter>`; the rest is JSON in the file's header. Nothing in them
is executed on loading.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_pipelines.errors import InputError
from trainer.files import write_atomically

FAMILY = "bitscale checkpoint"
FORMAT = f"{FAMILY} 1"
FOLDER = "checkpoints"
BEST = "best.safetensors"
_LENGTH_BYTES, _COPIED_BYTES = 8, 1 << 24  # of a safetensors file: its length goes before its header
_NAME = re.compile(r"step_(\d{8})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: an engine's state, and `about`: step, model, classes, best metric ..."""

    state: dict[str, Any]
    about: dict[str, Any]


def save(path: Path, state: dict[str, Any], about: dict[str, Any]) -> None:
    """Write a checkpoint so that it is either absent or whole. Raises OSError."""
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part in ("model", "momentum")
        for name, tensor in state[part].items()
    }
    weights = {name: tensors[f"model.{name}"] for name in state["model"]}
    about = about | {"weights": fingerprint(weights)}
    header = {"format": FORMAT, "loss_scaler": json.dumps(state["loss_scaler"]), "about": json.dumps(about)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".*.tmp"):  # by a start that was killed while it saved
        left.unlink()
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A short name for weights, from their names, shapes and bytes: equal weights have equal ones on any machine."""

    def digest(name: str) -> bytes:
        tensor = weights[name].detach().cpu().contiguous()
        hashed = hashlib.sha256(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        hashed.update(tensor.view(-1).view(torch.uint8).numpy().data)
        return hashed.digest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        return hashlib.sha256(b"".join(pool.map(digest, sorted(weights)))).hexdigest()[:16]


def load(path: Path, parts: Sequence[str] = ("model", "momentum")) -> Checkpoint:
    """Read a checkpoint, or parts of its state, to the CPU. Raises InputError for a file that is no whole checkpoint of
    this format."""
    with _opened(path) as (file, header):
        state: dict[str, Any] = {"model": {}, "momentum": {}, "loss_scaler": json.loads(header["loss_scaler"])}
        for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
            part, _, parameter = name.partition(".")
            tensors = state[part]
            if part in parts:
                tensors[parameter] = file.get_tensor(name)
        return Checkpoint(state, _about(header))


def describe(path: Path) -> dict[str, Any]:
    """What a checkpoint says `about` itself, without reading its tensors. Raises InputError as `load` does."""
    with _opened(path) as (_, header):
        return _about(header)


def add(path: Path, **facts: Any) -> None:
    """Let a checkpoint say more `about` itself; its tensors stay as they are. Raises InputError as `load` does, and
    OSError."""
    with _opened(path) as (_, header):
        about = _about(header) | facts
    with path.open("rb") as file:
        content = json.loads(file.read(int.from_bytes(file.read(_LENGTH_BYTES), "little")))
        content["__metadata__"]["about"] = json.dumps(about)
        described = json.dumps(content).encode()
        described += b" " * (-len(described) % _LENGTH_BYTES)  # tensors are to lie aligned

        def write(temporary: Path) -> None:
            with temporary.open("wb") as copy:
                copy.write(len(described).to_bytes(_LENGTH_BYTES, "little") + described)
                shutil.copyfileobj(file, copy, _COPIED_BYTES)

        write_atomically(path, write)


def _about(header: dict[str, str]) -> dict[str, Any]:
    about = json.loads(header["about"])
    if not isinstance(about, dict):
        raise ValueError("its description is no mapping")
    return about


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                found = header.get("format")
                raise InputError(f"{path} is no checkpoint of this version: its format is {found!r}, not {FORMAT!r}")
            yield file, header
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no whole checkpoint ({error}); delete it to go on from an older one") from error


def numbered(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, the best one's copy aside."""
    folder = run_dir / FOLDER
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def step_of(path: Path) -> int:
    """The updates done at a numbered checkpoint."""
    return int(path.stem.removeprefix("step_"))


def path_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates lies."""
    return run_dir / FOLDER / f"step_{step:08d}.safetensors"


def chosen(run: Path) -> Path:
    """The weights to use of a run: the best on val, or the last without one; or the path itself if it is a file.

    Raises InputError when there are none.
    """
    if run.is_file():
        return run
    best = run / FOLDER / BEST
    candidates = [best] if best.is_file() else numbered(run)[-1:]
    if not candidates:
        raise InputError(f"{run} is neither a checkpoint nor a run folder with one ({run / FOLDER} has none)")
    return candidates[0]


def prune(run_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` numbered checkpoints."""
    for path in numbered(run_dir)[:-keep]:
        path.unlink()
