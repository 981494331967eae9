"""Data sets; the data module is in :mod:`common.data.module`, so that nothing here waits for Lightning."""

from common.data.arrays import Arrays
from common.data.celeba import CelebA
from common.data.digits import Digits
from common.data.folder import Folder
from common.data.reading import Images
from common.data.sounds import Sounds
from common.data.source import DataOptions, DataSet, DataUnavailable, Source, Spectrum, Split
from common.data.spec import DataSpec
from common.data.spoken_digits import SpokenDigits
from common.data.torchvision_sets import Cifar10, Cifar100, FashionMnist, Mnist

SOURCES: dict[str, type[Source]] = {
    source.name: source
    for source in (Digits, Mnist, FashionMnist, Cifar10, Cifar100, CelebA, SpokenDigits, Folder, Sounds, Arrays)
}

BUILT_IN = Digits.name  # the set that comes with the program

__all__ = [
    "BUILT_IN",
    "SOURCES",
    "DataOptions",
    "DataSet",
    "DataSpec",
    "DataUnavailable",
    "Images",
    "Source",
    "Spectrum",
    "Split",
]
