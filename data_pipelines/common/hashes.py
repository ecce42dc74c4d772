"""Hashes of bytes, files, names and JSON values."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def hash_bytes(data: bytes) -> int:
    """63 bits of a hash, non-negative: equal for equal bytes."""
    return hash_blocks((data,))


def hash_blocks(blocks: Iterable[bytes]) -> int:
    """`hash_bytes` of blocks of bytes in a row, which need not be in memory all at once."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def hash_name(name: str) -> int:
    """63 bits of a hash, non-negative: equal for equal names, which may hold bytes that are no text."""
    return hash_bytes(name.encode(errors="surrogateescape"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(*parts: Any) -> str:
    """Sixteen hexadecimal digits of a hash of bytes and JSON values."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]
