"""What completes subcommands, their first words and flags in a shell, as their help lists them."""

import io
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress

from bitscale.commands import SUBCOMMANDS, run

SHELLS = ("bash", "zsh", "fish")
_ROW = re.compile(r"^  (-.*?)(?:  |$)", re.MULTILINE)
_FLAG = re.compile(r"--(?:[a-z][\w-]*\.)?(?:\[no-\])?[a-z][\w-]*")
_LONGEST = {"submit": "--help"}  # of argparse, which has no other
_BASH = """\
_bitscale() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} words=
    if [ "$COMP_CWORD" = 1 ]; then
        words={subcommands}
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    case "$cur" in
    -*) ;;
    *) [ "$COMP_CWORD" -gt 2 ] && words= ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -o bashdefault -F _bitscale bitscale
"""
_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def completion(shell: str) -> str:
    """The script for a shell of `SHELLS`. Imports every subcommand, so that the script need not."""
    words = {name: [*_first_words(name), *_flags(name)] for name in SUBCOMMANDS}
    if shell == "fish":
        return "".join(_fish_lines(words))
    cases = "\n".join(f"        {name}) words={shlex.quote(' '.join(each))} ;;" for name, each in words.items())
    script = _BASH.format(subcommands=shlex.quote(" ".join(SUBCOMMANDS)), cases=cases)
    return _ZSH + script if shell == "zsh" else script


def _fish_lines(words: dict[str, list[str]]) -> Sequence[str]:
    lines = []
    for name, each in words.items():
        summary = shlex.quote(SUBCOMMANDS[name].line)
        lines.append(f"complete -c bitscale -n __fish_use_subcommand -a {name} -d {summary}\n")
        for word in each:
            option = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c bitscale -n '__fish_seen_subcommand_from {name}' {option}\n")
    return lines


def _first_words(name: str) -> list[str]:
    """The names of sets or recipes that come first."""
    from data_pipelines.datasets.registry import DATASETS
    from trainer.recipes import RECIPES

    return {"prepare": list(DATASETS), "pretrain": list(RECIPES)}.get(name, [])


def _flags(name: str) -> list[str]:
    """Of any of its sets, as each has its own; of one recipe, as all have the same."""
    first = _first_words(name)
    texts = [_help_of(name, word) for word in (first if name == "prepare" else first[:1])] or [_help_of(name)]
    found = [flag for text in texts for row in _ROW.findall(text) for flag in _FLAG.findall(row)]
    return sorted({"--help", *(form for flag in found for form in _spelt(flag))})


def _spelt(flag: str) -> list[str]:
    return [flag.replace("[no-]", ""), flag.replace("[no-]", "no-")] if "[no-]" in flag else [flag]


def _help_of(name: str, *words: str) -> str:
    written, arguments = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), sys.argv
    try:
        with redirect_stdout(written), suppress(SystemExit):
            run(name, [*words, _LONGEST.get(name, "--help-all")])
    finally:
        sys.argv = arguments
    written.seek(0)
    return written.read()
