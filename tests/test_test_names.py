"""A test's name says its rule, briefly; a test touches private names no more often than it already does."""

import ast
from pathlib import Path

from tests.private_names import by_file, private_names

TESTS = Path(__file__).resolve().parent
LONGEST = 60
# Only ever fewer: what a test needs gets a public name. `python -m tests.private_names` prints this table anew.
PRIVATE_NAMES = {
    "channels_last_on_cuda.py": 1,
    "conftest.py": 5,
    "interpreted_group_norm.py": 7,
    "locked_folders.py": 1,
    "test_checkpoint.py": 3,
    "test_device_transfer.py": 3,
    "test_dicom.py": 2,
    "test_figure_text.py": 3,
    "test_file_modes.py": 1,
    "test_folder_for_one_run.py": 1,
    "test_group_norm_cpu.py": 4,
    "test_group_norm_relu.py": 6,
    "test_image_formats.py": 1,
    "test_launch.py": 4,
    "test_memory.py": 2,
    "test_native.py": 11,
    "test_node_cache.py": 1,
    "test_ops.py": 4,
    "test_outputs.py": 3,
    "test_preflight.py": 6,
    "test_prepare_lock.py": 1,
    "test_randaugment.py": 2,
    "test_rank_logs.py": 13,
    "test_resume_command.py": 1,
    "test_run_lock.py": 2,
    "test_run_lock_kept.py": 6,
    "test_run_lock_races.py": 2,
    "test_saver.py": 4,
    "test_security.py": 1,
    "test_standardise.py": 1,
    "test_status.py": 1,
    "test_targets_trained_whole.py": 1,
    "test_throughput_meter.py": 1,
    "test_upright.py": 1,
    "test_worker_pool.py": 2,
}


def test_names_have_at_most_60_characters() -> None:
    names = set()
    for path in TESTS.rglob("*.py"):
        functions = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if _is_function(node)]
        names |= {(path.name, node.name) for node in functions if node.name.startswith("test_")}
    assert len(names) > 1000
    assert [f"{file}: {name}" for file, name in sorted(names) if len(name) > LONGEST] == []


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def test_private_names_become_fewer() -> None:
    found = {file: len(uses) for file, uses in by_file().items()}
    more = {file: count for file, count in found.items() if count > PRIVATE_NAMES.get(file, 0)}
    assert more == {}, "see them by python -m tests.private_names --list; use or make a public name"
    fewer = {file: found.get(file, 0) for file, count in PRIVATE_NAMES.items() if found.get(file, 0) < count}
    assert fewer == {}, "well done; lower PRIVATE_NAMES to these"


def test_private_names_are_seen_wherever_they_stand() -> None:
    source = """
from trainer import status
from trainer.metrics import _ties, auroc
import numpy
status._process(1)
numpy._x, status.__name__, self._own
monkeypatch.setattr(status, "_stat", 1)
monkeypatch.setattr("trainer.status._stat", 1)
monkeypatch.setattr(status, "stat", 1)
"""
    expected = ["import _ties", "status._process", "status._stat", "trainer." + "status._stat"]
    assert sorted(private_names(ast.parse(source))) == expected
