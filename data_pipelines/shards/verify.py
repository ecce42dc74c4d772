"""Checks a prepared set against the SHA-256 sums in its manifest."""

from pathlib import Path

from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import sha256_of
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.progress import Progress


def verify(folder: Path) -> int:
    """Compare every shard and column of a prepared set with its SHA-256 sum; returns the number of files.

    Raises InputError naming each that differs.
    """
    manifest = read_manifest(folder)
    expected: dict[Path, str] = {}
    for split, content in manifest["splits"].items():
        expected |= {folder / split / shard["file"]: shard.get("sha256", "") for shard in content["shards"]}
        expected |= {folder / split / f"{name}.npy": sha256 for name, sha256 in content.get("columns", {}).items()}
    damaged = []
    with Progress(f"checking {folder}", len(expected), "file") as bar:
        for path, sha256 in expected.items():
            if not path.is_file() or sha256_of(path) != sha256:
                damaged.append(path)
            bar.update()
    if damaged:
        raise InputError(f"not as prepared: {', '.join(map(str, damaged))}; copy the set again, or prepare it again")
    return len(expected)
