"""Checks of what several benchmarks are asked for."""

from collections.abc import Sequence

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest_of_several
from trainer.models.architectures import MODELS


def require_known(flag: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError for a name that is not known."""
    for name in names:
        if name not in known:
            raise InputError(f"{flag} {name} is not known{nearest_of_several(name, known)}")


def require_models(flag: str, *names: str) -> None:
    """Raise InputError for a name that no model has."""
    require_known(flag, names, list(MODELS))
