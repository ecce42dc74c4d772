"""Libraries that take no other file names than UTF-8 read and write files in any folder."""

import os
from pathlib import Path

import torch
from safetensors import safe_open

from data_pipelines.common.files import utf8_path
from trainer import checkpoint
from trainer.models.weight_files import own_metadata

NOT_UTF8 = "Katze \udcfc"


def test_usual_files_have_their_own_names(tmp_path: Path) -> None:
    with utf8_path(tmp_path / "böse 猫.txt") as name:
        assert name == str(tmp_path / "böse 猫.txt")


def test_a_file_in_such_a_folder_is_read_and_written(tmp_path: Path) -> None:
    folder = tmp_path / NOT_UTF8 / "deep"
    folder.mkdir(parents=True)
    before = os.listdir("/proc/self/fd")
    with utf8_path(folder / "new.txt") as name:
        name.encode("utf-8")
        Path(name).write_text("a", encoding="utf-8")
    assert (folder / "new.txt").read_text(encoding="utf-8") == "a"
    (folder / f"{NOT_UTF8}.txt").write_text("b", encoding="utf-8")
    with utf8_path(folder / f"{NOT_UTF8}.txt") as name:
        name.encode("utf-8")
        assert Path(name).read_text(encoding="utf-8") == "b"
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_checkpoints_in_such_a_folder_are_whole(tmp_path: Path) -> None:
    path = checkpoint.path_of(tmp_path / NOT_UTF8, 1)
    state = {"model": {"w": torch.arange(3.0)}, "momentum": {}, "loss_scaler": {}}
    checkpoint.save(path, state, {"step": 1, "classes": [NOT_UTF8]})
    assert checkpoint.describe(path)["classes"] == [NOT_UTF8]
    assert checkpoint.load(path).state["model"]["w"].tolist() == [0.0, 1.0, 2.0]
    assert own_metadata(path)["format"] == checkpoint.FORMAT
    path.rename(tmp_path / "plain.safetensors")
    with safe_open(tmp_path / "plain.safetensors", framework="pt") as file:
        assert "about" in file.metadata()
