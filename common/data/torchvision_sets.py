"""Published sets in torchvision's layout: MNIST, FashionMNIST, CIFAR-10 and CIFAR-100."""

import http.client
import pickle
import shutil
import socket
import tarfile
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch

from common.data.arrays import load_arrays
from common.data.fetching import fetching
from common.data.resize import fit
from common.data.source import DataOptions, DataSet, DataUnavailable, Source, Split

SILENCE = 60.0  # seconds without an answer after which a server counts as gone

# names of classes in the order of the labels
OF_FASHION = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
OF_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
OF_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

# what torchvision raises for files that are missing, cut or of another kind, and for downloads that fail
FAILURES = (
    *(RuntimeError, ValueError, AssertionError, LookupError, TypeError, OSError, EOFError),
    *(pickle.UnpicklingError, tarfile.TarError, zlib.error, http.client.HTTPException),
)


class TorchvisionSet(Source):
    """A set that torchvision knows, read from its files, which are fetched if that is asked for."""

    torchvision_name: ClassVar[str]
    layouts = "in torchvision's layout"  # what messages say about the folder
    classes: ClassVar[tuple[str, ...]] = tuple(map(str, range(10)))

    @classmethod
    def dataset(cls) -> Any:
        """torchvision's class; imported when it is needed, because that takes a second."""
        from torchvision import datasets

        return getattr(datasets, cls.torchvision_name)

    @abstractmethod
    def files(self) -> list[Path]:
        """The files, below ``data_dir``."""

    @abstractmethod
    def archives(self) -> list[Path]:
        """What they are unpacked from, below ``data_dir``."""

    @abstractmethod
    def servers(self) -> list[str]:
        """Where the archives are fetched from."""

    @abstractmethod
    def is_whole(self, file: Path) -> bool:
        """Whether a file that is there holds what it should."""

    def load(self, options: DataOptions) -> DataSet:
        root = options.data_dir
        try:
            data = self._read(root)
        except FAILURES as error:
            if not options.download:
                raise self._unavailable(root, error) from error
            self._fetch(root)
            return self.load(replace(options, download=False))
        return fit(data, options, f"--data_name {self.name}")

    def _read(self, root: Path) -> DataSet:
        return DataSet(self._part(root, train=True), self._part(root, train=False), classes=self.classes)

    def _part(self, root: Path, train: bool) -> Split:
        part = self.dataset()(root, train=train, download=False)
        images, labels = torch.as_tensor(part.data), torch.as_tensor(part.targets, dtype=torch.int64)
        if labels.max() >= len(self.classes):
            raise ValueError(f"there is a label {int(labels.max())}")
        return Split(images.unsqueeze(1) if images.ndim == 3 else images.movedim(-1, 1).contiguous(), labels)

    def _unavailable(self, root: Path, error: Exception) -> DataUnavailable:
        missing = [root / file for file in self.files() if not (root / file).is_file()]
        broken = [root / file for file in self.files() if (root / file).is_file() and not self.is_whole(root / file)]
        if missing:
            problem = f"there is no {', '.join(file.name for file in missing)} in {missing[0].parent}"
        elif broken:
            problem = f"{', '.join(map(str, broken))}: damaged, or another file under that name"
        else:
            problem = f"the files in {(root / self.files()[0]).parent} do not belong together ({error})"
        return DataUnavailable(
            f"--data_name {self.name}: {problem}. Fetch the set with train.py --download True, or point --data_dir at "
            f"a folder that holds it {self.layouts}"
        )

    def _fetch(self, root: Path) -> None:
        """Download into a folder of its own, then move whole files to where they belong.

        torchvision unpacks straight into place, so that a stop half-way would leave files that look whole.
        """
        try:
            with fetching(root), TemporaryDirectory(prefix=f".{self.name}-", dir=root) as name, patience(SILENCE):
                with suppress(*FAILURES):
                    self._read(root)
                    return  # somebody has fetched it meanwhile
                scratch = Path(name)
                for archive in filter(lambda archive: (root / archive).is_file(), self.archives()):
                    # fetched before but not unpacked: torchvision checks its MD5 sum and takes it
                    (scratch / archive).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(root / archive, scratch / archive)
                self.dataset()(scratch, download=True)
                self._read(scratch)
                for file in filter(Path.is_file, sorted(scratch.rglob("*"))):
                    target = root / file.relative_to(scratch)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.replace(target)
        except FAILURES as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            reason += " (its MD5 sum is not that of the original)" if "corrupted" in reason else ""
            raise DataUnavailable(
                f"--data_name {self.name}: the download from {' and '.join(self.servers())} failed: {reason}. Try "
                f"again, or bring {', '.join(map(str, self.archives()))} into {root} from a machine with network "
                "access and give the same command"
            ) from error


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Give up on a silent server after some seconds; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class Mnist(TorchvisionSet):
    """28x28 digits, ten classes: 60,000 to learn from, 10,000 held out (LeCun, Cortes, Burges)."""

    name = "mnist"
    torchvision_name = "MNIST"
    published_shape = (1, 28)

    def files(self) -> list[Path]:
        return [archive.with_suffix("") for archive in self.archives()]

    def archives(self) -> list[Path]:
        return [Path(self.torchvision_name, "raw", archive) for archive, _ in self.dataset().resources]

    def servers(self) -> list[str]:
        return list(self.dataset().mirrors)

    def is_whole(self, file: Path) -> bool:
        from torchvision.datasets.mnist import read_image_file, read_label_file

        try:
            (read_image_file if "images" in file.name else read_label_file)(str(file))
        except FAILURES:
            return False
        return True


