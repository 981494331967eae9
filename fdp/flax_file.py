"""Checkpoints of Flax as the published FDP code wrote them: one msgpack file, ``checkpoint_N``, read without JAX.

The file is one map: ``step``, ``params``, two states of the optimiser, ``ema_params`` and ``rng``. Of its eight copies
of the weights only the averages are read, the rest is passed over. Nothing is unpickled: what comes out is numbers, and
no more of them than the file has bytes.
"""

import math
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from common.natural import natural
from common.refusal import Refusal

Array = NDArray[Any]

AVERAGE, STEP = "ema_params", "step"
ARRAY, SCALAR = 1, 3  # codes of msgpack's extension that Flax writes numbers under; 2 is a complex number
CHUNKED = "__msgpack_chunked_array__"  # a map with this key is an array in parts, which Flax cuts at 2^30 bytes
REAL = ("float32", "float64", "float16")
WHOLE = ("int32", "int64", "uint32", "uint64")
BFLOAT16 = "bfloat16"  # NumPy has none: the upper half of a float32

LARGEST = 2**34  # bytes of a file: 16 GiB, ten times the largest network of the paper with its optimiser
LARGEST_PART = 2**31 - 1  # bytes of one array, or of one of its parts
MOST_KEYS = 1000  # of one map; the largest network has 160 parameters in some 30 modules
MOST_ENTRIES = 10_000  # of all maps together
MOST_AXES = 8
LONGEST_NAME = 200
READ_AT_ONCE = 2**20

# what the readers raise for what is cut short or something else, in a file or in an entry of an archive
BROKEN = (
    msgpack.UnpackException, ValueError, OverflowError, RecursionError, MemoryError, EOFError, OSError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class FlaxCheckpoint:
    """What is taken from a checkpoint.

    Attributes:
        step: the optimiser step it was written after.
        average: averaged weights by name, e.g. ``Dense_0/kernel``, each float32, in Flax's order of axes.
    """

    step: int
    average: dict[str, Array]


def read_checkpoint(path: Path) -> FlaxCheckpoint:
    """The averaged weights of a checkpoint.

    Args:
        path: the file.

    Raises:
        Refusal: in one line, if it is no such file, cut short, damaged, or too large.
    """
    try:
        if path.is_dir():
            raise Refusal(f"{path} is a folder{_advice(path)}")
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise Refusal(f"{path} is no plain file")  # a pipe would be waited for
        with path.open("rb") as file:
            return read_stream(file, path.stat().st_size, str(path))
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror or error}") from error


