"""The strings that a module may print, and the flags and commands in them."""

import ast
import re
from typing import NamedTuple

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:[.-][a-z0-9]+)*")
_ONLY_A_FLAG = re.compile(r"--?[\w.-]+(=.*)?")
COMMAND = re.compile(
    r"python -m [\w.]+|(?:python )?\w[\w/]*\.py|bitscale[- ][a-z]+|torchrun|rm -r|curl|hf download|pip install|"
    r"[\w/]+\.sh(?= )|python \{\}"
)
PLACEHOLDER = "{}"


class Printed(NamedTuple):
    """A string, with {} for what is put into it. is_translated: its flags are those of pretrain.py, and become those of
    the running command."""

    line: int
    text: str
    is_translated: bool = False

    def own_flags(self) -> set[str]:
        """The flags that it says of the command that prints it."""
        start = COMMAND.search(self.text)
        return set(FLAG.findall(self.text[: start.start()] if start else self.text))


def printed(tree: ast.Module) -> list[Printed]:
    """What a module may print: its strings but for docstrings, which `--help` shows, and single words of command
    lines."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    translated = {id(part) for call in _calls(tree, "require", "with_own_flags") for part in ast.walk(call)}
    found = []
    for node in ast.walk(tree):
        if id(node) in inside | skipped:
            continue
        text = text_of(node)
        if "--" in text and not _ONLY_A_FLAG.fullmatch(text):
            found.append(Printed(node.lineno, text, id(node) in translated))  # type: ignore[attr-defined]
    return found


def asked_for(tree: ast.Module) -> set[str]:
    """The flags of pretrain.py whose names in the running command a module asks for."""
    arguments = [call.args[0] for call in _calls(tree, "flag", "has_flag") if call.args]
    return {str(argument.value) for argument in arguments if isinstance(argument, ast.Constant)}


def text_of(node: ast.AST) -> str:
    """A string or an f-string, with {} for what is put in; "" for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)
    return ""


def _calls(tree: ast.Module, *names: str) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if getattr(call.func, "id", getattr(call.func, "attr", "")) in names]
