"""A login node of whose programs a test decides what they do."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from launchers import submit

AGENT = str(Path(submit.__file__).with_name("agent.py"))
PLAN = {
    "name": "a_run",
    "run_dir": "runs/a_run",
    "total_steps": 90_000,
    "global_batch_size": 4096,
    "train_images": 1_281_167,
    "parameters": 25_500_000,
    "checkpoint_bytes": 204_000_000,
}


@dataclass
class Login:
    """A login node with programs of its own making; `ran` tells how they were called."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        # One write each: programs that run at a time do not mix what they tell.
        note = f'set -- {name} "$@"; echo "${{*@Q}}" >>{self.folder}/ran; shift'
        path.write_text(f"#!{shutil.which('bash')}\n{note}\n{script}\n")
        path.chmod(0o755)

    def ran(self, name: str) -> list[list[str]]:
        """The arguments of each call."""
        path = self.folder / "ran"
        calls = [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call[1:] for call in calls if call[:1] == [name]]

    def submit(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        self.monkeypatch.setattr(sys, "argv", ["submit", *arguments])
        code = 0
        try:
            submit.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        output, error = self.capsys.readouterr()
        return code, output, error

    def script(self, *arguments: str) -> str:
        code, output, error = self.submit(*arguments)
        assert code == 0, error
        return output

    def run_script(self, text: str, **environment: str) -> subprocess.Popen[str]:
        """As SLURM would, with the programs of this login node in place of its own."""
        path = self.folder / "script"
        slurm = {
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
        }
        # Less the line that puts the environment's programs before the stand-ins.
        text = "\n".join(line for line in text.splitlines() if not line.startswith("export PATH="))
        path.write_text(text)
        return subprocess.Popen(
            ["bash", str(path)],
            env=os.environ | slurm | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def status(self, state: str, step: int) -> None:
        path = self.folder / "runs/a_run/status.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"state": state, "step": step, "time": time.time() + 1}))


def directives(text: str) -> dict[str, str]:
    found = [line.removeprefix("#SBATCH --").partition("=") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {key: value for key, _, value in found}
