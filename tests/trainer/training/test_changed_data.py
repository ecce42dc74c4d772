"""A run whose sets were replaced since: what it is told, and that it goes on only where that makes sense."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_ranks import run_ranks
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json, write_json
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.pretrain import parse
from trainer.run_files import RESULT
from trainer.training.run import LaunchOptions, run

ALL = ("train", "val", "test")


def config_of(data: Path, more: Sequence[Path] = (), **changes: Any) -> Config:
    config: dict[str, Any] = {
        "name": "run",
        "global_batch_size": 4,
        "precision": "fp32",
        "data": DataConfig(sets=tuple(map(str, (data, *more))), image_size=32, resize=32, eval_view="squash"),
        "model": ModelConfig("r14x0.5", head_init="fan_in"),
        "optim": OptimConfig(base_lr=0.05, rescale_lr=False),
        "schedule": ScheduleConfig("cosine", epochs=None, steps=2, warmup_steps=0),
        "runtime": RuntimeConfig(device="cpu", threads=1),
    }
    return Config(**(config | changes))


def train(data: Path, run_dir: Path, allow_config_change: bool = False, **changes: Any) -> dict[str, Any]:
    config = config_of(data, **changes)
    engine = ENGINES["ddp"](config.runtime, "fp32")
    try:
        return run(
            config, LaunchOptions(run_dir, allow_config_change=allow_config_change), engine, {"kind": "pretrain"}
        )
    finally:
        engine.close()


def prepare_again(folder: Path, labels: Sequence[Any], classes: Sequence[str], **options: Any) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return tiny_set(folder, labels, classes, **{"splits": ALL, **options})


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set, `data`, and a finished run on it, `run`."""
    folder = tmp_path_factory.mktemp("begun")
    train(prepare_again(folder / "data", [0, 1], ("cat", "dog")), folder / "run")
    return folder


@pytest.fixture
def work(begun: Path, tmp_path: Path) -> Path:
    """The same where a test may change it."""
    shutil.copytree(begun, tmp_path / "work")
    for path in (tmp_path / "work" / "run").glob("*.json"):
        path.write_text(path.read_text().replace(str(begun), str(tmp_path / "work")))
    assert train(tmp_path / "work" / "data", tmp_path / "work" / "run")
    return tmp_path / "work"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "classes", "told"),
    [
        ([0, 1, 2], ("bird", "cat", "dog"), "classes added: bird"),
        ([0], ("cat",), "classes that are gone: dog"),
        ([0, 1], ("dog", "cat"), "the classes have another order: cat, dog -> dog, cat"),
        ([0, 1], ("cat", "hound"), "classes added: hound"),
        ([[1, 0], [0, 1]], ("cat", "dog"), "labels: one class per image -> several findings per image"),
    ],
)
@pytest.mark.parametrize("allow_config_change", [False, True])
def test_outputs_that_mean_something_else_end_a_run(
    labels: Sequence[Any], classes: Sequence[str], told: str, allow_config_change: bool, work: Path
) -> None:
    prepare_again(work / "data", labels, classes)
    with pytest.raises(InputError) as refused:
        train(work / "data", work / "run", allow_config_change)
    assert told in str(refused.value)
    assert "--allow-config-change" not in str(refused.value)
    assert (work / "run" / RESULT).is_file()


@pytest.mark.slow
def test_what_is_advised_works(work: Path) -> None:
    prepare_again(work / "data", [0, 1, 2], ("bird", "cat", "dog"))
    with pytest.raises(InputError) as refused:
        train(work / "data", work / "run")
    words = shlex.split(str(refused.value).splitlines()[-1])
    given = ["--out", str(work / "next"), *words[words.index("--model.pretrained") :][:2]]
    command = parse([*given, "--model.name", "r14x0.5"])
    assert command.launch.out == work / "next"
    result = train(work / "data", work / "next", model=replace(command.config.model, head_init="fan_in"))
    assert (result["test"]["images"], result["settings"]["model"]["pretrained"]) == (3, str(work / "run"))