def read_stream(file: IO[bytes], size: int, name: str) -> FlaxCheckpoint:
    """The same from an open file, e.g. an entry of an archive; it is read to its end.

    Args:
        file: where the bytes come from.
        size: how many there are.
        name: what messages call it.

    Raises:
        Refusal: in one line, if it is no such file, cut short, damaged, or too large.
    """
    if size > LARGEST:
        raise Refusal(f"{name} has {size:,} bytes; no checkpoint of a published network has more than {LARGEST:,}")
    try:
        return _read(file)
    except Refusal as refusal:
        raise Refusal(f"{name} {refusal}") from refusal
    except BROKEN as error:
        why = "it ends too early" if isinstance(error, msgpack.OutOfData) else _line(error)
        raise Refusal(f"{name} is no whole checkpoint of Flax (one map, in msgpack): {why}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _advice(folder: Path) -> str:
    """What to do about a folder, in words."""
    there = sorted((path.name for path in folder.glob("checkpoint_*") if path.is_file()), key=natural)
    if there:
        return f"; name a file in it: {', '.join(there[:10])}"
    return (
        ", not the one file that the published code writes (a newer Flax writes folders, by Orbax): restore it there "
        "and write it with flax.config.update('flax_use_orbax_checkpointing', False)"
    )


def _read(file: IO[bytes]) -> FlaxCheckpoint:
    """Walk through the outermost map, and build of it what is wanted.

    Raises:
        Refusal: for what is msgpack but no checkpoint, as a sentence without its subject.
        one of ``BROKEN``, if it is no msgpack, or another than Flax writes.
    """
    entries = 0

    def as_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        nonlocal entries
        entries += len(pairs)
        found = dict(pairs)
        if entries > MOST_ENTRIES:
            raise ValueError(f"it has more than {MOST_ENTRIES:,} entries")
        if len(found) < len(pairs) or not all(isinstance(key, str) for key in found):
            raise ValueError("a map has a key twice, or one that is no text")
        return found

    reader = msgpack.Unpacker(
        file,
        read_size=READ_AT_ONCE,
        raw=False,
        object_pairs_hook=as_map,
        ext_hook=_numbers,
        max_buffer_size=LARGEST_PART,
        max_str_len=LONGEST_NAME,
        max_bin_len=0,  # bytes stand inside of arrays only, which are read one by one
        max_array_len=0,  # Flax writes lists as maps
        max_map_len=MOST_KEYS,
        max_ext_len=LARGEST_PART,
    )
    count = reader.read_map_header()
    if count > MOST_KEYS:
        raise ValueError(f"its map has {count:,} entries")
    found: dict[str, Any] = {}
    passed: list[str] = []
    for _ in range(count):
        key = reader.unpack()
        if not isinstance(key, str) or key in found or key in passed:
            raise ValueError("its map has a key twice, or one that is no text")
        if key in (AVERAGE, STEP):
            found[key] = reader.unpack()
        else:
            passed.append(key)
            reader.skip()
    if reader.read_bytes(1):
        raise ValueError("it goes on behind its end")
    if AVERAGE not in found or STEP not in found:
        lack = " and ".join(key for key in (AVERAGE, STEP) if key not in found)
        there = ", ".join([*found, *passed][:10]) or "nothing"
        raise Refusal(f"holds no {lack}, so it is no checkpoint of the published FDP code; it has {there}")
    return FlaxCheckpoint(_step(found[STEP]), _average(found[AVERAGE]))


def _step(value: Any) -> int:
    number = value.item() if isinstance(value, np.ndarray) and value.shape == () else value
    if type(number) is not int or not 0 <= number < 2**53:
        raise Refusal("does not say after which step it was written")
    return number


def _average(tree: Any) -> dict[str, Array]:
    """The parameters in the map that Flax nests once more: ``{"params": {module: {leaf: array}}}``."""
    if not isinstance(tree, dict) or tree.keys() != {"params"} or not isinstance(tree["params"], dict):
        raise Refusal(f"has something else in {AVERAGE} than parameters of a network")
    average = {}
    for name, value in _leaves(tree["params"], ()):
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            raise Refusal(f"has no real numbers in {name}")
        with np.errstate(over="ignore"):
            average[name] = value.astype(np.float32)
        if not np.isfinite(average[name]).all():
            raise Refusal(f"has weights in {name} that are NaN or infinite: its training had failed, or it is damaged")
    if not average:
        raise Refusal(f"has no parameters in {AVERAGE}")
    return average


def _leaves(tree: dict[str, Any], place: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and CHUNKED not in value:
            yield from _leaves(value, (*place, key))
        else:
            yield "/".join((*place, key)), _joined(value) if isinstance(value, dict) else value


def _joined(parts: dict[str, Any]) -> Array:
    """An array that Flax has cut into flat parts."""
    shape, chunks = parts.get("shape"), parts.get("chunks")
    if not (isinstance(shape, dict) and isinstance(chunks, dict)):
        raise ValueError("an array in parts has no shape, or no parts")
    wanted = [shape.get(str(i)) for i in range(len(shape))]
    named = (chunks.get(str(i)) for i in range(len(chunks)))
    flat = [part for part in named if isinstance(part, np.ndarray) and part.ndim == 1]
    if not flat or len(flat) < len(chunks):
        raise ValueError("a part of an array is missing")
    whole: Array = np.concatenate(flat)
    return whole.reshape(_shape(wanted, whole.size))


def _shape(shape: Any, size: int) -> tuple[int, ...]:
    """A shape from the file, for so many numbers."""
    if not isinstance(shape, list) or len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array has no shape")
    if math.prod(shape) != size:
        raise ValueError(f"an array of shape {tuple(shape)} has {size:,} numbers")
    return tuple(shape)


def _numbers(code: int, content: bytes) -> Array:
    """The array in an extension of msgpack: [shape, name of the type, bytes in C order, the lowest first]."""
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"it has an extension of code {code}, which is no array")
    parts = msgpack.unpackb(
        content, raw=False, max_array_len=MOST_AXES, max_map_len=0, max_ext_len=0, max_str_len=LONGEST_NAME
    )
    if not (isinstance(parts, list) and len(parts) == 3 and isinstance(parts[2], bytes)):
        raise ValueError("an array is not [shape, type, bytes]")
    shape, kind, raw = parts
    if kind not in (*REAL, *WHOLE, BFLOAT16):
        raise ValueError(f"an array is of type {str(kind)[:40]!r}")
    dtype = np.dtype(np.uint16 if kind == BFLOAT16 else kind).newbyteorder("<")
    if len(raw) % dtype.itemsize:
        raise ValueError("an array ends within a number")
    flat = np.frombuffer(raw, dtype)
    if kind == BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.reshape(_shape(shape, flat.size))
