"""Where a set is made, beside the place where it is to lie, and how it gets its name: whole, or not at all."""

import glob
import shutil
from pathlib import Path

from data_pipelines.errors import InputError
from data_pipelines.quarantine import refused_files
from data_pipelines.shards import MANIFEST


def partial_of(out: Path) -> Path:
    """The folder in which a set is made."""
    return out.with_name(f".{out.name}.partial")


def keymap_of(out: Path) -> Path:
    """What leads from the keys of a set of patients back to files."""
    return out.with_name(f"{out.name}.keymap.csv")


def require_free(out: Path, force: bool) -> None:
    """Raise InputError unless `out` is absent, empty, or a prepared set that may be replaced."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise InputError(
            f"{out} is something else than a prepared set; --force does not delete it, choose another --out"
        )
    if not force:
        raise InputError(f"{out} exists; choose another --out, or replace it with --force")


def put_in_place(folder: Path, out: Path) -> None:
    """Give a finished set its name. Whenever this is stopped, the set is whole somewhere, and the next call ends it."""
    former = _former(out)
    if out.exists():
        shutil.rmtree(former, ignore_errors=True)
        out.rename(former)
    folder.rename(out)


def tidy(out: Path) -> None:
    """Remove what is left of the preparation of a set that has its name, and of those that were refused before."""
    former, partial = _former(out), partial_of(out)
    unfinished = (path for path in out.parent.glob(f".{glob.escape(keymap_of(out).name)}.*.tmp"))
    for path in (*refused_files(out), *unfinished):
        path.unlink(missing_ok=True)
    if former.exists():
        shutil.rmtree(former)
    if partial.exists():
        partial.rename(former)  # so that what the set was made of is there whole, or not at all
        shutil.rmtree(former)


def _former(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced")
