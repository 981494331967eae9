"""Sound in PCM .wav files."""

import io
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.files import atomic_write
from common.refusal import Refusal

WIDTH = 2  # bytes of a level that is written


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
    levels = (samples.detach().cpu().double().clamp(-1, 1) * largest_level(WIDTH)).round().T.numpy().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(WIDTH)
        file.setframerate(sample_rate)
        file.writeframes(levels.tobytes())
    atomic_write(path, buffer.getvalue())


def read_wav(path: Path) -> tuple[Tensor, int]:
    """Read a .wav file of 8 to 32 bits.

    Args:
        path: the file.

    Returns:
        Samples (C, L) float32 in [-1, 1] and how many there are per second.

    Raises:
        OSError: if the file cannot be opened.
        Refusal: with its name, for a file that is cut short, empty or no PCM .wav file.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, count, *_ = file.getparams()
            content = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise Refusal(f"{path} cannot be read as a PCM .wav file ({str(error) or 'it is cut short'})") from error
    if width > 4 or not rate:
        raise Refusal(f"{path} has {8 * width} bits and {rate} points per second; at most 32 bits are read")
    if not count:
        raise Refusal(f"{path} holds no sound")
    if len(content) < count * channels * width:
        raise Refusal(f"{path} is cut short")
    levels = np.frombuffer(content, np.uint8).reshape(count, channels, width)
    if width == 1:  # 8 bits are unsigned, all others signed and little-endian
        values = levels[..., 0].astype(np.float64) - 128
    else:
        padded = np.zeros((count, channels, 4), np.uint8)
        padded[..., 4 - width :] = levels
        values = padded.view("<i4")[..., 0] / 2.0 ** (8 * (4 - width))
    samples = np.maximum(values / largest_level(width), -1)  # there is one negative level more
    return torch.from_numpy(samples.T.astype(np.float32)), rate


def largest_level(width: int) -> int:
    """The level that stands for 1 if levels have so many bytes."""
    return (1 << 8 * width - 1) - 1
