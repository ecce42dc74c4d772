"""A folder that is there whole or not at all."""

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from data_pipelines.common.earlier_output import require_free
from data_pipelines.common.errors import InputError


def write_folder(folder: Path, own: Collection[str], force: bool, fill: Callable[[Path], object]) -> None:
    """Let `fill` write its files into a folder beside `folder`, and give that its name.

    own: names of the files that such a folder may hold. Raises InputError where there is a folder with other things, or
    without `force` an earlier one, and where it cannot be written. What `fill` raises leaves all as it was.
    """
    out = Path(os.path.abspath(folder))
    temporary, old = (out.with_name(f".{out.name}.{ending}") for ending in ("tmp", "old"))
    try:
        if old.exists() and not out.exists():  # killed between the two renamings
            old.rename(out)
        require_free_folder(out, own, force)
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if out.exists():
            out.rename(old)
        temporary.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error}); choose another --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_free_folder(out: Path, own: Collection[str], force: bool) -> None:
    """Raise InputError unless `out` is absent, empty, or an earlier export that may be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; --out names a folder to make")
    others = sorted({path.name for path in out.iterdir()} - {*own})
    if others:
        raise InputError(f"{out} holds other things ({', '.join(others[:3])}); choose another --out")
    if any(out.iterdir()):
        require_free(out, force, "holds an earlier export")
