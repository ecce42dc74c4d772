"""A new run folder for `--no-resume`, beside the existing ones and used by one start only."""

import os
from collections.abc import Iterator
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json
from trainer.run_files import ENVIRONMENT
from trainer.run_folder.lock_file import job_name
from trainer.run_folder.run_lock import Ranks, elsewhere


def next_free(run_dir: Path, engine: Ranks) -> Path:
    """The folder, or the first of NAME-2, NAME-3 ... that does not exist yet; after a restart by torchrun's
    --max-restarts the one that the first attempt made. Creates nothing. Collective."""
    # Rank 0 decides: by the time the others look, it may have made the folder.
    return run_dir.with_name(engine.gather(_next_free(run_dir) if engine.rank == 0 else None)[0])


def claim(run_dir: Path, chosen: Path, engine: Ranks) -> Path:
    """Create the chosen folder, or the next one if another start was faster. Collective.

    Raises InputError, on every rank, where it cannot be created.
    """
    name, error = engine.gather(_claim(run_dir, chosen) if engine.rank == 0 else None)[0]
    if error is not None:
        raise InputError(error)
    return run_dir.with_name(name)


def _next_free(run_dir: Path) -> str:
    taken = list(takewhile(os.path.lexists, _numbered(run_dir)))
    if _is_restarted() and taken:
        job = job_name()
        launch = (job, os.environ.get("TORCHELASTIC_RUN_ID"))  # a SLURM job may launch several
        mine = [folder for folder in taken if _launch_of(folder) == launch] if job is not None else taken
        if mine:
            return mine[-1].name
    return next(folder.name for folder in _numbered(run_dir) if folder not in taken)


def _claim(run_dir: Path, chosen: Path) -> tuple[str, str | None]:
    if _is_restarted() and chosen.is_dir():
        return chosen.name, None
    for folder in _numbered(run_dir):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            return folder.name, f"{folder} cannot be made ({error}); {elsewhere()}"
        return folder.name, None
    raise AssertionError("there is no last number")


def _numbered(run_dir: Path) -> Iterator[Path]:
    return chain([run_dir], (run_dir.with_name(f"{run_dir.name}-{number}") for number in count(2)))


def _is_restarted() -> bool:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def _launch_of(folder: Path) -> Any:
    environment = read_json(folder / ENVIRONMENT)
    return (environment.get("job"), environment.get("torchrun")) if isinstance(environment, dict) else None
