"""A folder, or a zip file, of images of one's own.

Layouts: images directly in ``data_dir`` (no labels), or one subdirectory per class; either way directly, or below
``train/`` and, for the held-out part, the first of ``test/``, ``val/`` and ``valid/`` that is there. Class indices
follow the sorted names. Without a held-out part one image in ten is held out, the same ones always. Hidden files and
files that are no images by their ending are passed over. A zip file is read without unpacking it; if all of it lies
in one folder, that folder counts as the top.
"""

from itertools import chain

import torch
from torch import Tensor

from common.data.arrays import SUFFIXES
from common.data.pictures import Form, picture_set
from common.data.source import DataOptions, DataSet, DataUnavailable, Source, hold_out
from common.data.trees import Tree, open_tree

HELD_OUT_NAMES = ("test", "val", "valid")


class Folder(Source):
    """Images of any format in the size that all have, or cropped in their middle and resized to one."""

    name = "folder"

    def load(self, options: DataOptions) -> DataSet:
        form = Form.of(self.name, options)
        if options.data_dir.suffix in SUFFIXES:
            raise DataUnavailable(f"--data_name folder: {options.data_dir} is no folder; give --data_name arrays")
        tree, held_out_tree = split_tree(open_tree(self.name, options.data_dir))
        paths, labels, classes = listing(tree)
        files = tree.files(paths)
        if held_out_tree:
            held_paths, held_labels, held_classes = listing(held_out_tree, classes)
            if held_classes != classes:
                raise refusal(held_out_tree, f"images have classes, those to learn from, in {tree.path}, have none")
            return picture_set((files, labels), (held_out_tree.files(held_paths), held_labels), classes, form)
        try:
            rows, held_rows = hold_out(len(files))
        except DataUnavailable as error:
            raise refusal(tree, str(error)) from None
        held_out = files.select(held_rows), labels[held_rows]
        return picture_set((files.select(rows), labels[rows]), held_out, classes, form)


def refusal(tree: Tree, problem: str) -> DataUnavailable:
    """An error that names the source and the folder."""
    return DataUnavailable(f"--data_name folder: {tree.path}: {problem}")


def split_tree(tree: Tree) -> tuple[Tree, Tree | None]:
    """The folder to learn from and, if there is one, that of the held-out part."""
    held_out = next((name for name in HELD_OUT_NAMES if name in tree.folders), None)
    if "train" in tree.folders and (held_out or tree.folders == ["train"]):
        return tree.child("train"), tree.child(held_out) if held_out else None
    return tree, None


def listing(tree: Tree, classes: list[str] | None = None) -> tuple[list[str], Tensor, list[str] | None]:
    """The images of a folder.

    Args:
        tree: the folder.
        classes: names of classes, if these images must be of them.

    Returns:
        Paths (N), labels (N,) int64 (zeros without classes), and the names of the classes, if any.

    Raises:
        DataUnavailable: for no images, for a class without any, and for images with and without a class.
    """
    images, of_class = tree.images, {folder: tree.below(folder) for folder in tree.folders}
    if images and any(of_class.values()):
        folder = next(name for name, found in of_class.items() if found)
        raise refusal(tree, f"images lie both in it and in subfolders ({folder}/); keep one, with or without classes")
    if images:
        if classes is not None:
            raise refusal(tree, f"images lie directly in it; the classes to learn from are {', '.join(classes)}")
        return images, torch.zeros(len(images), dtype=torch.int64), None
    if not any(of_class.values()):
        raise refusal(tree, "no images in it or its subfolders")
    if empty := [name for name, found in of_class.items() if not found]:
        raise refusal(tree, f"no images in {', '.join(empty)}; each subfolder is a class")
    names = list(of_class) if classes is None else classes
    if unknown := sorted(set(of_class) - set(names)):
        raise refusal(tree, f"{', '.join(unknown)}: no such class to learn from; those are {', '.join(names)}")
    paths = [of_class.get(name, []) for name in names]
    counts = torch.tensor([len(found) for found in paths])
    return list(chain.from_iterable(paths)), torch.arange(len(names)).repeat_interleave(counts), names
