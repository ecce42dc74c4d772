"""What holds for every reader of DATASETS, on a small set in its owner's layout."""

import gzip
import io
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import webdataset as wds
from empty_files import touch
from PIL import Image
from set_contents import contents, write_arguments
from test_chest_xray_targets import TEST, TRAIN, covidx_root, tuberculosis_root
from xray_roots import chexpert_root, mimic_root, nih_root, padchest_root

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
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
WNIDS = ("n01440764", "n01443537")
XRAYS = ("chexpert", "mimic_cxr", "nih_cxr14", "padchest", "padchest_cl", "covidx", "tuberculosis")
PATIENTS = dict.fromkeys((*XRAYS, "csv", "phantom"), "apart") | {"medmnist": "may leak"}
WHOLE_XRAYS = {"covidx", "tuberculosis"}
WriteTar = Callable[..., Path]


def picture(number: int, suffix: str = ".jpg", channels: int = 3) -> bytes:
    """A small image file, another one for each number; PNG of one channel has 16 bits, as X-rays do."""
    shape = (40, 36, 3) if channels == 3 else (40, 36)
    pixels = np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8)
    if channels == 1 and suffix == ".png":
        pixels = pixels.astype(np.uint16) * 257
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG" if suffix == ".png" else "JPEG")
    return buffer.getvalue()


def fill(root: Path, channels: int = 3) -> Path:
    """Put a picture into every empty file of an image."""
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in (".jpg", ".png", ".jpeg")]
    for number, path in enumerate(files):
        path.write_bytes(picture(number, path.suffix.lower(), channels))
    return root


def class_folders(root: Path, _: WriteTar) -> dict[str, Any]:
    touch(root, (f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(20)))
    return {"root": fill(root)}


def table(root: Path, _: WriteTar) -> dict[str, Any]:
    names = [f"films/{number}.png" for number in range(40)]
    touch(root, names)
    rows = [f"{name},{number % 2},{'' if number % 3 else 1},p{number // 2}" for number, name in enumerate(names)]
    (root / "films.csv").write_text("\n".join(["path,edema,mass,patient", *rows]))
    labels = {"label_columns": ("edema", "mass"), "patient_column": "patient", "xray_size": 32}
    return {"root": fill(root, 1), "table": root / "films.csv", **labels}


def tars(root: Path, _: WriteTar) -> dict[str, Any]:
    for split in ("train", "val", "test"):
        with wds.TarWriter(str(root / f"{split}-0.tar")) as writer:
            for number in range(6):
                writer.write({"__key__": f"{number:03d}", "jpg": picture(number), "cls": number % 3})
    return {"root": root}


def imagenet1k(root: Path, _: WriteTar) -> dict[str, Any]:
    for wnid in WNIDS:
        touch(root, (f"train/{wnid}/{wnid}_{number}.JPEG" for number in range(30)))
        touch(root, (f"val/{wnid}/ILSVRC2012_val_{number}{wnid}.JPEG" for number in range(3)))
    return {"root": fill(root), "val_fraction": 0.2}


def imagenet21k(root: Path, write_tar: WriteTar) -> dict[str, Any]:
    for place, wnid in enumerate(WNIDS):  # five pictures are in both classes
        numbers = range(25 * place, 25 * place + 30)
        write_tar(f"{root.name}/{wnid}.tar", {f"{wnid}_{number}.JPEG": picture(number) for number in numbers})
    return {"root": root, "val_fraction": 0.1, "test_fraction": 0.1}


def cifar(root: Path, folder: str, names: str, labels: str, meta: str, batches: tuple[str, ...]) -> dict[str, Any]:
    (root / folder).mkdir()
    for seed, batch in enumerate(batches):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 3072), dtype=np.uint8)
        content = {b"data": pixels, labels.encode(): [number % 3 for number in range(12)]}
        (root / folder / batch).write_bytes(pickle.dumps(content, protocol=2))
    (root / folder / meta).write_bytes(pickle.dumps({names.encode(): [b"cat", b"dog", b"eel"]}, protocol=2))
    return {"root": root, "val_fraction": 0.2}


