"""Labels as people store them: numbers, also as floats, bools or a column; rows with a single 1; names of classes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.natural import natural

MAX_CLASSES = 100_000  # an embedding each; larger labels are no classes but identities, times or sums


@dataclass(frozen=True)
class Labels:
    """Labels of samples.

    Attributes:
        values: (N,) int64, from 0 on.
        classes: names of the classes, or their numbers where labels were rows; None if the numbers were stored.
        named: whether names of classes were stored.
        form: how they were stored, in words; empty if as numbers.
    """

    values: np.ndarray
    classes: tuple[str, ...] | None = None
    named: bool = False
    form: str = ""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.values.max()) + 1 if self.classes is None else len(self.classes)


def read_labels(key: str, array: np.ndarray, count: int, classes: Sequence[str] | None = None) -> Labels:
    """Labels of ``count`` samples from what was stored.

    Args:
        key: name of the array, for messages.
        array: (N,), or (N, 1), of numbers from 0 on, bools or names; or (N, classes) with a single 1 in each row.
        count: number of samples, at least one.
        classes: names of the classes, if these labels must be of them.

    Raises:
        ValueError: if they are no labels, with what to do; the message starts with ``key``.
    """
    kind = f"{key} of {array.dtype} {array.shape}"
    if array.dtype.kind not in "biufUS" or array.ndim not in (1, 2):
        raise ValueError(f"{kind}: labels are integers 0 .. n-1, or names, one per sample")
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if len(array) != count:
        raise ValueError(
            f"{key} has {len(array)} labels for {count} samples; save one per sample, or leave {key} out (with samples "
            "along another axis than the first, give --axes, as in HWCN)"
        )
    if array.dtype.kind in "US":
        return of_names(key, array, classes)
    if array.ndim == 2:
        return of_rows(key, array)
    if array.dtype.kind == "f" and (wrong := np.flatnonzero(~(array == np.round(array)) | ~np.isfinite(array))).size:
        raise ValueError(f"{key}[{wrong[0]}] is {array[wrong[0]]:g}: labels are integers 0 .. n-1, one per sample")
    if array.min() < 0:
        raise ValueError(
            f"{key} has the label {array.min():g}; labels count from 0: leave out the samples that have none"
        )
    if array.max() >= MAX_CLASSES:
        raise ValueError(
            f"{key} has the label {array.max():g}, {MAX_CLASSES - 1} is the largest; if these are classes, save "
            f"numpy.unique({key}, return_inverse=True)[1]"
        )
    form = {"f": "whole numbers as floats", "b": "False and True as 0 and 1"}.get(array.dtype.kind, "")
    return Labels(array.astype(np.int64), form=form)


def of_names(key: str, array: np.ndarray, classes: Sequence[str] | None) -> Labels:
    """Labels that are names (N,) of classes."""
    if array.ndim != 1:
        raise ValueError(f"{key} of {array.dtype} {array.shape}: names of classes are one per sample")
    found, inverse = np.unique(array, return_inverse=True)
    try:
        stored = found.tolist()
    except SystemError as error:  # what Python says of letters beyond those of Unicode
        raise ValueError(f"{key} of {array.dtype} holds bytes that are no text") from error
    # bytes that are no UTF-8 become halves of characters: each name stays another one
    names = [os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in stored]
    if odd := [name for name in names if not is_text(name)]:
        raise ValueError(f"{key} has the class {odd[0]!r}, which is no text in UTF-8")
    known = sorted(names, key=natural) if classes is None else list(classes)
    if len(known) > MAX_CLASSES:
        raise ValueError(f"{key} has {len(known)} different names, {MAX_CLASSES} classes are the most")
    ranks = {name: rank for rank, name in enumerate(known)}
    if unknown := [name for name in names if name not in ranks]:
        raise ValueError(f"{key} has the class {unknown[0]!r}; the training labels are {', '.join(known)}")
    values = np.array([ranks[name] for name in names], np.int64)[inverse.reshape(-1)]
    return Labels(values, tuple(known), True, f"{len(known)} names of classes")


def is_text(name: str) -> bool:
    """Whether a name can be written to a file: NumPy's texts may hold halves of characters."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def of_rows(key: str, array: np.ndarray) -> Labels:
    """Labels that are rows (N, classes) with a single 1."""
    wrong = np.flatnonzero(((array != 0) & (array != 1)).any(1) | ((array != 0).sum(1) != 1))
    if wrong.size:
        raise ValueError(
            f"{key} of {array.dtype} {array.shape}: labels are integers 0 .. n-1, one per sample, or rows with a "
            f"single 1; {len(wrong)} rows, {key}[{wrong[0]}] first, have several or none. Save one class per sample, "
            f"or leave {key} out"
        )
    width = array.shape[1]
    if width > MAX_CLASSES:
        raise ValueError(f"{key} has {width} columns, {MAX_CLASSES} classes are the most")
    return Labels(array.argmax(1).astype(np.int64), tuple(map(str, range(width))), False, f"rows with one 1 in {width}")
