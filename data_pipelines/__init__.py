"""From images on disk to uint8 batches: shards, sampling order, augmentation and loaders, all pure functions.

Python looks for modules in the folder of a script first. There, `inspect` and others of ours would hide other people's
modules of that name, so every program imports this package before anything else, and it takes these folders away;
likewise the working folder, which `python -m` puts first and whose trainer.py would hide ours. Launchers of others may
put that folder into PYTHONPATH: ours comes before it. Then it answers `--version`, and says on a terminal that the
program has started, as its other imports take seconds.
"""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_NAMES = ("bitscale", "trainer", "data_pipelines", "benchmarks", "launchers")
_PACKAGES = {os.path.join(_ROOT, name) for name in _NAMES}
sys.path = [
    path for path in sys.path if not f"{path}{os.sep}".startswith(tuple(f"{each}{os.sep}" for each in _PACKAGES))
]
_MODULE = sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] if "-m" in sys.orig_argv else []
if _MODULE and _MODULE[0].split(".")[0] in _NAMES and sys.path[:1] == [os.getcwd()]:
    sys.path[0] = _ROOT

_PROGRAM = os.path.abspath(sys.argv[0])
_NAME = os.path.basename(_PROGRAM)
_HIDING = [i for i, path in enumerate(sys.path) if any(os.path.isfile(os.path.join(path, f"{n}.py")) for n in _NAMES)]
if _HIDING and (_PROGRAM.startswith(tuple(_PACKAGES)) or _NAME.split("-")[0] == "bitscale"):
    sys.path.insert(_HIDING[0], _ROOT)
if os.path.dirname(_PROGRAM) in _PACKAGES or _NAME.startswith("bitscale-"):
    if "--version" in sys.argv[1:]:
        from data_pipelines.common.cli import answer_version

        answer_version()
    from data_pipelines.common.loading_line import say_what_is_loading

    say_what_is_loading(_NAME.removeprefix("bitscale-").removesuffix(".py"), sys.argv[1:])
