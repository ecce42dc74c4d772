"""Text is read and written in an encoding that the program names: the locale of a machine decides none."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bitscale", "trainer", "data_pipelines", "benchmarks", "launchers")
FILES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
NOT_FILES = {"Image", "tarfile", "zipfile", "os", "gzip", "archive"}  # whose `open` takes or gives no text
MODE_AT = {"open": 1, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0}
BINARY_UNLESS_SAID = {"NamedTemporaryFile", "TemporaryFile"}


def without_encoding(source: str) -> list[int]:
    """The lines of a source where text passes in the encoding of the locale."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _by_locale(node)]


def _by_locale(call: ast.Call) -> bool:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    name, receiver = _called(call.func)
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if any(_is_true(given.get(word)) for word in ("text", "universal_newlines")):
        return True
    if name not in MODE_AT or (name == "open" and receiver in NOT_FILES):
        return False
    at = 0 if name == "open" and receiver else MODE_AT[name]
    mode = given.get("mode", call.args[at] if len(call.args) > at else None)
    if mode is None:
        return name not in BINARY_UNLESS_SAID
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


def _called(function: ast.expr) -> tuple[str, str]:
    """The name of what is called, and of what it is called on."""
    if isinstance(function, ast.Attribute):
        return function.attr, ast.unparse(function.value)
    return getattr(function, "id", ""), ""


def _is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_text_in_the_encoding_of_the_locale(path: Path) -> None:
    assert without_encoding((ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("path.read_text()", True),
        ("path.read_text(errors='replace')", True),
        ("path.read_text('utf-8')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('a', buffering=1)", True),
        ("path.open(mode='w')", True),
        ("path.open('rb')", False),
        ("open(path)", True),
        ("open(path, 'wb')", False),
        ("open(path, mode)", True),
        ("os.fdopen(number, 'w')", True),
        ("os.fdopen(number, 'wb')", False),
        ("Image.open(path)", False),
        ("tempfile.NamedTemporaryFile()", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("subprocess.run(words, text=True)", True),
        ("subprocess.run(words, text=True, encoding='utf-8')", False),
        ("subprocess.run(words)", False),
    ],
)
def test_what_is_found(source: str, is_found: bool) -> None:
    assert bool(without_encoding(source)) is is_found
