"""Sound files as programs really write them: the same samples as libsndfile's own reading, or one line with the name.

Files are put together here from the descriptions of their formats, or written by libsndfile. Where a thread says what
people met, its name is the last part of the test's.
"""

import io
import random
import struct
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from common.media.recordings import decode, read_sound
from common.refusal import Refusal

LEVELS = np.random.default_rng(0).integers(-32768, 32768, 2000).astype("<i2")
LEVELS[:4] = -32768, 32767, 0, -1
BYTES = LEVELS.tobytes()
LEVELS24 = np.random.default_rng(3).integers(-(2**23), 2**23, 2000)
BYTES24 = b"".join(struct.pack("<i", level)[:3] for level in LEVELS24)
FLOATS = np.random.default_rng(1).normal(0, 0.7, 2000)
UNKNOWN = 0xFFFFFFFF


def plain(kind=1, bits=16, *, channels=1, rate=8000, order="<") -> bytes:
    """A fmt chunk's content."""
    block = channels * bits // 8
    return struct.pack(f"{order}HHIIHH", kind, channels, rate, rate * block, block, bits)


def extensible(kind=1, bits=16, *, channels=1, rate=8000) -> bytes:
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE, channels, rate, rate * block, block, bits)
    return head + struct.pack("<HHIH", 22, bits, 4, kind) + bytes.fromhex("000000001000800000AA00389B71")


def chunk(name: bytes, content: bytes, size=None, pad=b"\0", order="<") -> bytes:
    """A chunk; of odd size with the byte that belongs behind it."""
    return name + struct.pack(f"{order}I", len(content) if size is None else size) + content + pad * (len(content) % 2)


def wav(content=BYTES, fmt=None, *, before=b"", after=b"", size=None, whole=None, magic=b"RIFF") -> bytes:
    """A .wav file."""
    order = ">" if magic == b"RIFX" else "<"
    fmt = plain() if fmt is None else fmt
    body = b"WAVE" + chunk(b"fmt ", fmt, order=order) + before + chunk(b"data", content, size, order=order) + after
    return magic + struct.pack(f"{order}I", len(body) if whole is None else whole) + body


