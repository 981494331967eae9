"""Recordings of all formats, changed, and .wav files put together from chunks: samples are those of soundfile."""

import contextlib
import io
import struct
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import strategies as st

from common.data.sound_form import SoundForm, take
from common.data.trees import Paths
from common.media.recordings import BITS, read_sound
from tests.fuzz.edits import mutated, numbers
from tests.fuzz.frame import Target, require

KINDS = (
    *(("WAV", kind) for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")),
    *(("WAVEX", kind) for kind in ("PCM_16", "PCM_24", "FLOAT")),
    *((kind, "PCM_16") for kind in ("RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "VOC", "NIST", "SVX")),
    *(("AIFF", kind) for kind in ("PCM_S8", "FLOAT")),
    *(("CAF", "ALAC_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
)
FORM = SoundForm("fuzz", 1, 8000, 400)


@cache
def files() -> list[bytes]:
    """A short recording in every format."""
    wave = np.sin(np.arange(300)[:, None] / [5, 9]) * 0.7
    found = []
    for kind, stored in KINDS:
        for channels in (1, 2):
            file = io.BytesIO()
            with contextlib.suppress(soundfile.LibsndfileError):  # some formats have one channel only
                soundfile.write(file, wave[:, :channels], 8000, stored, format=kind)
                found.append(file.getvalue())
    return found


def use(content: bytes) -> None:
    """Read a recording whole, and its beginning in one form."""
    path = Path("sound.wav")
    path.write_bytes(content)
    found, rate = read_sound(path)
    expected = alone(content)
    if expected is not None:
        points = min(found.shape[1], expected.shape[1])
        require(found.shape[0] == expected.shape[0], f"{found.shape[0]} channels instead of {expected.shape[0]}")
        require(found.shape[1] >= expected.shape[1], f"{found.shape[1]} points of {expected.shape[1]}")
        require(bool((found.numpy()[:, :points] == expected[:, :points]).all()), "samples differ")
    require(rate > 0, f"{rate} points per second")
    sound = take(Paths.of(Path(), [path.name]), 0, FORM)
    require(0 < sound.shape[1] <= FORM.length, f"{sound.shape[1]} points")


def alone(content: bytes) -> np.ndarray | None:
    """The samples (C, L) that soundfile alone gives, whole levels over the largest; None where it gives up."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            if sound.subtype not in BITS:
                return sound.read(dtype="float32", always_2d=True).T
            bits = BITS[sound.subtype]
            levels = sound.read(dtype="int32", always_2d=True).T >> (32 - bits)
    except soundfile.LibsndfileError:
        return None
    return np.maximum(levels / (2 ** (bits - 1) - 1), -1).astype(np.float32)


# -- .wav files from chunks --------------------------------------------------------------------------------------------

SUBTYPE = bytes.fromhex("0000001000800000aa00389b71")  # what follows the format in a GUID of EXTENSIBLE
few = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 24, 32, 64, 0xFFFF])
plain_sizes = st.sampled_from([*[None] * 12, 0, 1, 0xFFFFFFFF, 0x7FFFFFF0])
# numbers of formats, and bits that go with them
FORMATS = [*((1, bits) for bits in (8, 16, 24, 32)), (3, 32), (3, 64), (6, 8), (7, 8), (2, 4), (0x11, 4), (1, 64)]
FORMATS += [(0xFFFE, bits) for bits in (16, 24, 32)]


@st.composite
def waves(draw: st.DrawFn) -> bytes:
    """A .wav file whose header says anything."""
    start = draw(st.sampled_from([b"RIFF", b"RIFF", b"RIFX", b"RF64", b"BW64"]))
    order = ">" if start == b"RIFX" else "<"
    (kind, bits), channels = draw(st.sampled_from(FORMATS)), draw(st.integers(1, 3))
    values = [kind, channels, 8000, 8000 * channels * bits // 8, channels * bits // 8, bits]
    for place in draw(st.lists(st.integers(0, 5), max_size=1)):
        values[place] = draw(numbers if place in (2, 3) else few) % 2 ** (32 if place in (2, 3) else 16)
    of_format = struct.pack(f"{order}HHIIHH", *values)
    if kind == 0xFFFE:
        of_format += struct.pack(f"{order}HHIH", 22, draw(few), 3, draw(st.sampled_from([1, 3]))) + SUBTYPE
    chunks = [(b"fmt ", of_format), (b"data", draw(st.binary(max_size=80)))]
    for name in draw(st.lists(st.sampled_from([b"LIST", b"fact", b"junk", b"ds64", b"odd!", b"id3 "]), max_size=3)):
        chunks.insert(draw(st.integers(0, len(chunks))), (name, draw(st.binary(max_size=30))))
    body = b"WAVE"
    for name, content in chunks:
        told = draw(plain_sizes)
        body += name + struct.pack(f"{order}I", len(content) if told is None else told) + content
        body += b"\0" * (len(content) % 2 and draw(st.booleans()))
    told = draw(plain_sizes)
    return start + struct.pack(f"{order}I", len(body) if told is None else told) + body


TARGETS = [
    Target("sounds", st.deferred(lambda: mutated(files())), use, share=2),
    Target("wav", waves(), use, share=2),
]
