"""From images on disk to uint8 batches: shards, sampling order, augmentation and loaders, all pure functions.

Python looks for modules in the folder of a script first. There, `inspect` and others of ours would hide other people's
modules of that name, so every program imports this package before anything else, and it takes these folders away. Then
it answers `--version`, and says on a terminal that the program has started, as its other imports take seconds.
"""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PACKAGES = {os.path.join(_ROOT, name) for name in ("trainer", "data_pipelines", "benchmarks")}
sys.path = [path for path in sys.path if path not in _PACKAGES]

_PROGRAM = os.path.abspath(sys.argv[0])
_NAME = os.path.basename(_PROGRAM)
if os.path.dirname(_PROGRAM) in _PACKAGES or _NAME.startswith("bitscale-"):
    if "--version" in sys.argv[1:]:
        from data_pipelines.common.cli import answer_version

        answer_version()
    from data_pipelines.common.loading_line import say_what_is_loading

    say_what_is_loading(_NAME.removeprefix("bitscale-").removesuffix(".py"), sys.argv[1:])
