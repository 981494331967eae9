"""A folder of images of one's own.

Layouts: images directly in ``data_dir`` (no labels), or one subdirectory per class; either way directly, or below
``train/`` and, for the held-out part, the first of ``test/``, ``val/`` and ``valid/`` that is there. Class indices
follow the sorted names. Without a held-out part one image in ten is held out, the same ones always. Hidden files and
files that are no images by their ending are passed over.
"""

import os
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from common.data.reading import is_small
from common.data.resize import to_square
from common.data.source import DataOptions, DataSet, DataUnavailable, Source, Split, hold_out

HELD_OUT_NAMES = ("test", "val", "valid")
MODES = {1: "L", 3: "RGB"}
NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # formats of which Pillow knows the header only


class Folder(Source):
    """Images of any size and format, cropped to their central square and resized."""

    name = "folder"

    def load(self, options: DataOptions) -> DataSet:
        root, size, channels = options.data_dir, options.image_size, options.channels or 3
        if size is None:
            raise DataUnavailable("--data_name folder: --image_size is needed; images are cropped and resized to it")
        if channels not in MODES:
            raise DataUnavailable(f"--channels {channels}: --data_name folder reads 1 (grey) or 3 (colour)")
        if not root.is_dir():
            raise DataUnavailable(f"--data_name folder: {root} is no folder; point --data_dir at a folder of images")
        train_root, held_out_root = parts_of(root)
        paths, labels, classes = listing(train_root)
        if held_out_root:
            held_paths, held_labels, held_classes = listing(held_out_root, classes)
            if held_classes != classes:
                raise refusal(held_out_root, f"images have classes, those to learn from, in {train_root}, have none")
        else:
            try:
                rows, held_rows = hold_out(len(paths))
            except DataUnavailable as error:
                raise refusal(train_root, str(error)) from None
            held_paths, held_labels = paths[held_rows.numpy()], labels[held_rows]
            paths, labels = paths[rows.numpy()], labels[rows]
        train = Split(Files(paths, size, channels), labels)
        held_out = Split(Files(held_paths, size, channels), held_labels)
        if is_small(train.images, held_out.images):
            train, held_out = (
                Split(*train.read(title="reading images")),
                Split(*held_out.read(title="reading held-out images")),
            )
        return DataSet(train, held_out, num_classes=None if classes is None else len(classes))


class Files:
    """Images in files, decoded when they are asked for.

    Args:
        paths: (N,) bytes; one array, so that worker processes share it.
        size: side of the squares.
        channels: 1 or 3.
    """

    dtype = torch.uint8

    def __init__(self, paths: np.ndarray, size: int, channels: int) -> None:
        self._paths, self._size, self._channels = paths, size, channels
        self.shape = (len(paths), channels, size, size)

    def __getitem__(self, indices: Tensor) -> Tensor:
        samples = torch.empty(len(indices), *self.shape[1:], dtype=self.dtype)
        for sample, path in zip(samples, self._paths[indices.numpy()], strict=True):
            sample.copy_(decode(os.fsdecode(path), self._size, self._channels))
        return samples


def decode(path: str, size: int, channels: int) -> Tensor:
    """An image file as (C, size, size) uint8: upright, the central square, resized.

    Raises:
        DataUnavailable: with the path, for a file that is no whole image.
    """
    try:
        with Image.open(path) as image:
            return to_square(pil_to_tensor(convert(ImageOps.exif_transpose(image), MODES[channels])), size)
    except Exception as error:  # decoders raise whatever they like; all of it concerns this one file
        raise DataUnavailable(
            f"--data_name folder: {path} cannot be read as an image ({type(error).__name__}: {error}); "
            "repair or remove it"
        ) from error


def convert(image: Image.Image, mode: str) -> Image.Image:
    """An image of any kind as 8-bit grey or colour: 16-bit levels scaled, transparent parts on white.

    Args:
        image: any image.
        mode: ``L`` or ``RGB``.

    Raises:
        ValueError: for levels that are no 8-bit or 16-bit numbers.
    """
    if image.mode.startswith("I"):  # 16-bit grey, in 16 or 32 bits; Pillow's own conversion would clip it
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("levels beyond 16 bits")
        image = Image.fromarray(np.round(levels / 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("levels are floats of unknown range; use --data_name arrays")
    elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


# -- what is where ----------------------------------------------------------------------------------------------------


def refusal(folder: Path, problem: str) -> DataUnavailable:
    """An error that names the source and the folder."""
    return DataUnavailable(f"--data_name folder: {folder}: {problem}")


def parts_of(root: Path) -> tuple[Path, Path | None]:
    """The folder to learn from and, where there is one, that of the held-out part."""
    names = {folder.name for folder in visible_folders(root)}
    held_out = next((root / name for name in HELD_OUT_NAMES if name in names), None)
    if "train" in names and (held_out or names == {"train"}):
        return root / "train", held_out
    return root, None


def listing(root: Path, classes: list[str] | None = None) -> tuple[np.ndarray, Tensor, list[str] | None]:
    """The images below a folder.

    Args:
        root: the folder.
        classes: names of classes, where these images must be of them.

    Returns:
        Paths (N,) as bytes, labels (N,) int64 (zeros without classes), and the names of the classes, if any.

    Raises:
        DataUnavailable: for no images, for a class without any, and for images with and without a class.
    """
    images = sorted(entry.path for entry in os.scandir(root) if entry.is_file() and is_image(entry.name))
    of_class = {folder.name: images_below(folder) for folder in visible_folders(root)}
    if images and any(of_class.values()):
        folder = next(name for name, found in of_class.items() if found)
        raise refusal(root, f"images lie both in it and in subfolders ({folder}/); keep one, with or without classes")
    if images:
        if classes is not None:
            raise refusal(root, f"images lie directly in it; the classes to learn from are {', '.join(classes)}")
        return encoded(images), torch.zeros(len(images), dtype=torch.int64), None
    if not any(of_class.values()):
        raise refusal(root, "no images in it or its subfolders")
    if empty := [name for name, found in of_class.items() if not found]:
        raise refusal(root, f"no images in {', '.join(empty)}; each subfolder is a class")
    names = list(of_class) if classes is None else classes
    if unknown := sorted(set(of_class) - set(names)):
        raise refusal(root, f"{', '.join(unknown)}: no such class to learn from; those are {', '.join(names)}")
    paths = [of_class.get(name, []) for name in names]
    counts = torch.tensor([len(found) for found in paths])
    return encoded(chain.from_iterable(paths)), torch.arange(len(names)).repeat_interleave(counts), names


def visible_folders(root: Path) -> list[Path]:
    """Folders directly in a folder, without hidden ones."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_below(folder: Path) -> list[str]:
    """Paths of all images below a folder, sorted, without hidden ones."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [f"{place}/{name}" for name in names if is_image(name)]
    return sorted(found)


def encoded(paths: Iterable[str]) -> np.ndarray:
    """Paths as one array of bytes, without a Python object for each."""
    return np.array([os.fsencode(path) for path in paths])


def is_image(name: str) -> bool:
    """Whether a file is an image by its ending; hidden files are none."""
    return not name.startswith(".") and Path(name).suffix.lower() in endings()


@cache
def endings() -> frozenset[str]:
    """Endings of the formats that Pillow reads."""
    Image.init()
    kinds = set(Image.OPEN) - NO_PICTURES
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in kinds)
