"""File names made from set names, which may be any text."""

import re

from data_pipelines.common.hashes import digest_of

_MOST_CHARACTERS = 80


def file_name_of(name: str) -> str:
    """The name reduced to letters, digits, dots, dashes and underscores, and short enough for any file system.
    Different names may become equal."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name) or "_"
    return plain if len(plain) <= _MOST_CHARACTERS else f"{plain[: _MOST_CHARACTERS - 9]}-{digest_of(name)[:8]}"


def own_file_name_of(name: str) -> str:
    """The same, with a digest of the name if something was replaced, so that different names stay different."""
    plain = file_name_of(name)
    if plain == name and name[0] not in ".-":
        return name
    return "-".join(filter(None, (plain.strip("._-"), digest_of(name)[:8])))
