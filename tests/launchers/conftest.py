import os
import shutil
import sys
from pathlib import Path

import pytest
from login_node import PLAN, Login

from launchers import submit


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Login:
    folder = tmp_path
    monkeypatch.chdir(folder)
    monkeypatch.setattr(submit, "ask_plan", lambda python, arguments: PLAN)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    login = Login(folder, monkeypatch, capsys)
    login.program("scontrol", '[ "$1" != show ] || echo n1')
    login.program("squeue", "")
    login.program("sbatch", f"cat >>{folder}/submitted; echo $(($(grep -c ^.sbatch {folder}/ran) + 100))")
    # Scripts that look each second whether a program has ended look more often.
    login.program("sleep", f'[ "$1" != 1 ] || set -- 0.02; exec {shutil.which("sleep")} "$@"')
    login.program("python", f'exec {sys.executable} "$@"')
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    return login
