"""A preparation that is resumed with other options, by --force, or as an array of tasks."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_films import Stopped, reader, require_as_at_once

from data_pipelines.common.errors import InputError
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare

pytestmark = pytest.mark.usefixtures("three_images_to_a_shard")


@pytest.mark.parametrize("parts", [1, 3])
def test_options_may_change_before_the_first_finished_shard(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    part = None if parts == 1 else (0, parts)

    def stopped(*_: Any, **__: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr("data_pipelines.preparation.part_writer.verify_image", stopped)
        with pytest.raises(Stopped):
            prepare(reader(films), Output(tmp_path / "out", part=part))
    raw = reader(films, shorter_side=32)
    prepare(raw, Output(tmp_path / "out"))
    require_as_at_once(raw, tmp_path / "out")


@pytest.mark.parametrize("begun_anew", [False, True])
def test_force_begins_anew_what_it_did_not_begin_itself(
    films: Path, tmp_path: Path, stop: Callable[..., None], work: dict[str, list[str]], begun_anew: bool
) -> None:
    stop(reader(films), Output(tmp_path / "out", force=begun_anew))
    work.update(read=[], decoded=[])
    stop(reader(films), Output(tmp_path / "out", force=True))
    assert len(work["decoded"]) == (0 if begun_anew else 10)
    other = reader(films, shorter_side=32)
    with pytest.raises(InputError, match="other shorter side; go on with its command, begin anew with --force"):
        prepare(other, Output(tmp_path / "out"))
    prepare(other, Output(tmp_path / "out", force=True))
    require_as_at_once(other, tmp_path / "out")


def test_array_tasks_begin_their_part_anew_the_last_keeps_all(
    films: Path, tmp_path: Path, work: dict[str, list[str]]
) -> None:
    raw = reader(films)
    for part in range(2):
        prepare(raw, Output(tmp_path / "out", part=(part, 2)))
    for part in (1, 0, 1, 0):
        work.update(read=[], decoded=[])
        prepare(raw, Output(tmp_path / "out", part=(part, 2), force=True))
        of_part = [Path(str(image.image)).name for image in [*raw.images][part::2]]
        assert sorted(work["decoded"]) in (sorted(of_part), [])
        assert (tmp_path / ".out.partial" / f"anew-{part}").exists()
    assert not work["decoded"]
    prepare(raw, Output(tmp_path / "out", force=True))
    assert not work["decoded"]


def test_the_last_command_keeps_parts_begun_without_force(
    films: Path, tmp_path: Path, work: dict[str, list[str]]
) -> None:
    for part in range(2):
        prepare(reader(films), Output(tmp_path / "out", part=(part, 2)))
    work.update(read=[], decoded=[])
    prepare(reader(films), Output(tmp_path / "out", force=True))
    assert not work["decoded"]


def test_a_task_of_other_options_removes_nothing(films: Path, tmp_path: Path) -> None:
    prepare(reader(films), Output(tmp_path / "a set", part=(0, 2)))
    other = reader(films, shorter_side=32)
    with pytest.raises(InputError, match="go on with its command, or remove it") as refused:
        prepare(other, Output(tmp_path / "a set", part=(1, 2), force=True))
    remedy = re.search("rm -r .*", str(refused.value))
    assert remedy
    subprocess.run(shlex.split(remedy[0]), check=True)
    prepare(other, Output(tmp_path / "a set", part=(1, 2), force=True))
    prepare(other, Output(tmp_path / "a set", force=True))
