"""Finished outputs are replaced only with --force."""

from pathlib import Path
from typing import NoReturn

from data_pipelines.common.errors import InputError


def require_free(path: Path, force: bool, remark: str = "exists") -> None:
    """Raise InputError if there is something at this path and it may not be replaced. remark: what is the matter with
    it."""
    if (path.exists() or path.is_symlink()) and not force:
        refuse_to_replace(path, remark)


def refuse_to_replace(path: Path, remark: str) -> NoReturn:
    """Raise InputError that says the ways out."""
    raise InputError(f"{path} {remark}; replace it with --force, or choose another --out")
