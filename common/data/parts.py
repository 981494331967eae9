"""Which files of a folder are learned from and which are held out: by names of folders, or a column of a table."""

import re
from dataclasses import dataclass, replace

from common.data.labelling import Part, by_table, class_of, instead, labelled, listed
from common.data.labels_table import Table, find_table, match
from common.data.source import DataUnavailable
from common.data.trees import Tree

TRAIN = frozenset(("train", "training", "trn", "trainval"))
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
        if not (table and (table.decides or table.of_nothing)) and (inner := _parts_inside(tree, what)) is not None:
            return inner
        return _split_by_table(tree, table) if table and table.decides else Parts(labelled(tree, what, table), None)
    if not ranked and (empty := [name for name in tree.folders if rank_of(name) is not None]):
        raise DataUnavailable(f"{tree.path / empty[0]}: no {what}{instead(tree.child(empty[0]))}; fill or remove it")
    if len(train) > 1:
        raise DataUnavailable(f"{tree.path}: {' and '.join(train)} may both be learned from; keep one")
    best = [name for rank, name in ranked if rank == ranked[0][0]]
    if len(best) > 1:
        raise DataUnavailable(f"{tree.path}: {' and '.join(best)} may both be the held-out part; keep one")
    learned, held = train[0], best[0] if best else None
    found = [
        f"note      {name}/ ({len(tree.below(name)):,} {what}) is neither learned from nor held out"
        for name in folders
        if name not in (learned, held)
    ]
    train_part, held_part = _part(tree, learned, what), None if held is None else _part(tree, held, what)
    if train_part is None:
        raise DataUnavailable(f"{tree.path / learned}: {what} are in no table of labels; add them, or remove the table")
    if held is not None and held_part is None:  # as the test images of a contest
        found.append(
            f"note      {held}/ ({len(tree.below(held)):,} {what}) is in no table of labels, so it is not used"
        )
    return Parts(train_part, held_part, f"{held}/", tuple(found))


def _part(tree: Tree, name: str, what: str) -> Part | None:
    """The files of a part, with labels by what is in it, else by a table beside it; None if that names none of them."""
    top, said = top_of(tree.child(name))
    part, own = labelled(top, what), name.casefold()
    table = find_table(tree, (own, f"{own}_labels", f"{own}labels"))
    table = table if table and table.of_labels else find_table(tree)
    if table is None or not table.of_labels:
        return replace(part, said=(*said, *part.said))
    if part.labels is not None:
        unused = f"note      {table.name} is not used: {name}/ says the classes itself"
        return replace(part, said=(*said, *part.said, unused))
    matched, files = match(table, tree.names, f"{name}/"), tree.below(name)
    return by_table(tree, table, files, f"{name}/", matched) if any(file in matched[0] for file in files) else None


def _refuse_parts_as_classes(tree: Tree, folders: list[str], train: list[str], held: list[str]) -> None:
    """Refuse folders of parts that would count as classes, unless they may well be some."""
    ways = f"put what is learned from into {tree.path / 'train'}, or rename what is a class"
    nested = [name for name in (*train, *held) if is_wrapper(tree.child(name))]
    certain = [name for name in held if part_of(name) in ONLY_PARTS]
    if alike := _named_alike(folders):
        raise DataUnavailable(
            f"{tree.path}: {' and '.join(alike)} are called as parts are: parts or classes? Call them train and "
            "test, or rename what is a class"
        )
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


def _named_alike(folders: list[str]) -> tuple[str, str] | None:
    """A folder to learn from and one to hold out that differ in that word only, as seg_train and seg_test."""
    learned: dict[tuple[str, str], str] = {}
    held: dict[tuple[str, str], str] = {}
    for name in folders:
        words = re.split(r"[\W_]+", name.casefold())
        for word, frame in ((words[0], ("", "_".join(words[1:]))), (words[-1], ("_".join(words[:-1]), ""))):
            if any(frame):
                named = learned if part_of(word) in TRAIN else held if part_of(word) in ONLY_PARTS else {}
                named[frame] = name
    return next(((name, held[frame]) for frame, name in learned.items() if frame in held), None)


def _parts_inside(tree: Tree, what: str) -> Parts | None:
    """The parts of classes that each hold folders train and test, or the like; None if they do not.

    Raises:
        DataUnavailable: if a class holds a part to hold out, but not all classes hold parts to learn from beside it; if
            there are folders in those again, as if each of the classes were a whole set.
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
    if deeper := next((name for name in (*learned, *held) if name.count("/") > 2), None):
        top, part = deeper.split("/")[:2]
        raise DataUnavailable(
            f"{tree.path}: folders lie in {top}/{part}: is {top} a class? If not, point --data_dir at "
            f"{tree.path / top}; else move the {what} in {top}/{part} up"
        )
    train, held_out = (Part(tree, names, list(map(class_of, names))) for names in (learned, held))
    found = (f"note      {unused:,} files of other parts are neither learned from nor held out",) if unused else ()
    return Parts(train, held_out, "in the folders of the classes", found)


def _split_by_table(tree: Tree, table: Table) -> Parts:
    """Labels, or parts, or both, by a table beside the files."""
    rows, missing = match(table, tree.names)
    part = by_table(tree, table, tree.names, "", (rows, missing))
    if table.of_parts is None:
        folders = {part_of(place.rpartition("/")[2]): place for place in tree.places}
        both = [
            next((folders[key] for key in keys if key in folders), "") for keys in (sorted(TRAIN), sorted(ONLY_PARTS))
        ]
        if all(both):
            raise DataUnavailable(
                f"{table.place} says no parts, but there are folders {' and '.join(both)}: add a column split with "
                "train and test, or move the table to the folder that they are in"
            )
        return Parts(part, None)
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
    """The folder of a part in which its classes are, itself or the only one in it, if that is none; that in words.

    It is none if all in it lies in several folders again, or is called like the part, as archives unpack (train/train),
    or like what is in it (images/) and holds folders only.
    """
    found: tuple[str, ...] = ()
    while len(tree.folders) == 1 and not tree.direct:
        inside = tree.child(tree.folders[0])
        name = inside.path.name.casefold()
        if not (is_wrapper(inside) or name == tree.path.name.casefold() or (name in WORDS and not inside.direct)):
            break
        found = (f"found     everything in {tree.path.name}/ lies in {inside.path.name}/, which is no class",)
        tree = inside
    return tree, found
