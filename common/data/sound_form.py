"""Recordings as samples of one form: so many points of so many channels at one rate, the peak of each at -0.1 dB."""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.data.damage import Unreadable
from common.data.trees import Files
from common.media.recordings import opened, samples_of
from common.media.riff import Damaged
from common.refusal import Refusal

if TYPE_CHECKING:
    from soundfile import SoundFile

PEAK = 10 ** (-0.1 / 20)
HIGHEST_RATE = 768_000  # points per second; resampling takes memory in proportion to both rates
FILTER = 10  # points of the slower rate on each side that a resampled point depends on, as scipy takes them


@dataclass(frozen=True)
class SoundForm:
    """How recordings are wanted.

    Attributes:
        source: name of the source, for messages.
        channels: 1, the mean of all, or 2, of which one is twice there if a recording has no other.
        rate: points per second.
        length: points; what is longer is cut, what is shorter is padded with zeros.
    """

    source: str
    channels: int
    rate: int
    length: int


class Recordings:
    """Recordings in files, decoded when they are asked for.

    Args:
        files: where they are.
        form: how they are wanted.
    """

    dtype = torch.float32

    def __init__(self, files: Files, form: SoundForm) -> None:
        self._files, self._form = files, form
        for module in ("soundfile", "scipy.signal"):  # before there are worker processes, which share what is imported
            importlib.import_module(module)
        self.shape = (len(files), form.channels, form.length)

    def __getitem__(self, indices: Tensor) -> Tensor:
        sounds = torch.zeros(len(indices), *self.shape[1:])
        for sound, index in zip(sounds, indices.tolist(), strict=True):
            part = take(self._files, index, self._form)
            sound[:, : part.shape[-1]] = part
        return normalised(sounds)


class Headers:
    """Points, channels and points per second of recordings in files, as their headers say.

    Args:
        files: where they are.
        source: name of the source, for messages.
    """

    dtype = torch.int64

    def __init__(self, files: Files, source: str) -> None:
        self._files, self._source = files, source
        self.shape = (len(files), 3)

    def __getitem__(self, indices: Tensor) -> Tensor:
        found = [header(self._files, index, self._source) for index in indices.tolist()]
        return torch.tensor(found, dtype=self.dtype).reshape(len(found), 3)


def header(files: Files, index: int, source: str) -> tuple[int, int, int]:
    """Points, channels and points per second of a recording.

    Raises:
        Unreadable: with its name, for a file that is no recording, or whose header shows that it is not whole.
    """
    with recording(files, index, source) as sound:
        return sound.frames, sound.channels, sound.samplerate


@contextmanager
def recording(files: Files, index: int, source: str) -> "Iterator[SoundFile]":
    """A recording, to be read inside.

    Raises:
        Unreadable: with its name, for a file that is no whole recording, or has too many points per second.
    """
    name = files.name(index)
    try:
        with files.open(index) as content, opened(content, name) as sound:
            if sound.samplerate > HIGHEST_RATE:
                raise Damaged(f"has {sound.samplerate:,} points per second; at most {HIGHEST_RATE:,} are read")
            yield sound
    except Exception as error:  # what zip files, systems and decoders raise; all of it concerns this one file
        told = str(error) if isinstance(error, Refusal) else f"{name} cannot be read ({type(error).__name__}: {error})"
        raise Unreadable(f"--data_name {source}: {told}; repair or remove the file") from error


def take(files: Files, index: int, form: SoundForm) -> Tensor:
    """The beginning of a recording (channels, L), in the form but not padded; no more of it is read than that needs.

    Raises:
        Unreadable: with its name, for a file that is no whole recording, or that has other channels than are wanted.
    """
    with recording(files, index, form.source) as sound:
        rate = sound.samplerate
        if form.channels not in (1, sound.channels) and sound.channels != 1:
            raise Damaged(f"has {sound.channels} channels; --channels 1 mixes all to one")
        samples = samples_of(sound, needed(form.length, rate, form.rate))
    samples = samples.mean(0, keepdim=True) if form.channels == 1 else samples.expand(form.channels, -1)
    return resampled(samples, rate, form.rate)[:, : form.length]


def needed(length: int, rate: int, wanted: int) -> int:
    """Points of a recording at a rate that decide about its first ``length`` at another one."""
    if rate == wanted:
        return length
    return math.ceil(length * rate / wanted) + FILTER * math.ceil(max(rate / wanted, 1)) + 1


def resampled(samples: Tensor, rate: int, wanted: int) -> Tensor:
    """Sound (C, L) float32 at another rate, filtered so that nothing is heard at a wrong pitch."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly  # only here: it takes a while to import

    common = math.gcd(rate, wanted)
    found = resample_poly(samples.double().numpy(), wanted // common, rate // common, axis=-1)
    return torch.from_numpy(found).float()


def normalised(sounds: Tensor) -> Tensor:
    """Sounds (N, C, L) with the peak of each at -0.1 dB; silence stays silent."""
    peaks = sounds.abs().amax((-2, -1), keepdim=True)
    return torch.where(peaks > 0, sounds * (PEAK / peaks), 0)
