"""The benchmark of large photographs runs from end to end on small ones, and reckons as it says."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lib.loading.images import generated_photo
from benchmarks.lib.loading.large_photos import LoadingLarge, measure, rule, table
from data_pipelines.common.errors import InputError
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in (1, 2):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(generated_photo(number, shorter=900, blur=0.1))
    result = measure(LoadingLarge(images=tmp_path / "photos", rounds=1, num_images=2, batch_size=2))
    assert {"benchmark", "commit", "machine", "versions", "arguments", "how", "source"} <= result.keys()
    assert str(tmp_path) not in json.dumps(result)
    found = result["kinds"]["given"]
    assert (found["images"]["mean_height"], found["images"]["mean_width"]) == (900, 1200)
    costs = found["cpu_ms_per_image"]
    assert costs.keys() == {"full", "scaled", "shrunk"}
    assert all(cost["median"] > 0 and len(cost["rounds"]) == 1 for cost in costs.values())
    gain = found["times_as_fast"]["scaled"]["median"]
    assert gain == pytest.approx(costs["full"]["median"] / costs["scaled"]["median"])
    assert found["met"] is (gain >= found["target"])
    assert 0 < found["difference"]["mean"] <= found["difference"]["max"] < 8
    text = table(result)
    assert "given: 1200 x 900" in text
    assert f"target 3x {'met' if found['met'] else 'missed'}" in text


def test_the_rule_is_the_line_through_both_sets(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "photo.jpg").write_bytes(generated_photo(1, shorter=75))
    prepare(image_folder(tmp_path / "raw", 0, 0), Output(tmp_path / "large"))
    prepare(image_folder(tmp_path / "raw", 0, 0, shorter_side=37), Output(tmp_path / "small"))
    pixels = {"full": 75 * 100, "shrunk": 37 * 49}
    cpu_ms = {name: [1e-6 * (300 * count + 2e6)] * 3 for name, count in pixels.items()}
    found = rule(tmp_path / "large", tmp_path / "small", cpu_ms)
    assert found == pytest.approx({"ns_per_pixel": 300, "ns_per_image": 2e6})


def test_a_blurred_photo_takes_less_room() -> None:
    sharp, soft = generated_photo(3), generated_photo(3, blur=0.05)
    assert len(soft) < len(sharp) / 2
    assert generated_photo(3, shorter=375) == sharp
    assert np.frombuffer(sharp[:2], np.uint8).tolist() == [0xFF, 0xD8]


@pytest.mark.parametrize("options", [{"rounds": 0}, {"num_images": -1}, {"shorter": 512}])
def test_mistakes_are_named(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is {options[name]}"):
        LoadingLarge(**options)  # type: ignore[arg-type]
