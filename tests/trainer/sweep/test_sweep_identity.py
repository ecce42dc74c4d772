"""A sweep knows its targets by their contents: what is left out, what is refused, and what counts as finished."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from options_with import options_with
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json, write_json
from data_pipelines.common.manifest import content_digest, read_manifest
from trainer import checkpoint
from trainer.finetuning.finetune import Transfer, open_target, set_digests_of, warnings_of
from trainer.models.weights import describe_weights
from trainer.run_files import CONFIG, RESULT
from trainer.sweep.plan import Plan, make_plan
from trainer.training.job import settings_of

LABELS, CLASSES = [0, 0, 1, 1], ("few", "many")


def target(folder: Path, first: int = 0, name: str = "images", **options: Any) -> Path:
    pictures = range(first, first + len(LABELS))
    splits = ("train", "val", "test")
    return tiny_set(folder, LABELS, CLASSES, name=name, pictures=pictures, splits=splits, **options)


def source(folder: Path, **digests: str) -> str:
    """A run folder with the weights of a source that was trained on these sets."""
    about = {"model": "r14x0.5", "classes": ["a"], "sets": list(digests), "set_digests": digests, "step": 1}
    weights = {"stem.conv.weight": torch.zeros(2, 2)}
    checkpoint.save(checkpoint.path_of(folder, 1), {"model": weights, "momentum": {}, "loss_scaler": {}}, about)
    return str(folder)


def planned(tmp_path: Path, *targets: Path | str, sources: tuple[str, ...] = ("scratch",), **options: Any) -> Plan:
    given = options_with(**{"model": "r14x0.5", "out": tmp_path / "out", "image_size": 32, **options})
    return make_plan(sources, list(map(str, targets)), ("1",), 1, given)


def leave_result(plan: Plan, with_digest: bool = True) -> None:
    """What the one run of a plan would leave in its folder."""
    (run,) = plan.runs
    found = open_target(run.transfer)
    settings = settings_of(run.config, found.train.fingerprint)
    digests = {"set_digests": {found.name: found.digest}} if with_digest else {}
    run.run_dir.mkdir(parents=True)
    write_json(run.run_dir / CONFIG, settings)
    write_json(run.run_dir / RESULT, {"settings": settings, **digests})


def digest_of_set(folder: Path) -> str:
    return content_digest(read_manifest(folder))


def test_a_target_that_only_shares_a_name_is_not_left_out(tmp_path: Path) -> None:
    pretrained, wanted = target(tmp_path / "a" / "images"), target(tmp_path / "b" / "images", 10)
    knowing = source(tmp_path / "knowing", images=digest_of_set(pretrained))
    plan = planned(tmp_path, wanted, sources=(knowing,), model=None)
    assert [run.name for run in plan.runs] == ["knowing/images/1-shot-seed-0"]
    assert plan.left_out == []
    assert "another set that is called images" in plan.notes[0]
    plan = planned(tmp_path, pretrained, sources=(knowing,), model=None)
    assert (plan.runs, len(plan.left_out)) == ([], 1)
    of_earlier_version = source(tmp_path / "old")
    checkpoint.add(checkpoint.best_or_latest(tmp_path / "old"), sets=["images"])
    assert len(planned(tmp_path, wanted, sources=(of_earlier_version,), model=None).left_out) == 1


def test_the_source_s_set_under_another_name_is_left_out(tmp_path: Path) -> None:
    target(tmp_path / "films")
    clinic = target(tmp_path / "clinic", name="clinic")
    knowing = source(tmp_path / "knowing", films=digest_of_set(tmp_path / "films"))
    (told,) = planned(tmp_path, clinic, sources=(knowing,), model=None).left_out
    assert told == "knowing to clinic: the source was pre-trained on clinic, the target itself, called films there"
    transfer = Transfer(knowing, str(clinic), options=options_with(image_size=32))
    found = open_target(transfer)
    plan = planned(tmp_path, clinic, sources=(knowing,), model=None, overlap_excluded=True)
    warnings = warnings_of(transfer, plan.runs[0].config, found, ["films"], set_digests_of(knowing))
    assert "the target itself" in warnings[0]


def test_targets_of_one_name_are_refused_with_what_helps(tmp_path: Path) -> None:
    one, two = target(tmp_path / "a b" / "images"), target(tmp_path / "b" / "images", 10)
    with pytest.raises(InputError, match="--targets: several are images") as refused:
        planned(tmp_path, one, two)
    command = shlex.split(str(refused.value).partition("called alike: ")[2])
    subprocess.run(command, check=True)
    renamed = [Path(command[2]) if str(path) == command[1] else path for path in (one, two)]
    assert len(planned(tmp_path, *renamed).runs) == 2


@pytest.mark.parametrize("written", [".", "../images", "images/"])
def test_runs_are_called_by_the_folder_of_their_target(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = target(tmp_path / "images")
    monkeypatch.chdir(tmp_path if written == "images/" else folder)
    assert [run.name for run in planned(tmp_path, written).runs] == ["scratch/images/1-shot-seed-0"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_finished_cell_on_other_pictures_is_not_kept(split: str, tmp_path: Path) -> None:
    folder, other = target(tmp_path / "images"), target(tmp_path / "other", 10)
    leave_result(planned(tmp_path, folder))
    assert planned(tmp_path, folder).pending == []
    manifest = read_json(folder / "manifest.json")
    manifest["splits"][split] = read_json(other / "manifest.json")["splits"][split]
    shutil.rmtree(folder / split)
    shutil.copytree(other / split, folder / split)
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(InputError, match=r"contents of the sets: images \w+ -> images \w+") as refused:
        planned(tmp_path, folder)
    assert ("rm -r" if split == "train" else "--allow-config-change") in str(refused.value)
    assert len(planned(tmp_path, folder, allow_config_change=True).pending) == 1
    subprocess.run(["rm", "-r", str(tmp_path / "out" / "scratch" / "images" / "1-shot-seed-0")], check=True)
    assert len(planned(tmp_path, folder).pending) == 1


def test_finished_cells_of_earlier_sweeps_count(tmp_path: Path) -> None:
    folder = target(tmp_path / "images")
    leave_result(planned(tmp_path, folder), with_digest=False)
    assert planned(tmp_path, folder).pending == []


def test_weights_say_what_their_sets_held(tmp_path: Path) -> None:
    knowing = source(tmp_path / "knowing", films="0123456789abcdef")
    assert set_digests_of(knowing) == describe_weights(knowing).set_digests == {"films": "0123456789abcdef"}
    assert set_digests_of("scratch") == {}
