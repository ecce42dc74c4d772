"""What class folders are read as, in one line of JSON: python tests/list_sets.py ROOT, with a set in each folder."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.registry import DATASETS


def sets_below(root: Path) -> Iterator[list[str]]:
    """Of each folder: its classes, and key, split and class of each picture; or that it is refused."""
    for folder in sorted(root.iterdir()):
        try:
            raw = DATASETS["image-folder"](root=folder)
        except InputError:
            yield ["refused"]
        else:
            pictures = [f"{image.key} {image.split} {raw.classes[int(image.label)]}" for image in raw.images]
            yield [*raw.classes, *pictures]


if __name__ == "__main__":
    print(json.dumps(list(sets_below(Path(sys.argv[1])))))
