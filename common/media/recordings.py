"""Sound in files of any format that libsndfile reads: .wav in all its kinds, .flac, .ogg, .mp3, .aiff, .au, .caf, .."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from common.media.audio import largest_level
from common.media.riff import OPEN_END, Damaged, find_sound
from common.refusal import Refusal

if TYPE_CHECKING:
    from soundfile import SoundFile

ENDINGS = frozenset(
    (
        *(".wav", ".wave", ".w64", ".rf64", ".bwf", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
        *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".nist", ".sph"),
    )
)
# bits of the formats that hold whole levels; what others hold is read as libsndfile decodes it
BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
BITS |= {"ALAC_16": 16, "ALAC_20": 20, "ALAC_24": 24, "ALAC_32": 32}
ESTIMATED = ("MP3",)  # formats whose headers say only about how long they are
LARGEST = 2**28  # numbers of one recording in memory: 97 minutes of one channel at 44.1 kHz
AT_ONCE = 2**16  # points decoded at once
ENDLESS = 2**62  # libsndfile's length of what it cannot tell the length of
# what libsndfile notes where a file is smaller than its header says
SHORTER = re.compile(r"\b(?:SSND|data|Data Size|riff)\s*: (\d+) \(should be (\d+)\)")


def read_sound(path: Path, limit: int | None = None) -> tuple[Tensor, int]:
    """Read a recording.

    Args:
        path: the file.
        limit: read no more points than these from its beginning; what follows is not looked at. None reads all.

    Returns:
        Samples (C, L) float32, and how many there are per second. Whole levels are divided by the largest one (so 16
        bits by 32,767; the one level that lies below -1 becomes -1), floats are as they stand, which may be beyond
        [-1, 1], and compressed sound is as libsndfile decodes it.

    Raises:
        OSError: if the file cannot be opened.
        Refusal: with its name and what is wrong, for a file that is no sound, cut short, empty or too long, or that
            holds values which are no numbers.
    """
    with path.open("rb") as file:
        return decode(file, str(path), limit)


def decode(file: BinaryIO, name: str, limit: int | None = None) -> tuple[Tensor, int]:
    """Read a recording from a binary file that is open, and can be searched.

    Args:
        file: the file.
        name: what messages call it.
        limit: as for :func:`read_sound`.

    Returns:
        As :func:`read_sound`.

    Raises:
        Refusal: as :func:`read_sound`.
    """
    with opened(file, name) as sound:
        return samples_of(sound, limit), sound.samplerate


@contextmanager
def opened(file: BinaryIO, name: str) -> "Iterator[SoundFile]":
    """A recording, to be read inside.

    Raises:
        Refusal: with its name, whatever goes wrong with the file, inside too.
    """
    from soundfile import LibsndfileError, SoundFile  # only here: not every program needs it

    found = window = None
    try:
        found = find_sound(file)
        window = Window(file) if found is None else Window(file, found.head, found.start, found.size)
        if not window.size:
            raise Damaged("is empty")
        with SoundFile(window) as sound:
            _check(sound, is_wav=found is not None)
            yield sound
        if window.failed:  # which looked like the end of the file
            raise window.failed
    except (Damaged, LibsndfileError, OSError) as error:
        cause = (window and window.failed) or error
        if isinstance(cause, Damaged):
            raise Refusal(f"{name} {cause}") from error
        words = cause.error_string if isinstance(cause, LibsndfileError) else cause.strerror or str(cause)
        stored = f", {found.stored}" if found else ""
        raise Refusal(f"{name} cannot be read as a sound{stored} ({words.strip().rstrip('.')})") from error


class Window(io.RawIOBase):
    """Part of a file behind some bytes, for libsndfile: its callbacks can pass no error on, so none is raised.

    Args:
        file: the file.
        head: bytes that come first.
        start: where the part begins.
        size: bytes of the part; None is all that follows.
    """

    def __init__(self, file: BinaryIO, head: bytes = b"", start: int = 0, size: int | None = None) -> None:
        super().__init__()
        self._file, self._head, self._start = file, head, start
        self.size = len(head) + (file.seek(0, 2) - start if size is None else size)
        self._place = 0
        self.failed: OSError | None = None

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        self._place = min(max(0, base + offset), self.size)
        return self._place

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        wanted = min(len(buffer), self.size - self._place)
        content = self._head[self._place : self._place + wanted]
        try:
            if len(content) < wanted:
                self._file.seek(self._start + self._place + len(content) - len(self._head))
                content += self._file.read(wanted - len(content))
        except OSError as error:
            self.failed = error
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def _check(sound: "SoundFile", *, is_wav: bool) -> None:
    """Refuse what its header gives away.

    Raises:
        Damaged: with what is wrong.
    """
    if not sound.frames:
        raise Damaged("holds no sound")
    if sound.frames >= ENDLESS:
        raise Damaged("does not say how long it is, as if it was piped; write it to a file again")
    # the size of a .wav file was looked at before libsndfile got it
    for told, there in () if is_wav else SHORTER.findall(sound.extra_info):
        if int(there) < int(told) < OPEN_END:
            raise Damaged(f"is cut short: {int(there):,} of {int(told):,} bytes are there")


def samples_of(sound: "SoundFile", limit: int | None = None) -> Tensor:
    """Samples (C, L) float32 of a recording that is open, as :func:`read_sound` gives them.

    Raises:
        Damaged: if they are too many, fewer than the header says, or no numbers; a Refusal outside of :func:`opened`.
    """
    wanted = sound.frames if limit is None else min(limit, sound.frames)
    if wanted * sound.channels > LARGEST:
        raise Damaged(
            f"is too long: {wanted:,} points in {sound.channels:,} channels; at most {LARGEST:,} numbers are read"
        )
    from soundfile import LibsndfileError

    bits, parts, seen = BITS.get(sound.subtype), [], 0
    while seen < wanted:
        size = min(AT_ONCE, wanted - seen)
        try:
            part = sound.read(size, dtype="int32" if bits else "float32", always_2d=True)
        except LibsndfileError as error:
            words = error.error_string.rstrip(".")
            raise Damaged(f"is damaged or cut short within its {sound.frames:,} points ({words})") from error
        if bits:  # levels lie in the upper bits
            part = np.maximum((part >> (32 - bits)) / largest_level(bits), -1).astype(np.float32)
        parts.append(part)
        seen += len(part)
        if len(part) < size:
            break
    if seen < wanted and (sound.format not in ESTIMATED or not seen):
        raise Damaged(f"is cut short: {seen:,} of {sound.frames:,} points can be read")
    samples = np.ascontiguousarray(np.concatenate(parts).T)
    if not np.isfinite(samples).all():
        raise Damaged("has values that are NaN, infinite or beyond 3e38")
    return torch.from_numpy(samples)
