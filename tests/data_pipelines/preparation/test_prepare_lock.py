"""Only one process at a time prepares a set; tasks of an array job share it."""

import errno
import fcntl
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.join_parts import join_parts
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.part_writer import _PartWriter
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.preparation.set_folder import held


@pytest.fixture(autouse=True)
def small_shards_and_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.preparation.shard_records.SHARD_IMAGES", 3)
    monkeypatch.setattr("data_pipelines.preparation.set_folder.PATIENCE", 0.1)


@pytest.fixture
def raw(class_folders: Callable[..., Path]) -> RawSet:
    return image_folder(class_folders(), 0, 0)


def _during_first_shard(monkeypatch: pytest.MonkeyPatch, other: Callable[[], Any]) -> None:
    """Call `other` once, while the first shard is not finished."""
    write, calls = _PartWriter.write, iter([other])

    def writing(self: Any, *of_shard: Any) -> None:
        if call := next(calls, None):
            call()
        write(self, *of_shard)

    monkeypatch.setattr(_PartWriter, "write", writing)


def _refused(raw: RawSet, output: Output) -> Callable[[], None]:
    def start() -> None:
        with pytest.raises(InputError, match=f"{output.out} is being prepared by another process"):
            prepare(raw, output)

    return start


@pytest.mark.parametrize(
    "other", [{}, {"shorter_side": 8}, {"force": True}, {"part": (0, 2)}, {"part": (1, 2), "shorter_side": 8}]
)
def test_a_set_is_prepared_by_one_process_at_a_time(
    raw: RawSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    out, side = tmp_path / "out", other.pop("shorter_side", None)
    _during_first_shard(monkeypatch, _refused(replace(raw, shorter_side=side), Output(out, **other)))
    manifest = prepare(raw, Output(out))
    assert manifest
    assert manifest["splits"]["train"]["images"] == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_tasks_of_an_array_job_work_side_by_side(raw: RawSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def others() -> None:
        assert prepare(raw, Output(out, part=(1, 2))) is None
        _refused(replace(raw, shorter_side=8), Output(out, part=(1, 2)))()
        _refused(raw, Output(out))()

    _during_first_shard(monkeypatch, others)
    prepare(raw, Output(out, part=(0, 2)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.partial", "raw"]
    manifest = prepare(raw, Output(out))
    assert manifest
    assert manifest["splits"]["train"]["images"] == 12


def test_an_unused_plan_gives_way_to_a_task_with_other_options(raw: RawSet, tmp_path: Path) -> None:
    def stopped() -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt, match="interrupted; the same command goes on where it was"):
        prepare(replace(raw, shorter_side=8, part=lambda *_: stopped()), Output(tmp_path / "out", part=(0, 2)))
    for number in range(2):
        prepare(raw, Output(tmp_path / "out", part=(number, 2)))
    manifest = prepare(raw, Output(tmp_path / "out"))
    assert manifest
    assert "shorter_side" not in manifest


@pytest.mark.parametrize("harm", ["a shard that is gone", "a shard of other settings"])
def test_what_another_process_did_meanwhile_is_no_set(
    raw: RawSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    rows, join = tmp_path / ".out.partial" / "rows" / "train", join_parts

    def harmed(*asked: Any) -> None:
        record = rows / "000003.json"
        known = record.read_text()
        record.unlink()
        if harm == "a shard of other settings":
            record.write_text(json.dumps(json.loads(known) | {"settings": "others", "source": "others"}))
        join(*asked)

    with monkeypatch.context() as patched:
        patched.setattr("data_pipelines.preparation.prepare_set.join_parts", harmed)
        with pytest.raises(InputError, match=r"another process wrote there.*repeat the command") as refused:
            prepare(raw, Output(tmp_path / "out"))
    fact = "9 images were prepared where the set has 12" if "gone" in harm else "shards of other settings were found"
    assert str(refused.value).startswith(fact)
    assert prepare(raw, Output(tmp_path / "out"))


def test_what_is_locked_is_the_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, removed = fcntl.flock, iter([tmp_path / ".out.partial.lock"])

    def removed_before(*lock: Any) -> None:
        if path := next(removed, None):
            path.unlink()
        flock(*lock)

    monkeypatch.setattr("fcntl.flock", removed_before)
    with held(tmp_path / "out", is_shared=False):
        assert (tmp_path / ".out.partial.lock").exists()


def test_where_a_file_system_has_no_locks_sets_are_prepared(
    raw: RawSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    assert prepare(raw, Output(tmp_path / "out"))
