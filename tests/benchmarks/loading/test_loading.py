"""The loading benchmark runs from end to end, counts what it should, and says what it did not run."""

import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.lib.loading import comparison as loading
from benchmarks.lib.loading.contenders import CONTENDERS, pil_transform
from benchmarks.lib.loading.gpu import images_per_s, measure_gpu, train
from benchmarks.lib.loading.host import measure_host, write_tiled_set
from benchmarks.lib.loading.images import generated_photo, given_photos, lay_out
from benchmarks.lib.loading.timed_pass import Setting, cpu_seconds
from benchmarks.lib.processes import child_environment, resident_mb
from data_pipelines.common.errors import InputError
from data_pipelines.loading import torch_loader
from data_pipelines.shards.index import Index

ROOT = Path(__file__).parents[3]


def jpeg(number: int, mode: str = "RGB") -> bytes:
    """A small grey, colour or CMYK file whose height is 40 + number."""
    buffer = io.BytesIO()
    Image.new(mode, (50, 40 + number), number).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("loading")
    lay_out(map(jpeg, range(6)), folder)
    return Setting(folder, num_images=10, batch_size=4, threads=1)


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "results" / "loading.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "loading.py"), "--generate", "3", "--num-images", "6"]
    command += ["--batch-size", "4", "--rounds", "1", "--threads", "1", "--startup-samples", "20000"]
    command += ["--contenders", "ours_torch", "decode_limit", "ffcv", "--parts", "contenders", "startup", "gpu"]
    command += ["--ffcv-python", str(tmp_path / "no-python"), "--out", str(out)]
    done = subprocess.run(command, env=child_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert {"benchmark", "commit", "machine", "versions", "arguments", "how", "images"} <= result.keys()
    assert result["machine"]["cpu"]
    assert result["machine"]["cores"] >= 1
    assert {"python", "torch", "torchvision"} <= result["versions"].keys()
    assert result["arguments"]["threads"] == 1
    assert result["images"]["files"] == 3
    assert "not representative" in result["images"]["source"]
    contenders = result["contenders"]
    assert (contenders["ours_torch"]["images"], contenders["decode_limit"]["images"]) == (8, 6)  # whole batches of ours
    for name in ("ours_torch", "decode_limit"):
        for rate in ("images_per_cpu_s", "images_per_s"):
            assert contenders[name][rate].keys() == {"median", "min", "max"}
            assert contenders[name][rate]["median"] > 0
    assert "no-python" in contenders["ffcv"]["not_run"]
    assert result["ratios"].keys() == {"decode_limit"}
    startup = result["startup"]
    assert startup["samples"] == 27000
    assert [rank["first_ids"] for rank in startup["ranks"]] == [2048, 2048]
    assert {"seconds", "private_mb", "shared_mb", "peak_mb"} <= startup["ranks"][0].keys()
    assert {"target_s", "target_mb", "met"} <= startup.keys()
    assert result["gpu"]
    for text in ("ours_torch", "not run", "start with 27,000 samples", "gpu:", str(out)):
        assert text in done.stdout
    assert str(tmp_path) not in out.read_text().replace(str(tmp_path / "no-python"), "")


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_hands_over_all_images(name: str, setting: Setting) -> None:
    handed = CONTENDERS[name](setting)(setting.num_images)
    assert handed == (12 if name.startswith("ours") else 10)  # steps of ours are whole batches


@pytest.mark.parametrize(("as_float", "dtype"), [(True, torch.float32), (False, torch.uint8)])
def test_the_usual_transforms(as_float: bool, dtype: torch.dtype) -> None:
    tensor = pil_transform(as_float)(Image.new("RGB", (300, 260), (255, 0, 0)))
    assert tensor.shape == (3, 224, 224)
    assert tensor.dtype == dtype
    if as_float:
        assert tensor[0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229)
        assert tensor[2, 0, 0].item() == pytest.approx(-0.406 / 0.225)


def test_a_contender_that_cannot_run_gives_the_reason(tmp_path: Path) -> None:
    setting = Setting(tmp_path / "nothing", 4, 4, 1)
    settings = loading.Loading(contenders=("decode_limit",), rounds=2)
    assert "Error" in loading.measure_contenders(settings, setting)["decode_limit"]["not_run"]


def test_cpu_time_counts_children_that_have_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    before, own = cpu_seconds(), time.process_time()
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert cpu_seconds() - before >= 0.29
    assert time.process_time() - own < 0.29


def test_ratios_are_medians_over_rounds() -> None:
    def rounds(*rates: float) -> dict[str, Any]:
        return {"rounds": [{"images_per_cpu_s": rate} for rate in rates]}

    contenders = {
        "ours_torch": rounds(100, 90, 200),
        "torchvision_pil": rounds(50, 30, 80),
        "decode_limit": rounds(200, 90, 100),
        "ffcv": {"not_run": "absent"},
    }
    assert loading.ratios(contenders) == {
        "torchvision_pil": {"median": 2.5, "min": 2.0, "max": 3.0, "target": 2.4, "met": True},
        "decode_limit": {"median": 1.0, "min": 0.5, "max": 2.0, "target": None, "met": None},
    }
    assert loading.ratios({**contenders, "ours_torch": {"not_run": "no DALI"}}) == {}
    contenders["torchvision_pil"] = rounds(50, 50, 40)
    assert not loading.ratios(contenders)["torchvision_pil"]["met"]


def test_host_is_measured_and_its_parts_add_up(setting: Setting) -> None:
    host = measure_host(setting.folder / "prepared")
    assert host["us_per_image_of"].keys() == {"order", "read_ahead", "views", "encoded", "batch"}
    assert 0 < host["us_per_image"]["min"] <= host["us_per_image"]["median"] <= host["us_per_image"]["max"]
    assert sum(host["us_per_image_of"].values()) <= host["us_per_image"]["max"]
    assert host["met"] == (host["us_per_image"]["median"] <= 25)


def test_the_large_index_is_one(tmp_path: Path) -> None:
    """Every row is a member of its shard, and rows that are one repetition apart show the same."""
    about = write_tiled_set(tmp_path / "set", 9001)
    index = Index.load(tmp_path / "set", "train")
    assert about["samples"] == len(index) == 18000
    assert about["shards"] == len(index.shards) == 2
    assert index.shard[8999:9001].tolist() == [0, 1]
    assert index.keys([5, 9005])[0] == index.keys([5, 9005])[1]
    assert np.array_equal(index.encoded(5), index.encoded(9005))
    assert index.num_classes == 21841
    assert about["columns_mb"] == pytest.approx(sum(path.stat().st_size for path in tmp_path.rglob("*.npy")) / 1e6)


@pytest.mark.skipif(not resident_mb(), reason="this system does not say")
def test_private_and_shared_memory_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(30_000_000))
    before = resident_mb()
    mapped = np.memmap(tmp_path / "file", dtype=np.uint8, mode="r")
    assert mapped.sum() == 0
    between = resident_mb()
    held = np.ones(40_000_000, dtype=np.uint8)
    after = resident_mb()
    assert between["shared_mb"] - before["shared_mb"] == pytest.approx(30, abs=5)
    assert after["private_mb"] - between["private_mb"] == pytest.approx(40, abs=5)
    assert after["peak_mb"] >= after["private_mb"] + after["shared_mb"] - 5
    assert held.all()


