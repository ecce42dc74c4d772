"""Images on disk to uint8 batches: shards, order, augmentation and loaders, each a pure function of its arguments.

Python looks for modules in the folder of a script first. There, `inspect` and others of ours would hide other people's
modules of that name, so every program imports this package before anything else, and it takes these folders away.
"""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PACKAGES = {os.path.join(_ROOT, name) for name in ("trainer", "data_pipelines", "benchmarks")}
sys.path = [path for path in sys.path if path not in _PACKAGES]
