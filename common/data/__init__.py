"""Data sets and the data module."""

from common.data.arrays import Arrays
from common.data.celeba import CelebA
from common.data.digits import Digits
from common.data.folder import Folder
from common.data.module import Batch, DataModule
from common.data.source import DataOptions, DataSet, DataUnavailable, Images, Source, Spectrum, Split, to_unit_range
from common.data.spoken_digits import SpokenDigits
from common.data.torchvision_sets import Cifar10, Cifar100, FashionMnist, Mnist

SOURCES: dict[str, type[Source]] = {
    source.name: source
    for source in (Digits, Mnist, FashionMnist, Cifar10, Cifar100, CelebA, SpokenDigits, Folder, Arrays)
}

__all__ = [
    "SOURCES",
    "Batch",
    "DataModule",
    "DataOptions",
    "DataSet",
    "DataUnavailable",
    "Images",
    "Source",
    "Spectrum",
    "Split",
    "to_unit_range",
]
