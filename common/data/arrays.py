"""Arrays of one's own: images or functions in ``.npy`` and ``.npz`` files.

``data_dir`` is a file or a folder of files. Which array holds the samples, which their labels, and which of them are
held out, their names say (:mod:`common.data.named_arrays`): ``x``, ``y``, ``x_test``, ``y_test``, and what Keras,
MedMNIST and others call them. Nothing is ever unpickled. Without a held-out part one sample in ten is held out.

How samples are read, if ``--axes`` does not say it:

==============  ==================================================================
axes            read as
==============  ==================================================================
(N, L)          functions
(N, a, b)       grey images (N, H, W); floats with b <= 4 functions (N, L, C)
four            images, channels being the one axis after the first that is <= 4
==============  ==================================================================

**What is ambiguous is asked for.** An axis of at most 4 entries may hold channels. An order of axes is taken if it is
the only one that fits by that, or if the table names it; every other array, as uint8 (N, 3, 64), (N, 3, 3, 3), or
(28, 28, N), which may be (H, W, N), is refused with the orders that ``--axes`` may name. So are two arrays that
may both be the samples. What was recognised is said (``DataSet.found``).

uint8 are levels 0 .. 255, bools black and white. All other numbers keep their own units: the extremes of the training
part become -1 and 1.
"""

from dataclasses import replace
from pathlib import Path

from common.data.array_files import Files
from common.data.axes import kind_of_axes
from common.data.named_arrays import LISTED, Meaning, files_of, meaning
from common.data.npy import SUFFIXES
from common.data.resize import fit
from common.data.source import DataOptions, DataSet, DataUnavailable, Source, hold_out
from common.data.spec import UNIT, Kind
from common.data.trees import is_image

FOUND, NOTE = "found     ", "note      "  # lines of what is said before training start so


class Arrays(Source):
    """Images or 1-D functions in NumPy's files."""

    name = "arrays"

    def kind_in(self, data_dir: Path) -> Kind | None:
        try:
            files = Files(self.name, find(data_dir))
            return kind_of_axes(files.layout(files.header(files.roles.train.samples)))
        except (DataUnavailable, OSError):
            return None  # whoever loads the file says what is wrong with it

    def load(self, options: DataOptions) -> DataSet:
        data, text = load_arrays(self.name, find(options.data_dir), options.axes)
        return fit(data, replace(options, axes=None), f"--data_name {self.name} ({text})")


def find(data_dir: Path) -> Path:
    """The file, or the folder with some.

    Raises:
        DataUnavailable: if there is no such file.
    """
    try:
        if data_dir.is_file() and data_dir.suffix.lower() in SUFFIXES:
            return data_dir
        if data_dir.is_dir():
            if files_of(data_dir):
                return data_dir
            other = "give --data_name folder for the images there, or " if holds_images(data_dir) else ""
            raise DataUnavailable(
                f"--data_name arrays: neither train.npy nor train.npz in {data_dir}; {other}point --data_dir at a "
                "folder with one of them, or at an .npy or .npz file"
            )
        state = "no .npy or .npz file" if data_dir.exists() else "not there"
    except OSError as error:
        state = f"not to be looked at ({error.strerror})"
    other = "give --data_name folder, or " if data_dir.suffix.lower() == ".zip" else ""
    raise DataUnavailable(
        f"--data_name arrays: {data_dir} is {state}; {other}point --data_dir at such a file, or at a folder with "
        "train.npy or train.npz"
    )


def labels_beside(file: Path) -> Path | None:
    """The file with the labels of the samples in an ``.npy`` file, if it lies beside it by its name."""
    own = meaning(file.stem)
    wanted = None if own is None or own.is_labels else Meaning(own.part, True)
    return next((other for other in files_of(file.parent) if wanted and meaning(other.stem) == wanted), None)


def holds_images(folder: Path) -> bool:
    """Whether image files lie in a folder or in those in it."""
    return any(is_image(file.name) for pattern in ("*", "*/*") for file in folder.glob(pattern))


def load_arrays(source: str, place: Path, axes: str | None = None) -> tuple[DataSet, str]:
    """A data set from a file, or the files in a folder, in its own size.

    Args:
        source: name of the source, for messages.
        place: file or folder.
        axes: the order of axes, as ``NCHW``; None takes the one that is certain.

    Returns:
        The data set and, in words, how its array was read.

    Raises:
        DataUnavailable: for whatever is wrong with a file, by its name.
    """
    files = Files(source, place, axes)
    part = files.part(files.roles.train)
    rows = None
    if files.roles.held_out:
        held_out = files.held_out(files.roles.held_out, part)
        other, said = held_out.split(), f"{FOUND}held out: {held_out.found}"
    else:
        try:
            rows, held_rows = hold_out(part.images.shape[0])
        except DataUnavailable as error:
            raise files.refusal(place, str(error)) from None
        other, said = (
            part.split(held_rows),
            f"{FOUND}{len(held_rows):,} held out, the same ones always: there is no array of a test part",
        )
    found = [f"{FOUND}{part.found}", said]
    value_range = UNIT
    if part.extremes is not None:
        extremes = part.extremes if rows is None else part.extremes[:, rows]
        value_range = (float(extremes[0].min()), float(extremes[1].max()))
        if value_range[0] == value_range[1]:
            raise files.refusal(place, f"every value to learn from is {value_range[0]:g}: there is nothing to learn")
        found.append(f"{FOUND}values {value_range[0]:g} .. {value_range[1]:g} keep their units: these become -1 .. 1")
    if files.roles.unread:
        names = [unread.name for unread in files.roles.unread]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        found.append(f"{NOTE}not read: {', '.join(names[:LISTED])}{more}")
    if place.is_file() and part.labels is None and (beside := labels_beside(place)):
        found.append(f"{NOTE}{beside.name} beside it is not read: for both, point --data_dir at the folder")
    num_classes, classes = (part.labels.num_classes, part.labels.classes) if part.labels else (None, None)
    train, told = part.split(rows), (*found, *(f"{NOTE}{note}" for note in files.notes))
    return DataSet(train, other, num_classes, value_range, classes=classes, found=told), part.text
