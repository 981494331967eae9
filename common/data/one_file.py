"""Single files that a flag names: a picture, or an array of numbers."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.damage import Unreadable as Damaged
from common.data.levels import Levels
from common.data.npy import Unreadable, header, member_names
from common.data.pictures import decode, read
from common.data.trees import Paths
from common.refusal import Refusal

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"))
SOURCE = "folder"  # what the reader of pictures calls itself in messages


def read_picture(path: Path, channels: int, argument: str, levels: Levels | None = None) -> Tensor:
    """A picture in its own size.

    Args:
        path: the file.
        channels: 1 (grey) or 3 (colour).
        argument: what names the file, for messages.
        levels: those that are black and white; None takes all of 8 or 16 bits.

    Returns:
        (channels, H, W) uint8.

    Raises:
        Refusal: if it is not there, or no whole picture.
    """
    check_there(path, argument)
    try:
        return read(Paths.of(path.parent, [path.name]), 0, SOURCE, lambda image: decode(image, channels, levels))
    except Damaged as error:
        raise Refusal(problem_of(error), argument) from error


def read_numbers(path: Path, argument: str) -> Tensor:
    """The array of an .npy file, or the only one of an .npz file; nothing is unpickled.

    Args:
        path: the file.
        argument: what names the file, for messages.

    Returns:
        Any shape; uint8 as it is, all other numbers float32 (True is 1).

    Raises:
        Refusal: if it is not there, holds several arrays, or no numbers.
    """
    check_there(path, argument)
    try:
        names = member_names(path)
        if names is not None and len(names) != 1:
            raise Unreadable(f"holds {len(names)} arrays ({', '.join(names[:6])}); save the one that is meant alone")
        array = header(path, None if names is None else names[0]).read()
    except Unreadable as error:
        raise Refusal(f"{path} {error}", argument) from error
    if array.dtype.kind not in "biuf":
        raise Refusal(f"{path} holds {array.dtype}, which are no real numbers", argument)
    with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and refused where numbers are looked at
        return torch.from_numpy(np.ascontiguousarray(array, np.uint8 if array.dtype == np.uint8 else np.float32))


def problem_of(error: Damaged) -> str:
    """What is wrong with a file, without the source that reads it and its flags, which who named the file has not."""
    problem, flag, _ = str(error).removeprefix(f"--data_name {SOURCE}: ").removeprefix("./").partition("; --")
    return f"{problem}; save it as an array (.npy) in the units of the data" if flag else problem


def check_there(path: Path, argument: str) -> None:
    """Refuse a file that is not there.

    Raises:
        Refusal: naming it.
    """
    if not path.is_file():
        raise Refusal(f"{path}: there is no such file", argument)
