"""All commands of the program and their flags, from the parsers that they use."""

import argparse
import ast
import importlib
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bitscale", "trainer", "data_pipelines", "benchmarks", "launchers")
INTERNAL = {
    "cli",
    "job",
    "machine",
    "rendezvous_store",
    "overlap_rank",
    "wire_rank",
}  # without flags of its own, or started by other commands alone


@cache
def modules() -> dict[str, ast.Module]:
    """The parsed source of each module, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@cache
def dataclasses_of_commands() -> dict[str, Any]:
    """The commands whose flags a dataclass says, by the name of their module."""
    found = {}
    for module, tree in modules().items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "parse" and call.args:
                name = getattr(call.args[0], "id", "")
                if name[:1].isupper():
                    found[_called(module)] = getattr(importlib.import_module(module), name)
    return found


@cache
def sources() -> dict[str, str]:
    """The module that each command starts in; of `prepare NAME` that of the reader."""
    from data_pipelines.datasets.registry import DATASETS

    found = {_called(module): module for module, tree in modules().items() if _has_main(tree)}
    readers = {f"prepare {name}": getattr(reader, "func", reader).__module__ for name, reader in DATASETS.items()}
    return found | readers | {"sweep": "trainer.sweep.command"}


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command; those of `prepare` by the name of the set behind it: "prepare csv"."""
    from data_pipelines.datasets.registry import DATASETS
    from data_pipelines.prepare import command_of as of_reader
    from launchers.submit import make_parser
    from trainer.pretrain import command_of as of_recipe
    from trainer.recipes import RECIPES

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        make: Callable[..., argparse.ArgumentParser] = tyro.extras.get_parser
        found = {name: make(command) for name, command in dataclasses_of_commands().items()}
        found["pretrain"] = make(of_recipe("", RECIPES["embedded"]()))
        found |= {f"prepare {name}": make(of_reader(reader)) for name, reader in DATASETS.items()}
    return found | {"submit": make_parser()}


@cache
def flags_of(command: str) -> frozenset[str]:
    """The flags of a command; of "prepare" those of all sets, of a worker those of the sweep that started it."""
    command = "sweep" if command == "worker" else command
    if command == "prepare":
        return frozenset({"--verify", "--list"}).union(
            *(flags_of(name) for name in parsers() if name.startswith("prepare "))
        )
    return frozenset(flag for action in parsers()[command]._actions for flag in action.option_strings) | {"--version"}


@cache
def reached_by(module: str) -> frozenset[str]:
    """The commands that import a module, directly or not: all that could run it. A reader of a set is run by `prepare`
    alone, which imports all of them, as what looks for prepared sets does."""
    found = {command for command, start in sources().items() if module in _imported_by(start)} - INTERNAL
    if module.startswith("data_pipelines.datasets."):
        return frozenset(command for command in found if command.startswith("prepare "))
    return frozenset(found)


@cache
def _imported_by(module: str) -> frozenset[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imports(name)
    return frozenset(seen)


def _imports(module: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([module.split(".")[0]] * bool(node.level) + [node.module] * bool(node.module))
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name in modules()]


def _called(module: str) -> str:
    return "sweep" if module == "trainer.sweep.command" else module.rpartition(".")[2]


def _has_main(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
