"""Checkpoints: one safetensors file each, the same for every engine and number of ranks, written atomically.

Tensors are named `model.<parameter>` and `momentum.<parameter>`; the rest is JSON in the file's header. Nothing in them
is executed on loading. The header is the file's manifest, too: a digest of every tensor and of the header itself. It is
written last, and a file that does not fit it does not count. Files of earlier versions have no digests and load as they
are.
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
from torch import Tensor

from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import utf8_path, write_atomically
from trainer.run_files import CHECKPOINTS, meant_instead

FAMILY = "bitscale checkpoint"
FORMAT = f"{FAMILY} 1"
BEST = "best.safetensors"
LATEST = "latest"
"""Holds the name of the newest checkpoint, for people and other programs."""
_DAMAGED = ".damaged"
_LENGTH_BYTES, _COPIED_BYTES = 8, 1 << 24  # of a safetensors file: its length goes before its header
_NAME = re.compile(r"step_(\d{8})\.safetensors")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TORCH = {name: dtype for dtype, name in _DTYPES.items()}


class DamagedError(InputError):
    """A file that is not a whole checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a file: an engine's state, and its metadata: step, model, classes, for the best one its metric ..."""

    state: dict[str, Any]
    metadata: dict[str, Any]


def save(path: Path, state: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write a checkpoint atomically. Raises OSError."""
    tensors = {f"{part}.{name}": tensor for part in ("model", "momentum") for name, tensor in state[part].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in unfinished(path.parent):
        left.unlink(missing_ok=True)
    texts = {"format": FORMAT, "loss_scaler": json.dumps(state["loss_scaler"])}
    write_atomically(path, lambda temporary: _write(temporary, tensors, texts, metadata))


def unfinished(folder: Path) -> list[Path]:
    """Leftovers of a start that was killed while saving; the next `save` there deletes them."""
    return list(folder.glob(".*.tmp"))


def _write(path: Path, tensors: Mapping[str, Tensor], texts: dict[str, str], metadata: dict[str, Any]) -> None:
    # Not safetensors' own writer: it copies all tensors at once, and holds up the thread that trains while it does.
    entries, at = {}, 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):  # so that all lie aligned
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end

    def header(digests: Mapping[str, bytes]) -> bytes:
        known = metadata | {"weights": _short(digests[name] for name in sorted(digests) if name.startswith("model."))}
        shown = {name: digest.hex() for name, digest in digests.items()}
        return _encoded(_with_checksum(texts | {"about": json.dumps(known), "digests": json.dumps(shown)}), entries)

    digests = dict.fromkeys(entries, bytes(hashlib.sha256().digest_size))
    with path.open("wb") as file, ThreadPoolExecutor(1) as beside:
        file.seek(len(header(digests)))
        for name in entries:
            tensor = tensors[name].detach().cpu().contiguous()
            hashed = beside.submit(_digest, name.partition(".")[2], tensor)
            file.write(_bytes_of(tensor))
            digests[name] = hashed.result()
        file.seek(0)
        file.write(header(digests))


def _encoded(texts: Mapping[str, str], entries: Mapping[str, Any]) -> bytes:
    """The beginning of a safetensors file."""
    described = json.dumps({"__metadata__": texts, **entries}).encode()
    described += b" " * (-len(described) % _LENGTH_BYTES)  # tensors are to lie aligned
    return len(described).to_bytes(_LENGTH_BYTES, "little") + described


def _with_checksum(texts: dict[str, str]) -> dict[str, str]:
    """The entries of a header, with a digest of them all."""
    texts = {name: text for name, text in texts.items() if name != "seal"}
    return texts | {"seal": hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()}


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    view: memoryview = tensor.view(-1).view(torch.uint8).numpy().data
    return view


def _digest(name: str, tensor: Tensor) -> bytes:
    tensor = tensor.detach().cpu().contiguous()
    hashed = hashlib.sha256(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    hashed.update(_bytes_of(tensor))
    return hashed.digest()


def _short(digests: Iterator[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, num_usable_cpus()))  # reading and hashing let other threads run


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A short name for weights, from their names, shapes and bytes: equal weights have equal ones on any machine."""
    with _threads() as pool:
        return _short(pool.map(lambda name: _digest(name, weights[name]), sorted(weights)))


def load(path: Path, parts: Sequence[str] = ("model", "momentum")) -> Checkpoint:
    """Read a checkpoint, or parts of its state, to the CPU, and verify what is read.

    Raises DamagedError for a file that is not a whole checkpoint, InputError for one of another format.
    """
    with _opened(path) as (file, content):
        header = content["__metadata__"]
        digests = json.loads(header["digests"]) if "digests" in header else None
        if digests is not None and digests.keys() != content.keys() - {"__metadata__"}:
            raise ValueError("its manifest names other tensors")
        state: dict[str, Any] = {"model": {}, "momentum": {}, "loss_scaler": json.loads(header["loss_scaler"])}
        start = file.tell()

        def read(name: str) -> Tensor:
            tensor = _read(file.fileno(), start, content[name])
            if digests is not None and _digest(name.partition(".")[2], tensor).hex() != digests[name]:
                raise ValueError(f"{name} is not what was written")
            return tensor

        places = {name: name.partition(".") for name in content if name != "__metadata__"}
        for part, _, _ in places.values():
            state[part]  # a name that is none of ours
        wanted = [name for name, (part, _, _) in places.items() if part in parts]
        with _threads() as pool:
            for name, tensor in zip(wanted, pool.map(read, wanted), strict=True):
                part, _, parameter = places[name]
                state[part][parameter] = tensor
        return Checkpoint(state, _metadata_of(header))


def _read(descriptor: int, start: int, entry: dict[str, Any]) -> Tensor:
    # Not mapped into memory: a disk that fails would kill the process instead of raising OSError.
    tensor = torch.empty(entry["shape"], dtype=_TORCH[entry["dtype"]])
    begin, end = entry["data_offsets"]
    left = _bytes_of(tensor)
    assert len(left) == end - begin  # safetensors has checked the header
    at = start + begin
    while left:
        count = os.preadv(descriptor, [left], at)
        if count == 0:
            raise ValueError("it ends too early")
        left, at = left[count:], at + count
    return tensor


def describe(path: Path) -> dict[str, Any]:
    """The metadata of a checkpoint, without reading its tensors. Raises as `load` does."""
    with _opened(path) as (_, content):
        return _metadata_of(content["__metadata__"])


def add(path: Path, **facts: Any) -> None:
    """Add metadata to a checkpoint; its tensors stay unchanged. Raises as `load` does, and OSError."""
    with _opened(path) as (file, content):
        texts, start = content.pop("__metadata__"), file.tell()
        texts |= {"about": json.dumps(_metadata_of(texts) | facts)}
        described = _encoded(_with_checksum(texts) if "seal" in texts else texts, content)

    def write(temporary: Path) -> None:
        with path.open("rb") as original, temporary.open("wb") as copy:
            copy.write(described)
            original.seek(start)
            shutil.copyfileobj(original, copy, _COPIED_BYTES)

    write_atomically(path, write)


def _metadata_of(header: dict[str, str]) -> dict[str, Any]:
    metadata = json.loads(header["about"])
    if not isinstance(metadata, dict):
        raise ValueError("its description is no mapping")
    return metadata


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The file, positioned at the first tensor, and its header as checked by safetensors."""
    try:
        with utf8_path(path) as name, safe_open(name, framework="pt") as checked:
            header = checked.metadata() or {}
        # First of all: what another bit made of the format is no other format.
        if header.keys() & {"seal", "digests"} and _with_checksum(header) != header:
            raise ValueError("its header is not what was written")
        if header.get("format") != FORMAT:
            found = header.get("format")
            raise InputError(f"{path} is not a checkpoint of this version: its format is {found!r}, not {FORMAT!r}")
        with path.open("rb") as file:
            content = json.loads(file.read(int.from_bytes(file.read(_LENGTH_BYTES), "little")))
            yield file, content
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not a complete checkpoint ({error}); take another one") from error


def numbered(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, without the copy of the best one."""
    folder = run_dir / CHECKPOINTS
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def step_of(path: Path) -> int:
    """Number of updates at a numbered checkpoint."""
    return int(path.stem.removeprefix("step_"))


def last_step(run_dir: Path) -> int:
    """Number of updates at the newest checkpoint of a run; 0 without any."""
    found = numbered(run_dir)
    return step_of(found[-1]) if found else 0


def path_of(run_dir: Path, step: int) -> Path:
    """Path of the checkpoint after `step` updates."""
    return run_dir / CHECKPOINTS / f"step_{step:08d}.safetensors"


def best_path(run_dir: Path) -> Path:
    """Path of the checkpoint that was best on val."""
    return run_dir / CHECKPOINTS / BEST


def best_or_latest(run: Path) -> Path:
    """The weights to use of a run: the best on val, or the last without one; or the path itself if it is a file.

    Raises InputError when there are none.
    """
    if run.is_file():
        return run
    best = best_path(run)
    candidates = [best] if best.is_file() else numbered(run)[-1:]
    if not candidates:
        fact = f"{run} is neither a checkpoint nor a run folder with one ({run / CHECKPOINTS} has none)"
        raise InputError(f"{fact}{meant_instead(run)}")
    return candidates[0]


def point_to(path: Path) -> None:
    """Write a checkpoint's name to `latest` beside it. Raises OSError."""
    write_atomically(path.with_name(LATEST), lambda temporary: temporary.write_text(f"{path.name}\n", encoding="utf-8"))


def prune(run_dir: Path, keep: int) -> None:
    """Delete numbered checkpoints that are older than the newest `keep` whole ones. Raises OSError."""
    whole = 0
    for path in reversed(numbered(run_dir)):
        if whole >= keep:
            path.unlink(missing_ok=True)
        else:
            whole += _seems_whole(path)


def _seems_whole(path: Path) -> bool:
    try:
        describe(path)
    except InputError:
        return False
    return True


def quarantine(path: Path) -> Path:
    """Rename a damaged checkpoint so that it is not taken for one, and return the new path. Raises OSError."""
    aside = path.with_name(path.name + _DAMAGED)
    path.replace(aside)
    return aside


def damaged(run_dir: Path) -> list[Path]:
    """The quarantined checkpoints."""
    return sorted((run_dir / CHECKPOINTS).glob(f"*{_DAMAGED}"))
