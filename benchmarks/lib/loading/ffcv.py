"""FFCV as a contender of `loading.py`, in an interpreter that may have nothing of ours but this folder:
python -m benchmarks.lib.loading.ffcv NAME SETTING

FFCV's writer decodes JPEG files and stores them again at quality 90. `ffcv_same_files` stores the files as they are, so
that it decodes what the others decode.
"""

from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.lib.loading.timed_pass import SIZE, Setting, measure, run_contender


class _Files:
    """The JPEG files below a folder: (decoded, or encoded with height and width; label 0)."""

    def __init__(self, folder: Path, encoded: bool) -> None:
        self.paths, self.encoded = sorted(folder.rglob("*.jpg")), encoded

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self.paths[number]) as image:
            if self.encoded:
                return (self.paths[number].read_bytes(), image.height, image.width), 0
            return image.convert("RGB"), 0


def _field(encoded: bool) -> Any:
    """How FFCV stores an image: by its own field at quality 90, or by one that stores a file's bytes as they are."""
    import numpy as np
    from ffcv.fields import RGBImageField

    if not encoded:
        return RGBImageField(write_mode="jpg")

    class SameFile(RGBImageField):  # type: ignore[misc]
        def encode(self, destination: Any, image: tuple[bytes, int, int], malloc: Any) -> None:
            data, destination["height"], destination["width"] = image
            destination["mode"] = 0  # JPEG
            destination["data_ptr"], storage = malloc(len(data))
            storage[:] = np.frombuffer(data, dtype=np.uint8)

    return SameFile()


def write(encoded: bool, setting: Setting) -> dict[str, Any]:
    """Write FFCV's file, once before the rounds; says which versions do the work and how large an image is in it."""
    from ffcv.fields import IntField
    from ffcv.reader import Reader
    from ffcv.writer import DatasetWriter

    files, path = _Files(setting.folder / "raw", encoded), _beton(encoded, setting)
    fields = {"image": _field(encoded), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=setting.threads).from_indexed_dataset(files)
    versions = {name: metadata.version(name) for name in ("ffcv", "torch", "numba", "numpy")}
    return {
        "versions": versions,
        "mean_bytes": round(float(Reader(str(path), {"image": type(fields["image"])}).alloc_table["size"].mean())),
    }


def read(encoded: bool, setting: Setting) -> dict[str, Any]:
    """The cost of one pass of FFCV's Loader; uint8 batches. Its code is compiled in the warm-up."""
    import numpy as np
    from ffcv.fields import RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    path = _beton(encoded, setting)
    num_files = len(_Files(setting.folder / "raw", encoded))
    loader = Loader(
        str(path),
        batch_size=setting.batch_size,
        num_workers=setting.threads,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        seed=0,
        indices=np.arange(setting.num_images, dtype=np.uint64) % np.uint64(num_files),
        custom_fields={"image": RGBImageField} if encoded else {},
        pipelines={
            "image": [RandomResizedCropRGBImageDecoder((SIZE, SIZE)), RandomHorizontalFlip(), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )

    def epoch(_: int) -> int:
        return sum(len(images) for images, _ in loader)

    return measure(epoch, epoch, setting)  # the warm-up is a whole epoch too: FFCV has none that ends early


def _beton(encoded: bool, setting: Setting) -> Path:
    return setting.folder / ("same_files.beton" if encoded else "ffcv.beton")


if __name__ == "__main__":
    names = {"ffcv": False, "ffcv_same_files": True}
    run_contender(
        {name: partial(read, encoded) for name, encoded in names.items()}
        | {f"write_{name}": partial(write, encoded) for name, encoded in names.items()}
    )
