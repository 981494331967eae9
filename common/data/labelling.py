"""Files of one part of a data set, and of which class each is: by a table beside them, or by the folder it lies in."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import torch
from torch import Tensor

from common.data.labels_table import OF_LABELS_ONLY, Row, Table, find_table, match
from common.data.source import DataUnavailable
from common.data.spec import composed
from common.data.trees import Files, Tree, passed_over

NAMED = 8  # names that a message lists


@dataclass(frozen=True)
class Part:
    """Files of one part, with their labels.

    Attributes:
        tree: where the names are.
        names: (N) paths in the tree.
        labels: (N) names of classes; None without classes.
        said: what was found about them, in words.
        used: paths of the tables that labels were read from, in what was opened.
    """

    tree: Tree
    names: list[str]
    labels: list[str] | None
    said: tuple[str, ...] = ()
    used: tuple[str, ...] = ()

    def select(self, rows: Iterable[int]) -> "Part":
        """Some of the files."""
        rows = list(rows)
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        return replace(self, names=[self.names[row] for row in rows], labels=labels)

    def by_class(self, classes: Sequence[str]) -> "Part":
        """The files in the order of classes, then of names: the order in which earlier versions read them too."""
        number = {name: label for label, name in enumerate(classes)}
        of_file = [number[name] for name in self.labels or ()]
        return self.select(sorted(range(len(of_file)), key=of_file.__getitem__))

    def numbered(self, classes: Sequence[str] | None) -> tuple[Files, Tensor]:
        """The files and their labels (N,) int64, zeros without classes."""
        if self.labels is None or classes is None:
            return self.tree.files(self.names), torch.zeros(len(self.names), dtype=torch.int64)
        number = {name: label for label, name in enumerate(classes)}
        return self.tree.files(self.names), torch.tensor([number[label] for label in self.labels], dtype=torch.int64)


def labelled(tree: Tree, what: str, table: Table | None = None) -> Part:
    """The files of a folder with labels by a table in it, or by its folders.

    Args:
        tree: the folder.
        what: what the files are, for messages.
        table: the table, if it was read already.

    Raises:
        DataUnavailable: for a table of labels that says none, where no folders do.
    """
    table = table or find_table(tree)
    if table is None:
        return of_folders(tree, what)
    if table.of_labels:
        return by_table(tree, table, tree.names, "", match(table, tree.names))
    if table.of_nothing:
        said = f"found     {table.name} says that there are no classes"
        return Part(tree, tree.names, None, (said,), (tree.prefix + table.name,))
    part = of_folders(tree, what)
    lacks = f"column of {'labels' if table.of_files else 'names of files'}" if table.columns else "rows"
    columns = listed([column or "one without a name" for column in table.columns])
    if table.columns and part.labels is None and PurePosixPath(table.name).stem.casefold() in OF_LABELS_ONLY:
        raise DataUnavailable(
            f"{table.place} has no {lacks} (there are {columns}): call it "
            f"{'label' if table.of_files else 'file_name'}, or rename the table to learn without classes"
        )
    those = f" ({columns})" if columns else ""
    return replace(part, said=(f"note      {table.name} has no {lacks}{those}, so it is not used",))


def by_table(
    tree: Tree, table: Table, names: Sequence[str], folder: str, matched: tuple[dict[str, Row], list[Row]]
) -> Part:
    """Files with the labels that a table of the tree gives them.

    Args:
        tree: what the table and the names are of.
        table: the table.
        names: paths of the files.
        folder: the folder of the tree that they are in, with / at its end.
        matched: rows of files, and rows without one.

    Raises:
        DataUnavailable: for a file without a row.
    """
    rows, missing = matched
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise DataUnavailable(
            f"{table.place}: {len(unknown):,} of {len(names):,} files are not in it, first {unknown[0]}; add them, or "
            "move them away"
        )
    labels = None if table.of_labels is None else list(composed([rows[name].label or "" for name in names]))
    said = [f"found     labels in {table.name}, column {table.of_labels}"] if labels else []
    if labels and any("/" in name.removeprefix(folder) for name in names):
        said.append("note      the folders are no classes: the table decides")
    if missing:
        said.append(f"note      {table.name} names {len(missing):,} files that are not there, first {missing[0].file}")
    return Part(tree, list(names), labels, tuple(said), (tree.prefix + table.name,))


def of_folders(tree: Tree, what: str) -> Part:
    """Files with their first folder as class; without classes if they lie directly in the tree.

    Raises:
        DataUnavailable: for no files, for a class without any, and for files with and without a class.
    """
    direct = tree.direct
    if not tree.names:
        raise DataUnavailable(f"{tree.path}: no {what} in it or its subfolders{instead(tree)}")
    if len(direct) == len(tree.names):
        return Part(tree, tree.names, None)
    if direct:
        folder = next(name for name in tree.folders if tree.below(name))
        raise DataUnavailable(
            f"{tree.path}: {what} lie both in it and in subfolders ({folder}/), first {direct[0]}; keep one, with or "
            "without classes"
        )
    empty = [name for name in tree.folders if not tree.below(name)]
    if empty:
        alone = [name for name in tree.folders if name not in empty]
        way = f", or point --data_dir at {tree.path / alone[0]}" if len(alone) == 1 else ""
        raise DataUnavailable(
            f"{tree.path}: no {what} in {listed(empty)}{instead(tree.child(empty[0]))}; each subfolder is a class: "
            f"fill or remove it{way}"
        )
    names = {class_of(name + "/"): name for name in tree.folders}
    if len(names) < len(tree.folders):
        twice = [name for name in tree.folders if names[class_of(name + "/")] != name]
        raise DataUnavailable(
            f"{tree.path}: two folders are called {twice[0]}, in two ways to write accents; join them"
        )
    return Part(tree, tree.names, [class_of(name) for name in tree.names])


def class_of(name: str) -> str:
    """The class of a file by its first folder; accents are written in one way, whatever the file system does."""
    return unicodedata.normalize("NFC", name.partition("/")[0])


def instead(tree: Tree) -> str:
    """What there is instead of files."""
    told = passed_over(tree)
    words = (" ".join(line.split(maxsplit=1)).removeprefix("note ") for line in told)
    return f" ({'; '.join(words)})" if told else ""


def listed(names: Sequence[str]) -> str:
    """Some names, for a message."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
