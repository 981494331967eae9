"""Files that are either whole or not there, and are never unpickled."""

import hashlib
import io
import json
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from common.refusal import Refusal

# what the readers raise for files that are cut short, of another kind, or would need unpickling
UNREADABLE = (
    RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError, OSError,
    SafetensorError,
)  # fmt: skip


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it: fsync, then rename.

    Args:
        path: where it goes; missing folders are made.
        content: the bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, atomically."""
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


def save(path: Path, content: Any) -> None:
    """``torch.save`` of tensors and plain data, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic_write(path, buffer.getvalue())


def save_safetensors(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a state dict and texts that describe it as .safetensors, atomically."""
    own = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    atomic_write(path, safetensors.save(own, metadata))


def load_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU, refusing anything that would need unpickling.

    Args:
        path: a file by ``torch.save``, or a .safetensors file.

    Raises:
        Refusal: if the file is truncated or is no plain state dict.
    """
    by = "safetensors" if path.suffix == ".safetensors" else "torch.save"
    try:
        state = (
            safetensors.load_file(path)
            if by == "safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except UNREADABLE as error:
        raise Refusal(f"{path} is no readable state dict: truncated, or not plain tensors by {by}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise Refusal(f"{path} holds no plain state dict (names to tensors)")
    return state
