"""What `prepare --list` says of each set: how many images and classes it has, its download, and where to get it."""

from typing import NamedTuple


class Origin(NamedTuple):
    """size: images, and classes or findings, as its owner says; home: its address, or where else it is from; download:
    how large the files are, "" where that is not known."""

    size: str
    home: str
    download: str = ""

    def __str__(self) -> str:
        return f"{self.size}{self.download and f', {self.download}'}; {self.home}"


_COUNTED = "as many as are there"
_IMAGENET = "https://image-net.org/download"
_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_PADCHEST = "https://bimcv.cipf.es/bimcv-projects/padchest/"

ORIGINS: dict[str, Origin] = {
    "image-folder": Origin(_COUNTED, "class folders of your own images, DICOM too"),
    "csv": Origin(_COUNTED, "a table of paths and labels of your own images, DICOM too"),
    "webdataset": Origin(_COUNTED, "tars of your own or anybody else's photographs"),
    "medmnist": Origin("780 to 236,386 images, 2 to 14 classes", "https://medmnist.com"),
    "parquet": Origin(_COUNTED, "hubs of data sets"),
    "imagenet1k": Origin("1,331,167 images, 1,000 classes", _IMAGENET, "144 GB"),
    "imagenet21k": Origin("about 14 million images, 19,167 or 21,841 classes", _IMAGENET),
    "chexpert": Origin(
        "223,631 images, 13 findings",
        "https://stanfordmlgroup.github.io/competitions/chexpert/",
        "439 GB or, small, 11 GB",
    ),
    "mimic_cxr": Origin("377,110 images, 13 findings", "https://physionet.org/content/mimic-cxr-jpg/", "558 GB"),
    "nih_cxr14": Origin("112,120 images, 14 findings", "https://nihcc.app.box.com/v/ChestXray-NIHCC", "42 GB"),
    "padchest": Origin("158,597 images, 27 findings", _PADCHEST),
    "brax": Origin("40,967 images, 13 findings", "https://physionet.org/content/brax/"),
    "cifar10": Origin("60,000 images, 10 classes", _CIFAR, "0.2 GB"),
    "cifar100": Origin("60,000 images, 100 classes", _CIFAR, "0.2 GB"),
    "flowers102": Origin("8,189 images, 102 classes", "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", "0.3 GB"),
    "pets": Origin("7,349 images, 37 classes", "https://www.robots.ox.ac.uk/~vgg/data/pets/", "0.8 GB"),
    "padchest_cl": Origin("40,939 images, 26 classes", _PADCHEST),
    "covidx": Origin(
        "as many as its lists name, 2 or 3 classes", "https://www.kaggle.com/datasets/andyczhao/covidx-cxr2"
    ),
    "tuberculosis": Origin(
        "800 images, 2 classes", "https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html#tuberculosis-image-data-sets"
    ),
    "rsna_pneumonia": Origin(
        "26,684 images, 2 or 3 classes", "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"
    ),
    "vindr_cxr": Origin("18,000 images, 27 findings", "https://physionet.org/content/vindr-cxr/"),
    "fashion_mnist": Origin("12,000 images, 10 classes", "ships with the package, prepared"),
    "digits": Origin("1,797 images, 10 classes", "scikit-learn"),
    "phantom": Origin("3,000 images, 6 findings", "drawn by the program"),
}