def written(format_, subtype, samples=None, rate=8000) -> bytes:
    """A file by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, LEVELS if samples is None else samples, rate, format=format_, subtype=subtype)
    return file.getvalue()


def patched(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


ODD = b"abcde"  # the content of a chunk of odd size


def long_wav(size: int) -> bytes:
    """A file of RF64 that says how many bytes of sound it has."""
    sizes = chunk(b"ds64", struct.pack("<QQQI", size + 72, size, size // 2, 0))
    return wav(size=UNKNOWN, whole=UNKNOWN, magic=b"RF64").replace(b"WAVE", b"WAVE" + sizes)


# what has these levels of 16 or 24 bits, exactly
EXACT = {
    "plain": wav(),
    "piped, sizes unknown; kkroening/ffmpeg-python#118": wav(size=UNKNOWN, whole=UNKNOWN),
    "piped, sizes 0": wav(size=0, whole=0),
    "piped, size of the sound 0": wav(size=0),
    "piped by sox": wav(size=0x7FFFFFDB, whole=0x7FFFFFFF),
    "extensible": wav(fmt=extensible()),
    "24 bits": wav(BYTES24, plain(bits=24)),
    "24 bits, extensible, at 96 kHz; WarrenWeckesser/wavio#4": wav(BYTES24, extensible(bits=24, rate=96000)),
    "texts before": wav(before=chunk(b"LIST", b"INFO" + chunk(b"IART", b"somebody"))),
    "texts before, cut in the middle": wav(before=chunk(b"LIST", b"INFOIART\xff\xff")),
    "odd chunk": wav(before=chunk(b"junk", ODD)),
    "odd chunk without its pad byte": wav(before=chunk(b"junk", ODD, pad=b"")),
    "odd chunk with another pad byte": wav(before=chunk(b"junk", ODD, pad=b"x")),
    "unknown odd chunk without its pad byte": wav(before=chunk(b"zzzz", ODD, pad=b"")),
    "texts behind": wav(after=chunk(b"LIST", b"INFOISFT\4\0\0\0abc\0")),
    "half a level at the end": wav(BYTES + b"\1"),
    "size of the file wrong": wav(whole=4),
    "RIFX": wav(LEVELS.astype(">i2").tobytes(), plain(order=">"), magic=b"RIFX"),
    "RF64": long_wav(len(BYTES)),
    "RF64, never closed": long_wav(0),
    "RF64 by libsndfile": written("RF64", "PCM_16"),
    "W64": written("W64", "PCM_16"),
    "FLAC": written("FLAC", "PCM_16"),
    "AIFF": written("AIFF", "PCM_16"),
    "AU": written("AU", "PCM_16"),
    "AU, piped": patched(written("AU", "PCM_16"), 8, b"\xff" * 4),
    "CAF": written("CAF", "PCM_16"),
    "ALAC": written("CAF", "ALAC_16"),
    "VOC": written("VOC", "PCM_16"),
    "NIST": written("NIST", "PCM_16"),
}
# what libsndfile reads as other numbers than levels of 16 bits
LIKE_LIBSNDFILE = {
    "float32": wav(FLOATS.astype("<f4").tobytes(), plain(3, 32)),
    "float64": wav(FLOATS.astype("<f8").tobytes(), plain(3, 64)),
    "float32, extensible": wav(FLOATS.astype("<f4").tobytes(), extensible(3, 32)),
    "float32, AIFF": written("AIFF", "FLOAT", FLOATS),
    **{f"{s}, WAV": written("WAV", s) for s in ("ULAW", "ALAW", "MS_ADPCM", "IMA_ADPCM")},
    "GSM": written("WAV", "GSM610", LEVELS[:1920]),
    "mu-law, AU": written("AU", "ULAW"),
    "Vorbis": written("OGG", "VORBIS"),
    "Opus": written("OGG", "OPUS"),
    "MP3 that is called .wav; ntivirikin/xeno-canto-py#11": written("MP3", "MPEG_LAYER_III", FLOATS / 4),
}


@pytest.mark.parametrize("name", EXACT)
def test_levels(tmp_path, name):
    content = EXACT[name]
    (tmp_path / "a.wav").write_bytes(content)
    samples, rate = read_sound(tmp_path / "a.wav")
    levels, top = (LEVELS24, 2**23 - 1) if name.startswith("24") else (LEVELS, 2**15 - 1)
    assert (samples.dtype, rate) == (torch.float32, 96000 if "96 kHz" in name else 8000)
    assert np.array_equal(samples.numpy(), np.maximum(levels / top, -1).astype(np.float32)[None])
    assert torch.equal(decode(io.BytesIO(content), "it", 7)[0], samples[:, :7])


@pytest.mark.parametrize("content", LIKE_LIBSNDFILE.values(), ids=LIKE_LIBSNDFILE)
def test_other_numbers(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        expected = sound.read(sound.frames, dtype="float32")
    samples, rate = read_sound(tmp_path / "a.wav")
    assert (rate, len(expected) >= 1920) == (48000 if sound.samplerate == 48000 else 8000, True)
    assert np.array_equal(samples.numpy(), expected[None])
    assert torch.equal(decode(io.BytesIO(content), "it", 7)[0], samples[:, :7])


@pytest.mark.parametrize(
    ("subtype", "bits"), [("PCM_U8", 8), ("PCM_24", 24), ("PCM_32", 32)], ids=["8", "24; pytorch/audio#2083", "32"]
)
def test_stereo_of_an_open_file(subtype, bits):
    """Read from an open file, 24 bits were noise there."""
    levels = np.random.default_rng(2).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (500, 2))
    content = written("WAV", subtype, (levels << (32 - bits)).astype(np.int32))
    samples, _ = decode(io.BytesIO(content), "it")
    assert np.array_equal(samples.numpy(), np.maximum(levels / (2 ** (bits - 1) - 1), -1).astype(np.float32).T)


# -- what is no whole sound -------------------------------------------------------------------------------------------

FLAC = written("FLAC", "PCM_16")
NAN = np.where(np.arange(2000) == 1000, np.nan, FLOATS)
IMA = struct.pack("<HHIIHHHH", 0x11, 1, 8000, 4055, 256, 4, 2, 505)
BROKEN = {
    "nothing": (b"", "is empty"),
    "another file": (b"%PDF-1.4" * 100, "cannot be read as a sound (Format not recognised)"),
    "no sound": (wav(b""), "holds no sound"),
    "no sound, texts behind": (wav(b"", after=chunk(b"LIST", b"INFO")), "holds no sound"),
    "only a header": (wav()[:36], "is cut short: it ends before any sound begins"),
    "cut; librosa/librosa#876": (wav()[:-999], "is cut short: 3,001 of 4,000 bytes of sound are there"),
    "no format": (b"RIFF\0\0\0\0WAVE" + chunk(b"data", BYTES), "does not say how its sound is stored"),
    "no channels": (wav(fmt=plain(channels=0)), "has 0 channels"),
    "no rate": (wav(fmt=plain(rate=0)), "0 points per second"),
    "block of 0 bytes; pytorch/audio#2870": (wav(fmt=struct.pack("<HHIIHH", 1, 1, 8000, 0, 0, 0)), "of 0 bits"),
    "64-bit levels": (wav(fmt=plain(bits=64)), "format 0x1 of 64 bits (File contains data in an unimplemented format)"),
    "2,000 channels": (wav(fmt=plain(channels=2000)), "Too many channels"),
    "without end": (wav(before=chunk(b"junk", b"") * 2000), "has more than 1,000 parts, none of which is sound"),
    "10^12 points": (long_wav(2 * 10**12), "is cut short: 4,000 of 2,000,000,000,000 bytes of sound are there"),
    "10^10 points of FLAC": (patched(FLAC, 21, b"\xf2\x54\x0b\xe4\x00"), "is too long: 10,000,000,000 points"),
    "FLAC, piped": (patched(FLAC, 21, bytes([FLAC[21] & 0xF0, 0, 0, 0, 0])), "does not say how long it is"),
    "FLAC, cut": (FLAC[:-500], "is damaged or cut short within its 2,000 points ("),
    "AIFF, cut": (written("AIFF", "PCM_16")[:-99], "is cut short: "),
    "AU, cut": (written("AU", "PCM_16")[:-99], "is cut short: 3,901 of 4,000 bytes are there"),
    "CAF, cut": (written("CAF", "PCM_16")[:-99], "is cut short: "),
    "W64, cut": (written("W64", "PCM_16")[:-99], "is cut short: "),
    "two sizes": (wav(before=chunk(b"ds64", bytes(8) + b"\1" + bytes(19)), magic=b"RF64"), "headers, 1 by another"),
    "ADPCM, cut in a block": (wav(bytes(265), IMA), "is cut short: its last block has 9 of 256 bytes"),
    "NaN": (wav(NAN.astype("<f4").tobytes(), plain(3, 32)), "has values that are NaN, infinite or beyond 3e38"),
    "beyond float32": (wav((FLOATS * 1e300).astype("<f8").tobytes(), plain(3, 64)), "beyond 3e38"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "problem"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named(tmp_path, content, problem):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(Refusal) as caught:
        read_sound(tmp_path / "a.wav")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.wav'} ")
    assert problem in message
    assert "\n" not in message


def test_a_disk_that_fails_is_named():
    class Failing(io.BytesIO):  # after 1,000 bytes
        def read(self, size=-1, /):
            if self.tell() + size > 1000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    for content in (wav(), LIKE_LIBSNDFILE["MP3 that is called .wav; ntivirikin/xeno-canto-py#11"]):
        with pytest.raises(Refusal, match=r"^it cannot be read as a sound.* \(Input/output error\)$"):
            decode(Failing(content), "it")


def test_what_follows_the_limit_is_not_read():
    class Counting(io.BytesIO):
        seen = 0

        def read(self, size=-1, /):
            content = super().read(size)
            self.seen += len(content)
            return content

    file = Counting(wav(bytes(20_000_000)))
    samples, _ = decode(file, "it", 8000)
    assert samples.shape == (1, 8000)
    assert file.seen < 200_000
    with pytest.raises(Refusal, match="it is too long: 100,000,000 points in 3 channels"):
        decode(io.BytesIO(wav(bytes(300_000_000), plain(bits=8, channels=3))), "it")


KINDS = (
    EXACT["plain"],
    EXACT["RF64"],
    EXACT["W64"],
    EXACT["24 bits, extensible, at 96 kHz; WarrenWeckesser/wavio#4"],
    LIKE_LIBSNDFILE["IMA_ADPCM, WAV"],
    *(EXACT[name] for name in ("FLAC", "AIFF", "AU", "CAF")),
    LIKE_LIBSNDFILE["Vorbis"],
)


def test_headers_changed_at_random():
    """3,000 files: a recording, or one line with the name."""
    draw, ends, told = random.Random(13), Counter(), set()
    for i in range(3000):
        content = bytearray(KINDS[i % len(KINDS)])
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(80)] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
        if draw.random() < 0.2:
            del content[draw.randrange(len(content)) :]
        try:
            samples, rate = decode(io.BytesIO(content), "it", draw.choice((None, 100)))
            assert samples.isfinite().all()
            assert samples.numel() * rate > 0
            ends["read"] += 1
        except Refusal as error:
            ends["refused"] += 1
            told.add(str(error))
    assert min(ends.values()) > 500
    assert not [line for line in told if not line.startswith("it ") or "\n" in line or len(line) < 11]
