"""A run folder that is not there, or one level too high: the error names the one that was meant."""

from pathlib import Path

import pytest

from data_pipelines.common.errors import InputError
from trainer.checkpoint import best_or_latest
from trainer.evaluation.runs import open_run
from trainer.models.sources import locate
from trainer.run_files import require_place


def test_a_folder_above_a_run_names_the_run(tmp_path: Path) -> None:
    run = tmp_path / "films" / "full-shot-seed-0"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match=f"; did you mean {run}\\?"):
        best_or_latest(tmp_path / "films")
    with pytest.raises(InputError, match=r"has none\)$"):
        best_or_latest(run)


def test_a_mistyped_run_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=f"; did you mean {tmp_path / 'mine'}\\?"):
        open_run(tmp_path / "mime")
    with pytest.raises(InputError, match=f"; did you mean {tmp_path / 'mine'}\\?"):
        locate(str(tmp_path / "mime"))
    with pytest.raises(InputError, match=r"nor a checkpoint$"):
        open_run(tmp_path / "absent" / "mime")


def test_a_path_is_named_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for source in ("runs/mime", "./runs/mime", "local-dir:runs/mime"):
        with pytest.raises(InputError, match=r"; did you mean runs/mine\?$"):
            locate(source)
    with pytest.raises(InputError, match=r"are listed by: bitscale status runs$"):
        locate("runs/zzz")
    with pytest.raises(InputError, match=r"published weights; did you mean runs\?$"):
        locate("run")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"; did you mean {tmp_path}/runs/mine\\?$"):
        locate("~/runs/mime")


def test_a_place_without_results_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    require_place(Path("runs"))
    with pytest.raises(InputError, match=r"nor a CSV file; did you mean runs\?$"):
        require_place(Path("run"))
    with pytest.raises(InputError, match=r"nor a CSV file$"):
        require_place(Path("notes.txt"))
