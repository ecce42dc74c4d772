"""How the running program is called, so that usage and advice can be typed as they are printed."""

import sys
from pathlib import Path

from data_pipelines.common.advice import as_word

_called: str | None = None


def be_called(name: str | None) -> None:
    """Set the name, such as "bitscale pretrain"; None: as Python was told what to run."""
    global _called
    _called = name


def program() -> str:
    """Such as "bitscale pretrain", "bitscale-pretrain", "python -m trainer.status" or "python trainer/pretrain.py"."""
    if _called is not None:
        return _called
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is not None and sys.argv[0].endswith(".py"):
        return f"python -m {module.name.removesuffix('.__main__')}"
    if sys.argv[0].endswith(".py"):
        return f"python {as_word(sys.argv[0])}"
    return Path(sys.argv[0]).name
