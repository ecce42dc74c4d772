"""Programs as they are started in some folder, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRONT = [sys.executable, "-m", "bitscale"]


def started(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of its own that was started in a folder."""
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
