"""The command line that resumes a run, as the user typed it."""

import os
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from data_pipelines.common.advice import as_word, no_option
from trainer.run_files import CONFIG

_PROGRAMS = ("pretrain", "pretrain.py", "trainer.pretrain", "bitscale-pretrain")
# Host and process of a script of launchers/, and what was typed to start it, or to submit its job.
_LAUNCHER, _COMMAND = "BITSCALE_LAUNCHER", "BITSCALE_COMMAND"


def resume_command(run_dir: Path) -> str:
    """The command that resumes this process's run: its own, or that of the launcher that started it."""
    return " ".join(map(as_word, _goes_on_with(run_dir, _as_typed(_given(sys.argv[0])))))


def _as_typed(command: list[str]) -> list[str]:
    """With the name of an installed program, such as bitscale, in place of its interpreter and its path."""
    if len(command) > 1 and Path(command[0]).name.startswith("python"):
        program = Path(command[1])
        if program.is_absolute() and shutil.which(program.name) == command[1]:
            return [program.name, *command[2:]]
    return command


@cache  # from the first call on, also when the launcher is gone
def _given(script: str) -> list[str]:
    """What was typed to start a script of launchers/ or to submit this job; else the command of the furthest ancestor
    whose arguments include the script of this program: torchrun, or what started it."""
    parent = os.getppid()
    command, is_worker = list(sys.orig_argv), Path(script).name == "worker.py"  # of a sweep, which was given another
    for _ in range(8):
        if os.environ.get(_LAUNCHER) == f"{platform.node()} {parent}" and (typed := _typed()):
            return typed
        try:
            words = os.fsdecode(Path(f"/proc/{parent}/cmdline").read_bytes()).split("\0")[:-1]
            parent = int(
                Path(f"/proc/{parent}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            )
        except (OSError, ValueError, IndexError):  # the first process, or no Linux
            break
        if {script, _module()}.isdisjoint(words) and not is_worker:
            break
        command, is_worker = words, False
    return command


def _module() -> str | None:
    """What this program is called in `torchrun -m NAME`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else None


def _typed() -> list[str]:
    """The words of the launcher's command line; empty where they are quoted as only bash reads it."""
    text = os.environ.get(_COMMAND, "")
    return [] if "$'" in text else shlex.split(text)


def _goes_on_with(run_dir: Path, command: Sequence[str]) -> list[str]:
    """The command, with the run's own folder in place of a request for a new one, and its own configuration in place of
    a file of settings, which may have changed meanwhile."""
    command, was = _with_own_config(run_dir, command), command
    if command == was and "--no-resume" not in command:
        return list(command)
    words: list[str] = []
    skip = False
    for word in command:
        is_out = word.partition("=")[0] in ("--out", "--run-dir")  # its name of today, and an older one
        if not skip and not is_out and word != "--no-resume":
            words.append(word)
        skip = is_out and "=" not in word
    # What submit hands on to the trainer comes behind "--".
    is_submitted = len(words) > 1 and Path(words[1]).stem == "submit"
    behind = ["--"] if is_submitted and "--" not in words else []
    return [*words, *behind, "--out", no_option(run_dir)]


def _with_own_config(run_dir: Path, command: Sequence[str]) -> Sequence[str]:
    for i, (program, recipe) in enumerate(pairwise(command), 1):
        is_file = recipe.endswith((".toml", ".json")) or ("/" in recipe and not recipe.startswith("-"))
        if Path(program).name in _PROGRAMS and is_file:
            return [*command[:i], no_option(run_dir / CONFIG), *command[i + 1 :]]
    return command