def cifar10(root: Path, _: WriteTar) -> dict[str, Any]:
    batches = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
    return cifar(root, "cifar-10-batches-py", "label_names", "labels", "batches.meta", batches)


def cifar100(root: Path, _: WriteTar) -> dict[str, Any]:
    return cifar(root, "cifar-100-python", "fine_label_names", "fine_labels", "meta", ("train", "test"))


def flowers102(root: Path, _: WriteTar) -> dict[str, Any]:
    touch(root, (f"jpg/image_{number:05d}.jpg" for number in range(1, 31)))
    scipy.io.savemat(root / "imagelabels.mat", {"labels": [[1 + number % 3 for number in range(30)]]})
    splits = {"trnid": range(1, 19), "valid": range(19, 25), "tstid": range(25, 31)}
    scipy.io.savemat(root / "setid.mat", {name: [list(ids)] for name, ids in splits.items()})
    return {"root": fill(root)}


def pets(root: Path, _: WriteTar) -> dict[str, Any]:
    (root / "annotations").mkdir()
    for name, numbers in (("trainval", range(30)), ("test", range(30, 36))):
        breeds = (("Abyssinian", "1 1 1"), ("beagle", "2 2 1"))
        lines = [f"{breed}_{number} {ids}" for breed, ids in breeds for number in numbers]
        (root / "annotations" / f"{name}.txt").write_text("\n".join(lines))
        touch(root, (f"images/{line.split()[0]}.jpg" for line in lines))
    return {"root": fill(root), "val_fraction": 0.2}


def medmnist(root: Path, _: WriteTar) -> dict[str, Any]:
    numbers = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("val", 4), ("test", 6)):
        arrays[f"{split}_images"] = numbers.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    np.savez_compressed(root / "pneumoniamnist.npz", **arrays)  # type: ignore[arg-type]
    return {"root": root}


def parquet_files(root: Path, _: WriteTar) -> dict[str, Any]:
    for split, start in (("train", 0), ("validation", 20), ("test", 30)):
        rows = range(start, start + 10)
        images = [{"bytes": picture(number), "path": f"{number}.jpg"} for number in rows]
        table = pa.table({"image": images, "label": [number % 2 for number in rows]})
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet")
    return {"root": root}


def fashion_mnist(root: Path, _: WriteTar) -> dict[str, Any]:
    """Two classes of small images: val is what a class has beyond 900."""
    for part, count in (("train", 2 * 910), ("t10k", 12)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 2
        for name, data in ((f"{part}-images-idx3", pixels), (f"{part}-labels-idx1", labels)):
            header = np.array([0x0800 + data.ndim, *data.shape], dtype=">i4")
            (root / f"{name}-ubyte.gz").write_bytes(gzip.compress(header.tobytes() + data.tobytes()))
    return {"root": root}


TREES: dict[str, Callable[[Path, WriteTar], dict[str, Any]]] = {
    "image-folder": class_folders,
    "csv": table,
    "webdataset": tars,
    "medmnist": medmnist,
    "parquet": parquet_files,
    "imagenet1k": imagenet1k,
    "imagenet21k": imagenet21k,
    "chexpert": lambda root, _: {"root": fill(chexpert_root(root, 40)), "test_fraction": 0.2},
    "mimic_cxr": lambda root, _: {"root": fill(mimic_root(root, 40))},
    "nih_cxr14": lambda root, _: {"root": fill(nih_root(root, 40), 1), "val_fraction": 0.2},
    "padchest": lambda root, _: {"root": fill(padchest_root(root), 1), "val_fraction": 0.2, "test_fraction": 0.2},
    "cifar10": cifar10,
    "cifar100": cifar100,
    "flowers102": flowers102,
    "pets": pets,
    "padchest_cl": lambda root, _: {
        "root": fill(padchest_root(root), 1),
        "val_fraction": 0.2,
        "test_fraction": 0.2,
    },
    "covidx": lambda root, _: {"root": fill(covidx_root(root, TRAIN[:60], TEST[:10])), "val_fraction": 0.2},
    "tuberculosis": lambda root, _: {"root": fill(tuberculosis_root(root), 1)},
    "fashion_mnist": fashion_mnist,
    "phantom": lambda root, _: {"images": 60, "size": 32},
    "digits": lambda root, _: {},
}


@pytest.fixture(scope="module")
def engine() -> Any:
    made = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=len(os.sched_getaffinity(0))), "fp32")
    yield made
    made.close()


