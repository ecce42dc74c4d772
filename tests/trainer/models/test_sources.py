"""Weights are found by path, and by published name in the caches, without a network."""

import os
from pathlib import Path

import pytest
import timm

from data_pipelines.common.errors import InputError
from trainer.models.sources import GOOGLE_NAMES, TIMM_NAMES, absolute, locate, name_of, origin_of

NAME = "resnetv2_50x1_bit.goog_in21k"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and no other variable that says where they are."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def in_hub(root: Path, commit: str = "abc", name: str = NAME, file: str = "model.safetensors") -> Path:
    """A file in the hub's cache as its program lays it out: a link to a blob."""
    repository = root / f"models--timm--{name}"
    blob, link = touch(repository / "blobs" / f"0{commit}"), repository / "snapshots" / commit / file
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def test_names_are_timms() -> None:
    published = set(timm.list_models("resnetv2_*_bit.*", pretrained=True))
    assert set(TIMM_NAMES) == published


@pytest.mark.parametrize("name", [*TIMM_NAMES, "timm/" + NAME, "hf-hub:timm/" + NAME])
def test_absent_weights_print_the_command_that_downloads_them(caches: Path, name: str) -> None:
    bare = name.split("/")[-1]
    with pytest.raises(InputError, match="not on this machine") as raised:
        locate(name)
    assert f"hf download timm/{bare}" in str(raised.value).splitlines()[-1]
    assert "run it on another one, and copy the file or folder" in str(raised.value)
    assert str(caches / "hf" / "hub" / f"models--timm--{bare}") in str(raised.value)


def test_absent_files_of_google_print_the_download_command(caches: Path) -> None:
    target = caches / "torch/hub/checkpoints/BiT-S-R152x4.npz"
    with pytest.raises(InputError) as raised:
        locate("BiT-S-R152x4")
    command = str(raised.value).splitlines()[-1].strip()
    assert command == f"curl --create-dirs -Lo {target} https://storage.googleapis.com/bit_models/BiT-S-R152x4.npz"
    touch(target)
    assert locate("BiT-S-R152x4") == target


def test_found_in_the_hubs_cache_whichever_variable_names_it(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = in_hub(caches / "hf" / "hub")
    assert locate(NAME) == locate(f"timm/{NAME}") == found
    elsewhere = in_hub(caches / "elsewhere", file="pytorch_model.bin")
    monkeypatch.setenv("HF_HUB_CACHE", str(caches / "elsewhere"))
    assert locate(NAME) == elsewhere


def test_the_snapshot_of_the_main_branch_is_taken(caches: Path) -> None:
    hub = caches / "hf" / "hub"
    older, newer = in_hub(hub, "older"), in_hub(hub, "newer")
    os.utime(older.parent, (1, 1))
    assert locate(NAME) == newer
    main = touch(hub / f"models--timm--{NAME}" / "refs" / "main")
    main.write_text("older\n")
    assert locate(NAME) == older


def test_timms_names_are_also_found_as_googles_files(caches: Path) -> None:
    path = touch(caches / "torch/hub/checkpoints/BiT-M-R50x1.npz")
    assert locate(NAME) == locate("BiT-M-R50x1") == path


def test_any_repository_in_the_cache_can_be_named(caches: Path) -> None:
    path = touch(caches / "hf/hub/models--me--xray/snapshots/1/model.safetensors")
    assert locate("me/xray") == path
    with pytest.raises(InputError, match="me/other is not a file, a run folder or the name"):
        locate("me/other")


def test_folders_hold_the_usual_files_or_checkpoints(tmp_path: Path) -> None:
    paper = touch(tmp_path / "chexpert_bit50x1" / "model.pth.tar")
    assert locate(str(paper.parent)) == paper
    exported = touch(paper.with_name("model.safetensors"))
    assert locate(str(paper.parent)) == locate(f"local-dir:{paper.parent}") == exported
    best = touch(tmp_path / "run" / "checkpoints" / "best.safetensors")
    assert locate(str(tmp_path / "run")) == best
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither a checkpoint nor a run folder"):
        locate(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("resnetv2_50x1_bit.goog_in21", "did you mean 'resnetv2_50x1_bit.goog_in21k'"),
        ("BiT-M-R50x2", "BiT-M-R50x"),
        ("x", ""),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(
        InputError, match=f"{wrong} is not a file, a run folder or the name of published weights.*{hint}"
    ):
        locate(wrong)


def test_reports_call_sources_by_what_tells_them_apart(caches: Path) -> None:
    run = touch(caches / "runs" / "imagenet" / "checkpoints" / "step_00000020.safetensors")
    names = {
        str(run): "imagenet-step_00000020",
        str(run.parents[1]): "imagenet",
        str(touch(caches / "chexpert_bit50x1" / "model.pth.tar")): "chexpert_bit50x1",
        str(touch(caches / "BiT-M-R50x1.npz")): "BiT-M-R50x1",
        str(touch(caches / "mine.v2.pth.tar")): "mine.v2",
        str(in_hub(caches / "hf" / "hub")): NAME,
        NAME: NAME,
        f"timm/{NAME}": NAME,
        "BiT-S-R50x1": "BiT-S-R50x1",
        f"{caches}/runs/../runs/imagenet/": "imagenet",
    }
    assert {source: name_of(source) for source in names} == names


def test_paths_are_made_absolute_and_names_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "a.npz")
    assert absolute("a.npz") == str(tmp_path / "a.npz")
    assert absolute(NAME) == NAME


@pytest.mark.parametrize(
    ("name", "sets", "mean"),
    [
        (NAME, ("imagenet21k",), 0.5),
        ("resnetv2_152x4_bit.goog_in21k_ft_in1k", ("imagenet1k", "imagenet21k"), 0.5),
        ("resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k_384", ("imagenet1k", "imagenet21k"), 0.5),
        ("resnetv2_50x1_bit.goog_distilled_in1k", ("imagenet1k",), 0.5),
        ("BiT-S-R101x3", ("imagenet1k",), 0.5),
        ("BiT-M-R101x3", ("imagenet21k",), 0.5),
        ("imagenet21k_bit152x4", ("imagenet21k",), 0.485),
        ("chexpert_mimic_nih_padchest_bit50x1", ("chexpert", "mimic_cxr", "nih_cxr14", "padchest"), 0.5),
    ],
)
def test_published_weights_are_known_by_name(name: str, sets: tuple[str, ...], mean: float) -> None:
    origin = origin_of(name)
    assert origin is not None
    assert (origin.sets, origin.mean[0]) == (sets, mean)


def test_other_names_say_nothing() -> None:
    assert [origin_of(name) for name in ("imagenet1k", "my_bit50x1", "r50x1")] == [None] * 3
    assert all(origin_of(name) for name in GOOGLE_NAMES)


def test_an_absent_run_says_how_to_list_those_there(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match=f"; the runs there are listed by: .*status {tmp_path}/runs$"):
        locate(f"{tmp_path}/runs/embedded")
