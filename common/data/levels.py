"""Levels of images beyond 8 bits: which of them are black and white."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.refusal import require

BITS = range(8, 16)  # depths of cameras that write files of 16 bits


class Levels(NamedTuple):
    """The levels that stand for black and white.

    Attributes:
        low: black, and whatever is below it.
        high: white, and whatever is above it.
    """

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g},{self.high:g}"

    @classmethod
    def of(cls, levels: Sequence[float]) -> "Levels":
        """The levels that were asked for.

        Raises:
            Refusal: if they are not two rising numbers.
        """
        ok = len(levels) == 2 and all(map(math.isfinite, levels)) and levels[0] < levels[1]
        require(ok, "levels", "two rising numbers, black and white, as in 0,4095", ",".join(f"{x:g}" for x in levels))
        return cls(*levels)

    def to_bytes(self, levels: np.ndarray) -> np.ndarray:
        """Numbers of any type as uint8: 0 for black, 255 for white, rounded."""
        share = (levels.astype(np.float64) - self.low) / ((self.high - self.low) / 255)
        return np.round(share.clip(0, 255)).astype(np.uint8)


SIXTEEN_BITS = Levels(0, 65535)


def darkness(largest: float) -> str | None:
    """A warning about images of 16 bits whose largest level is so small that they come out dark; None if it is not."""
    if largest > SIXTEEN_BITS.high / 2:
        return None
    white = next(2**bits - 1 for bits in BITS if largest < 2**bits)
    return (
        f"warning   levels of images beyond 8 bits end at {largest:,.0f} of {SIXTEEN_BITS.high:,}: they come out dark; "
        f"--levels 0,{white} says what black and white are"
    )
