"""bitscale SUBCOMMAND: one command for everything. A subcommand is imported when it is run."""

import data_pipelines  # noqa: F401 - first: it takes folders that hide our modules off sys.path

# isort: split
import sys

from bitscale.commands import GROUPS, SUBCOMMANDS, run
from data_pipelines.common import streams
from data_pipelines.common.command_help import grouped_help
from data_pipelines.common.message_parts import nearest
from data_pipelines.common.program import program
from data_pipelines.common.version import version_line

_HELP = "help"  # a word that stands for --help
_FLAGS = {
    "--version": "show the version and the commit",
    "--completion SHELL": "print what completes commands and flags in bash, zsh or fish",
}


def main() -> None:
    """Run the subcommand that the command line names, or answer for all of them."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name == _HELP:
        name, arguments = (arguments or ["--help"])[0], ["--help"]
    if name in SUBCOMMANDS and not _asks_for_version(arguments):
        run(name, arguments)
        return
    streams.guard()
    if _asks_for_version([name, *arguments]):
        print(version_line())
    elif name in ("-h", "--help"):
        print(_help())
    elif name == "--completion":
        _print_completion(arguments)
    else:
        known = [flag.split()[0] for flag in _FLAGS] + ["--help"] if name.startswith("-") else [*SUBCOMMANDS, _HELP]
        _refuse(f"unknown {'flag' if name.startswith('-') else 'subcommand'} {name!r}{nearest(name, known)}")
    sys.stdout.flush()


def _asks_for_version(words: list[str]) -> bool:
    return "--version" in (words[: words.index("--")] if "--" in words else words)


def _help() -> str:
    groups = {title: {name: each.line for name, each in group.items()} for title, group in GROUPS.items()}
    usage = f"usage: {program()} SUBCOMMAND [ARGUMENTS]"
    return grouped_help(usage, {**groups, "flags": _FLAGS}, f"What a subcommand takes: {program()} SUBCOMMAND --help")


def _print_completion(arguments: list[str]) -> None:
    from bitscale.completion import SHELLS, completion

    if len(arguments) != 1 or arguments[0] not in SHELLS:
        _refuse(f"--completion takes one shell of {', '.join(SHELLS)}")
    print(completion(arguments[0]), end="")


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
