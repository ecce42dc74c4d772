"""Pseudonyms for patients in prepared sets: keys and patients are hashed with a secret of this account.

Paths of X-rays often hold the number of a patient, and a plain hash of one can be found again by whoever can list them
all. The secret, the salt, is a file that only its owner can read; the same salt gives the same set, byte for byte.
`NAME.keymap.csv` beside a set, which only its owner can read either, leads back. Which split a patient is in is decided
before, by a hash without any secret: so that others get the same splits.
"""

import csv
import hashlib
import hmac
import os
import secrets
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import atomic_path
from data_pipelines.common.patients import NO_GROUP
from data_pipelines.common.raw_set import RawImage, RawSet, Repeatable
from data_pipelines.common.typed_paths import typed_path
from data_pipelines.preparation.quarantine import image_place

SALT_VARIABLE = "BITSCALE_SALT"
_SALT_BYTES, _KEY_DIGITS = 32, 32


def salt_path() -> Path:
    """$BITSCALE_SALT, or a file in the configuration folder of this account."""
    default = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "bitscale" / "salt"
    return typed_path(os.environ.get(SALT_VARIABLE) or str(default), SALT_VARIABLE)


def salt() -> bytes:
    """The secret of this account, drawn on first use. Raises InputError if it cannot be stored, or others can read
    it."""
    path = salt_path()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_SALT_BYTES))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # whoever comes second takes the first one's
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        mode, content = path.stat().st_mode & 0o777, path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}, the secret with which patients' names are hashed, cannot be kept ({error}); name another file in "
            f"${SALT_VARIABLE}"
        ) from error
    if mode & 0o077:
        raise InputError(f"{path} can be read by others, so it is not secret; chmod 600 {shlex.quote(str(path))}")
    if len(content) < _SALT_BYTES:
        raise InputError(f"{path} holds {len(content)} bytes, a salt has at least {_SALT_BYTES}; bring it back")
    return content


def has_real_patients(raw: RawSet) -> bool:
    """Whether a set is of real patients."""
    return raw.patients != "none" and not raw.synthetic


def name_of(content: bytes) -> str:
    """The salt's name in manifests, by which two sets can tell whether their patients are comparable."""
    return hashlib.sha256(b"name of a salt" + content).hexdigest()[:16]


def pseudonymous(raw: RawSet, content: bytes) -> RawSet:
    """The set with hashed keys and patients; bad images are named by key."""

    def hidden(images: Iterable[RawImage]) -> Iterator[RawImage]:
        return (_hidden(image, content) for image in images)

    part = raw.part

    def hidden_part(number: int, parts: int) -> Iterable[RawImage]:
        assert part is not None
        return hidden(part(number, parts))

    images: Iterable[RawImage] = (
        list(hidden(raw.images)) if isinstance(raw.images, Sequence) else Repeatable(lambda: hidden(raw.images))
    )
    return replace(raw, images=images, part=hidden_part if part else None)


def _hidden(image: RawImage, content: bytes) -> RawImage:
    key = hmac.new(content, b"key\0" + image.key.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
    group = image.group
    if group != NO_GROUP:
        digest = hmac.new(content, b"patient\0%d" % group, hashlib.sha256).digest()
        group = int.from_bytes(digest[:8], "big") >> 1
    return replace(image, key=key[:_KEY_DIGITS], group=group, is_hidden=True)


def write_keymap(raw: RawSet, content: bytes, path: Path) -> None:
    """Write key, patient, and original name and location of each image, readable by this account only."""
    with atomic_path(path, unique=True) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            rows = csv.writer(file)
            rows.writerow(("key", "patient", "name", "file"))
            for image in raw.images:
                hidden = _hidden(image, content)
                place = "" if isinstance(image.image, bytes) else image_place(image)
                rows.writerow((hidden.key, hidden.group, image.key, place))
