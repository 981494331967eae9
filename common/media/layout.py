"""Which sample stands where in a picture: how many in a row, names of classes, real samples beside drawn ones."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

FULL_ROW, LONGEST_ROW = (
    10,
    20,
)  # samples: as many rounds of the classes as fit the first; no row is longer than the last


class Labelled(NamedTuple):
    """Samples that are looked at.

    Attributes:
        x: (N, C, H, W) images in [0, 1], or (N, C, L) functions and sounds in their own units.
        classes: the name of the class of each; None if they have none.
    """

    x: Tensor
    classes: tuple[str, ...] | None = None


def round_of(classes: Sequence[str] | None) -> int | None:
    """After how many samples the classes come again; None without classes, or if that is a longer row than fits."""
    names = classes or ()
    rounds = range(1, LONGEST_ROW + 1) if names else ()
    return next((n for n in rounds if all(name == names[i % n] for i, name in enumerate(names))), None)


def columns_of(classes: Sequence[str] | None, count: int) -> int:
    """Samples per row: whole rounds of the classes if those come again soon, else as many as there are rows.

    Args:
        classes: the name of the class of each sample, or None.
        count: number of samples, at least 1.
    """
    one_round = round_of(classes)
    if one_round is None:
        return math.ceil(math.sqrt(count))
    return min(count, one_round * max(1, FULL_ROW // one_round))


def heads_of(classes: Sequence[str] | None, columns: int) -> tuple[str, ...]:
    """The class of every column; empty if there are no classes, or several in a column."""
    if not classes or any(name != classes[i % columns] for i, name in enumerate(classes)):
        return ()
    return tuple(classes[:columns])


def partners(real: Labelled, classes: Sequence[str] | None, count: int) -> list[int | None]:
    """Indices of the real samples that stand beside the first row of drawn ones.

    Args:
        real: the real samples.
        classes: the name of the class of each drawn one, or None.
        count: how many there are in the first row.

    Returns:
        One per column, of its class, none twice; None where there is none left.
    """
    left = list(range(len(real.x)))
    found: list[int | None] = []
    for column in range(count):
        wanted = classes[column] if classes and real.classes else None
        match = next((i for i in left if wanted is None or (real.classes and real.classes[i] == wanted)), None)
        if match is not None:
            left.remove(match)
        found.append(match)
    return found
