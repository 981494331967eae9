"""Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers at 8 kHz (Jakobovski et al., CC BY-SA 4.0).

``data_dir`` is a checkout of it, a folder of files named ``{digit}_{speaker}_{index}.wav``, or an ``.npz`` file (or a
folder with ``fsdd.npz``): ``audio`` (N, L) int16 or floats at 8 kHz, ``label`` and ``index``; or ``x`` and ``y``,
perhaps with a held-out part ``x_test``, ``y_test``. As published, recordings 0 to 4 of each digit and speaker are held
out, all are cut or padded with zeros to 8,000 points, and then the peak of each is brought to -0.1 dB.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.array_files import ArrayFile
from common.data.resize import fit
from common.data.sound_form import Headers, Recordings, SoundForm, normalised
from common.data.source import DataOptions, DataSet, DataUnavailable, Source, Split, hold_out
from common.data.trees import Paths

SAMPLE_RATE = 8000
LENGTH = 8000
DIGITS = tuple(map(str, range(10)))
HELD_OUT_BELOW = 5  # of the index
NAME = re.compile(r"(\d)_.+_(\d+)\.wav", re.IGNORECASE)
ORIGIN = "https://github.com/Jakobovski/free-spoken-digit-dataset"
PLACES = (".", "recordings", "fsdd", "free-spoken-digit-dataset/recordings")
ARRAYS = "fsdd.npz"


class SpokenDigits(Source):
    """One second of sound, one channel, ten classes."""

    name = "spokendigits"

    def load(self, options: DataOptions) -> DataSet:
        place, length = find(options.data_dir), options.length or LENGTH
        train, held_out, found = from_arrays(place, length) if place.is_file() else from_recordings(place, length)
        for part, what in ((train, "learn from"), (held_out, "hold out")):
            if not len(part.labels):
                raise refusal(place, f"no recording to {what}; those with an index below {HELD_OUT_BELOW} are held out")
        data = DataSet(train, held_out, value_range=(-1.0, 1.0), sample_rate=SAMPLE_RATE, classes=DIGITS, found=found)
        return fit(data, replace(options, length=None), f"--data_name {self.name}")


def refusal(place: Path, problem: str) -> DataUnavailable:
    """An error that names the source and the file or folder."""
    return DataUnavailable(f"--data_name {SpokenDigits.name}: {place}: {problem}")


def find(data_dir: Path) -> Path:
    """The ``.npz`` file, or the folder of recordings.

    Raises:
        DataUnavailable: if there is neither.
    """
    if data_dir.is_file():
        if data_dir.suffix != ".npz":
            raise refusal(data_dir, "is no .npz file; point --data_dir at one, or at a folder of recordings")
        return data_dir
    for folder in (data_dir / place for place in PLACES):
        if recordings(folder):
            return folder
        if (folder / ARRAYS).is_file():
            return folder / ARRAYS
    raise refusal(
        data_dir, f"no recordings *.wav, no recordings/ and no {ARRAYS}; get {ORIGIN} and point --data_dir at it"
    )


def recordings(folder: Path) -> list[Path]:
    """Visible .wav files directly in a folder, sorted."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in files if file.suffix.lower() == ".wav" and not file.name.startswith("."))


def from_recordings(folder: Path, length: int) -> tuple[Split, Split, tuple[str, ...]]:
    """Parts to learn from and held out, of a folder of .wav files, and what was done to them in words."""
    files = recordings(folder)
    matches = [NAME.fullmatch(file.name) for file in files]
    if None in matches:
        raise refusal(
            files[matches.index(None)], "recordings are named {digit}_{speaker}_{index}.wav; rename or remove it"
        )
    digits, indices = (torch.tensor([int(match[group]) for match in matches if match]) for group in (1, 2))
    paths, rows = Paths.of(folder, [file.name for file in files]), torch.arange(len(files))
    _, channels, rates = Headers(paths, SpokenDigits.name)[rows].T
    sounds = Recordings(paths, SoundForm(SpokenDigits.name, 1, SAMPLE_RATE, length))[rows]
    done = (("resampled to 8,000 points per second", rates != SAMPLE_RATE), ("mixed to one channel", channels > 1))
    found = tuple(f"sounds    {int(some.sum()):,} of {len(files):,} {what}" for what, some in done if some.any())
    return *by_index(sounds, digits, indices), found


def from_arrays(path: Path, length: int) -> tuple[Split, Split, tuple[str, ...]]:
    """Parts to learn from and held out, of an .npz file, about which there is nothing to say."""
    file = ArrayFile(SpokenDigits.name, path, ("audio", "label", "index", "x", "y", "x_test", "y_test"))
    first, second = ("audio", "label") if "audio" in file.arrays else ("x", "y")
    sounds, digits = of_keys(file, first, second, length)
    if "index" in file.arrays:
        return *by_index(sounds, digits, file.labels("index", file.arrays["index"], len(digits))), ()
    if "x_test" in file.arrays:
        return Split(sounds, digits), Split(*of_keys(file, "x_test", "y_test", length)), ()
    try:
        train, held_out = hold_out(len(digits))
    except DataUnavailable as error:
        raise file.refusal(str(error)) from None
    return Split(sounds[train], digits[train]), Split(sounds[held_out], digits[held_out]), ()


def of_keys(file: ArrayFile, sounds_key: str, digits_key: str, length: int) -> tuple[Tensor, Tensor]:
    """Normalised sounds (N, 1, length) and digits (N,) of an .npz file.

    Raises:
        DataUnavailable: if they are not there, or are no sounds and digits.
    """
    for key in (sounds_key, digits_key):
        if key not in file.arrays:
            raise file.missing(key)
    array = file.arrays[sounds_key]
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "if":
        raise file.refusal(
            f"{sounds_key} of {array.dtype} {array.shape}: recordings are signed integers or floats (N, L) at 8 kHz"
        )
    if not np.isfinite(array).all():
        raise file.refusal(f"{sounds_key} has NaN or infinite values")
    digits = file.labels(digits_key, file.arrays[digits_key], len(array))
    if digits.max() >= len(DIGITS):
        raise file.refusal(f"{digits_key} has the label {int(digits.max())}; digits are 0 to {len(DIGITS) - 1}")
    sounds = torch.zeros(len(array), 1, length)
    sounds[:, 0, : array.shape[1]] = torch.from_numpy(array[:, :length].astype(np.float32))
    return normalised(sounds), digits


def by_index(sounds: Tensor, digits: Tensor, indices: Tensor) -> tuple[Split, Split]:
    """The published split."""
    held_out = indices < HELD_OUT_BELOW
    return Split(sounds[~held_out], digits[~held_out]), Split(sounds[held_out], digits[held_out])
