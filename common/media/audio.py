"""Sound written as .wav files; :mod:`common.media.recordings` reads them, and others."""

import io
import wave
from pathlib import Path

from torch import Tensor

from common.files import atomic_write

BITS = 16  # of a level that is written


def write_wav(path: Path, samples: Tensor, sample_rate: int) -> None:
    """Write sound as a 16-bit .wav file, atomically.

    Args:
        path: the file.
        samples: (C, L) in [-1, 1]; what is beyond is cut off.
        sample_rate: points per second.

    Raises:
        ValueError: for samples of another shape or with NaN or infinite values, and for a rate below 1.
    """
    if samples.ndim != 2 or 0 in samples.shape:
        raise ValueError(f"samples must be (channels, points), got {tuple(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise ValueError("samples must be finite, got NaN or infinite values")
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be at least 1, got {sample_rate}")
    levels = (samples.detach().cpu().double().clamp(-1, 1) * largest_level(BITS)).round().T.numpy().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(BITS // 8)
        file.setframerate(sample_rate)
        file.writeframes(levels.tobytes())
    atomic_write(path, buffer.getvalue())


def largest_level(bits: int) -> int:
    """The level that stands for 1 if levels have so many bits; there is one negative level more than that."""
    return (1 << bits - 1) - 1
