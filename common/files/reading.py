"""Files that are read: nothing is unpickled, and what has check sums is held against them first."""

import hashlib
import json
import pickle
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from common.refusal import Refusal

# what the readers raise for files that are cut short, damaged, of another kind, or would need unpickling
UNREADABLE = (
    RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, OSError,
    SafetensorError, zipfile.BadZipFile, zlib.error, MemoryError, SyntaxError, tokenize.TokenError,
)  # fmt: skip

LARGEST_JSON = 2**22  # bytes; 1000 names of classes take 2**14


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """Plain data of a file, which may be anybody's.

    Args:
        path: the file.
        largest: most bytes that it may have.

    Raises:
        ValueError: if it is no JSON in UTF-8, nested too deeply, or far too long.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"more than {largest:,} bytes")
    try:
        return json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"no text in UTF-8, from byte {error.start:,} on") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON, in line {error.lineno}: {error.msg}") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_zip(path: Path) -> None:
    """Hold every entry of a zip file against its CRC, which torch does not do; other files pass.

    Raises:
        zipfile.BadZipFile: naming the first entry that is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as content:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in content.infolist()):
            raise zipfile.BadZipFile("an entry is compressed")  # torch stores; a bomb would not
        if (damaged := content.testzip()) is not None:
            raise zipfile.BadZipFile(f"the check sum of {damaged} is wrong")


def load_checkpoint(path: Path, *, mmap: bool = False, checked: bool = True) -> Any:
    """What ``torch.save`` wrote: tensors on the CPU and plain data, check sums verified, nothing unpickled.

    Args:
        path: the file.
        mmap: leave tensors in the file until they are used.
        checked: verify check sums, which reads all of it; without, for what need not be right, a file opens at once.

    Raises:
        one of ``UNREADABLE``, if it is cut short, damaged or something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")  # a pipe would be waited for
    if checked:
        check_zip(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def load_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU, refusing anything that would need unpickling.

    Args:
        path: a file by ``torch.save``, whose check sums are verified, or a .safetensors file, which has none.

    Raises:
        Refusal: if the file is damaged or is no plain state dict.
    """
    by = "safetensors" if path.suffix == ".safetensors" else "torch.save"
    try:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file")
        state = safetensors.load_file(path) if by == "safetensors" else load_checkpoint(path)
    except UNREADABLE as error:
        raise Refusal(f"{path} is no readable state dict: truncated, damaged, or not plain tensors by {by}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and is_plain(v) for k, v in state.items()):
        raise Refusal(f"{path} holds no plain state dict (names to tensors)")
    return state


def is_plain(value: Any) -> bool:
    """Whether a value from a file is a dense tensor of real numbers, with no more of them than the file holds.

    Sparse and quantised tensors, those on no device, and those that are one stored number many times over are not.
    """
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def open_array(path: Path) -> np.ndarray:
    """A .npy file of plain numbers, mapped: shape and type are known before any of them is read.

    Raises:
        Refusal: naming the file if it is cut short or of another kind.
    """
    try:
        if not path.is_file():
            raise ValueError("no file" if path.exists() else "missing")  # a pipe would be waited for
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap):
            raise ValueError("another format")
    except UNREADABLE as error:
        raise Refusal(f"{path} is no whole array ({error}); generate.py draws it again") from error
    return array


def read_array(path: Path) -> np.ndarray:
    """Read a .npy file of plain numbers; no more memory is taken than the file is long.

    Raises:
        Refusal: naming the file if it is cut short or of another kind.
    """
    return np.array(open_array(path))
