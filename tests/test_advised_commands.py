"""A whole command in a message is one that its program takes, with the names of files as a shell reads them."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from commands import flags_of, modules, parsers
from printed import COMMAND, PLACEHOLDER, text_of

from data_pipelines.common import advice
from data_pipelines.datasets.registry import DATASETS

NASTY = '-it\'s a "folder" $HOME'
# What is put into commands and is one plain word, or quoted where it is made.
PLAIN = {
    "data_pipelines.common.program": {"as_word(sys.argv[0])", "as_word(str(near))", "name"},
    "trainer.training.unreadable_images": set[str](),
    "trainer.run_folder.lock_file": {"run"},  # how the job of torchrun is called
    "trainer.engines.device": {"build"},
    "trainer.models.sources": {"name", "source", "_GOOGLE", "file"},
    "trainer.finetuning.paper_protocol": {"name", "given"},
    "trainer.evaluation.pages.model_card": {"_head_flag(run)"},
    "data_pipelines.datasets.catalog": {"name", "_root_flag(NAMED_SETS[name])"},
}
NOT_ADVICE = {"launchers.script", "trainer.pretrain"}  # the text of batch scripts; a name in `--help`
SAMPLES = {"name": "chexpert", "given": "--root DIR --out DIR", "_root_flag(NAMED_SETS[name])": "--root DIR "}


def advised(module: str) -> list[tuple[str, list[str]]]:
    """The commands in a module's messages, with {} for what is put in, and what that is."""
    found = []
    tree = modules()[module]
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        text = "" if id(node) in docs | inside else text_of(node)
        for start in (match.start() for match in COMMAND.finditer(text) if " " in text):
            values = [ast.unparse(part.value) for part in getattr(node, "values", ()) if hasattr(part, "conversion")]
            found.append((_to_its_end(text, start), values[text[:start].count(PLACEHOLDER) :]))
    return found


def _to_its_end(text: str, start: int) -> str:
    return re.split(r"`|\n|\)" if "`" in text[:start] else r"\n", text[start:])[0]


ADVICE = [(module, *one) for module in modules() if module not in NOT_ADVICE for one in advised(module)]


def test_there_is_advice() -> None:
    assert {"data_pipelines.datasets.catalog", "data_pipelines.preparation.plan", "trainer.sweep.command"} <= {
        row[0] for row in ADVICE
    }


@pytest.mark.parametrize(("module", "command", "values"), ADVICE, ids=[f"{row[0]}: {row[1]}" for row in ADVICE])
def test_paths_in_commands_are_quoted(module: str, command: str, values: list[str]) -> None:
    put_in = values[: command.count(PLACEHOLDER)]
    bare = [value for value in put_in if not value.startswith("quoted(")]
    assert set(bare) <= PLAIN.get(module, set())


def _filled(command: str, values: list[str]) -> list[str]:
    for value in values[: command.count(PLACEHOLDER)]:
        command = command.replace(PLACEHOLDER, SAMPLES.get(value, advice.quoted(NASTY)), 1)
    return shlex.split(command)


PROGRAMS = {
    "bitscale prepare": "prepare",
    "bitscale submit": "submit",
    "bitscale report": "report",
    "bitscale predict": "predict",
}
TYPED = [(PROGRAMS[name], *row[1:]) for row in ADVICE for name in PROGRAMS if row[1].startswith(f"{name} ")]


@pytest.mark.parametrize(("program", "command", "values"), TYPED, ids=[row[1] for row in TYPED])
def test_programs_take_the_commands(program: str, command: str, values: list[str]) -> None:
    words = _filled(command, values)
    arguments = words[2:]
    if program == "prepare" and arguments[0] in DATASETS:
        program, arguments = f"prepare {arguments[0]}", arguments[1:]
    if PLACEHOLDER in command and program in parsers():
        parsers()[program].parse_args(arguments)  # which ends the test where it objects
    assert {word for word in arguments if word.startswith("--")} <= flags_of(program)


@pytest.mark.parametrize("path", ["a b", "-x", "--force", "it's", 'a "b" $HOME `id`', "a\nb", "caf\udce9's \\", "é"])
def test_a_shell_reads_the_path_that_was_meant(path: str) -> None:
    done = subprocess.run(["bash", "-c", f"printf %s {advice.quoted(path)}"], capture_output=True, check=True)
    read = done.stdout.decode(errors="surrogateescape")
    assert Path(read) == Path(path)
    assert not read.startswith("-")
