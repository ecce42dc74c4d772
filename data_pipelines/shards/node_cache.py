"""Copies prepared sets to node-local storage such as /dev/shm, once per node, by the first process that gets there."""

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_pipelines.common.advice import flag, quoted
from data_pipelines.common.errors import InputError
from data_pipelines.common.file_names import file_name_of
from data_pipelines.common.files import atomic_file
from data_pipelines.common.hashes import digest_of, sha256_of
from data_pipelines.common.manifest import MANIFEST, read_manifest
from data_pipelines.common.progress import Progress

_BLOCK_BYTES = 1 << 22
_STATES = ".states.json"  # of the files of a copy, when it was made
Files = dict[Path, str | None]  # relative to the folder of the set; the SHA-256 where the manifest has it


def stage(folder: Path, storage: Path) -> Path:
    """Copy a prepared folder below `storage` unless a copy is there already; returns the copy. Other processes of the
    node wait.

    Every byte is checked against the set's SHA-256 sums; a copy that was changed since is made again. The copy stays
    for the next run; remove it by hand. Raises InputError if it would not fit, if the storage cannot be written, or if
    a file is not as it was prepared.
    """
    manifest = read_manifest(folder)
    files = _files(folder, manifest)
    try:
        ours = storage / f"bitscale-{os.getuid()}"
        ours.mkdir(mode=0o700, parents=True, exist_ok=True)
        unsummed = [sha256_of(folder / path) for path, sha256 in files.items() if not sha256]
        copy = ours / f"{file_name_of(manifest['name'])}-{digest_of(manifest, *unsummed)}"
        with (ours / f".{copy.name}.lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, by the end of the process at the latest
            if not _is_whole(copy, folder, files):
                _make(manifest, folder, files, copy, storage)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be staged to {storage} ({error}); choose another {flag('--cache-dir')}"
        ) from error
    return copy


def _make(manifest: dict[str, Any], folder: Path, files: Files, copy: Path, storage: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)  # what an interrupted copy left, or one that was changed
    _require_space(folder, files, storage)
    try:
        _copy(folder, files, copy)
    except BaseException:  # memory of the node, if /dev/shm: not to be left behind
        shutil.rmtree(copy, ignore_errors=True)
        raise
    _note_states(copy, files)
    (copy / f".{MANIFEST}").write_text(json.dumps(manifest), encoding="utf-8")
    (copy / f".{MANIFEST}").rename(copy / MANIFEST)


def _is_whole(copy: Path, folder: Path, files: Files) -> bool:
    """Whether a copy is complete and unchanged. If a file's state has changed, as after a cleanup of /tmp, its checksum
    decides."""
    if not (copy / MANIFEST).is_file():
        return False
    known = json.loads((copy / _STATES).read_text(encoding="utf-8")) if (copy / _STATES).is_file() else {}
    states = _states(copy, files)
    changed = [path for path in files if states[str(path)] != known.get(str(path), [])]
    if any(states[str(path)] is None for path in changed):
        return False
    if any(sha256_of(copy / path) != (files[path] or sha256_of(folder / path)) for path in changed):
        return False
    if changed:
        _note_states(copy, files)
    return True


def _states(copy: Path, files: Files) -> dict[str, list[int] | None]:
    """Size, modification time and change time (ns) of each file; None for a missing one."""
    states: dict[str, list[int] | None] = dict.fromkeys(map(str, files))
    for path in files:
        with suppress(FileNotFoundError):
            found = (copy / path).stat()
            states[str(path)] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    return states


def _note_states(copy: Path, files: Files) -> None:
    with atomic_file(copy / _STATES) as file:
        file.write(json.dumps(_states(copy, files)).encode())


def _files(folder: Path, manifest: dict[str, Any]) -> Files:
    """The files of a set, relative to its folder, with their SHA-256 where the manifest has it."""
    files: Files = {}
    for split, content in manifest["splits"].items():
        files |= {Path(split, shard["file"]): shard.get("sha256") for shard in content["shards"]}
        sums = content.get("columns", {})
        files |= {path.relative_to(folder): sums.get(path.stem) for path in sorted((folder / split).glob("*.npy"))}
    return files


def _require_space(folder: Path, files: Files, storage: Path) -> None:
    needed = sum((folder / path).stat().st_size for path in files)
    free = shutil.disk_usage(storage).free
    if needed > free:
        raise InputError(
            f"{folder} needs {needed / 1e9:.2f} GB, {storage} has {free / 1e9:.2f} GB free; remove what older runs "
            f"staged there, choose another {flag('--cache-dir')}, or leave it out"
        )


def _copy(folder: Path, files: Files, copy: Path) -> None:
    total = sum((folder / path).stat().st_size for path in files)
    with Progress(f"staging {folder.name}", total, "byte", unit_scale=True) as bar:
        for path, expected in files.items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with (folder / path).open("rb") as source, (copy / path).open("wb") as target:
                while block := source.read(_BLOCK_BYTES):
                    digest.update(block)
                    target.write(block)
                    bar.update(len(block))
            if expected and expected != digest.hexdigest():
                raise InputError(
                    f"{folder / path} is not as it was prepared; check all: bitscale prepare --verify {quoted(folder)}"
                )
