"""The version and commit of the running program."""

import re
import subprocess
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_STATED = re.compile(r'^\[project\]\nname = "bitscale"\nversion = "(.+)"$', re.MULTILINE)


def version() -> str:
    """Version of the source tree, or of the installed package; "unknown" for copies of the packages alone."""
    project = _ROOT / "pyproject.toml"  # first: an editable install keeps the version of the day it was installed
    if project.is_file() and (stated := _STATED.search(project.read_text(encoding="utf-8"))):
        return stated[1]
    try:
        return metadata.version("bitscale")
    except metadata.PackageNotFoundError:
        return "unknown"


def commit() -> str | None:
    """The commit of the source tree this program runs from, with "+changes" if it was edited; None outside git."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changes else "")


def version_line() -> str:
    """What `--version` prints: "bitscale 0.2.0 (commit 1a2b3c4)", without the commit outside git."""
    head, plus, changes = (commit() or "").partition("+")
    return f"bitscale {version()}" + (f" (commit {head[:7]}{plus}{changes})" if head else "")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", _ROOT, *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True
    ).stdout.strip()
