"""A tiny MNIST in torchvision's unpacked layout, written from the description of the IDX format (LeCun)."""

import struct
from pathlib import Path

import numpy as np

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write unsigned bytes: two zero bytes, type 8, number of axes, big-endian sizes, the bytes."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_mnist(data_dir: Path, train: int = 20, test: int = 12, side: int = 28) -> dict[str, np.ndarray]:
    """Write random images and labels; returns the arrays by file name."""
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for name in NAMES:
        count = train if name.startswith("train") else test
        array = np.arange(count) % 10 if "labels" in name else rng.integers(0, 256, (count, side, side))
        arrays[name] = array
        write_idx(raw / name, array)
    return arrays
