"""Sets prepared from class folders, and what their files hold."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import data_pipelines
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index

REPOSITORY = Path(data_pipelines.__file__).parents[1]


def run_command(*arguments: Any, entry: tuple[str, ...] = ("-m", "data_pipelines.prepare")) -> tuple[int, str]:
    """The real command: its exit code, and all that it printed."""
    command = [sys.executable, *entry, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def prepare_folder(root: Path, out: Path, **options: Any) -> dict[str, Any]:
    manifest = prepare(image_folder(root, 0, 0), Output(out, **options))
    assert manifest
    return manifest


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decoded(index: Index, key: str) -> np.ndarray:
    row = index.keys(np.arange(len(index))).index(key)
    with Image.open(io.BytesIO(index.encoded(row))) as image:
        return np.asarray(image)
