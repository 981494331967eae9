"""Which files of a folder are learned from and which are held out: by names of folders, or a column of a table."""

import re
from dataclasses import dataclass

from common.data.labelling import Part, by_table, class_of, instead, labelled, listed, of_folders
from common.data.labels_table import Table, find_table, match
from common.data.source import DataUnavailable
from common.data.trees import Tree

TRAIN = frozenset(("train", "training", "trn"))
# from the first to the last that is taken
HELD_OUT = (
    ("test", "testing", "tst"),
    ("holdout", "heldout"),
    ("val", "validation", "validate", "valid"),
    ("dev", "devel", "development", "eval", "evaluation"),
)
ONLY_PARTS = frozenset(("test", "testing", "holdout", "heldout", "val", "validation"))  # what nobody calls a class
WORDS = ("set", "split", "data", "images", "imgs", "img", "part", "folder")  # after those names


def part_of(name: str) -> str:
    """The name of a folder as the names of parts are written above: ``Train_Set`` and ``train2017`` are train."""
    key = re.sub(r"[\W_]", "", name.casefold()).rstrip("0123456789")
    return next((key.removesuffix(word) for word in WORDS if key.endswith(word) and len(key) > len(word)), key)


def rank_of(name: str) -> int | None:
    """Where a name stands in ``HELD_OUT``; None if it does not."""
    key = part_of(name)
    return next((rank for rank, names in enumerate(HELD_OUT) if key in names), None)


@dataclass(frozen=True)
class Parts:
    """Files to learn from and held out.

    Attributes:
        train: files to learn from.
        held_out: the others; None if they are still to be chosen.
        where: where the held-out part was found.
        found: what was found, in words.
    """

    train: Part
    held_out: Part | None
    where: str = ""
    found: tuple[str, ...] = ()


def split(tree: Tree, what: str) -> Parts:
    """The files to learn from and the held-out part.

    Raises:
        DataUnavailable: for folders that may be parts or classes.
    """
    folders = [name for name in tree.folders if tree.below(name)]
    train = [name for name in folders if part_of(name) in TRAIN]
    ranked = sorted((rank, name) for name in folders if (rank := rank_of(name)) is not None)
    if tree.direct or not ((train and ranked) or train == folders):
        _refuse_parts_as_classes(tree, folders, train, [name for _, name in ranked])
        table = find_table(tree)
        if not table and (inner := _parts_inside(tree)) is not None:
            return inner
        return _split_by_table(tree, table, what) if table else Parts(of_folders(tree, what), None)
    if not ranked and (empty := [name for name in tree.folders if rank_of(name) is not None]):
        raise DataUnavailable(f"{tree.path / empty[0]}: no {what}{instead(tree.child(empty[0]))}; fill or remove it")
    if len(train) > 1:
        raise DataUnavailable(f"{tree.path}: {' and '.join(train)} may both be learned from; keep one")
    best = [name for rank, name in ranked if rank == ranked[0][0]]
    if len(best) > 1:
        raise DataUnavailable(f"{tree.path}: {' and '.join(best)} may both be the held-out part; keep one")
    learned, held = train[0], best[0] if best else None
    table = find_table(tree, also=(learned.casefold(), f"{learned.casefold()}_labels", f"{learned.casefold()}labels"))
    found = [
        f"note      {name}/ ({len(tree.below(name)):,} {what}) is neither learned from nor held out"
        for name in folders
        if name not in (learned, held)
    ]

    def part(name: str) -> Part:
        top, said = (tree.child(name), ()) if table else top_of(tree.child(name))
        found.extend(said)
        inside = labelled(top, what)
        return by_table(tree, table, tree.below(name), f"{name}/") if table and inside.labels is None else inside

    parts = part(learned), None if held is None else part(held)
    return Parts(*parts, f"{held}/", tuple(found))


