"""A checkpoint is whole or absent, comes back bit for bit, and the right one is taken."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_pipelines.common.errors import InputError
from trainer import checkpoint
from trainer.checkpoint import (
    BEST,
    DamagedError,
    best_or_latest,
    describe,
    fingerprint,
    load,
    numbered,
    path_of,
    prune,
    save,
)
from trainer.run_files import CHECKPOINTS

ABOUT = {"step": 7, "best": 0.5, "model": "r50x1", "classes": ["cat", "dög"], "nothing": None}


def some_state(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn(4, 3, 3, 3, generator=generator).contiguous(memory_format=torch.channels_last)
    model = {
        "stem.conv.weight": filters,
        "head.weight": torch.randn(5, 4, generator=generator, dtype=torch.float64),
        "head.bias": torch.tensor([0.0, -0.0, torch.inf, torch.nan, 1e-42]),
    }
    momentum = {"stem.conv.weight": filters * 2, "head.weight": torch.randn(5, 4, generator=generator).bfloat16()}
    return {"model": model, "momentum": momentum, "loss_scaler": {"scale": 65536.0, "_growth_tracker": 7}}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_round_trip_is_bit_for_bit(tmp_path: Path) -> None:
    state, path = some_state(), path_of(tmp_path, 7)
    save(path, state, ABOUT)
    loaded = load(path)
    assert loaded.metadata == ABOUT | {"weights": fingerprint(loaded.state["model"])}
    assert describe(path) == loaded.metadata
    assert loaded.state["loss_scaler"] == {"scale": 65536.0, "_growth_tracker": 7}
    for part in ("model", "momentum"):
        assert loaded.state[part].keys() == state[part].keys()
        for name, tensor in state[part].items():
            found = loaded.state[part][name]
            assert (found.dtype, found.shape, bits(found)) == (tensor.dtype, tensor.shape, bits(tensor)), name
    assert list((tmp_path / CHECKPOINTS).iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_file_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    path = path_of(tmp_path, 7)
    save(path, some_state(), ABOUT)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"{path} is not a complete checkpoint .* take another one"):
        load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "bitscale checkpoint 0", "about": "{}"}])
def test_other_formats_are_refused_by_name(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"model.weight": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(InputError, match=f"{path} is not a checkpoint of this version: .* not '{checkpoint.FORMAT}'"):
        load(path)


@pytest.mark.parametrize(
    ("tensor_name", "header"),
    [
        ("weight", {"loss_scaler": "{}", "about": "{}"}),
        ("model.weight", {"about": "{}"}),
        ("model.weight", {"loss_scaler": "{}"}),
        ("model.weight", {"loss_scaler": "{}", "about": "{"}),
        ("model.weight", {"loss_scaler": "{}", "about": "[]"}),
        ("model.weight", {"loss_scaler": "{}", "about": "[" * 20_000}),
    ],
)
def test_incomplete_contents_are_refused_by_name(tmp_path: Path, tensor_name: str, header: dict[str, str]) -> None:
    path = tmp_path / "incomplete.safetensors"
    save_file({tensor_name: torch.zeros(2)}, path, metadata={"format": checkpoint.FORMAT, **header})
    with pytest.raises(InputError, match=f"{path} is not a complete checkpoint"):
        load(path)


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("weights, but not really\n" * 10)
    for path in (text, tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(InputError, match=f"{path} is not a complete checkpoint"):
            load(path)


@pytest.mark.parametrize("existing", [True, False])
def test_failing_write_leaves_the_old_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    path = path_of(tmp_path, 7)
    if existing:
        save(path, some_state(), ABOUT)
        before = path.read_bytes()

    def fill_the_disk(tensor: torch.Tensor) -> bytes:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(checkpoint, "_bytes_of", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        save(path, some_state(1), ABOUT | {"step": 8})
    assert path.exists() == existing
    assert not existing or path.read_bytes() == before
    assert numbered(tmp_path) == ([path] if existing else [])
    if not existing:
        with pytest.raises(InputError, match="neither a checkpoint nor a run folder"):
            best_or_latest(tmp_path)


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies under the temporary name until then is no safetensors file at all."""
    seen = []

    def looking(name: str, tensor: torch.Tensor) -> bytes:
        (temporary,) = tmp_path.rglob(".*.tmp")
        with pytest.raises(InputError, match="not a complete checkpoint"):
            load(temporary)
        seen.append(name)
        return digest(name, tensor)

    digest = checkpoint._digest
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_digest", looking)
        save(path_of(tmp_path, 7), some_state(), ABOUT)
    assert len(seen) == 5
    load(path_of(tmp_path, 7))


def test_files_without_a_manifest_load_as_they_did(tmp_path: Path) -> None:
    """Those of earlier versions."""
    path, state = path_of(tmp_path, 7), some_state()
    path.parent.mkdir()
    tensors = {f"{part}.{name}": t.contiguous() for part in ("model", "momentum") for name, t in state[part].items()}
    header = {"format": checkpoint.FORMAT, "loss_scaler": "{}", "about": json.dumps(ABOUT)}
    save_file(tensors, path, metadata=header)
    checkpoint.add(path, more=1)
    loaded = load(path)
    assert loaded.metadata == ABOUT | {"more": 1}
    assert all(bits(loaded.state["model"][name]) == bits(tensor) for name, tensor in state["model"].items())


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    save(path_of(tmp_path, 7), some_state(), ABOUT)
    tensors = load_file(path_of(tmp_path, 7))
    expected = some_state()["model"]
    assert all(bits(tensors[f"model.{name}"]) == bits(tensor) for name, tensor in expected.items())


