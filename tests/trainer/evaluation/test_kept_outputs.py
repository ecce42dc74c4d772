"""Outputs that are kept beside a table: found again by state, content and name, and only while they fit."""

from pathlib import Path

import pytest

from data_pipelines.common.errors import InputError
from trainer.evaluation.predicting.kept_outputs import SUFFIX, Judged, KeptOutputs

MADE_WITH = {"weights": "x", "precision": "fp32"}
ONE, OTHER = Judged(5, remark="grey", logits=[0.1, -2.5], novelty=[0.1, 0.2, 0.3]), Judged(6, logits=[1.0, 2.0])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with two pictures, and what is kept of them."""
    path = tmp_path / "out.csv"
    with KeptOutputs(path, MADE_WITH, [tmp_path]) as kept:
        assert kept.of_state((1, 2, 3, 4)) is None
        kept.add([("a.png", (1, 2, 3, 4), ONE), ("b.png", (9, 2, 3, 4), OTHER)])
        kept.add_table()
    return path


def test_outputs_are_found_again(table: Path, tmp_path: Path) -> None:
    with KeptOutputs(table, MADE_WITH, [tmp_path]) as kept:
        assert (kept.has_same_inputs, kept.table_is_of_these_weights, kept.differing) == (True, True, [])
        assert kept.of_state((1, 2, 3, 4)) == kept.of_content(5) == kept.of_name("a.png") == ONE
        assert kept.of_state((1, 2, 3, 5)) is None
        assert (kept.has("b.png"), kept.has("c.png")) == (True, False)
        kept.add([("a.png", (1, 2, 8, 8), OTHER)])
    with KeptOutputs(table, MADE_WITH, [tmp_path / "elsewhere"]) as kept:
        assert not kept.has_same_inputs
        assert kept.of_name("a.png") == OTHER  # the last line counts


def test_other_options_use_nothing_and_tell_what_differs(table: Path, tmp_path: Path) -> None:
    with KeptOutputs(table, MADE_WITH | {"precision": "bf16"}, [tmp_path]) as kept:
        assert (kept.differing, kept.of_content(5)) == (["precision"], None)
        assert (kept.table_is_of_these_weights, kept.has_same_inputs) == (True, False)
    kept = KeptOutputs(table, {"weights": "y", "precision": "bf16"}, [tmp_path])
    assert (kept.table_is_of_these_weights, kept.table_is_of_other_weights) == (False, True)
    kept = KeptOutputs(table, {"weights": "y", "precision": "bf16"}, [tmp_path], anew=True)
    assert (kept.table_is_of_these_weights, kept.table_is_of_other_weights) == (False, False)


def test_a_line_that_was_cut_off_or_altered_does_not_count(table: Path, tmp_path: Path) -> None:
    path = table.with_name(f"{table.name}{SUFFIX}")
    path.write_bytes(path.read_bytes().replace(b"-2.5", b"-2.6")[:-5])
    kept = KeptOutputs(table, MADE_WITH, [tmp_path])
    assert not kept.table_is_of_these_weights  # which the last line says
    with kept:
        assert (kept.of_content(5), kept.of_content(6)) == (None, OTHER)
        kept.add([("c.png", (1, 1, 1, 1), ONE)])
    with KeptOutputs(table, MADE_WITH, [tmp_path]) as kept:
        assert kept.of_name("c.png") == ONE


@pytest.mark.parametrize("content", [b"", b"\xff\xfe none", b"[1]\n{}\n7\nnull\n", b'{"made_with": 3}\n', b"[" * 10**5])
def test_a_file_that_is_none_is_begun_anew(table: Path, tmp_path: Path, content: bytes) -> None:
    table.with_name(f"{table.name}{SUFFIX}").write_bytes(content)
    with KeptOutputs(table, MADE_WITH, [tmp_path]) as kept:
        assert (kept.differing, kept.of_content(5)) == ([], None)
    assert KeptOutputs(table, MADE_WITH, [tmp_path]).has_same_inputs


def test_two_starts_do_not_write_one_table(tmp_path: Path) -> None:
    """The second would publish what the first has half written, and spoil its record."""
    table = tmp_path / "predictions.csv"
    with KeptOutputs(table, MADE_WITH, [tmp_path]) as kept:
        before = kept.path.read_bytes()
        for anew in (False, True):
            with pytest.raises(InputError, match=r"predictions\.csv is being written by another start; wait"):
                KeptOutputs(table, MADE_WITH, [tmp_path], anew=anew).__enter__()
        assert kept.path.read_bytes() == before
    with KeptOutputs(table, MADE_WITH, [tmp_path]) as kept:
        assert kept.has_same_inputs
