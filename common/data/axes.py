"""Orders of axes, written in letters: N samples, C channels, H and W the sides of an image, L the points of a function.

:func:`fitting` holds the rule that :mod:`common.data.arrays` states.
"""

from collections.abc import Sequence

import numpy as np

from common.data.spec import Kind
from common.refusal import require

OURS = "NCHWL"  # the order of samples in memory
ORDERS = ("NL", "NCL", "NHW", "NCHW")
MAX_CHANNELS = 4  # of an image; and what an axis has at most that is taken for channels
PLANES = "NCHW", "HWCN", "NHWC"  # by where the channels stand after the first axis


def checked(axes: str) -> str:
    """An order of axes in capital letters.

    Raises:
        Refusal: if it is none.
    """
    axes = axes.upper()
    known = any(sorted(axes) == sorted(order) for order in ORDERS)
    require(known, "axes", "each of N, H, W, perhaps C, or N, L, perhaps C, as in NHWC, NCHW, HWCN, NCL", axes)
    return axes


def fitting(shape: Sequence[int], is_float: bool) -> list[str]:
    """The orders that an array may have, the likeliest first; one is certain, none is no set of samples.

    Args:
        shape: of the array, 2 to 4 axes.
        is_float: whether its values are floats, of which functions with channels are made.
    """
    if len(shape) == 2:
        return ["NL"]
    small = [axis for axis, size in enumerate(shape) if axis and size <= MAX_CHANNELS]
    if len(shape) == 4:
        return [PLANES[axis - 1] for axis in reversed(small)]
    if not small:
        return ["NHW", "HWN"] if shape[0] == shape[1] != shape[2] else ["NHW"]
    if is_float and small == [2]:
        return ["NLC"]
    return [*(["NLC"] if 2 in small else []), *(["NCL"] if 1 in small else []), "NHW"]


def sides_of(shape: Sequence[int], axes: str) -> dict[str, int]:
    """Sizes by letter, of samples and channels too."""
    return {"C": 1, **dict(zip(axes, shape, strict=True))}


def in_our_order(array: np.ndarray, axes: str) -> np.ndarray:
    """A view (N, C, *S) of an array."""
    moved = array.transpose([axes.index(letter) for letter in OURS if letter in axes])
    return moved if "C" in axes else moved[:, None]


def kind_of_axes(axes: str) -> Kind:
    """What samples are that have these axes."""
    return "image" if "H" in axes else "function"


def in_words(shape: Sequence[int], axes: str) -> str:
    """What an array holds, read in an order."""
    sides = sides_of(shape, axes)
    what = f"images of {sides['H']}x{sides['W']}" if "H" in axes else f"functions of {sides['L']} points"
    return f"{sides['N']} {what} with {sides['C']} channel(s)"