def test_a_name_is_given_only_to_bytes_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, events = path_of(tmp_path, 7), []
    fsync, rename = os.fsync, Path.replace

    def recording_fsync(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        events.append(("fsync", "folder" if stat.S_ISDIR(status.st_mode) else status.st_ino))

    def recording_rename(self: Path, target: Path) -> Path:
        assert ABOUT.items() <= load(self).metadata.items()
        events.append(("rename", self.stat().st_ino))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "replace", recording_rename)
    save(path, some_state(), ABOUT)
    inode = path.stat().st_ino
    assert events == [("fsync", inode), ("rename", inode), ("fsync", "folder")]


def test_numbered_are_in_order_and_prune_keeps_the_newest(tmp_path: Path) -> None:
    assert numbered(tmp_path) == []
    paths = [path_of(tmp_path, step) for step in (900, 20, 12_345_678, 1000)]
    for path in paths:
        save(path, some_state(), ABOUT)
    others = [tmp_path / CHECKPOINTS / name for name in (BEST, ".step_00000030.safetensors.tmp", "step_5.safetensors")]
    touch(*others)
    ordered = [paths[1], paths[0], paths[3], paths[2]]
    assert numbered(tmp_path) == ordered
    prune(tmp_path, keep=5)
    assert numbered(tmp_path) == ordered
    prune(tmp_path, keep=2)
    assert numbered(tmp_path) == ordered[2:]
    assert all(path.exists() for path in others)


def test_prune_never_deletes_the_only_whole_one(tmp_path: Path) -> None:
    old, whole, *broken = [path_of(tmp_path, step) for step in (1, 2, 3, 4)]
    for path in (old, whole, *broken):
        save(path, some_state(), ABOUT)
    for path in broken:
        path.write_bytes(path.read_bytes()[:-1])
    prune(tmp_path, keep=1)
    assert numbered(tmp_path) == [whole, *broken]


def test_what_is_set_aside_is_no_checkpoint_any_more(tmp_path: Path) -> None:
    for step in (1, 2):
        save(path_of(tmp_path, step), some_state(), ABOUT)
    content = path_of(tmp_path, 2).read_bytes()
    aside = checkpoint.quarantine(path_of(tmp_path, 2))
    assert aside.read_bytes() == content
    assert (numbered(tmp_path), checkpoint.damaged(tmp_path)) == ([path_of(tmp_path, 1)], [aside])
    assert best_or_latest(tmp_path) == path_of(tmp_path, 1)


def test_taken_is_the_best_else_the_last_else_the_file_itself(tmp_path: Path) -> None:
    last, best = path_of(tmp_path, 200), tmp_path / CHECKPOINTS / BEST
    touch(path_of(tmp_path, 100), last)
    assert best_or_latest(tmp_path) == last
    touch(best)
    assert best_or_latest(tmp_path) == best
    assert best_or_latest(last) == last


def test_a_folder_without_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS).mkdir()
    for run in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=f"{run} is neither a checkpoint nor a run folder"):
            best_or_latest(run)


def test_fingerprints_do_not_depend_on_the_memory_format() -> None:
    weights = some_state()["model"]
    contiguous = {name: tensor.contiguous() for name, tensor in reversed(weights.items())}
    assert fingerprint(contiguous) == fingerprint(weights)
    flat = weights | {"head.weight": weights["head.weight"].reshape(4, 5)}
    changed = weights | {"head.bias": torch.tensor([-0.0, -0.0, torch.inf, torch.nan, 1e-42])}
    renamed = {name.replace("head", "tail"): tensor for name, tensor in weights.items()}
    assert len({fingerprint(other) for other in (weights, flat, changed, renamed)}) == 4


def test_parts_of_the_state_can_be_left_on_the_disk(tmp_path: Path) -> None:
    path = path_of(tmp_path, 7)
    save(path, some_state(), ABOUT)
    loaded = load(path, parts=("model",))
    assert loaded.state["model"].keys() == some_state()["model"].keys()
    assert loaded.state["momentum"] == {}


def test_a_checkpoint_can_be_told_more(tmp_path: Path) -> None:
    path = path_of(tmp_path, 7)
    save(path, some_state(), ABOUT)
    before = load(path)
    for text in ("é", "longer than before " * 20, ""):
        checkpoint.add(path, points={"threshold": 0.25, "why": text}, best=0.75)
        after = load(path)
        assert after.metadata == before.metadata | {"points": {"threshold": 0.25, "why": text}, "best": 0.75}
        for part in ("model", "momentum"):
            assert after.state[part].keys() == before.state[part].keys()
            for name, tensor in after.state[part].items():
                assert bits(tensor) == bits(before.state[part][name])
        assert after.state["loss_scaler"] == before.state["loss_scaler"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a complete checkpoint"):
        checkpoint.add(path, points={})


@pytest.mark.slow
def test_any_wrong_bit_is_damage_and_nothing_else(tmp_path: Path) -> None:
    """Not another format either, which nobody would fall back from."""
    path = path_of(tmp_path, 7)
    save(path, some_state(), ABOUT)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match="not a complete checkpoint"):
            load(path)
