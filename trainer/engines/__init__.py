"""ENGINES: what can move gradients between ranks, by name. The modules here are the only ones that know how."""

from collections.abc import Callable

from trainer.config import Precision, RuntimeConfig
from trainer.engines.base import Engine
from trainer.engines.ddp import DDPEngine

ENGINES: dict[str, Callable[[RuntimeConfig, Precision], Engine]] = {"ddp": DDPEngine}