class FashionMnist(Mnist):
    """28x28 grey pictures of clothes, ten classes, in MNIST's format (Xiao, Rasul, Vollgraf)."""

    name = "fashionmnist"
    torchvision_name = "FashionMNIST"
    classes = tuple(OF_FASHION.split(", "))


class Cifar10(TorchvisionSet):
    """32x32 colour photographs, ten classes: 50,000 to learn from, 10,000 held out (Krizhevsky).

    torchvision unpickles the original files, after it has checked their MD5 sums. If their folder is missing,
    ``{name}.npz`` will do: ``x`` (N, 32, 32, 3) uint8 and ``y``, perhaps ``x_test`` and ``y_test``.
    """

    name = "cifar10"
    torchvision_name = "CIFAR10"
    published_shape = (3, 32)
    layouts = "in torchvision's layout or as cifar10.npz"
    classes = tuple(OF_CIFAR10.split())

    def load(self, options: DataOptions) -> DataSet:
        plain = options.data_dir / f"{self.name}.npz"
        if not plain.is_file() or (options.data_dir / self.dataset().base_folder).is_dir():
            return super().load(options)
        data, text = load_arrays(self.name, plain, options.axes)
        if data.spec.shape != (3, 32, 32) or data.train.images.dtype != torch.uint8:
            raise DataUnavailable(f"--data_name {self.name}: {plain}: {text}; expected uint8 (N, 32, 32, 3)")
        count = len(self.classes)
        if data.num_classes is None or data.num_classes > count:
            raise DataUnavailable(f"--data_name {self.name}: {plain}: needs labels y from 0 to {count - 1}")
        if data.classes not in (self.classes[: data.num_classes], tuple(map(str, range(data.num_classes)))):
            known, given = (", ".join(names) for names in (self.classes, data.classes or ()))
            raise DataUnavailable(f"--data_name {self.name}: {plain}: the labels are {given}; the classes are {known}")
        named = replace(data, num_classes=count, classes=self.classes)
        return fit(named, replace(options, axes=None), f"--data_name {self.name}")

    def _sums(self) -> dict[Path, str]:
        published = self.dataset()
        meta = (published.meta["filename"], published.meta["md5"])
        listed = (*published.train_list, *published.test_list, meta)
        return {Path(published.base_folder, name): md5 for name, md5 in listed}

    def files(self) -> list[Path]:
        return list(self._sums())

    def archives(self) -> list[Path]:
        return [Path(self.dataset().filename)]

    def servers(self) -> list[str]:
        return [self.dataset().url]

    def is_whole(self, file: Path) -> bool:
        from torchvision.datasets.utils import check_integrity

        whole: bool = check_integrity(file, self._sums()[Path(self.dataset().base_folder, file.name)])
        return whole


class Cifar100(Cifar10):
    """32x32 colour photographs, one hundred classes (Krizhevsky)."""

    name = "cifar100"
    torchvision_name = "CIFAR100"
    layouts = "in torchvision's layout or as cifar100.npz"
    classes = tuple(OF_CIFAR100.split())
