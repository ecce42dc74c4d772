import os
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
    login.program("sbatch", f'cat >>{folder}/submitted; echo $(($(grep -c -a "^sbatch" {folder}/ran) + 100))')
    login.program("python", f'exec {sys.executable} "$@"')
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    return login
