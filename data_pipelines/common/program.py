"""How the running program is called, so that usage and advice can be typed as they are printed."""

import re
import sys
from pathlib import Path

from data_pipelines.common.advice import as_word

_OLDER_FORM = re.compile(
    r"python (?:-m (?:data_pipelines|trainer|launchers|benchmarks)\.|(?:data_pipelines|trainer|benchmarks)/)"
    r"(prepare|inspect|pretrain|transfer|report|evaluate|predict|export|status|submit|scaling)\b(?:\.py)?|"
    r"\bbitscale-(predict|evaluate)\b"
)
_FRONT = ("bitscale", "python -m bitscale")  # which have all commands as subcommands
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


def retyped(text: str) -> str:
    """A text with the commands in it as subcommands of `bitscale`, if that is what runs."""
    front = next((front for front in _FRONT if f"{program()} ".startswith(f"{front} ")), None)
    return text if front is None else _OLDER_FORM.sub(lambda found: f"{front} {found[1] or found[2]}", text)
