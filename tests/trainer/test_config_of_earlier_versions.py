"""Configurations that earlier versions wrote: settings that are new since had what is now their default."""

import dataclasses
import json
from typing import Any

from test_config import SETS

from trainer.config import (
    Config,
    OptimConfig,
    ScheduleConfig,
    differences,
)

ADDED_AUGMENTATION: dict[str, Any] = {
    "border": "reflect",
    "mixup_weight": "step",
    "randaugment_on": "image",
    "randaugment_space": "ildoonet",
    "translation": 0.25,
}


def test_new_settings_of_augmentation_had_their_defaults() -> None:
    old = Config(data=SETS).to_dict()
    for name in ADDED_AUGMENTATION:
        del old["data"][name]
    assert differences(old, Config(data=SETS).to_dict()) == []
    new = Config(data=dataclasses.replace(SETS, **ADDED_AUGMENTATION))
    assert differences(old, new.to_dict()) == [
        f"data.{name}: absent -> {value}" for name, value in ADDED_AUGMENTATION.items()
    ]


def test_paper_code_of_earlier_versions_chose_the_translation() -> None:
    new = Config(data=dataclasses.replace(SETS, translation=0.25)).to_dict()
    old = Config(data=SETS).to_dict()
    del old["data"]["translation"]
    old["optim"]["paper_code"] = new["optim"]["paper_code"] = True
    before = json.dumps(old)
    assert differences(old, new) == []
    new["data"]["translation"] = 0.15
    assert differences(old, new) == ["data.translation: 0.25 -> 0.15"]
    assert json.dumps(old) == before


def test_settings_that_are_new_had_their_defaults() -> None:
    old = Config(data=SETS).to_dict()
    del old["mode"], old["data"]["one_label"], old["data"]["scaled_decode"], old["model"]["keep_head"]
    del old["model"]["frozen_stages"]
    del old["schedule"]["warmup_epochs"], old["schedule"]["allow_no_decay"]
    assert differences(old, Config(data=SETS).to_dict()) == []
    assert differences(old, Config(data=SETS, schedule=ScheduleConfig(allow_no_decay=True)).to_dict()) == []
    epochs = Config(data=SETS, schedule=ScheduleConfig(warmup_epochs=2, warmup_steps=0))
    assert differences(old, epochs.to_dict()) == [
        "schedule.warmup_epochs: absent -> 2",
        "schedule.warmup_steps: 5000 -> 0",
    ]
    new = Config(data=dataclasses.replace(SETS, one_label=True, scaled_decode=True), mode="probe")
    assert differences(old, new.to_dict()) == [
        "data.one_label: absent -> True",
        "data.scaled_decode: absent -> True",
        "mode: absent -> probe",
    ]


PAPER_CODE = ("optim.agc_head", "optim.nesterov", "data.translation")


def of_an_earlier_version(config: Config, paper_code: bool) -> dict[str, Any]:
    """What that version wrote of such a run, in which `paper_code` stood for three settings."""
    plain = config.to_dict()
    for name in PAPER_CODE:
        section, _, setting = name.partition(".")
        del plain[section][setting]
    return plain | {"optim": plain["optim"] | {"paper_code": paper_code}}


def test_paper_code_of_earlier_versions_is_three_settings() -> None:
    default = Config(data=SETS)
    authors = dataclasses.replace(
        default,
        data=dataclasses.replace(SETS, translation=0.25),
        optim=OptimConfig(nesterov=True, agc_head="shape"),
    )
    for paper_code, config, other in ((False, default, authors), (True, authors, default)):
        old = of_an_earlier_version(config, paper_code)
        assert differences(old, config.to_dict()) == []
        assert [line.partition(":")[0] for line in differences(old, other.to_dict())] == sorted(PAPER_CODE)
        assert old == of_an_earlier_version(config, paper_code)  # it was not changed by reading it
