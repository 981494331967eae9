"""NumPy's files, changed: an array that is read is the one that numpy reads, and a data set has all its values."""

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from common.data.arrays import Arrays
from common.data.npy import Unreadable, header, member_names
from common.data.source import DataOptions
from common.files import read_array
from tests.fuzz.edits import mutated
from tests.fuzz.frame import Target, require

TYPES = ("u1", "i1", "<u2", ">u2", "<i4", "<i8", "<f2", "<f4", ">f8", "?", "<c8", "S3", "<U2", "<M8[s]", "V2", "u1,<f4")


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(packed: bool, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    return file.getvalue()


@cache
def files() -> list[bytes]:
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    y = np.arange(6) % 3
    found = [npy(x), npy(np.asfortranarray(x[..., 0])), npy(x[:, 0, :, 0].astype(">f8")), npy(x[0, 0])]
    for packed in (True, False):
        found += [
            npz(packed, x=x, y=y),
            npz(packed, x_train=x[..., 0], y_train=y, x_test=x[:2, ..., 0], y_test=y[:2]),
            npz(packed, images=x.astype("f4"), labels=np.array(list("abcabc"))),
        ]
    return found


SHAPES = ((6, 8), (6, 8, 8), (6, 8, 8, 1), (6, 8, 8, 3), (6, 3, 8, 9), (8, 8, 6), (6, 8, 2), (2, 9, 9), (3, 3, 3, 3))
shapes = st.one_of(
    st.sampled_from(SHAPES), st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 6, 8, 9]), max_size=5).map(tuple)
)
of_labels = st.sampled_from([(6,), (6,), (6, 1), (6, 3), (2,), (5,), ()])
types_of_labels = st.sampled_from(("<i8", "u1", "S1", "<U1", "?", "<f4", *TYPES))
types = st.one_of(st.sampled_from(TYPES[:10]), st.sampled_from(TYPES))
contents = st.one_of(st.binary(max_size=12), st.sampled_from([b"\0\1", b"\1\0\0\0\0\0\0\0", b"\0\0\xc0\x3f\0\0\0\0"]))


@st.composite
def whole(draw: st.DrawFn) -> bytes:
    """Arrays of any shape and type under any names."""
    arrays = {}
    others = st.sampled_from(["y", "y_test", "x_test", "images", "arr_0", "other", "x_val"])
    for name in ["x", *draw(st.lists(others, max_size=3))]:
        shape = draw(of_labels if name.startswith("y") else shapes)
        kind = np.dtype(draw(types_of_labels if name.startswith("y") else types))
        size, content = int(np.prod(shape)) * kind.itemsize, draw(contents) or b"\0"
        arrays[name] = np.frombuffer((content * (size // len(content) + 1))[:size], kind).reshape(shape)
    return npz(draw(st.booleans()), **arrays)


def use(content: bytes) -> None:
    """Read every array of a file, then the data set that it is."""
    path = Path("set.npz")
    path.write_bytes(content)
    try:
        names = member_names(path)
        found = [header(path, name).read() for name in ([None] if names is None else names)]
    except Unreadable as problem:
        require(str(problem).isprintable(), str(problem))
    else:
        for name, array in zip([None] if names is None else names, found, strict=True):
            expected = plain(content, name)
            same = array.dtype == expected.dtype and array.shape == expected.shape
            require(same and array.tobytes() == expected.tobytes(), f"{name} is another array than numpy's")
    data = Arrays().load(DataOptions(path))
    together = torch.cat([data.train.read()[0].flatten(), data.held_out.read()[0].flatten()])
    samples = [plain(content, name) for name in names or [None]]
    if names and "y" in names and "labels y" in data.found[0] and not {"x_test", "x_val"} & set(names):
        labels, expected = torch.cat([data.train.labels, data.held_out.labels]), plain(content, "y")
        if expected.size == len(labels):
            require(len(labels.unique()) == len(np.unique(expected)), "other labels than the array has")
    said = [array for array in samples if array.size == len(together) and array.dtype.kind in "biuf"]
    with np.errstate(all="ignore"):
        several = len(samples) > 1
        require(several or bool(said), f"{len(together)} values")
        if not several:
            unit = 255 if said[0].dtype.kind == "b" else 1
            values = np.sort(said[0].astype(np.float32).ravel() * unit)
            require(np.array_equal(values, together.float().sort().values.numpy()), "other values than the array has")


def plain(content: bytes, name: str | None) -> np.ndarray:
    """The array that numpy reads from all bytes of a member, whose check sum is right."""
    if name is not None:
        content = zipfile.ZipFile(io.BytesIO(content)).read(f"{name}.npy")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def use_block(content: bytes) -> None:
    """Read an array of drawn samples."""
    Path("data_000000.npy").write_bytes(content)
    found = read_array(Path("data_000000.npy"))
    with np.errstate(all="ignore"):
        require(found.tobytes() == plain(content, None).tobytes(), "another array than numpy's")


TARGETS = [
    Target("blocks", st.deferred(lambda: mutated(files()[:4])), use_block),
    Target("arrays", st.deferred(lambda: mutated(files())), use, share=2),
    Target("arrays-whole", whole(), use),
]