def layout(name: str, root: Path, write_tar: WriteTar) -> dict[str, Any]:
    """Writes a small set in its owner's layout; the arguments of its reader."""
    assert name in TREES, f"no layout in TREES for {name}: write a small one as its owner distributes it"
    root.mkdir(exist_ok=True)
    return TREES[name](root, write_tar)


def test_every_layout_has_a_reader() -> None:
    assert TREES.keys() <= DATASETS.keys()


def test_every_set_has_a_row_in_the_page() -> None:
    page = (Path(registry.__file__).parent / "README.md").read_text(encoding="utf-8")
    missing = [name for name in DATASETS if not re.search(rf"^\| `{name}` \|", page, re.MULTILINE)]
    assert missing == [], "data_pipelines/datasets/README.md has a row for each"


def raw_set(name: str, folder: Path, write_tar: WriteTar) -> RawSet:
    """The set of a reader, from its layout below the folder."""
    return DATASETS[name](**layout(name, folder / "raw", write_tar))


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


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_the_order_does_not_depend_on_the_file_system(
    name: str, tmp_path: Path, write_tar: WriteTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = layout(name, tmp_path / "raw", write_tar)
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
def test_no_set_depends_on_how_python_hashes_text(tmp_path: Path, write_tar: WriteTar) -> None:
    arguments = {name: layout(name, tmp_path / name, write_tar) for name in WITH_ROOT}
    write_arguments(tmp_path / "arguments.json", arguments)
    one, other = (contents_of_all(tmp_path / "arguments.json", seed) for seed in HASH_SEEDS)
    changed = [name for name in WITH_ROOT if one[name] != other[name]]
    assert changed == [], "their order comes from a set or from hash(): sort it, or split by hash_split"


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NAMED_SETS))
def test_a_set_is_called_as_its_reader(name: str, tmp_path: Path, write_tar: WriteTar) -> None:
    assert raw_set(name, tmp_path, write_tar).name == name


@pytest.mark.parametrize("name", [*USER_READERS, "parquet"])
def test_own_sets_are_called_after_their_source(name: str, tmp_path: Path, write_tar: WriteTar) -> None:
    raw = raw_set(name, tmp_path, write_tar)
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
def test_impossible_fractions_are_refused(
    name: str, fraction: str, value: float, tmp_path: Path, write_tar: WriteTar
) -> None:
    arguments = layout(name, tmp_path, write_tar) | {fraction: value}
    with pytest.raises(InputError, match=f"--{fraction.replace('_', '-')} is {value}"):
        DATASETS[name](**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_ROOT)
def test_a_missing_root_is_named(name: str, tmp_path: Path, write_tar: WriteTar) -> None:
    arguments = layout(name, tmp_path, write_tar) | {"root": tmp_path / "nowhere"}
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "nowhere"))):
        contents(DATASETS[name](**arguments))


# Most of Fashion-MNIST's ten classes are empty here; what its reader makes of the real files ships with the package.
@pytest.mark.parametrize("name", [name for name in TREES if name != "fashion_mnist"])
def test_prepares_loads_and_trains_one_step(name: str, tmp_path: Path, write_tar: WriteTar, engine: Engine) -> None:
    arguments = layout(name, tmp_path / "raw", write_tar)
    if name in XRAYS:
        arguments |= {"size": 32}
    manifest = prepare(DATASETS[name](**arguments), Output(tmp_path / "set"))
    assert manifest is not None
    assert manifest["quarantined"] == 0
    assert manifest["patients"] == PATIENTS.get(name, "none")
    train = Index.load(tmp_path / "set", "train")
    if name in (*XRAYS, "csv"):
        assert train.channels == 1
        assert set(np.minimum(train.height, train.width)) == {32}
        assert (train.height == train.width).all() or name in WHOLE_XRAYS
        assert (train.group >= 0).all()
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
