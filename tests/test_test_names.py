"""A test's name says its rule, briefly; it reaches what it tests by public names."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parent
LONGEST = 60


def names_of(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in functions if node.name.startswith("test_")]


def test_names_have_at_most_60_characters() -> None:
    names = {(path.name, name) for path in TESTS.rglob("test_*.py") for name in names_of(path)}
    assert len(names) > 1000
    assert [f"{file}: {name}" for file, name in sorted(names) if len(name) > LONGEST] == []
