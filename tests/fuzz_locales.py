"""Class folders of mutated names, read under several locales: `tests.fuzz` calls this.

They must have the same classes, keys and splits whatever encoding the locale says that names of files are in. Each
locale is a process that reads them all, for Python asks for that encoding once.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz_mutations import mutated
from fuzz_names import NAMES, WORDS, make_class_folders

_LISTING = Path(__file__).resolve().parent / "list_sets.py"
_BY_LOCALE = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
_LATIN_1 = "de_DE.ISO-8859-1"


def differences(inputs: int, seed: int) -> tuple[list[int], list[str]]:
    """The inputs that are not read alike, and the locales that were tried beside UTF-8: ASCII, and Latin-1 where the
    system can make it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        sets = Path(folder) / "sets"
        for number in range(inputs):
            names = mutated(b"\0".join(NAMES), random.Random(f"{seed} locales {number}"), False, WORDS)
            (sets / f"{number:06d}").mkdir(parents=True)
            make_class_folders(sets / f"{number:06d}", names.split(b"\0"))
        locales = {"UTF-8": {"PYTHONUTF8": "1"}, "ASCII": {"LC_ALL": "C", **_BY_LOCALE}}
        if _made_latin_1(Path(folder)):
            locales["Latin-1"] = {"LC_ALL": _LATIN_1, "LOCPATH": folder, **_BY_LOCALE}
        running = [
            subprocess.Popen([sys.executable, _LISTING, sets], stdout=subprocess.PIPE, env=os.environ | environment)
            for environment in locales.values()
        ]
        read = [json.loads(process.communicate()[0]) for process in running]
    differing = [
        number for number, found in enumerate(zip(*read, strict=True)) if any(one != found[0] for one in found)
    ]
    return differing, list(locales)[1:]


def _made_latin_1(folder: Path) -> bool:
    if shutil.which("localedef") is None:
        return False
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / _LATIN_1)]
    return subprocess.run(command, capture_output=True).returncode == 0
