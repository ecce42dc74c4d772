"""Count the imports between files of one package that cross its rooms: python -m tests.room_imports [--list]

A room is a folder; a module at the root of a package is one by itself. What every room may use (`SHARED`) is counted
apart. A large room has rooms of its own, with an order too (`trainer.evaluation`).
"""

import ast
import sys
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# From the bottom to the top: a room imports itself and those before it.
LAYERS = {
    "data_pipelines": ["common", "image_files", "shards", "loading", "datasets", "preparation", "inspect_page"],
    "trainer": [
        *("normalisation", "run_files", "losses", "metrics", "kernels", "checkpoint", "models", "config", "splits"),
        *("recipes", "optim", "engine", "engines", "document", "run_folder", "profiling", "explanation"),
        *("evaluation", "training"),
        *("finetuning", "domain_distance", "reporting", "sweep"),
    ],
    "trainer.evaluation": [
        *(
            "outputs",
            "whole_index",
            "statistics",
            "calibration",
            "results",
            "runs",
            "leaks",
            "predictor",
            "preprocessing",
        ),
        *("chosen_thresholds", "explained", "assessment", "pages", "predicting", "exporting"),
    ],
    "benchmarks": [
        *("lib", "lib.kernels", "lib.throughput", "lib.engines", "lib.loading", "lib.on_gpu", "lib.network"),
        *("lib.scaling", "lib.transfer_distance", "lib.union_heads"),
    ],
}
SHARED = {
    "data_pipelines": {"common"},
    "trainer": {
        *("normalisation", "run_files", "losses", "metrics", "checkpoint", "config", "splits", "engine", "document"),
    },
    "trainer.evaluation": set(),
    "benchmarks": {"lib"},
}


def folder_of(package: str) -> Path:
    """The folder of a package, or of a room with rooms of its own."""
    return ROOT.joinpath(*package.split("."))


@cache
def modules(package: str) -> dict[str, Path]:
    """Every module of a package, by its dotted name."""
    paths = sorted(folder_of(package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def room_of(module: str, package: str) -> str:
    """The folder that a module lies in, or its own name at the root of its package."""
    path = modules(package)[module].relative_to(folder_of(package))
    room = ".".join(path.parent.parts)
    while room not in LAYERS[package] and "." in room:
        room = room.rpartition(".")[0]
    return room or path.stem


def imports(module: str, package: str) -> set[str]:
    """The modules of the same package that a module imports, anywhere in it."""
    known, found = modules(package), set()
    for node in ast.walk(ast.parse(known[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known.keys() or {node.module}
    return (found & known.keys()) - {module, package}


def crossing(package: str) -> list[tuple[str, str]]:
    """Pairs (importing, imported) of modules that lie in different rooms."""
    pairs = [(module, other) for module in modules(package) for other in sorted(imports(module, package))]
    return [pair for pair in pairs if room_of(pair[0], package) != room_of(pair[1], package)]


def is_upward(pair: tuple[str, str], package: str) -> bool:
    """Whether a room imports one that is not below it; programs at the root are above all rooms."""
    order = LAYERS[package]
    from_, to = (room_of(module, package) for module in pair)
    return to not in order or (from_ in order and order.index(to) > order.index(from_))


def num_crossing(package: str) -> int:
    """How many imports cross rooms, without those of what every room may use."""
    return sum(room_of(other, package) not in SHARED[package] for _, other in crossing(package))


def main() -> None:
    """Print the counts, and with --list every import that crosses."""
    for package in LAYERS:
        pairs = crossing(package)
        upward = [pair for pair in pairs if is_upward(pair, package)]
        print(f"{package}: {num_crossing(package)} imports cross rooms, {len(pairs)} with shared modules")
        for rooms, number in Counter(tuple(room_of(m, package) for m in pair) for pair in pairs).most_common():
            print(f"  {number:3} {rooms[0]} -> {rooms[1]}")
        for pair in pairs if "--list" in sys.argv else []:
            print("      ", *pair)
        for pair in upward:
            print("   up:", *pair)


if __name__ == "__main__":
    main()
