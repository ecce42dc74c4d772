"""Private names of ours that tests touch: `python -m tests.private_names` prints how many by file, `--list` which.

Counted are imports of `_name`, `module._name` of what is imported from ours, `setattr(module, "_name",
...)`, and "package.module._name" as a string. What an instance keeps for itself cannot be told from a field here.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
_OURS = ("bitscale", "trainer", "data_pipelines", "benchmarks", "launchers")
_AS_TEXT = re.compile(rf"({'|'.join(_OURS)})(\.\w+)*\._[a-z]\w*(\.\w+)*", re.IGNORECASE)


def private_names(tree: ast.Module) -> Iterator[str]:
    """Each use, as it is written."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _OURS:
            imported |= {alias.asname or alias.name for alias in node.names}
            yield from (f"import {alias.name}" for alias in node.names if _is_private(alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and _root(node) in imported:
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _AS_TEXT.fullmatch(node.value):
            yield node.value
        elif isinstance(node, ast.Call) and len(node.args) > 1 and ast.unparse(node.func).endswith("setattr"):
            owner, name = node.args[:2]
            if _root(owner) in imported and isinstance(name, ast.Constant) and _is_private(str(name.value)):
                yield f"{ast.unparse(owner)}.{name.value}"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def by_file() -> dict[str, list[str]]:
    """The uses in each file of tests that has some, by its name; those of all conftest.py together."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py"), key=lambda path: path.name):
        found.setdefault(path.name, []).extend(private_names(ast.parse(path.read_text(encoding="utf-8"))))
    return {name: uses for name, uses in found.items() if uses}


if __name__ == "__main__":
    for file, uses in by_file().items():
        print(f'    "{file}": {len(uses)},')
        for use, count in Counter(uses).items() if "--list" in sys.argv else ():
            print(f"        {count} x {use}")
