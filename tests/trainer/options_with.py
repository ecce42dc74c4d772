"""Options of a fine-tuning, with settings by their short names."""

from typing import Any

from trainer.config import setting_kinds
from trainer.finetuning.finetune import Options

OF_OPTIONS = ("match_authors", "out", "overlap_excluded", "allow_config_change")
OTHER_NAMES = {"model": "model.name", "batch_size": "global_batch_size"}


def options_with(**named: Any) -> Options:
    """`options_with(out=folder, image_size=32)` gives data.image_size; None leaves a setting to the rule."""
    own = {name: value for name, value in named.items() if name in OF_OPTIONS}
    given = {_setting(name): value for name, value in named.items() if name not in OF_OPTIONS and value is not None}
    return Options(**own, given=given)


def _setting(name: str) -> str:
    wanted = OTHER_NAMES.get(name, name)
    (found,) = [setting for setting in setting_kinds() if wanted in (setting, setting.rpartition(".")[2])]
    return found
