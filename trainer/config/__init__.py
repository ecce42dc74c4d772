"""Run configuration: frozen dataclasses, validated on construction and saved with every run.

Everything outside `runtime` decides what is learnt and may not change when a run is resumed.
"""

from trainer.config.config import Config, Mode, Precision
from trainer.config.reader import misfit, read_settings
from trainer.config.runtime import RuntimeConfig
from trainer.config.saved import MAY_CHANGE, as_it_was, config_of, differences, translated
from trainer.config.sections import (
    AgcHead,
    DataConfig,
    FilterInit,
    HeadInit,
    ModelConfig,
    OptimConfig,
    PerChannel,
    ScheduleConfig,
    ScheduleKind,
    TrainOn,
    frozen_words,
)
from trainer.config.settings import (
    flag_of,
    given_by,
    open_to,
    setting_kinds,
    values_of,
    with_plain_settings,
    with_settings,
)

__all__ = [
    "MAY_CHANGE",
    "AgcHead",
    "Config",
    "DataConfig",
    "FilterInit",
    "HeadInit",
    "Mode",
    "ModelConfig",
    "OptimConfig",
    "PerChannel",
    "Precision",
    "RuntimeConfig",
    "ScheduleConfig",
    "ScheduleKind",
    "TrainOn",
    "as_it_was",
    "config_of",
    "differences",
    "flag_of",
    "frozen_words",
    "given_by",
    "misfit",
    "open_to",
    "read_settings",
    "setting_kinds",
    "translated",
    "values_of",
    "with_plain_settings",
    "with_settings",
]
