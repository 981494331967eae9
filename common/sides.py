"""Height and width of images, and how sizes are written."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from common.refusal import require


class Sides(NamedTuple):
    """Height and width of an image.

    Attributes:
        height: number of rows.
        width: number of columns.
    """

    height: int
    width: int

    def __str__(self) -> str:
        return written(self)

    def __repr__(self) -> str:
        return written(self)

    @classmethod
    def of(cls, size: int | Sequence[int]) -> "Sides":
        """The sides that a size stands for.

        Args:
            size: a number for a square, else height and width.

        Raises:
            Refusal: for another count of numbers.
        """
        sides = (size, size) if isinstance(size, int) else tuple(size)
        require(len(sides) == 2, "image_size", "a number, or height and width", size)
        return cls(*sides)

    @property
    def short(self) -> "int | Sides":
        """The size as configurations keep it: one number if it is a square."""
        return self.height if self.height == self.width else self


def written(sizes: Sequence[int]) -> str:
    """Sizes of a grid as messages and command lines have them: 48x32."""
    return "x".join(map(str, sizes))


def next_multiples(sizes: Sequence[int], divisor: int) -> tuple[int, ...]:
    """The smallest sizes, none below those given, that a number divides; at least that number."""
    return tuple(max(1, -(-size // divisor)) * divisor for size in sizes)


def divisors(sizes: Sequence[int]) -> list[int]:
    """Whole numbers that divide every size, in ascending order."""
    common = math.gcd(*sizes)
    small = [number for number in range(1, math.isqrt(common) + 1) if common % number == 0]
    return sorted({*small, *(common // number for number in small)})
