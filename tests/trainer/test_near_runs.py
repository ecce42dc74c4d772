"""A run folder that is not there, or one level too high: the error names the one that was meant."""

from pathlib import Path

import pytest

from data_pipelines.common.errors import InputError
from trainer.checkpoint import best_or_latest
from trainer.evaluation.runs import open_run
from trainer.models.sources import locate


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
