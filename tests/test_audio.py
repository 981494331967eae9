"""Sound files: bytes as the WAVE format says, every width, and back."""

import math
import struct
import wave

import numpy as np
import pytest
import torch

from common.media.audio import write_wav
from common.media.recordings import read_sound


def riff(content: bytes, *, channels=1, rate=8000, bits=16, kind=1, declared=None) -> bytes:
    """A .wav file put together from the description of the format."""
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", kind, channels, rate, rate * block, block, bits)
    size = len(content) if declared is None else declared
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_the_bytes_of_a_file(tmp_path):
    path = tmp_path / "new" / "a.wav"
    write_wav(path, torch.tensor([[0.0, 1.0, -1.0, 0.5, 2.0, -3.0]]), 8000)
    levels = struct.pack("<6h", 0, 32767, -32767, 16384, 32767, -32767)  # 0.5 * 32767 = 16383.5; what is beyond is cut
    assert path.read_bytes() == riff(levels)
    assert [file.name for file in path.parent.iterdir()] == ["a.wav"]
    write_wav(path, torch.tensor([[1.0], [0.0]]), 44100)
    assert path.read_bytes() == riff(struct.pack("<2h", 32767, 0), channels=2, rate=44100)


@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100), (5, 1)])
def test_every_level_comes_back(tmp_path, channels, rate):
    levels = torch.stack([torch.arange(-32767, 32768).roll(i) for i in range(channels)])
    write_wav(tmp_path / "a.wav", levels / 32767, rate)
    samples, found = read_sound(tmp_path / "a.wav")
    assert found == rate
    assert samples.dtype == torch.float32
    assert torch.equal((samples.double() * 32767).round().long(), levels)
    assert (samples - levels / 32767).abs().max() < 1e-7


def test_sound_comes_back_to_half_a_level(tmp_path):
    sound = torch.sin(torch.linspace(0, 300, 8000)).expand(1, -1)
    write_wav(tmp_path / "a.wav", sound, 8000)
    assert (read_sound(tmp_path / "a.wav")[0] - sound).abs().max() <= 0.5001 / 32767


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_widths(tmp_path, bits, channels):
    top = 2 ** (bits - 1) - 1
    levels = [0, 1, -1, top, -top, -top - 1, top // 3, -top // 5]
    content = b"".join(
        struct.pack("B", level + 128) if bits == 8 else struct.pack("<i", level)[: bits // 8] for level in levels
    )
    (tmp_path / "a.wav").write_bytes(riff(content, bits=bits, channels=channels))
    samples, rate = read_sound(tmp_path / "a.wav")
    expected = np.maximum(np.array(levels) / top, -1).reshape(-1, channels).T
    assert rate == 8000
    assert samples.shape == (channels, 8 // channels)
    assert np.allclose(samples, expected, rtol=1e-7, atol=1e-12)


def test_the_standard_library_reads_what_is_written(tmp_path):
    write_wav(tmp_path / "a.wav", torch.zeros(2, 50), 16000)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (2, 2, 16000, 50)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"RIFF", "Format not recognised"),
        (b"no sound at all, but long enough for a head", "Format not recognised"),
        (riff(b""), "holds no sound"),
        (riff(b"\0" * 20, declared=200), "cut short"),
        (riff(b"\0" * 20, kind=85, bits=32), "format 0x55 of 32 bits"),
        (riff(b"\0" * 24, bits=64), "64 bits"),
        (riff(b"\0" * 24, rate=0), "0 points per second"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, content, problem):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=problem) as caught:
        read_sound(tmp_path / "a.wav")
    assert str(caught.value).startswith(str(tmp_path / "a.wav"))


@pytest.mark.parametrize(
    ("samples", "rate", "problem"),
    [
        (torch.zeros(8), 8000, r"samples must be \(channels, points\), got \(8,\)"),
        (torch.zeros(1, 0), 8000, r"got \(1, 0\)"),
        (torch.tensor([[0.0, math.nan]]), 8000, "samples must be finite"),
        (torch.tensor([[math.inf]]), 8000, "samples must be finite"),
        (torch.zeros(1, 8), 0, "sample_rate must be at least 1, got 0"),
    ],
)
def test_what_is_no_sound_is_not_written(tmp_path, samples, rate, problem):
    with pytest.raises(ValueError, match=problem):
        write_wav(tmp_path / "a.wav", samples, rate)
    assert not list(tmp_path.iterdir())
