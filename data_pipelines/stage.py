"""Copy prepared sets to storage of the node, such as /dev/shm: once per node, by whichever process comes first."""

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines.errors import InputError
from data_pipelines.file_names import file_name_of
from data_pipelines.index import digest_of
from data_pipelines.shards import MANIFEST, read_manifest

_BLOCK_BYTES = 1 << 22


def stage(folder: Path, storage: Path) -> Path:
    """The copy of a prepared folder below `storage`, made if it is not there yet; other processes of the node wait.

    Every byte is checked against the set's SHA-256 sums. The copy stays for the next run; remove it by hand.
    Raises InputError if it would not fit, if the storage cannot be written, or if a file is not as it was prepared.
    """
    manifest = read_manifest(folder)
    files = _files(folder, manifest)
    try:
        ours = storage / f"bitscale-{os.getuid()}"
        ours.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy = ours / f"{file_name_of(manifest['name'])}-{digest_of(manifest)}"
        with (ours / f".{copy.name}.lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, by the end of the process at the latest
            if not (copy / MANIFEST).is_file():
                shutil.rmtree(copy, ignore_errors=True)  # what an interrupted copy left
                _require_space(folder, files, storage)
                try:
                    _copy(folder, files, copy)
                except BaseException:  # memory of the node, if /dev/shm: not to be left behind
                    shutil.rmtree(copy, ignore_errors=True)
                    raise
                (copy / f".{MANIFEST}").write_text(json.dumps(manifest), encoding="utf-8")
                (copy / f".{MANIFEST}").rename(copy / MANIFEST)
    except OSError as error:
        raise InputError(f"{folder} cannot be staged to {storage} ({error}); choose another --stage") from error
    return copy


def _files(folder: Path, manifest: dict[str, Any]) -> dict[Path, str | None]:
    """The files of a set, relative to its folder, with their SHA-256 where the manifest has it."""
    files: dict[Path, str | None] = {}
    for split, content in manifest["splits"].items():
        files |= {Path(split, shard["file"]): shard["sha256"] for shard in content["shards"]}
        sums = content.get("columns", {})
        files |= {path.relative_to(folder): sums.get(path.stem) for path in sorted((folder / split).glob("*.npy"))}
    return files


def _require_space(folder: Path, files: dict[Path, str | None], storage: Path) -> None:
    needed = sum((folder / path).stat().st_size for path in files)
    free = shutil.disk_usage(storage).free
    if needed > free:
        raise InputError(
            f"{folder} needs {needed / 1e9:.2f} GB, {storage} has {free / 1e9:.2f} GB free; remove what older runs "
            "staged there, choose another --stage, or leave it out"
        )


def _copy(folder: Path, files: dict[Path, str | None], copy: Path) -> None:
    total = sum((folder / path).stat().st_size for path in files)
    with tqdm(total=total, desc=f"staging {folder.name}", unit="B", unit_scale=True, disable=None) as bar:
        for path, expected in files.items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with (folder / path).open("rb") as source, (copy / path).open("wb") as target:
                while block := source.read(_BLOCK_BYTES):
                    digest.update(block)
                    target.write(block)
                    bar.update(len(block))
            if expected not in (None, digest.hexdigest()):
                raise InputError(
                    f"{folder / path} is not as it was prepared; check all: python -m data_pipelines.prepare --verify "
                    f"{folder}"
                )
