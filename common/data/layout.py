"""Which files of a folder are learned from, which are held out, and of which class they are; and that in words.

Layouts, in this order:

- **Parts.** Folders called ``train`` (or training, ..) and ``test``, ``val`` (or validation, holdout, ..), in any case;
  the first of them that is there, in the order of ``HELD_OUT``, is held out. Or such folders inside every class.
- **Table.** ``metadata.csv``, ``labels.csv``, .. in the folder (:mod:`common.data.labels_table`).
- **Folders.** One folder per class, as torchvision's ImageFolder has it: a file's class is its first folder.
- **No classes.** Files directly in the folder.

What may be read in two ways is refused with what was found. Without a held-out part one file in ten is held out.
"""

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from common.data.labelling import Part, instead, listed
from common.data.labels_table import find_table
from common.data.parts import ONLY_PARTS, is_wrapper, part_of, split
from common.data.source import DataUnavailable, hold_out
from common.data.trees import Files, Tree, passed_over
from common.natural import natural

ORDERS: dict[str, Callable[[str], Any]] = {"natural": natural, "text": str}


@dataclass(frozen=True)
class Layout:
    """What is made of a folder.

    Attributes:
        train: files to learn from with labels (N,) int64.
        held_out: the others.
        classes: names of the classes in the order of the labels; None without.
        found: all that in words.
    """

    train: tuple[Files, Tensor]
    held_out: tuple[Files, Tensor]
    classes: tuple[str, ...] | None
    found: tuple[str, ...]


def lay_out(tree: Tree, order: str, what: str = "images") -> Layout:
    """Which files of a folder are what.

    Args:
        tree: the folder.
        order: how classes are numbered, a name in ``ORDERS``.
        what: what the files are, for messages.

    Raises:
        DataUnavailable: for what can be read in two ways, or not at all, with what was found.
    """
    found: list[str] = []
    while (inside := wrapped(tree)) is not None:
        tree = inside
        found.append(f"found     everything lies in {tree.path.name}/, which counts as the top")
    if not tree.names:
        raise DataUnavailable(f"{tree.path}: no {what} in it or its subfolders{instead(tree)}")
    parts = split(tree, what)
    train, held_out = parts.train, parts.held_out
    classes = None if train.labels is None else tuple(sorted(set(train.labels), key=ORDERS[order]))
    if classes is not None:
        for name in classes:
            _require_text(tree, name)
        train = train.by_class(classes)
    if held_out is not None:
        held_out = _agreeing(train, held_out, classes, what)
        held_out = held_out if classes is None else held_out.by_class(classes)
        told = f"{len(held_out.names):,} held out: {parts.where}"
    else:
        try:
            rows, held_rows = hold_out(len(train.names))
        except DataUnavailable as error:
            raise DataUnavailable(f"{tree.path}: {error}") from None
        train, held_out = train.select(rows.tolist()), train.select(held_rows.tolist())
        told = f"{len(held_out.names):,} held out, the same ones always"
    without = " without classes" if classes is None else ""
    found.append(f"found     {len(train.names):,} {what}{without} to learn from, {told}")
    found += [*parts.found, *train.said]
    found += _nearly_alike(classes or ())
    if classes is not None and order == "natural" and list(classes) != sorted(classes):
        found.append(
            "note      classes are numbered as people count, 2 before 10 (--class_order text: as ImageFolder does)"
        )
    if tree.links:
        found.append(f"found     {len(tree.links):,} links to folders, which were followed ({tree.links[0]}, ..)")
        found += _read_twice(tree)
    used = {name.removeprefix(tree.prefix) for part in (train, held_out) for name in part.used}
    return Layout(train.numbered(classes), held_out.numbered(classes), classes, (*found, *passed_over(tree, but=used)))


def wrapped(tree: Tree) -> Tree | None:
    """The only folder of a tree, if it is no class: in an archive, or if all in it lies in several folders again.

    One that is called like a part to hold out is none: it is refused later, because there is no other part.
    """
    if len(tree.folders) != 1 or tree.direct or part_of(tree.folders[0]) in ONLY_PARTS:
        return None
    table, inside = find_table(tree), tree.child(tree.folders[0])
    decides = table is not None and (table.decides or table.of_nothing)
    return inside if not decides and (tree.is_archive or is_wrapper(inside)) else None


def _require_text(tree: Tree, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="backslashreplace").decode()
        raise DataUnavailable(f"{tree.path}: the name of the class {shown} is no UTF-8; rename it") from None
    if any(unicodedata.category(sign) == "Cc" for sign in name):
        raise DataUnavailable(f"{tree.path}: the name of the class {name!r} has a line break or the like; rename it")


def _nearly_alike(classes: Sequence[str]) -> list[str]:
    """Classes that may be one, since their names differ in case, spaces or the .0 of numbers only, in words."""
    first: dict[str, str] = {}
    pairs = []
    for name in classes:
        other = first.setdefault(" ".join(name.split()).casefold().removesuffix(".0"), name)
        if other != name:
            pairs.append(f"{other!r} and {name!r}")
    return [f"warning   classes {pairs[0]} are told apart{', and others' * (len(pairs) > 1)}"] if pairs else []


def _read_twice(tree: Tree) -> list[str]:
    """Links to folders that are read themselves too, in words."""
    real: dict[str, str] = {}
    if tree.links:
        top = os.path.realpath(tree.path)
        real = {os.path.normpath(f"{top}/{place}"): place for place in {*tree.places} - {*tree.links}}
    pairs = []
    for link in tree.links:
        other = real.setdefault(os.path.realpath(tree.path / link), link)
        if other != link:
            pairs.append(f"{link}/ is {other}/")
    return [f"warning   files are there twice, by links: {listed(pairs)}"] if pairs else []


def _agreeing(train: Part, held_out: Part, classes: Sequence[str] | None, what: str) -> Part:
    """The held-out part, if its classes are those to learn from.

    Raises:
        DataUnavailable: if they are not.
    """
    # a table above both parts has the labels of this one
    alone = "" if train.tree is held_out.tree else f"; to learn from {train.tree.path} alone, point --data_dir at it"
    if classes is None and held_out.labels is not None:
        raise DataUnavailable(
            f"{held_out.tree.path}: {what} have classes, those to learn from, in {train.tree.path}, have none{alone}"
        )
    if classes is not None and held_out.labels is None:
        raise DataUnavailable(
            f"{held_out.tree.path}: {what} lie directly in it; the classes to learn from are {listed(classes)}{alone}"
        )
    if unknown := sorted(set(held_out.labels or ()) - set(classes or ())):
        raise DataUnavailable(
            f"{held_out.tree.path}: {listed(unknown)}: no such class to learn from; those are "
            f"{listed(classes or ())}{alone}"
        )
    return held_out
