"""ENGINES: the implementations of `Engine` by name. In the trainer, only this package imports torch.distributed."""

from collections.abc import Callable

from trainer.config import Precision, RuntimeConfig
from trainer.engine import Engine
from trainer.engines.ddp import DDPEngine


# Horovod and DeepSpeed are imported when they are asked for: the one may be missing, the other takes seconds.
def _horovod(runtime: RuntimeConfig, precision: Precision) -> Engine:
    from trainer.engines.horovod import HorovodEngine

    return HorovodEngine(runtime, precision)


def _deepspeed(runtime: RuntimeConfig, precision: Precision) -> Engine:
    from trainer.engines.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(runtime, precision)


def _ddp(runtime: RuntimeConfig, precision: Precision) -> Engine:
    if not runtime.elastic:
        return DDPEngine(runtime, precision)
    from trainer.engines.elastic import ElasticEngine

    return ElasticEngine(runtime, precision)


ENGINES: dict[str, Callable[[RuntimeConfig, Precision], Engine]] = {
    "ddp": _ddp,
    "horovod": _horovod,
    "deepspeed": _deepspeed,
}
