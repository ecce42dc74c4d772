"""The files of a run's lock: copied, damaged, left behind, not to be written, and what is read from them."""

import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from locked_folders import NO_TIMEOUT, TIMEOUT_S, elsewhere, have, left, of
from test_run_lock import at_once

from data_pipelines.common.errors import InputError
from trainer.run_files import LOCK
from trainer.run_folder import lock_file, processes
from trainer.run_folder.lock_file import chain_of, create, holder_of, job_name, this_start
from trainer.run_folder.run_lock import in_use

pytestmark = pytest.mark.usefixtures("fast_locks")


def test_a_copy_of_a_folder_has_no_holder(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    (tmp_path / "run").mkdir()
    left(tmp_path / "run", of(other, tmp_path / "run"))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert at_once(tmp_path / "copy") == "free"
    (tmp_path / "link").symlink_to("run")
    assert at_once(tmp_path / "link") == "busy"
    (tmp_path / "run").rename(tmp_path / "moved")
    assert at_once(tmp_path / "moved") == "busy"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"token": "../x", "process": [true, "7"], "since": 1e99}'])
def test_a_damaged_lock_is_waited_for(content: bytes, tmp_path: Path) -> None:
    path = left(tmp_path, elsewhere(tmp_path))
    path.write_bytes(content)
    assert at_once(tmp_path) == "wait"
    have(tmp_path, TIMEOUT_S)
    assert list(tmp_path.iterdir()) == []


def test_damaged_locks_in_a_row_are_waited_for(tmp_path: Path) -> None:
    path = left(tmp_path, elsewhere(tmp_path))
    path.write_bytes(b"")
    lock_file.after(tmp_path, chain_of(tmp_path)[0].holder).write_bytes(b"")
    assert len(chain_of(tmp_path)) == 2
    have(tmp_path, TIMEOUT_S)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_starts_have_left_is_deleted(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / f".lock-{name}.tmp").touch()
    os.utime(tmp_path / ".lock-old.tmp", (0, 0))
    have(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock-new.tmp"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/run cannot be written \(.*\); choose another --out"):
        have(tmp_path / "file" / "run")


def test_looking_takes_nothing(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    assert in_use(tmp_path / "absent", NO_TIMEOUT) is None
    assert in_use(tmp_path, NO_TIMEOUT) is None
    left(tmp_path, of(other, tmp_path))
    assert f"process {other.pid}" in str(in_use(tmp_path, NO_TIMEOUT))
    left(tmp_path, elsewhere(tmp_path))
    assert "process 12 on node7" in str(in_use(tmp_path, NO_TIMEOUT))
    assert holder_of(tmp_path) == chain_of(tmp_path)[0].holder
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    holder = this_start(tmp_path)
    assert create(tmp_path / LOCK, holder)
    assert holder_of(tmp_path) == holder
    assert holder.is_here
    assert not holder.may_be_ending
    assert holder.ancestors[0].number == os.getppid()
    assert asdict(holder)["process"] == processes.this_process()


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        ({"TORCHELASTIC_RUN_ID": "bitscale"}, None),
        ({"TORCHELASTIC_RUN_ID": "5e1f"}, "torchrun 5e1f"),
        ({"SLURM_JOB_ID": "7", "TORCHELASTIC_RUN_ID": "7-0"}, "SLURM job 7"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, "SLURM job 7_2"),
        ({"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "jwb"}, "SLURM job 7 of jwb"),
        ({"BITSCALE_JOB": "SLURM job 7", "TORCHELASTIC_RUN_ID": "5e1f"}, "SLURM job 7"),
    ],
)
def test_names_of_jobs(environ: dict[str, str], name: str | None) -> None:
    assert job_name(environ) == name