def test_colour_in_place_of_grey(work: Path) -> None:
    prepare_again(work / "data", [0, 1], ("cat", "dog"), pictures=[5, 6])
    manifest = work / "data" / "manifest.json"
    write_json(manifest, read_json(manifest) | {"channels": 3})
    with pytest.raises(InputError, match="pictures: grey -> colour"):
        train(work / "data", work / "run", allow_config_change=True)


def test_other_pictures_of_the_same_classes(work: Path) -> None:
    """A run that is under way may go on with them; a result on the former ones is made anew."""
    prepare_again(work / "data", [0, 1], ("cat", "dog"), pictures=[5, 6])
    told = r"data_fingerprint: [\s\S]*contents of the sets: tiny \w{16} -> tiny \w{16}\n[\s\S]*"
    with pytest.raises(InputError, match=told + r"made anew: rm -r /\S*/run$"):
        train(work / "data", work / "run")
    (work / "run" / RESULT).unlink()
    with pytest.raises(InputError, match=told + "--allow-config-change$"):
        train(work / "data", work / "run")
    assert train(work / "data", work / "run", allow_config_change=True)["total_steps"] == 2


def replace_test_split(data: Path, other: Path) -> None:
    """As a set that was prepared again with other test images: those of train stay as they are."""
    prepare_again(other, [0, 1], ("cat", "dog"), pictures=[5, 6])
    shutil.rmtree(data / "test")
    shutil.copytree(other / "test", data / "test")
    manifest = read_json(data / "manifest.json")
    manifest["splits"]["test"] = read_json(other / "manifest.json")["splits"]["test"]
    write_json(data / "manifest.json", manifest)


@pytest.mark.slow
def test_a_result_on_other_test_images_is_not_kept(work: Path) -> None:
    former = read_json(work / "run" / RESULT)
    replace_test_split(work / "data", work / "other")
    with pytest.raises(InputError, match="contents of the sets: tiny"):
        train(work / "data", work / "run")
    result = train(work / "data", work / "run", allow_config_change=True)
    assert result["test"]["loss"] != former["test"]["loss"]
    assert result["set_digests"] != former["set_digests"]
    assert train(work / "data", work / "run") == read_json(work / "run" / RESULT)


def test_results_of_earlier_versions_are_kept(work: Path) -> None:
    """They do not say what their sets held."""
    path = work / "run" / RESULT
    result = read_json(path)
    del result["set_digests"]
    write_json(path, result)
    newest = checkpoint.numbered(work / "run")[-1]
    loaded = checkpoint.load(newest)
    metadata = {name: value for name, value in loaded.metadata.items() if name not in ("set_digests", "weights")}
    checkpoint.save(newest, loaded.state, metadata)
    assert train(work / "data", work / "run") == result


def refused_on_ranks(data: str, run_dir: str) -> str:
    try:
        train(Path(data), Path(run_dir), allow_config_change=True)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_every_rank_is_refused(work: Path) -> None:
    prepare_again(work / "data", [0, 1, 2], ("bird", "cat", "dog"))
    told = run_ranks(2, refused_on_ranks, str(work / "data"), str(work / "run"))
    assert all("classes added: bird" in line for line in told)


@pytest.mark.slow
def test_joined_sets_are_noted_by_name(tmp_path: Path) -> None:
    one = prepare_again(tmp_path / "a" / "films", [0, 1], ("cat", "dog"), name="films")
    two = prepare_again(tmp_path / "b" / "films", [0, 1], ("cat", "dog"), name="films", pictures=[5, 6])
    result = train(one, tmp_path / "run", more=(two,))
    metadata = checkpoint.describe(checkpoint.best_or_latest(tmp_path / "run"))
    assert list(result["set_digests"]) == metadata["sets"] == ["films", "films (2)"]
    assert metadata["set_digests"] == result["set_digests"]
    assert len(set(result["set_digests"].values())) == 2
