"""Readers of photographs: any folder of class folders."""

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.datasets.raw import RawImage, RawSet, carved, key_of
from data_pipelines.errors import InputError
from data_pipelines.index import Split

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def image_folder(root: Path, val_fraction: float = 0.1, test_fraction: float = 0.1) -> RawSet:
    """Class folders, either ROOT/<class>/... or ROOT/{train,val,test}/<class>/...

    A val or test split that the folder does not have is carved out of train by a hash of each file's path, so that the
    split is the same everywhere and stays when files are added; a fraction of 0 leaves it out.
    Raises InputError for a missing root, a class folder without images, or a test class that train does not have.
    """
    for name, fraction in (("val", val_fraction), ("test", test_fraction)):
        if not 0 <= fraction < 0.5:
            raise InputError(f"--{name}-fraction is {fraction}; it must lie in [0, 0.5)")
    if not root.is_dir():
        raise InputError(f"--root {root} is no folder")
    folders = _split_folders(root)
    classes = _class_folders(folders["train"])
    files: dict[Split, list[tuple[Path, int]]] = {
        split: list(_labelled_files(folder, classes)) for split, folder in folders.items()
    }
    carve = (0.0 if "val" in files else val_fraction, 0.0 if "test" in files else test_fraction)
    images = []
    for split, labelled in files.items():
        for path, label in labelled:
            key = key_of(path.relative_to(root).as_posix())
            images.append(RawImage(key, carved(key, *carve) if split == "train" else split, path, label))
    return RawSet(
        name=root.resolve().name,
        task="single_label",
        classes=tuple(classes),
        images=images,
        num_images=len(images),
        source=f"class folders under {root.resolve().name}; licence as of the original",
    )


def _split_folders(root: Path) -> dict[Split, Path]:
    folders: dict[Split, Path] = {}
    for name, split in _SPLIT_FOLDERS.items():
        if (root / name).is_dir():
            if split in folders:
                raise InputError(f"{folders[split]} and {root / name} are both the {split} split; keep one")
            folders[split] = root / name
    if folders and "train" not in folders:
        raise InputError(f"{root} has {', '.join(f.name for f in folders.values())}, but no folder train beside it")
    return folders or {"train": root}


def _class_folders(folder: Path) -> list[str]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise InputError(f"{folder} has no class folders: expected {folder}/<class>/<image>.jpg|png")
    return classes


def _labelled_files(folder: Path, classes: list[str]) -> Iterator[tuple[Path, int]]:
    for name in _class_folders(folder):
        if name not in classes:
            raise InputError(f"{folder / name}: the train split has no class {name!r}")
        paths = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise InputError(f"{folder / name} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); remove or fill it")
        yield from ((path, classes.index(name)) for path in paths)
