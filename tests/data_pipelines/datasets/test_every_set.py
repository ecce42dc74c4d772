"""What holds for every reader of DATASETS, on a small set in its owner's layout."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from set_contents import contents, write_arguments
from set_layouts import TREES, WriteTar, layout
from tar_files import tar_writer

from data_pipelines.common.errors import InputError
from data_pipelines.datasets import registry
from data_pipelines.datasets.registry import DATASETS, NAMED_SETS, USER_READERS
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index
from trainer.config import Config, DataConfig, ModelConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.training.run import LaunchOptions, run

HASH_SEEDS = (8, 11)  # which put the classes of the sets below in different orders
XRAYS = (
    *("chexpert", "mimic_cxr", "nih_cxr14", "padchest", "brax"),
    *("padchest_cl", "covidx", "tuberculosis", "rsna_pneumonia", "vindr_cxr"),
)
PATIENTS = dict.fromkeys((*XRAYS, "csv", "phantom"), "apart") | dict.fromkeys(("medmnist", "vindr_cxr"), "may leak")
Given = Callable[[str], dict[str, Any]]
WHOLE_XRAYS = {"covidx", "tuberculosis", "rsna_pneumonia"}


@pytest.fixture(scope="module")
def engine() -> Any:
    made = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=len(os.sched_getaffinity(0))), "fp32")
    yield made
    made.close()


def test_every_layout_has_a_reader() -> None:
    assert TREES.keys() <= DATASETS.keys()


def test_every_set_has_a_row_in_the_page() -> None:
    page = (Path(registry.__file__).parent / "README.md").read_text(encoding="utf-8")
    missing = [name for name in DATASETS if not re.search(rf"^\| `{name}` \|", page, re.MULTILINE)]
    assert missing == [], "data_pipelines/datasets/README.md has a row for each"


def test_every_set_is_in_the_table_of_data_md() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.partition("| purpose |")[2].partition("\n\n")[0]
    assert {*DATASETS} - {*re.findall(r"`(.+?)`", table)} == set()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """A function that returns the arguments of a reader: its set is written once, and from then on only read."""

    def write(name: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("set")
        return layout(name, folder / "raw", tar_writer(folder))

    return cache(write)


def list_backwards(monkeypatch: pytest.MonkeyPatch, is_backwards: bool) -> None:
    """From now on folders are listed by name, forwards or backwards: two orders that differ however few entries there
    are, which of a few random ones is not certain."""

    class Entries(list[Any]):  # os.scandir is a context manager, too
        def __enter__(self) -> Iterator[Any]:
            return iter(self)

        def __exit__(self, *_: object) -> None: ...

        def close(self) -> None: ...

    def ordered(listing: Callable[..., Any]) -> Callable[..., Any]:
        def listed(*arguments: Any, **options: Any) -> Any:
            return Entries(sorted(listing(*arguments, **options), key=os.fspath, reverse=is_backwards))

        return listed

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, ordered(getattr(os, name)))
    for name in ("iterdir", "glob", "rglob"):
        listing = ordered(getattr(Path, name))
        monkeypatch.setattr(Path, name, lambda *given, listing=listing, **options: iter(listing(*given, **options)))


@pytest.mark.parametrize("name", DATASETS)
def test_the_order_does_not_depend_on_the_file_system(name: str, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = given(name)
    found = []
    for is_backwards in (False, True):
        with monkeypatch.context() as patched:
            list_backwards(patched, is_backwards)
            found.append(contents(DATASETS[name](**arguments)))
    assert found[0] == found[1], "sort what folders list"


WITH_ROOT = [name for name, reader in DATASETS.items() if "root" in signature(reader).parameters]


def contents_of_all(arguments: Path, hash_seed: int) -> dict[str, Any]:
    """What every reader makes of its arguments in a process that hashes text by this seed."""
    program = [sys.executable, str(Path(__file__).parent / "set_contents.py"), str(arguments)]
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    return json.loads(subprocess.run(program, env=environment, capture_output=True, check=True, text=True).stdout)


@pytest.mark.slow
def test_no_set_depends_on_how_python_hashes_text(tmp_path: Path, given: Given) -> None:
    arguments = {name: given(name) for name in WITH_ROOT}
    write_arguments(tmp_path / "arguments.json", arguments)
    one, other = (contents_of_all(tmp_path / "arguments.json", seed) for seed in HASH_SEEDS)
    changed = [name for name in WITH_ROOT if one[name] != other[name]]
    assert changed == [], "their order comes from a set or from hash(): sort it, or split by hash_split"


@pytest.mark.parametrize("name", WITH_ROOT)
def test_an_image_missing_on_disk_is_named(name: str, tmp_path: Path, write_tar: WriteTar) -> None:
    """Or not listed at all, by readers that take what there is."""
    arguments = layout(name, tmp_path / "raw", write_tar)
    files = [image.image for image in DATASETS[name](**arguments).images if isinstance(image.image, Path)]
    lost = files[::2]
    for path in lost:
        path.unlink()
    message, listed = "", []
    try:
        listed = [image.image for image in DATASETS[name](**arguments).images]
    except InputError as error:
        message = str(error)
    assert not message or any(path.name in message for path in lost)
    assert not {*lost} & {*listed}, "refuse missing images by require_files of datasets/reading.py"


@pytest.mark.parametrize("name", sorted(NAMED_SETS))
def test_a_set_is_called_as_its_reader(name: str, given: Given) -> None:
    assert DATASETS[name](**given(name)).name == name


@pytest.mark.parametrize("name", [*USER_READERS, "parquet"])
def test_own_sets_are_called_after_their_source(name: str, given: Given) -> None:
    raw = DATASETS[name](**given(name))
    assert raw.is_user_set
    assert raw.name == {"csv": "films"}.get(name, "raw")


WITH_FRACTIONS = [
    (name, fraction)
    for name, reader in DATASETS.items()
    for fraction in ("val_fraction", "test_fraction")
    if fraction in signature(reader).parameters
]


@pytest.mark.parametrize("value", [1.5, -0.1, 0.6, float("nan")])
@pytest.mark.parametrize(("name", "fraction"), WITH_FRACTIONS)
def test_impossible_fractions_are_refused(name: str, fraction: str, value: float, given: Given) -> None:
    arguments = given(name) | {fraction: value}
    with pytest.raises(InputError, match=f"--{fraction.replace('_', '-')} is {value}"):
        DATASETS[name](**arguments)


@pytest.mark.parametrize(
    "name", [name for name, count in Counter(name for name, _ in WITH_FRACTIONS).items() if count == 2]
)
def test_each_fraction_is_that_of_its_split(name: str, tmp_path: Path, write_tar: WriteTar) -> None:
    arguments = layout(name, tmp_path / "raw", write_tar)
    fractions = {"val_fraction": 0.4, "test_fraction": 0.4}
    counts = {
        split: Counter(
            image.split for image in DATASETS[name](**arguments | fractions | {f"{split}_fraction": 0.0}).images
        )
        for split in ("val", "test")
    }
    for split, other in (("val", "test"), ("test", "val")):
        without, with_ = counts[split][split], counts[other][split]
        assert with_ > without == 0 or with_ == without > 0, "its own, where the set has one"


@pytest.mark.parametrize("name", WITH_ROOT)
def test_a_missing_root_is_named(name: str, tmp_path: Path, given: Given) -> None:
    arguments = given(name) | {"root": tmp_path / "nowhere"}
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "nowhere"))):
        contents(DATASETS[name](**arguments))


# Most of Fashion-MNIST's ten classes are empty here; what its reader makes of the real files ships with the package.
@pytest.mark.parametrize("name", [name for name in TREES if name != "fashion_mnist"])
def test_prepares_loads_and_trains_one_step(name: str, tmp_path: Path, given: Given, engine: Engine) -> None:
    arguments = given(name) | ({"size": 32} if name in XRAYS else {})
    manifest = prepare(DATASETS[name](**arguments), Output(tmp_path / "set"))
    assert manifest is not None
    assert manifest["quarantined"] == 0
    assert manifest["patients"] == PATIENTS.get(name, "none")
    train = Index.load(tmp_path / "set", "train")
    if name in (*XRAYS, "csv"):
        assert train.channels == 1
        assert set(np.minimum(train.height, train.width)) == {32}
        assert (train.height == train.width).all() or name in WHOLE_XRAYS
        assert (train.group >= 0).all() == (PATIENTS[name] == "apart")
    config = Config(
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=(str(tmp_path / "set"),), image_size=32, resize=32, train_view="xray_affine"),
        model=ModelConfig("r14x0.5"),
        schedule=ScheduleConfig(steps=1, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu"),
    )
    result = run(config, LaunchOptions(tmp_path / "run"), engine, {"kind": "pretrain"})
    assert result["train_images"] == len(train)
    assert result["patients"] == manifest["patients"]
    assert np.isfinite(result["val"]["loss"])
    assert np.isfinite(result["test"]["loss"])