@pytest.mark.parametrize("zipped", [False, True])
def test_photos_of_a_folder_and_of_a_zip(zipped: bool, tmp_path: Path) -> None:
    names = ["a/0.jpg", "a/1.JPEG", "b/c/2.jpeg", "b/c/3.JPG", "b/note.txt"]
    place = tmp_path / "photos"
    if zipped:
        with zipfile.ZipFile(place, "w") as archive:
            for number, name in enumerate(names):
                archive.writestr(name, str(number))
    else:
        for number, name in enumerate(names):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(str(number))
    assert list(given_photos(place, 10)) == [b"0", b"1", b"2", b"3"]
    assert list(given_photos(place, 2)) == [b"0", b"3"]


def test_without_photos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no JPEG file"):
        list(given_photos(tmp_path, 1))
    with pytest.raises(InputError, match="neither a folder nor a ZIP"):
        list(given_photos(tmp_path / "absent", 1))
    with pytest.raises(InputError, match="none of the images"):
        lay_out(iter([jpeg(0, "CMYK")]), tmp_path)


def test_images_are_laid_out_and_described(tmp_path: Path) -> None:
    about = lay_out(iter([jpeg(0), jpeg(1, "CMYK"), jpeg(2, "L"), jpeg(4)]), tmp_path)
    assert {name: about[name] for name in ("files", "left_out_cmyk", "mean_height", "mean_width")} == {
        "files": 3,
        "left_out_cmyk": 1,
        "mean_height": 42,
        "mean_width": 50,
    }
    index = Index.load(tmp_path / "prepared", "train")
    assert sorted(zip(index.height.tolist(), index.labels.tolist(), strict=True)) == [(40, 0), (42, 1), (44, 0)]


def test_generated_photos_compress_like_photographs() -> None:
    with Image.open(io.BytesIO(generated_photo(1))) as image:
        assert (image.size, image.mode, image.format) == ((500, 375), "RGB", "JPEG")
        assert 30 < np.asarray(image).std() < 80
    assert 50_000 < len(generated_photo(1)) < 200_000
    assert generated_photo(1) == generated_photo(1) != generated_photo(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "--rounds is 0"),
        ({"num_images": 0}, "--num-images is 0"),
        ({"threads": 100_000}, "may use 1 to"),
        ({"contenders": ("ours",)}, "unknown contender ours"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loading.Loading(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_claimed(setting: Setting) -> None:
    assert measure_gpu(setting) == {"not_measured": "no CUDA device"}


def test_throughput_of_a_loader(setting: Setting) -> None:
    calls: list[int] = []

    def counted(*arguments: Any) -> Any:
        for batch in torch_loader.batches(*arguments):
            calls.append(len(batch))
            yield batch

    assert images_per_s(counted, setting, torch.device("cpu"), num_batches=3) > 0
    assert calls == [4] * 13


@pytest.mark.slow
def test_training_reports_how_long_it_waits(setting: Setting) -> None:
    options = ("--data.image-size", "32", "--data.resize", "32", "--precision", "fp32", "--loader", "torch")
    result = train(setting, "r14x0.5", 3, 1, *options)
    assert result["rows"] == 2, result
    assert result["images_per_s"] > 0
    assert 0 <= result["data_wait_share"] <= 1
