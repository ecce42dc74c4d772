"""How the running program is called, so that usage and advice can be typed as they are printed."""

import os
import re
import shutil
import sys
from pathlib import Path

from data_pipelines.common.advice import as_word

_ROOT = Path(__file__).resolve().parents[2]
_SCRIPTS = {
    **{name: f"data_pipelines/{name}.py" for name in ("prepare", "inspect")},
    **{name: f"trainer/{name}.py" for name in ("pretrain", "transfer", "status", "report", "evaluate", "predict")},
    "export": "trainer/export.py",
    "proximity": "trainer/proximity.py",
    "submit": "launchers/submit.py",
    "scaling": "benchmarks/scaling.py",
}
_PACKAGES = "data_pipelines|trainer|launchers|benchmarks"
_COMMAND = re.compile(
    rf"(?:python (?:-m (?:{_PACKAGES})\.|(?:{_PACKAGES})/)|(?<!-m )\bbitscale[ -])"
    rf"(sweep|{'|'.join(_SCRIPTS)})\b(?:\.py)?"
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
    module = _module()
    if module is not None and sys.argv[0].endswith(".py"):
        return f"python -m {module.removesuffix('.__main__')}"
    if sys.argv[0].endswith(".py"):
        return f"python {as_word(sys.argv[0])}"
    return Path(sys.argv[0]).name


def retyped(text: str) -> str:
    """A text with the commands in it ("bitscale report", or an older form) as they can be typed where this program
    runs: as its own subcommands, or by their path if it was started by its own, as `python -m` would run a trainer.py
    of the working folder."""
    return _COMMAND.sub(lambda found: _typed(found[1]), text)


def _typed(name: str) -> str:
    front = next((front for front in _FRONT if f"{program()} ".startswith(f"{front} ")), None)
    started = Path(os.path.realpath(sys.argv[0]))
    is_script = any(started == _ROOT / script for script in _SCRIPTS.values())
    if front is not None or not is_script or _is_of_launcher_beside_bitscale():
        return f"{front or 'bitscale'} {name}"
    here = Path.cwd()
    if _module() is not None and here == _ROOT:  # where ours may be found without an installation
        return f"python -m bitscale {name}"
    script = _ROOT / _SCRIPTS["transfer" if name == "sweep" else name]
    near = script.relative_to(here) if script.is_relative_to(here) else script
    command = f"python {as_word(str(near))}"
    return f"{command} sweep" if name == "sweep" else command


def _is_of_launcher_beside_bitscale() -> bool:
    """Whether a script of launchers/ named the path of this program, and its user can type `bitscale` as well."""
    installed = shutil.which("bitscale")
    is_of_launcher = "BITSCALE_COMMAND" in os.environ
    return is_of_launcher and installed is not None and Path(installed).parent == Path(sys.executable).parent


def _module() -> str | None:
    """What `python -m` was told to run."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return None if spec is None else str(spec.name)
