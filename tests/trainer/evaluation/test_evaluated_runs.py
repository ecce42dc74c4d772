"""What a run of this or an earlier version says of itself, as the evaluation takes it."""

from pathlib import Path
from typing import Any

from data_pipelines.common.files import write_json
from trainer.config import Config, DataConfig, config_of
from trainer.evaluation.runs import Run, over_seeds

ADDED = {"model": ("keep_head", "filter_init"), "optim": ("nesterov", "agc_head"), "data": ("translation", "border")}


def result_of(seed: int, earlier: bool = False, **data: Any) -> dict[str, Any]:
    settings = Config(seed=seed, data=DataConfig(sets=("pets",), **data)).to_dict() | {"data_fingerprint": "abc"}
    for section, names in ADDED.items() if earlier else ():
        for name in names:
            del settings[section][name]
    return {"kind": "transfer", "metric": "top1", "settings": settings, "test": {"top1": 0.5 + seed / 8}}


def test_seeds_of_an_earlier_version_are_of_the_same_setting(tmp_path: Path) -> None:
    results = [result_of(0), result_of(1, earlier=True), result_of(2, border="reflect"), result_of(3)]
    for number, result in enumerate(results):
        (tmp_path / f"run {number}").mkdir()
        write_json(tmp_path / f"run {number}" / "result.json", result)
    for number in (0, 1, 3):
        run = Run(tmp_path / f"run {number}", None, {}, results[number], results[number]["settings"])
        found = {(seed.seed, seed.value) for seed in over_seeds(run)}
        assert found == {(0, 0.5), (1, 0.625), (3, 0.875)}
    assert over_seeds(Run(tmp_path / "run 2", None, {}, results[2], results[2]["settings"])) == []


def test_a_broken_run_beside_it_spoils_no_seeds(tmp_path: Path) -> None:
    whole = [result_of(0), result_of(1)]
    broken: list[Any] = [
        {**result_of(2), "test": None},
        {**result_of(3), "test": {"top1": "x"}},
        {**result_of(4), "settings": 5},
        {**result_of(5), "settings": {}},
        [],
    ]
    for number, result in enumerate([*whole, *broken]):
        (tmp_path / f"run {number}").mkdir()
        write_json(tmp_path / f"run {number}" / "result.json", result)
    found = over_seeds(Run(tmp_path / "run 0", None, {}, whole[0], whole[0]["settings"]))
    assert [(seed.seed, seed.value) for seed in found] == [(0, 0.5), (1, 0.625)]


def test_settings_become_the_configuration_that_they_are_of() -> None:
    config = Config(seed=3, data=DataConfig(sets=("pets", "cifar10"), border="reflect", classes=("a",)))
    saved = config.to_dict() | {"data_fingerprint": "abc"}
    saved["model"]["pretrained_weights"] = "digest"
    assert config_of(saved) == config
    assert config_of(result_of(1, earlier=True)["settings"]) == Config(seed=1, data=DataConfig(sets=("pets",)))
    old = result_of(1, earlier=True)["settings"]
    old["optim"]["paper_code"] = True
    assert (config_of(old).optim.nesterov, config_of(old).data.translation) == (True, 0.25)