def _refuse_parts_as_classes(tree: Tree, folders: list[str], train: list[str], held: list[str]) -> None:
    """Refuse folders of parts that would count as classes, unless they may well be some."""
    ways = f"put what is learned from into {tree.path / 'train'}, or rename what is a class"
    nested = [name for name in (*train, *held) if is_wrapper(tree.child(name))]
    certain = [name for name in held if part_of(name) in ONLY_PARTS]
    empty = [name for name in tree.folders if part_of(name) in TRAIN and name not in folders]
    if held and (empty or (certain and len(held) == len(folders))):
        there = f"{listed(empty)} is empty" if empty else "there is none to learn from"
        raise DataUnavailable(f"{tree.path}: {listed(held)}: a part to hold out, but {there}; {ways}")
    if len(folders) > 1 and (odd := nested or certain):
        others = [name for name in folders if name not in odd]
        raise DataUnavailable(
            f"{tree.path}: {listed(odd)} is the name of a part, but beside it there are {listed(others)}: parts or "
            f"classes? Point --data_dir at {tree.path / odd[0]} to learn from that alone; else {ways}"
        )


def _parts_inside(tree: Tree) -> Parts | None:
    """The parts of classes that each hold folders train and test, or the like; None if they do not.

    Raises:
        DataUnavailable: if a class holds a part to hold out, but not all classes hold parts to learn from beside it.
    """
    ranks = {rank_of(place.partition("/")[2]) for place in tree.places if place.count("/") == 1} - {None}
    if tree.direct or not ranks:
        return None
    best = min(rank for rank in ranks if rank is not None)
    learned, held, certain = list[str](), list[str](), list[str]()
    unused = others = 0
    for name in tree.names:
        folder, *inside, _ = name.split("/")
        key, rank = (part_of(inside[0]), rank_of(inside[0])) if inside else ("", None)
        if key in ONLY_PARTS:
            certain.append(f"{folder}/{inside[0]}")
        if key in TRAIN:
            learned.append(name)
        elif rank == best:
            held.append(name)
        elif rank is not None:
            unused += 1
        else:
            others += 1
    if others or not (learned and held):
        if certain:
            raise DataUnavailable(
                f"{tree.path}: {certain[0]} is the name of a part, but not all {tree.path / '*'} have a part to learn "
                "from and one to hold out; give each folder train and test, or rename what is no part"
            )
        return None
    train, held_out = (Part(tree, names, list(map(class_of, names))) for names in (learned, held))
    found = (f"note      {unused:,} files of other parts are neither learned from nor held out",) if unused else ()
    return Parts(train, held_out, "in the folders of the classes", found)


def _split_by_table(tree: Tree, table: Table, what: str) -> Parts:
    """Labels, and perhaps parts, by a table beside the files."""
    if table.of_labels is None and table.of_parts is None:
        said = f"note      {table.name} has no column of labels ({listed(table.columns)}), so it is not used"
        return Parts(of_folders(tree, what), None, found=(said,))
    part = by_table(tree, table, tree.names, "")
    if table.of_parts is None:
        return Parts(part, None)
    rows, _ = match(table, tree.names)
    named = [rows[name].part or "" for name in part.names]
    learned = [i for i, name in enumerate(named) if part_of(name) in TRAIN]
    ranks = {rank for name in set(named) if (rank := rank_of(name)) is not None}
    unknown = sorted({name for name in named if part_of(name) not in TRAIN and rank_of(name) is None})
    if unknown or not learned:
        raise DataUnavailable(
            f"{table.place}: {table.of_parts} must be train, and test or val, not "
            f"{listed(unknown or sorted(set(named)))}"
        )
    if not ranks:
        return Parts(part.select(learned), None)
    held = [i for i, name in enumerate(named) if rank_of(name) == min(ranks)]
    rest = len(named) - len(learned) - len(held)
    found = (f"note      {rest:,} files of other parts are neither learned from nor held out",) if rest else ()
    where = f"{named[held[0]]} of {table.of_parts} in {table.name}"
    return Parts(part.select(learned), part.select(held), where, found)


def is_wrapper(tree: Tree) -> bool:
    """Whether the only folder of a folder is no class: all in it lies in folders again, in several."""
    filled = [name for name in tree.folders if tree.below(name)]
    return not tree.direct and (len(filled) > 1 or (len(filled) == 1 and is_wrapper(tree.child(filled[0]))))


def top_of(tree: Tree) -> tuple[Tree, tuple[str, ...]]:
    """The folder of a part in which its classes are, itself or the only one in it, if that is none; that in words."""
    found: tuple[str, ...] = ()
    while len(tree.folders) == 1 and not tree.direct and is_wrapper(inside := tree.child(tree.folders[0])):
        found = (f"found     everything in {tree.path.name}/ lies in {inside.path.name}/, which is no class",)
        tree = inside
    return tree, found
