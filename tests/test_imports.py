"""Imports point one way, and each outside framework is known to one place."""

import ast
from pathlib import Path

import pytest

from tests.room_imports import LAYERS, crossing, imports, is_upward, modules, num_crossing

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bitscale", "trainer", "data_pipelines", "benchmarks", "launchers")
MAY_IMPORT = {
    "bitscale": set(PACKAGES),
    "benchmarks": {"trainer", "data_pipelines", "benchmarks"},
    "trainer": {"trainer", "data_pipelines"},
    "data_pipelines": {"data_pipelines"},
    "launchers": {"launchers"},
}
FRAMEWORKS = ("torch.distributed", "horovod", "deepspeed")
RANK_VARIABLES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
STORE_OF_TORCHRUN = Path("launchers/rendezvous_store.py")  # which serves it, and trains nothing
FILES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(source: str, package: str) -> set[str]:
    """The dotted names that some source of `package` imports, anywhere in it; attributes count, because
    `import torch` gives torch.distributed too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join([package] * bool(node.level) + [node.module] * bool(node.module))
            names |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return names


def is_below(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def forbidden(source: str, path: Path) -> list[str]:
    """What a source at this path imports or reads although it may not."""
    package = path.parts[0]
    names = imported(source, package)
    found = [name for name in names for other in set(PACKAGES) - MAY_IMPORT[package] if is_below(name, other)]
    if path.parts[:2] != ("trainer", "engines") and path != STORE_OF_TORCHRUN:
        found += [name for name in names for framework in FRAMEWORKS if is_below(name, framework)]
    if package == "data_pipelines" and path.name not in ("cli.py", "messages.py"):  # who prints, not what is read
        found += [
            node.value
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Constant) and node.value in RANK_VARIABLES
        ]
    return sorted(found)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    assert forbidden((ROOT / path).read_text(), path) == []


def test_there_are_files_to_look_at() -> None:
    assert {path.parts[0] for path in FILES} == set(PACKAGES)
    assert len(FILES) > 30


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("data_pipelines/loading/sampler.py", "import trainer.config", ["trainer.config"]),
        ("data_pipelines/a/b.py", "def f():\n    from trainer import config", ["trainer.config"]),
        ("data_pipelines/loading/sampler.py", "import benchmarks", ["benchmarks"]),
        ("data_pipelines/loading/sampler.py", "import os\nrank = os.environ['RANK']", ["RANK"]),
        ("data_pipelines/loading/sampler.py", "import os\nos.environ.get('WORLD_SIZE', 1)", ["WORLD_SIZE"]),
        ("trainer/training/loop.py", "from benchmarks.scaling import run", ["benchmarks.scaling.run"]),
        ("trainer/training/loop.py", "from launchers import submit", ["launchers.submit"]),
        ("trainer/training/loop.py", "import torch.distributed as dist", ["torch.distributed"]),
        ("trainer/training/loop.py", "from torch import distributed", ["torch.distributed"]),
        (
            "trainer/training/loop.py",
            "import torch\ntorch.distributed.barrier()",
            ["torch.distributed", "torch.distributed.barrier"],
        ),
        ("trainer/kernels/agc.py", "import horovod.torch as hvd", ["horovod.torch"]),
        ("trainer/kernels/agc.py", "import deepspeed", ["deepspeed"]),
        ("benchmarks/scaling.py", "import torch.distributed.run", ["torch.distributed.run"]),
        ("launchers/submit.py", "from trainer.recipes import RECIPES", ["trainer.recipes.RECIPES"]),
        ("launchers/submit.py", "import data_pipelines", ["data_pipelines"]),
        ("trainer/pretrain.py", "from bitscale.cli import main", ["bitscale.cli.main"]),
        ("bitscale/cli.py", "import trainer, data_pipelines, benchmarks, launchers", []),
        ("launchers/submit.py", "from . import profiles", []),
        ("data_pipelines/common/cli.py", "import os\nos.environ['RANK']", []),
        ("trainer/engines/ddp.py", "import torch.distributed\nimport horovod", []),
        ("trainer/training/loop.py", "from data_pipelines.shards.index import Index\nimport trainerlike", []),
        ("benchmarks/scaling.py", "from trainer import loop\nfrom data_pipelines import index", []),
    ],
)
def test_what_is_forbidden_is_found(path: str, source: str, found: list[str]) -> None:
    assert forbidden(source, Path(path)) == found


@pytest.mark.parametrize(("package", "most"), [("data_pipelines", 40), ("trainer", 124), ("benchmarks", 30)])
def test_few_imports_cross_rooms(package: str, most: int) -> None:
    assert num_crossing(package) <= most, "see which by python -m tests.room_imports --list"


@pytest.mark.parametrize("package", LAYERS)
def test_no_room_imports_one_above_it(package: str) -> None:
    assert [pair for pair in crossing(package) if is_upward(pair, package)] == []


def test_the_statistics_of_a_report_know_nothing_of_its_pages() -> None:
    inner = "trainer.reporting.analysis"
    inside = [module for module in modules("trainer.reporting") if is_below(module, inner)]
    found = [(module, other) for module in inside for other in imports(module, "trainer.reporting")]
    assert len(inside) > 5
    assert [pair for pair in found if not is_below(pair[1], inner)] == []


@pytest.mark.parametrize(("package", "most"), [("data_pipelines", 8), ("trainer", 16)])
def test_few_files_lie_at_the_root_of_a_package(package: str, most: int) -> None:
    assert len({path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}) <= most
