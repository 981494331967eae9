"""Which array is what, told by its name: samples or labels, to learn from or held out.

A name has words (``X_train``, ``train_images``, ``valLabels``, ``test/x``): one may say the part, the others say what
the array holds. ``SAMPLES``, ``LABELS`` and ``PARTS`` are all the words that are known. Without a part an array is of
the part that its file is named after, else to learn from.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.npy import SUFFIXES, Stored, Unreadable, header, member_names
from common.natural import natural

SAMPLES = ("x", "images", "image", "imgs", "data", "dataset", "samples", "arr_0", "")  # numpy.savez(file, x) says arr_0
LABELS = ("y", "labels", "label", "targets", "target", "arr_1")
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
UNNAMED = "arr_{}"  # what numpy.savez calls arrays without names
NAME_THEM = (
    "Name them: a = numpy.load(..); numpy.savez('named.npz', x=a['..'], y=a['..'], x_test=a['..'], y_test=a['..'])"
)
RENAME_THEM = "Rename the files: x_train.npy, y_train.npy, x_test.npy, y_test.npy"
LISTED = 8  # arrays that a message names
Refuse = Callable[[Path, str], Exception]


@dataclass(frozen=True)
class Meaning:
    """What a name says.

    Attributes:
        part: train, test or val; None if it does not say.
        is_labels: whether the array holds labels; else samples.
    """

    part: str | None
    is_labels: bool


@dataclass(frozen=True)
class Place:
    """Where an array is: a file and, if it is an ``.npz`` file, the name in it."""

    path: Path
    member: str | None

    @property
    def name(self) -> str:
        """What a user calls it."""
        return self.path.name if self.member is None else self.member

    def stored(self) -> Stored:
        """The array, by its header.

        Raises:
            Unreadable: if it is damaged.
        """
        return header(self.path, self.member)


@dataclass(frozen=True)
class Pair:
    """Samples, and their labels if they have some."""

    samples: Place
    labels: Place | None


@dataclass(frozen=True)
class Roles:
    """Which array is what.

    Attributes:
        train: what is learned from.
        held_out: what is held out; None if that part is to be taken from the others.
        unread: the arrays that are neither.
    """

    train: Pair
    held_out: Pair | None
    unread: tuple[Place, ...]


def meaning(name: str) -> Meaning | None:
    """What the name of an array, or of a file without its ending, says; None if that is not known."""
    words = [word.lower() for word in WORDS.findall(name)]
    parts = [PARTS[word] for word in words if word in PARTS]
    rest = "_".join(word for word in words if word not in PARTS)
    if len(parts) > 1 or not words or (rest not in SAMPLES and rest not in LABELS):
        return None
    return Meaning(parts[0] if parts else None, rest in LABELS)


def files_of(place: Path) -> list[Path]:
    """The array files that a path means: itself, or the visible ones directly in a folder."""
    if not place.is_dir():
        return [place]
    found = [file for file in place.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    return sorted((file for file in found if file.is_file()), key=lambda file: natural(file.name))


def roles(place: Path, refusal: Refuse) -> Roles:
    """What the arrays of a file, or of the files in a folder, are.

    Args:
        place: the file or folder; it holds at least one array file.
        refusal: makes the error for a file or folder and its problem.

    Raises:
        Exception: from ``refusal``, if a file is none of NumPy's, there are no samples to learn from, or two arrays may
            be the same.
    """
    files = files_of(place)
    claims, unread = claimed(files, place.is_dir(), refusal)

    def the(part: str, is_labels: bool) -> Place | None:
        places = claims.get(Meaning(part, is_labels), [])
        if len(places) > 1:
            what = (
                f"{'labels' if is_labels else 'samples'} {'to learn from' if part == 'train' else f'of a {part} part'}"
            )
            both = " and ".join(told(place, files) for place in places)
            raise refusal(place, f"{both} may all be the {what}; keep one of them{listed(files, refusal)}")
        return places[0] if places else None

    def pair(part: str) -> Pair | None:
        samples, labels = the(part, False), the(part, True)
        if labels and not samples and part != "train":
            raise refusal(place, f"has {told(labels, files)} without samples to it{listed(files, refusal)}")
        return Pair(samples, labels) if samples else None

    train, test, val = pair("train"), pair("test"), pair("val")
    if train is None:
        known = ", ".join(name for name in SAMPLES if name)
        named = RENAME_THEM if place.is_dir() else NAME_THEM
        raise refusal(
            place,
            f"has no array whose name says that it holds samples to learn from ({known}; alone or with train)"
            f"{listed(files, refusal)}. {named}",
        )
    if train.samples.member == UNNAMED.format(0) and any(place.member == UNNAMED.format(2) for place in unread):
        raise refusal(place, f"has several arrays without names{listed(files, refusal)}. {NAME_THEM}")
    if test and val:
        unread += [place for place in (val.samples, val.labels) if place]
    return Roles(train, test or val, tuple(unread))


def claimed(files: Sequence[Path], in_folder: bool, refusal: Refuse) -> tuple[dict[Meaning, list[Place]], list[Place]]:
    """The arrays of files by what their names say, and those whose names say nothing.

    An array that is alone needs no name: it holds samples.
    """
    claims: dict[Meaning, list[Place]] = {}
    unread: list[Place] = []
    for file in files:
        alone = Meaning(None, False)
        of_file = (meaning(file.stem) or (None if len(files) > 1 else alone)) if in_folder else alone
        names = members(file, refusal)
        if of_file is None:
            unread.append(Place(file, None))
        elif names is None:
            claims.setdefault(Meaning(of_file.part or "train", of_file.is_labels), []).append(Place(file, None))
        else:
            for name in names:
                own = meaning(name) or (alone if len(names) == 1 else None)
                if own is None:
                    unread.append(Place(file, name))
                    continue
                is_labels = own.is_labels or (of_file.is_labels and len(names) == 1)
                part = own.part or of_file.part or "train"
                claims.setdefault(Meaning(part, is_labels), []).append(Place(file, name))
    return claims, unread


def members(file: Path, refusal: Refuse) -> list[str] | None:
    """:func:`member_names`, refused where they cannot be read."""
    try:
        return member_names(file)
    except Unreadable as error:
        raise refusal(file, str(error)) from error


def told(place: Place, files: Sequence[Path]) -> str:
    """What messages call an array: where there are several files, with its file."""
    return place.name if len(files) == 1 or place.member is None else f"{place.path.name}: {place.name}"


def listed(files: Sequence[Path], refusal: Refuse) -> str:
    """The arrays of files with shapes and types, as the end of a message."""
    places = []
    for file in files:
        names = members(file, refusal)
        places += [Place(file, None)] if names is None else [Place(file, name) for name in names]
    words = []
    for place in places[:LISTED]:
        try:
            words.append(f"{told(place, files)} {place.stored()}")
        except Unreadable:
            words.append(f"{told(place, files)}, which is damaged")
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return f"; there is {', '.join(words) or 'none at all'}{more}"
