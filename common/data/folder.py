"""A folder, or a zip file, of images of one's own, in one of the layouts of :mod:`common.data.layout`."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

from common.data.layout import lay_out
from common.data.npy import SUFFIXES
from common.data.pictures import Form, picture_set
from common.data.pillow import endings
from common.data.source import DataOptions, DataSet, DataUnavailable, Source
from common.data.trees import Tree, open_tree
from common.media.recordings import ENDINGS

LOOKED_AT = 2000  # files by whose endings a folder is told


class Folder(Source):
    """Images of any format in the size that all have, or cropped in their middle and resized to one."""

    name = "folder"

    def load(self, options: DataOptions) -> DataSet:
        form = Form.of(self.name, options)
        if options.data_dir.suffix.lower() in SUFFIXES:
            raise DataUnavailable(f"--data_name folder: {options.data_dir} is no folder; give --data_name arrays")
        tree = open_tree(self.name, options.data_dir)
        try:
            layout = lay_out(tree, options.class_order)
        except DataUnavailable as error:
            raise DataUnavailable(f"--data_name {self.name}: {error}{another_source(tree)}") from None
        data = picture_set(layout.train, layout.held_out, layout.classes, form)
        return replace(data, found=(*layout.found, *data.found))


def source_of(path: Path) -> str:
    """The name of the source that reads a file or a folder, told by the endings there; images if there are none."""
    if path.is_file():
        endings_there = [path.suffix.lower()]
    else:
        files = (file for file in path.rglob("*.*") if not file.name.startswith("."))
        endings_there = [file.suffix.lower() for file in islice(files, LOOKED_AT)]
    kinds = {**dict.fromkeys(SUFFIXES, "arrays"), **dict.fromkeys(ENDINGS, "sounds")}
    found = Counter(kinds.get(ending, "folder") for ending in endings_there)
    return found.most_common(1)[0][0] if found else "folder"


def another_source(tree: Tree) -> str:
    """The source to give for what lies in a folder, for a message; nothing if it has what was looked for."""
    if tree.names:
        return ""
    reasons = {reason for _, reason in tree.passed}
    kinds = (("folder", endings(), "images"), ("sounds", ENDINGS, "recordings"), ("arrays", SUFFIXES, "arrays"))
    for name, known, what in kinds:
        if reasons & set(known):
            return f"; give --data_name {name} for the {what} there"
    return ""
