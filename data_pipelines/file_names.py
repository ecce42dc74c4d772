"""Names of sets as parts of names of files: anybody may call a set anything."""

import re

from data_pipelines.index import digest_of

_MOST_CHARACTERS = 80


def file_name_of(name: str) -> str:
    """A name of letters, digits, dots, dashes and underscores alone, and not too long for any file system. Different
    names may become one."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name) or "_"
    return plain if len(plain) <= _MOST_CHARACTERS else f"{plain[: _MOST_CHARACTERS - 9]}-{digest_of(name)[:8]}"
