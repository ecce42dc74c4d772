"""Every flag in the documents exists, in the command that it is said of where the command stands before it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ROOT, flags_of, parsers
from printed import FLAG

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "data_pipelines" / "datasets" / "README.md",
    ROOT / "benchmarks" / "results" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# Of other programs: torchrun, our shell scripts, the tests, TensorBoard; and those that every command has.
OTHERS = {
    *("--completion", "--help-all"),
    *(
        "--nproc-per-node",
        "--nproc",
        "--max-restarts",
        "--last-call",
        "--all",
        "--coverage",
        "--horovod",
        "--soak-minutes",
    ),
    *("--figures", "--inputs", "--bind", "--endpoint", "--nnodes", "--strict", "--short"),
    *("--no-index", "--find-links"),  # of pip
}
# Of earlier versions: the changelog and the recipes say what they are called today.
FORMER = {"--base-lr", "--optim.paper-code", "--resume-anyway", "--stage", "--train-on"}
PARTS = {"--optim"}  # `--optim.`: what the names of flags begin with
PROGRAM = re.compile(
    r"(?:bitscale[- ]|python -m (?:data_pipelines|launchers|benchmarks|trainer)\.|(?:python )?(?:trainer|benchmarks)/)"
    r"(?P<name>\w+)(?:\.py)?(?P<word> \w[\w-]*)?"
)


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """The commands in a document, each with what follows it, up to the end of the line or of the code."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [line.split("  #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for code in [*lines, *spans]:
        if found := list(PROGRAM.finditer(code)):
            name, word = found[-1]["name"], (found[-1]["word"] or "").strip()
            longer = "sweep" if (name, word) == ("transfer", "sweep") else f"{name} {word}"
            yield (longer if longer in parsers() else name), code[found[-1].end() :]


FOUND = [(path.name, *one) for path in DOCUMENTS for one in commands_of(path.read_text(encoding="utf-8"))]
TYPED = [row for row in FOUND if FLAG.search(row[2])]


def test_documents_show_commands() -> None:
    assert {"pretrain", "sweep", "submit", "prepare csv", "evaluate", "predict"} <= {row[1] for row in TYPED}


@pytest.mark.parametrize(("document", "command", "rest"), TYPED, ids=[f"{row[1]}{row[2]}"[:70] for row in TYPED])
def test_flags_behind_a_command_are_its_own(document: str, command: str, rest: str) -> None:
    own, _, handed_on = rest.partition(" -- ")
    assert set(FLAG.findall(own)) - flags_of(command) == set()
    assert set(FLAG.findall(handed_on)) - flags_of("pretrain") == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_flags_in_prose_exist(path: Path) -> None:
    every = frozenset().union(*map(flags_of, [*parsers(), "prepare"]))
    former = FORMER if path.name in ("CHANGELOG.md", "recipes.md") else set()
    assert set(FLAG.findall(path.read_text(encoding="utf-8"))) - every - OTHERS - PARTS - former == set()
