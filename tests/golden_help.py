"""The help texts as they are kept in tests/data/help; python -m tests.golden_help writes them anew."""

import os
import sys
from contextlib import redirect_stdout, suppress
from io import BytesIO, TextIOWrapper
from pathlib import Path
from unittest.mock import patch

from bitscale import cli
from bitscale.commands import SUBCOMMANDS

FOLDER = Path(__file__).parent / "data" / "help"
NAMES = ["bitscale", *SUBCOMMANDS]


def help_of(name: str) -> str:
    """What `bitscale NAME --help` prints on a terminal of 80 columns, or `bitscale --help` for "bitscale"."""
    words = [] if name == "bitscale" else [name]
    written = TextIOWrapper(BytesIO(), encoding="utf-8")
    with (
        patch.dict(os.environ, {"COLUMNS": "80"}),
        patch.object(sys, "argv", ["bitscale", *words, "--help"]),
        redirect_stdout(written),
        suppress(SystemExit),
    ):
        cli.main()
    written.flush()
    written.seek(0)
    return written.read()


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (FOLDER / f"{name}.txt").write_text(help_of(name), encoding="utf-8")


if __name__ == "__main__":
    main()
