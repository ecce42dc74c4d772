"""CONTRIBUTING.md names modules, functions and classes that exist, the other pages files that do."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("trainer", "data_pipelines", "benchmarks", "bitscale", "launchers", "tests")
SPAN = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"(?:\w+\.)*\w+|[\w/]+\.py")
FILE = re.compile(r"\.(md|json|csv|toml|cff)$")
DEFINED = re.compile(r"\b(?:def|class) (\w+)|^ *(\w+)(?::[^\n=]+)? =|^ *(\w+): \w|\bself\.(\w+)\b", re.MULTILINE)
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("data_pipelines/datasets", "benchmarks/results")),
]
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)[ `:]")
# Pytest's marks, parts of `benchmarks/on_gpu.sh`, and what Python itself, torch, the shell or git know.
OTHERS = {"slow", "serial", "long", "slurm", "horovod", "gpu", "assert", "first", "second"} | {
    "torch.distributed", "BITSCALE_COMMAND", "_x", "v0.2.0"
}  # fmt: skip


@cache
def modules() -> dict[str, str]:
    """The text of every module, by its path."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


@cache
def defined() -> frozenset[str]:
    """The names of functions, classes, variables and attributes."""
    return frozenset(name for text in modules().values() for found in DEFINED.findall(text) for name in found if name)


def unknown_names(text: str) -> list[str]:
    """Names in code type that nothing has."""
    spans = [span for span in SPAN.findall(text) if NAME.fullmatch(span) and not FILE.search(span)]
    return [span for span in spans if span not in OTHERS and not (ROOT / span).exists() and not _exists(span)]


def _exists(span: str) -> bool:
    if span.endswith(".py"):
        return any(f"/{path}".endswith(f"/{span}") for path in modules())
    owner, _, member = span.rpartition(".")
    return member in defined() if not owner else any(_has(path, owner, member) for path in modules())


def _has(path: str, owner: str, member: str) -> bool:
    """Whether a module of that name, or a class of that name in the module, defines the member."""
    body: str | None = modules()[path]
    if Path(path).stem != owner:
        found = re.search(rf"^class {owner}\b.*?(?=^\S|\Z)", modules()[path], re.MULTILINE | re.DOTALL)
        body = found and found[0]
    return (
        body is not None
        and re.search(rf"\bdef {member}\b|^ {{0,4}}{member}: |^ {{0,4}}{member} =", body, re.M) is not None
    )


def absent_paths(text: str) -> list[str]:
    """Files and folders of ours in code type that are not there."""
    return [path for path in PATH.findall(text) if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_files_in_code_type_exist(page: Path) -> None:
    assert absent_paths(page.read_text(encoding="utf-8")) == []


def test_a_file_that_is_gone_is_found() -> None:
    good = "`trainer/config/` `benchmarks/on_gpu.sh FOLDER` `tests/test_links.py::test_there_are_documents`"
    bad = ["trainer/gone.py", "tests/gone.py", "benchmarks/gone.sh"]
    assert absent_paths(f"{good} `{bad[0]}` `{bad[1]}::test_x` `{bad[2]} FOLDER`") == bad


def test_names_in_code_type_exist() -> None:
    assert unknown_names((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")) == []


def test_a_name_that_is_gone_is_found() -> None:
    good = "`BatchSampler.request`, `advice.flag`, `RECIPES`, `sampler.py`, `loading/sampler.py`, `trainer/config`"
    bad = ["BatchSampler.step", "advice.no_such", "NO_SUCH_NAME", "no_such.py", "saving/sampler.py"]
    assert unknown_names(good + "".join(f"`{name}`" for name in bad)) == bad
