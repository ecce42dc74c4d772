"""DATASETS: every set that `prepare` can read, by name. CONTRIBUTING.md lists what a new one takes."""

from collections.abc import Callable

from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.brax import brax
from data_pipelines.datasets.chest_xray import chexpert, mimic_cxr, nih_cxr14, padchest
from data_pipelines.datasets.chest_xray_targets import covidx, padchest_cl, tuberculosis
from data_pipelines.datasets.cifar import cifar10, cifar100
from data_pipelines.datasets.embedded import digits, fashion_mnist
from data_pipelines.datasets.imagenet import imagenet1k, imagenet21k
from data_pipelines.datasets.medmnist import medmnist
from data_pipelines.datasets.oxford import flowers102, pets
from data_pipelines.datasets.parquet import parquet
from data_pipelines.datasets.phantom import phantom
from data_pipelines.datasets.rsna_pneumonia import rsna_pneumonia
from data_pipelines.datasets.set_list import ORIGINS
from data_pipelines.datasets.user_images import csv_table, image_folder
from data_pipelines.datasets.vindr_cxr import vindr_cxr
from data_pipelines.datasets.webdataset import webdataset

Readers = dict[str, Callable[..., RawSet]]

# Readers of anybody's own images: their names are no names of sets.
USER_READERS: Readers = {"image-folder": image_folder, "csv": csv_table, "webdataset": webdataset}
PRETRAINING_SETS: Readers = {
    "imagenet1k": imagenet1k,
    "imagenet21k": imagenet21k,
    "chexpert": chexpert,
    "mimic_cxr": mimic_cxr,
    "nih_cxr14": nih_cxr14,
    "padchest": padchest,
    "brax": brax,
}
TARGET_SETS: Readers = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "flowers102": flowers102,
    "pets": pets,
    "padchest_cl": padchest_cl,
    "covidx": covidx,
    "tuberculosis": tuberculosis,
    "rsna_pneumonia": rsna_pneumonia,
    "vindr_cxr": vindr_cxr,
}
SETS_AT_HAND: Readers = {"fashion_mnist": fashion_mnist, "digits": digits, "phantom": phantom}
# Readers of a format that many sets are published in: their names are no names of sets either.
FORMAT_READERS: Readers = {"medmnist": medmnist, "parquet": parquet}
NAMED_SETS: Readers = PRETRAINING_SETS | TARGET_SETS | SETS_AT_HAND
DATASETS: Readers = USER_READERS | FORMAT_READERS | NAMED_SETS


def listed(sets: Readers) -> dict[str, str]:
    """What a list of sets says of each: its size, and where to get it."""
    return {name: str(ORIGINS[name]) for name in sets}
