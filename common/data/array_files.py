"""The arrays of a data set: their headers looked at, the order of their axes found, their values read or mapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data import reading
from common.data.axes import MAX_CHANNELS, fitting, in_our_order, in_words, sides_of
from common.data.categories import Labels, read_labels
from common.data.named_arrays import Pair, Place, listed, roles
from common.data.npy import Stored, Unreadable, header, member_names
from common.data.reading import Images, chunks, select
from common.data.source import DataUnavailable, Split

BYTE = 255
PLAIN = ("NL", "NLC", "NHW", "NHWC")  # orders of axes that need no word
SMALLEST_FLAT = 8  # side of an image that rows of numbers are taken for
MENDS = {  # what is no sample, by the kind of its type; x stands for the array
    "O": "Python objects, which are never unpickled; save numbers, as numpy.stack(list(x)) if all have one shape",
    "c": "complex numbers; save numpy.stack([x.real, x.imag], -1)",
    "S": "texts; samples are numbers",
    "U": "texts; samples are numbers",
    "m": "times; samples are numbers, save x.astype('int64')",
    "M": "times; samples are numbers, save x.astype('int64')",
    "V": "raw bytes; if it was bfloat16, save x.astype('float32')",
}


def held_as(dtype: np.dtype) -> torch.dtype | None:
    """The type of samples in memory; None if these are no numbers."""
    if dtype == np.uint8 or dtype.kind == "b":
        return torch.uint8
    return torch.float32 if dtype.kind in "iuf" else None


@dataclass(frozen=True)
class Part:
    """Samples of a file.

    Attributes:
        images: (N, C, *S) uint8 or float32.
        labels: their labels, or None.
        extremes: (2, N) smallest and largest value of every sample; None for uint8.
        axes: the order in which they were stored.
        text: how the array was read, for messages.
        found: the same, as it is said before training.
    """

    images: Images
    labels: Labels | None
    extremes: Tensor | None
    axes: str
    text: str
    found: str

    def split(self, rows: Tensor | None = None) -> Split:
        """The samples, or some of them (M,) int64, as part of a data set."""
        count = self.images.shape[0]
        labels = torch.zeros(count, dtype=torch.int64) if self.labels is None else torch.from_numpy(self.labels.values)
        return Split(self.images, labels) if rows is None else Split(select(self.images, rows), labels[rows])


class Files:
    """The array files of a data set.

    Args:
        source: name of the source, for messages.
        place: file or folder.
        axes: the order of axes of the samples; None takes the one that is certain.

    Attributes:
        roles: which array is what.
        notes: what else is to be said of what was read so far.

    Raises:
        DataUnavailable: if a file cannot be read, or it is not certain which array is what.
    """

    def __init__(self, source: str, place: Path, axes: str | None = None) -> None:
        self.source, self._axes = source, axes
        self.notes: list[str] = []
        self.roles = roles(place, self.refusal)

    def refusal(self, path: Path, problem: str) -> DataUnavailable:
        """An error that names the source and a file."""
        return DataUnavailable(f"--data_name {self.source}: {path}: {problem}")

    def header(self, place: Place) -> Stored:
        """An array without its values."""
        try:
            return place.stored()
        except Unreadable as error:
            raise self.refusal(place.path, str(error)) from error

    def layout(self, stored: Stored, like: str | None = None) -> str:
        """The order of axes of samples.

        Args:
            stored: the array.
            like: the order of other samples that these belong to.

        Raises:
            DataUnavailable: if these are no samples, the order is not certain, or it contradicts ``--axes``.
        """
        kind = described(stored)
        if held_as(stored.dtype) is None:
            raise self.refusal(stored.path, f"{kind} cannot be read: it holds {mend(stored)}")
        if len(stored.shape) not in (2, 3, 4) or 0 in stored.shape:
            samples = "samples are (N, H, W, C) or (N, H, W) images, or (N, L) or (N, L, C) functions"
            raise self.refusal(stored.path, f"{kind}: {samples}")
        if self._axes is not None:
            self._check_axes(stored, self._axes)
            return self._axes
        orders = fitting(stored.shape, stored.dtype.kind == "f")
        if like in orders:
            return like
        if not orders:
            channels = f"one of four axes holds 1 to {MAX_CHANNELS} channels, as in (N, H, W, C)"
            raise self.refusal(stored.path, f"{kind}: {channels}")
        if len(orders) > 1:
            ways = ", or ".join(f"--axes {order} for {in_words(stored.shape, order)}" for order in orders)
            raise self.refusal(stored.path, f"{kind} can be read in {len(orders)} ways: give {ways}")
        return orders[0]

    def _check_axes(self, stored: Stored, axes: str) -> None:
        kind = f"{described(stored)} in {stored.path}"
        if len(axes) != len(stored.shape):
            raise DataUnavailable(f"{axes} names {len(axes)} axes; {kind} has {len(stored.shape)}", "axes")
        channels = sides_of(stored.shape, axes)["C"]
        if channels > MAX_CHANNELS:
            raise DataUnavailable(f"{axes} gives {kind} {channels} channels; 1 to {MAX_CHANNELS} are read", "axes")

    def part(self, pair: Pair, like: Part | None = None) -> Part:
        """Samples and labels, checked.

        Args:
            pair: where they are.
            like: the part to learn from, if these are held out.

        Raises:
            DataUnavailable: for arrays that are no samples or labels, or are unlike those to learn from.
        """
        stored = self.header(pair.samples)
        axes = self.layout(stored, like.axes if like else None)
        count, words = sides_of(stored.shape, axes)["N"], in_words(stored.shape, axes)
        labels = self._labels(pair, count, like.labels if like else None)
        mapped = stored.place is not None and (stored.nbytes > reading.RESIDENT_LIMIT or not stored.has_room)
        images: Images = Mapped(stored, axes) if mapped else to_tensor(in_our_order(self._read(stored), axes))
        self._note(stored, axes)
        return Part(
            images,
            labels,
            self._extremes(stored, images) if images.dtype == torch.float32 else None,
            axes,
            f"{described(stored)} was read as {words}",
            "".join(
                (
                    f"{pair.samples.name} {stored.shape} {stored.dtype} read as {words}",
                    "" if axes in PLAIN else f", axes {axes}",
                    ", False black and True white" if stored.dtype.kind == "b" else "",
                    f"; labels {pair.labels.name}" if pair.labels else "",
                    f" ({labels.form})" if labels and labels.form else "",
                )
            ),
        )

    def held_out(self, pair: Pair, train: Part) -> Part:
        """Samples and labels of the held-out part, checked against those to learn from.

        Raises:
            DataUnavailable: if they are none, or unlike those.
        """
        part, path = self.part(pair, train), pair.samples.path
        if (part.images.shape[1:], part.images.dtype) != (train.images.shape[1:], train.images.dtype):
            raise self.refusal(path, f"{part.text}, unlike the training part: {train.text}")
        if (part.labels is None) != (train.labels is None):
            raise self.refusal(path, "only one of the training and held-out parts has labels (y)")
        if part.labels and train.labels and pair.labels and part.labels.num_classes > train.labels.num_classes:
            raise self.refusal(
                path,
                f"{pair.labels.name} has the label {part.labels.num_classes - 1}; the training labels end at "
                f"{train.labels.num_classes - 1}",
            )
        return part

    def _labels(self, pair: Pair, count: int, like: Labels | None) -> Labels | None:
        if pair.labels is None:
            return None
        stored = self.header(pair.labels)
        if held_as(stored.dtype) is None and stored.dtype.kind not in "SU":
            raise self.refusal(stored.path, f"{described(stored)} cannot be read: it holds {mend(stored)}")
        names = like.classes if like and like.named else None
        try:
            labels = read_labels(stored.variable, self._read(stored), count, names)
        except ValueError as error:
            raise self.refusal(stored.path, str(error)) from error
        if like and like.named != labels.named:
            raise self.refusal(
                stored.path, f"only one of the training labels and {stored.variable} are names of classes"
            )
        return labels

    def _read(self, stored: Stored) -> np.ndarray:
        try:
            return stored.read()
        except Unreadable as error:
            raise self.refusal(stored.path, str(error)) from error

    def _note(self, stored: Stored, axes: str) -> None:
        if stored.trailing:
            self.notes.append(f"{stored.path.name}: {stored.trailing:,} bytes after the array are not read")
        if axes == "NL" and stored.dtype == np.uint8 and (flat := unflattened(stored.shape[1])):
            self.notes.append(
                f"{stored.name}: if these are images, save {stored.variable}.reshape(-1, {', '.join(map(str, flat))})"
            )

    def _extremes(self, stored: Stored, images: Images) -> Tensor:
        rows = torch.arange(images.shape[0])
        found = [torch.stack(samples.flatten(1).aminmax(dim=1)) for samples in chunks(images, rows, "checking values")]
        extremes = torch.cat(found, 1)
        bad = (~extremes.isfinite()).any(0).nonzero().flatten()  # NaN shows in both extremes
        if len(bad):
            key = stored.variable
            raise self.refusal(
                stored.path,
                f"{key}[{int(bad[0])}] has NaN or infinite values (in float32); {len(bad)} samples have. Fill them, or "
                f"leave those out: ok = numpy.isfinite({key}.astype('float32')).reshape(len({key}), -1).all(1), save "
                f"{key}[ok], and y alike",
            )
        return extremes


def described(stored: Stored) -> str:
    """An array in a message."""
    return f"{stored.variable} of {stored.dtype} {stored.shape}"


def mend(stored: Stored) -> str:
    """What an array holds that is no number, and what to save instead."""
    name, fields = stored.variable, stored.dtype.names
    if fields:
        return f"records of {', '.join(fields)}; save one of them under a name of its own, as {name}[{fields[0]!r}]"
    return MENDS[stored.dtype.kind].replace("x.", f"{name}.").replace("(x)", f"({name})")


def unflattened(length: int) -> tuple[int, ...] | None:
    """Sides of the square grey image, or the colour image with channels first, that has so many values."""
    for channels, count in (((), length), ((3,), length // 3 if length % 3 == 0 else 0)):
        if (side := isqrt(count)) >= SMALLEST_FLAT and side**2 == count:
            return (*channels, side, side)
    return None


def to_tensor(ours: np.ndarray) -> Tensor:
    """Samples (N, C, *S) as a tensor of uint8 or float32."""
    if ours.dtype.kind == "b":
        return torch.from_numpy(np.ascontiguousarray(ours, np.uint8) * BYTE)
    with np.errstate(over="ignore"):  # values beyond float32 are refused later, by the index of their sample
        return torch.from_numpy(np.ascontiguousarray(ours, np.uint8 if ours.dtype == np.uint8 else np.float32))


class Mapped:
    """Samples that are read from disk when they are asked for.

    Args:
        stored: where they are; uncompressed.
        axes: the order of their axes.
    """

    def __init__(self, stored: Stored, axes: str) -> None:
        self._stored, self._axes = stored, axes
        self._array = in_our_order(stored.map(), axes)
        self.shape = self._array.shape
        self.dtype = held_as(stored.dtype) or torch.float32

    def __getitem__(self, indices: Tensor) -> Tensor:
        return to_tensor(self._array[indices.numpy()])

    def __reduce__(self) -> tuple[type, tuple[Stored, str]]:
        return Mapped, (self._stored, self._axes)  # NumPy would pickle the samples


class ArrayFile:
    """Some arrays of one ``.npy`` or ``.npz`` file in memory; nothing is unpickled.

    Args:
        source: name of the source, for messages.
        path: the file.
        keys: which arrays of an ``.npz`` file are read, if they are there.

    Raises:
        DataUnavailable: if it cannot be read.
    """

    def __init__(self, source: str, path: Path, keys: Sequence[str]) -> None:
        self.source, self.path = source, path
        try:
            names = member_names(path)
            self.arrays = (
                {"x": header(path).read()}
                if names is None
                else {key: header(path, key).read() for key in keys if key in names}
            )
        except Unreadable as error:
            raise self.refusal(str(error)) from error

    def refusal(self, problem: str) -> DataUnavailable:
        """An error that names the source and the file."""
        return DataUnavailable(f"--data_name {self.source}: {self.path}: {problem}")

    def missing(self, key: str) -> DataUnavailable:
        """An error for an array that an ``.npz`` file should hold; it lists those that are there."""
        there = listed([self.path], lambda path, problem: self.refusal(problem))
        return self.refusal(
            f"has no array named {key}{there}. Save it under that name, as numpy.savez({self.path.name!r}, {key}=..) "
            "does, or point --data_dir at another file"
        )

    def labels(self, key: str, labels: np.ndarray, count: int) -> Tensor:
        """Labels (N,) int64, checked.

        Raises:
            DataUnavailable: if they are no integers from 0 on, one for each of ``count`` samples.
        """
        try:
            read = read_labels(key, labels, count)
        except ValueError as error:
            raise self.refusal(str(error)) from error
        if read.named:
            raise self.refusal(f"{key} of {labels.dtype} {labels.shape}: labels are integers 0 .. n-1, one per sample")
        return torch.from_numpy(read.values)
