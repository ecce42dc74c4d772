"""DATASETS: every set that `prepare` can read, by name. A new one is one function and one line here."""

from collections.abc import Callable

from data_pipelines.datasets.embedded import digits, fashion_mnist
from data_pipelines.datasets.natural import image_folder
from data_pipelines.datasets.phantom import phantom
from data_pipelines.datasets.raw import RawSet

DATASETS: dict[str, Callable[..., RawSet]] = {
    "image-folder": image_folder,
    "fashion_mnist": fashion_mnist,
    "digits": digits,
    "phantom": phantom,
}
