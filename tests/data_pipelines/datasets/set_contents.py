"""What a reader makes of its files; as a program, of every reader whose arguments a file has."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.registry import DATASETS


def contents(raw: RawSet) -> list[Any]:
    """The classes and images of a set in order, and those of its first and last part of three."""
    parts = [raw.part(number, 3) for number in (0, 2)] if raw.part else []
    listed = [
        (image.key, image.split, str(image.label), image.group) for some in (raw.images, *parts) for image in some
    ]
    return [raw.classes, listed]


if __name__ == "__main__":
    arguments = pickle.loads(Path(sys.argv[1]).read_bytes())
    print(json.dumps({name: contents(DATASETS[name](**given)) for name, given in arguments.items()}))
