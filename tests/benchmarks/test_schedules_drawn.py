"""The figure of the X-ray recipes' learning rates: its sizes, its numbers, its files."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import schedules
from benchmarks.schedules import IMAGES, UNIONS, curves_of
from data_pipelines.datasets.padchest_table import read_padchest, readable_adults
from data_pipelines.datasets.xray_tables import find_table, of_views, split_patients


@pytest.mark.slow
def test_sizes_are_those_of_the_tables_that_are_at_hand(tmp_path: Path) -> None:
    path, _ = find_table(tmp_path, ["train.csv"], "", shipped="chexpert_train.csv.gz")
    chexpert = pd.read_csv(path, usecols=["Path", "Frontal/Lateral", "AP/PA"])
    chexpert["view"] = chexpert["AP/PA"].mask(chexpert["Frontal/Lateral"] == "Lateral", "L")
    chexpert["patient"] = chexpert["Path"].str.extract(r"/(patient\d+)/")[0]
    padchest, _ = readable_adults(read_padchest(tmp_path, ("all",))[1])
    train = {
        "chexpert": split_patients(of_views(chexpert, ("all",))[0]["patient"], "chexpert", 0.0, 0.02),
        "padchest": split_patients(padchest["patient"], "padchest", 0.02, 0.02),
    }
    assert {name: int((splits == "train").sum()) for name, splits in train.items()} == {
        name: IMAGES[name] for name in train
    }


def test_by_the_text_only_the_largest_union_decays() -> None:
    for union in UNIONS:
        images, curves = curves_of(union)
        text, shipped = curves["by the text"].summary, curves["as shipped"].summary
        assert images == sum(IMAGES[name] for name in schedules.RECIPES[f"{union}_r50x1"]().data.sets)
        assert (text["global_batch_size"], text["warmup_steps"]) == (4096, 5000)
        assert (text["refused"] is None) == (union == UNIONS[-1])
        assert shipped["refused"] is None
        assert shipped["warmup_epochs"] == pytest.approx(15, abs=0.01)
        assert (shipped["highest"], shipped["last"]) == pytest.approx((0.04, 0.00004))
        assert shipped["at_the_highest"] == pytest.approx(15 / 90, abs=1e-3)
    _, curves = curves_of("chexpert")
    rates = curves["by the text"].rates
    assert list(rates) == sorted(rates)
    assert rates[-1] == pytest.approx(0.16, rel=1e-3)


def test_files_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "schedules.json"
    monkeypatch.setattr("sys.argv", ["schedules.py", "--out", str(out)])
    schedules.main()
    assert set(json.loads(out.read_text())["unions"]) == set(UNIONS)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    page = out.with_suffix(".md").read_text()
    assert "(schedules.png)" in page
    assert "| CheXpert | 219,064 | by the text | 4,814 | 5,000 (93.5) |" in page
