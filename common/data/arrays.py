"""Arrays of one's own: images or functions in ``.npy`` and ``.npz`` files.

``data_dir`` is a file, or a folder with ``train.npy`` or ``train.npz`` and perhaps ``test.npy`` or ``test.npz``. An
``.npz`` file holds ``x``, perhaps integer labels ``y``, and perhaps a held-out part ``x_test``, ``y_test``; an ``.npy``
file holds ``x`` alone. Nothing is ever unpickled. Without a held-out part one sample in ten is held out.

How ``x`` is read:

==============  =======================  ==============================================
axes            uint8                    floats
==============  =======================  ==============================================
(N, L)          functions                functions
(N, a, b)       grey images (N, H, W)    functions (N, L, C) if b <= 4, else (N, H, W), a > 4
(N, H, W, C)    images, C <= 4           images, C <= 4
==============  =======================  ==============================================

Floats keep their own units: the extremes of the training part become -1 and 1.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from common.data import reading
from common.data.reading import Images, chunks, select
from common.data.resize import fit
from common.data.source import DataOptions, DataSet, DataUnavailable, Source, Split, hold_out
from common.data.spec import Kind
from common.data.trees import is_image

MAX_CHANNELS = 4
SUFFIXES = (".npy", ".npz")
KEYS = ("x", "y", "x_test", "y_test")
LISTED = 8  # arrays of a file that a message names


class Arrays(Source):
    """Images or 1-D functions in NumPy's files."""

    name = "arrays"

    def kind_in(self, data_dir: Path) -> Kind | None:
        try:
            shape, dtype = header(find(data_dir)[0])
        except (DataUnavailable, OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None  # whoever loads the file says what is wrong with it
        axes = len(shape) - 1 - has_channels(shape, dtype)
        return "function" if axes == 1 else "image" if axes == 2 else None

    def load(self, options: DataOptions) -> DataSet:
        data, text = load_arrays(self.name, *find(options.data_dir))
        return fit(data, options, f"--data_name {self.name} ({text})")


def find(data_dir: Path) -> tuple[Path, Path | None]:
    """The file to learn from and, if there is one, that with the held-out part.

    Raises:
        DataUnavailable: if there is no such file, or two.
    """
    if data_dir.is_file() and data_dir.suffix in SUFFIXES:
        return data_dir, None
    if data_dir.is_file() or not data_dir.exists():
        state = "no .npy or .npz file" if data_dir.exists() else "not there"
        other = "give --data_name folder, or " if data_dir.suffix.lower() == ".zip" else ""
        raise DataUnavailable(
            f"--data_name arrays: {data_dir} is {state}; {other}point --data_dir at such a file, or at a folder with "
            "train.npy or train.npz"
        )
    found: dict[str, list[Path]] = {
        part: [file for suffix in SUFFIXES if (file := data_dir / f"{part}{suffix}").is_file()]
        for part in ("train", "test")
    }
    for files in found.values():
        if len(files) > 1:
            raise DataUnavailable(f"--data_name arrays: both {files[0]} and {files[1]} are there; remove one of them")
    if not found["train"]:
        other = "give --data_name folder for the images there, or " if holds_images(data_dir) else ""
        raise DataUnavailable(
            f"--data_name arrays: neither train.npy nor train.npz in {data_dir}; {other}point --data_dir at a folder "
            "with one of them, or at an .npy or .npz file"
        )
    return found["train"][0], found["test"][0] if found["test"] else None


def holds_images(folder: Path) -> bool:
    """Whether image files lie in a folder or in those in it."""
    return any(is_image(file.name) for pattern in ("*", "*/*") for file in folder.glob(pattern))


def header(path: Path, key: str = "x") -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in a file, without reading its values.

    Args:
        path: the file.
        key: name of the array, if it is an ``.npz`` file.

    Raises:
        OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile: if there is no such array.
    """
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        if path.suffix == ".npz":
            file = stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(f"{key}.npy"))
        is_first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        return shape, dtype


def has_channels(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Whether the last axis of samples (N, ..) holds channels."""
    return len(shape) == 4 or (len(shape) == 3 and shape[-1] <= MAX_CHANNELS and dtype != np.uint8)


@dataclass(frozen=True)
class Part:
    """Samples of a file.

    Attributes:
        images: (N, C, *S) uint8 or float32.
        labels: (N,) int64, or None.
        extremes: (2, N) smallest and largest value of every sample; None for uint8.
        text: how the array was read, for messages.
    """

    images: Images
    labels: Tensor | None
    extremes: Tensor | None
    text: str

    def select(self, rows: Tensor) -> "Part":
        """The samples ``rows`` (M,) int64."""
        labels, extremes = self.labels, self.extremes
        return Part(
            select(self.images, rows),
            None if labels is None else labels[rows],
            None if extremes is None else extremes[:, rows],
            self.text,
        )

    def split(self) -> Split:
        """The samples as part of a data set."""
        labels = torch.zeros(self.images.shape[0], dtype=torch.int64) if self.labels is None else self.labels
        return Split(self.images, labels)


def load_arrays(source: str, train: Path, test: Path | None = None) -> tuple[DataSet, str]:
    """A data set from one or two files, in its own size.

    Args:
        source: name of the source, for messages.
        train: file to learn from, perhaps with a held-out part.
        test: file with the held-out part.

    Returns:
        The data set and, in words, how its array was read.

    Raises:
        DataUnavailable: for whatever is wrong with a file, by its name.
    """
    file = ArrayFile(source, train)
    part = file.part()
    num_classes = None if part.labels is None else int(part.labels.max()) + 1
    if test is not None and "x_test" in file.arrays:
        raise file.refusal(f"has x_test, and there is {test} too; keep one held-out part")
    if test is not None or "x_test" in file.arrays:
        other, ending = (file, "_test") if test is None else (ArrayFile(source, test), "")
        held_out = other.part(ending)
        if (held_out.images.shape[1:], held_out.images.dtype) != (part.images.shape[1:], part.images.dtype):
            raise other.refusal(f"{held_out.text}, unlike the training part: {part.text}")
        if (held_out.labels is None) != (part.labels is None):
            raise other.refusal("only one of the training and held-out parts has labels (y)")
        if num_classes is not None and held_out.labels is not None and held_out.labels.max() >= num_classes:
            raise other.refusal(
                f"y{ending} has the label {int(held_out.labels.max())}; the training labels end at {num_classes - 1}"
            )
    else:
        if "y_test" in file.arrays:
            raise file.refusal("has y_test without x_test")
        try:
            part, held_out = (part.select(rows) for rows in hold_out(part.images.shape[0]))
        except DataUnavailable as error:
            raise file.refusal(str(error)) from None

    value_range = (0.0, 1.0)
    if part.extremes is not None:
        value_range = (float(part.extremes[0].min()), float(part.extremes[1].max()))
        if value_range[0] == value_range[1]:
            raise file.refusal(f"every value to learn from is {value_range[0]:g}: there is nothing to learn")
    return DataSet(part.split(), held_out.split(), num_classes, value_range), part.text


class ArrayFile:
    """One ``.npy`` or ``.npz`` file, opened without unpickling anything.

    Args:
        source: name of the source, for messages.
        path: the file.
        keys: which arrays of an ``.npz`` file are read, if they are there.

    Raises:
        DataUnavailable: if it cannot be read.
    """

    def __init__(self, source: str, path: Path, keys: Sequence[str] = KEYS) -> None:
        self.source, self.path, self._keys = source, path, keys
        try:
            self.arrays = self._open()
        # what NumPy raises for a cut or foreign file, a broken archive, or Python objects inside
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise self.refusal(f"cannot be read as {path.suffix} ({error})") from error

    def _open(self) -> dict[str, np.ndarray]:
        large = self.path.stat().st_size > reading.RESIDENT_LIMIT
        content: Any = np.load(self.path, mmap_mode="r" if large else None, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"x": content}
        with content:
            return {key: content[key] for key in self._keys if key in content.files}

    def refusal(self, problem: str) -> DataUnavailable:
        """An error that names the source and the file."""
        return DataUnavailable(f"--data_name {self.source}: {self.path}: {problem}")

    def missing(self, key: str) -> DataUnavailable:
        """An error for an array that an ``.npz`` file should hold; it lists those that are there."""
        with zipfile.ZipFile(self.path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        held = [f"{name} {shape} of {dtype}" for name in names[:LISTED] for shape, dtype in [header(self.path, name)]]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return self.refusal(
            f"has no array named {key}; there is {', '.join(held) or 'none at all'}{more}. Save it under that name, as "
            f"numpy.savez({self.path.name!r}, {key}=..) does, or point --data_dir at another file"
        )

    def part(self, ending: str = "") -> Part:
        """The samples ``x`` + ending with labels ``y`` + ending, checked.

        Raises:
            DataUnavailable: for arrays that are no samples or labels.
        """
        if (array := self.arrays.get(f"x{ending}")) is None:
            raise self.missing(f"x{ending}")
        labels = self.arrays.get(f"y{ending}")
        channels_last, text = self._layout(f"x{ending}", array)
        images: Images = (
            Mapped(self.path, channels_last) if isinstance(array, np.memmap) else to_tensor(array, channels_last)
        )
        return Part(
            images,
            None if labels is None else self.labels(f"y{ending}", labels, len(array)),
            self._extremes(f"x{ending}", images) if images.dtype == torch.float32 else None,
            text,
        )

    def _layout(self, key: str, array: np.ndarray) -> tuple[bool, str]:
        """Whether the last axis holds channels, and how the array is read in words."""
        kind = f"{key} of {array.dtype} {array.shape}"
        if array.dtype != np.uint8 and array.dtype.kind != "f":
            raise self.refusal(
                f"{kind}: samples are uint8 or floats; save {key}.astype('float32'), or 'uint8' for levels 0 .. 255"
            )
        if array.ndim not in (2, 3, 4) or 0 in array.shape:
            raise self.refusal(
                f"{kind}: samples are (N, H, W, C) or (N, H, W) images, or (N, L) or (N, L, C) functions"
            )
        if array.ndim == 4 and array.shape[-1] > MAX_CHANNELS:
            mend = f"; save {key}.transpose(0, 2, 3, 1)" if array.shape[1] <= MAX_CHANNELS else ""
            raise self.refusal(
                f"{kind}: the last of four axes holds 1 to {MAX_CHANNELS} channels, as in (N, H, W, C){mend}"
            )
        channels_last = has_channels(array.shape, array.dtype)
        if array.ndim == 3 and array.dtype != np.uint8 and not channels_last and array.shape[1] <= MAX_CHANNELS:
            raise self.refusal(
                f"{kind}: series with {array.shape[1]} channels are (N, L, C), save {key}.transpose(0, 2, 1); images "
                f"that are so low are (N, H, W, C), save {key}[..., None]"
            )
        sides = array.shape[1:-1] if channels_last else array.shape[1:]
        what = "images of " + "x".join(map(str, sides)) if len(sides) == 2 else f"functions of {sides[0]} points"
        channels = array.shape[-1] if channels_last else 1
        return channels_last, f"{kind} was read as {len(array)} {what} with {channels} channel(s)"

    def labels(self, key: str, labels: np.ndarray, count: int) -> Tensor:
        """Labels (N,) int64, checked.

        Raises:
            DataUnavailable: if they are no integers from 0 on, one for each of ``count`` samples.
        """
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            names = labels.dtype.kind in "US"
            mend = f"; save numpy.unique({key}, return_inverse=True)[1]" if names else ""
            raise self.refusal(
                f"{key} of {labels.dtype} {labels.shape}: labels are integers 0 .. n-1, one per sample{mend}"
            )
        if len(labels) != count:
            raise self.refusal(
                f"{key} has {len(labels)} labels for {count} samples; save one per sample, or leave {key} out"
            )
        if labels.min() < 0:
            raise self.refusal(f"{key} has the label {labels.min()}; labels count from 0")
        return torch.from_numpy(labels.astype(np.int64))

    def _extremes(self, key: str, images: Images) -> Tensor:
        rows = torch.arange(images.shape[0])
        found = [torch.stack(samples.flatten(1).aminmax(dim=1)) for samples in chunks(images, rows, "checking values")]
        extremes = torch.cat(found, 1)
        bad = (~extremes.isfinite()).any(0).nonzero().flatten()  # NaN shows in both extremes
        if len(bad):
            raise self.refusal(
                f"{key}[{int(bad[0])}] has NaN or infinite values (in float32); {len(bad)} samples have. Fill them, or "
                f"leave those out: ok = numpy.isfinite({key}.astype('float32')).reshape(len({key}), -1).all(1), save "
                f"{key}[ok], and y alike"
            )
        return extremes


def to_tensor(array: np.ndarray, channels_last: bool) -> Tensor:
    """Samples (N, *S) or (N, *S, C) as a tensor (N, C, *S) of uint8 or float32."""
    first = np.moveaxis(array, -1, 1) if channels_last else array[:, None]
    with np.errstate(over="ignore"):  # values beyond float32 are refused later, by the index of their sample
        return torch.from_numpy(np.ascontiguousarray(first, np.uint8 if array.dtype == np.uint8 else np.float32))


class Mapped:
    """Samples of an ``.npy`` file that are read from disk when they are asked for.

    Args:
        path: the file.
        channels_last: whether its last axis holds channels.
    """

    def __init__(self, path: Path, channels_last: bool) -> None:
        self._path, self._channels_last = path, channels_last
        self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        sample = self[torch.tensor([0])]
        self.shape = (len(self._array), *sample.shape[1:])
        self.dtype = sample.dtype

    def __getitem__(self, indices: Tensor) -> Tensor:
        return to_tensor(self._array[indices.numpy()], self._channels_last)

    def __reduce__(self) -> tuple[type, tuple[Path, bool]]:
        return Mapped, (self._path, self._channels_last)  # NumPy would pickle the samples
