"""NumPy's files: how an array is read, and what is refused."""

import os
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import DataOptions, DataUnavailable, reading
from common.data.array_files import Mapped
from common.data.arrays import Arrays
from common.data.folder import Folder
from common.data.npy import Stored, header


def load(path, **options):
    return Arrays().load(DataOptions(path, **options))


def refused(path, **options) -> str:
    with pytest.raises(DataUnavailable) as caught:
        load(path, **options)
    return str(caught.value)


def values(*shape, dtype=np.uint8) -> np.ndarray:
    if dtype == np.uint8:
        return np.random.randint(0, 256, shape, dtype=np.uint8)
    return (np.random.randn(*shape) * 3 + 1).astype(dtype)


@pytest.fixture(params=["resident", "mapped"])
def memory(request, monkeypatch):
    if request.param == "mapped":
        monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    return request.param


# how the documentation says that an array is read: shape in the file, kind, shape (C, *S) of a sample
LAYOUTS = [
    ((20, 6, 5, 3), np.uint8, (3, 6, 5)),
    ((20, 6, 5, 1), np.uint8, (1, 6, 5)),
    ((20, 6, 5, 4), np.float32, (4, 6, 5)),
    ((20, 6, 5), np.uint8, (1, 6, 5)),
    ((20, 6, 5), np.float32, (1, 6, 5)),
    ((20, 6, 4), np.float32, (4, 6)),
    ((20, 6, 1), np.float64, (1, 6)),
    ((20, 7), np.float32, (1, 7)),
    ((20, 3), np.float64, (1, 3)),
    ((20, 7), np.uint8, (1, 7)),
    ((20, 7), np.float16, (1, 7)),
    ((20, 7), ">f8", (1, 7)),
]


@pytest.mark.parametrize(("shape", "dtype", "sample"), LAYOUTS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_layouts(tmp_path, memory, shape, dtype, sample, order):
    x = values(*shape, dtype=dtype)
    np.save(tmp_path / "a.npy", np.asarray(x, order=order))
    data = load(tmp_path / "a.npy")
    assert data.shape == sample
    assert (len(data.train.labels), len(data.held_out.labels), data.num_classes) == (18, 2, None)
    assert data.train.images.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    assert isinstance(data.train.images, torch.Tensor) == (memory == "resident")
    channels_first = x.reshape(20, *sample[1:], sample[0])
    channels_first = np.moveaxis(channels_first, -1, 1)
    rows = [i for i in range(20) if i not in held_rows(20)]
    for part, expected in ((data.train, rows), (data.held_out, held_rows(20))):
        found = part.read()[0]
        assert found.is_contiguous()
        assert np.array_equal(found.numpy(), channels_first[expected].astype(found.numpy().dtype))
        index = torch.tensor([1, 0, 1])
        assert torch.equal(part.images[index], found[index])


def held_rows(count: int) -> list[int]:
    return {20: [4, 5]}[count]  # drawn once, then for ever


def test_floats_keep_their_units(tmp_path, memory):
    x = values(20, 30, dtype=np.float64) * 100
    x[4], x[5] = 1e6, -1e6  # held out
    np.save(tmp_path / "train.npy", x)
    data = load(tmp_path)
    train = np.delete(x, [4, 5], 0).astype(np.float32)
    assert data.value_range == (train.min(), train.max())
    unit = data.to_unit_range(data.train.read()[0])
    assert unit.dtype == torch.float32
    assert (unit.min(), unit.max()) == (-1, 1)
    low, high = float(train.min()), float(train.max())
    expected = (train.astype(float) - low) / (high - low) * 2 - 1
    assert np.abs(unit[:, 0].numpy() - expected).max() < 1e-6
    mean, variance = data.statistics()
    assert mean == pytest.approx(expected.mean(), abs=1e-12)
    assert variance == pytest.approx(expected.var(), abs=1e-12)


def test_labels_and_a_held_out_part_in_one_file(tmp_path, memory):
    x, y, x_test, y_test = values(5, 6, 6, 3), np.array([0, 2, 1, 2, 0]), values(3, 6, 6, 3), np.array([1, 0, 1])
    np.savez(tmp_path / "a.npz", x=x, y=y.astype(np.uint8), x_test=x_test, y_test=y_test.astype(np.int32))
    data = load(tmp_path / "a.npz")
    assert data.num_classes == 3
    for part, images, labels in ((data.train, x, y), (data.held_out, x_test, y_test)):
        assert np.array_equal(part.read()[0].permute(0, 2, 3, 1).numpy(), images)
        assert part.labels.tolist() == labels.tolist()
        assert part.labels.dtype == torch.int64


def test_labels_follow_their_samples_when_a_part_is_held_out(tmp_path):
    x = np.arange(20, dtype=np.uint8)[:, None, None].repeat(6, 1).repeat(6, 2)
    np.savez_compressed(tmp_path / "train.npz", x=x, y=np.arange(20))
    data = load(tmp_path)
    assert data.num_classes == 20
    for part in (data.train, data.held_out):
        assert part.images[:, 0, 0, 0].tolist() == part.labels.tolist()
    assert data.held_out.labels.tolist() == held_rows(20)


@pytest.mark.parametrize("train", ["train.npy", "train.npz"])
@pytest.mark.parametrize("test", ["test.npy", "test.npz"])
def test_a_folder_with_two_files(tmp_path, memory, train, test):
    arrays = {train: values(5, 9, dtype=np.float32), test: values(3, 9, dtype=np.float32)}
    for name, x in arrays.items():
        if name.endswith("npy"):
            np.save(tmp_path / name, x)
        else:
            np.savez(tmp_path / name, x=x)
    data = load(tmp_path)
    for part, name in ((data.train, train), (data.held_out, test)):
        assert np.array_equal(part.read()[0][:, 0].numpy(), arrays[name])
    assert data.value_range == (arrays[train].min(), arrays[train].max())


def test_a_large_file_is_read_by_index(tmp_path, monkeypatch):
    x = values(200, 16, 16, 3)
    np.save(tmp_path / "a.npy", x)
    nbytes = x.nbytes
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", nbytes)
    assert isinstance(load(tmp_path / "a.npy").train.images, torch.Tensor)
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", nbytes - 1)
    with monkeypatch.context() as patched:
        patched.setattr(Stored, "read", lambda stored: pytest.fail("was read"))
        data = load(tmp_path / "a.npy")
    images = Mapped(header(tmp_path / "a.npy"), "NHWC")
    sent = pickle.dumps(images)
    assert len(sent) < 1000  # to a worker goes where the samples are
    again = pickle.loads(sent)
    rows = torch.tensor([5, 3, 199])
    assert torch.equal(again[rows], torch.from_numpy(x[rows.numpy()]).permute(0, 3, 1, 2))
    again[rows].zero_()
    assert np.array_equal(np.load(tmp_path / "a.npy"), x)
    assert len(pickle.dumps(data.train)) < 200 * 8 * 3 + 3000


def test_images_are_resized_the_same_in_memory_and_by_index(tmp_path, monkeypatch):
    for dtype in (np.uint8, np.float32):
        np.save(tmp_path / "a.npy", values(30, 12, 9, 3, dtype=dtype))
        monkeypatch.setattr(reading, "RESIDENT_LIMIT", 10**9)
        resident = load(tmp_path / "a.npy", image_size=6)
        monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
        mapped = load(tmp_path / "a.npy", image_size=6)
        assert resident.shape == mapped.shape == (3, 6, 6)
        assert isinstance(resident.train.images, torch.Tensor)
        assert not isinstance(mapped.train.images, torch.Tensor)
        for part in ("train", "held_out"):
            whole = getattr(resident, part).images
            for rows in (torch.arange(len(whole)), torch.tensor([1]), torch.tensor([0, 2])):
                assert torch.equal(getattr(mapped, part).images[rows], whole[rows])
        assert resident.value_range == mapped.value_range
        unit = resident.to_unit_range(resident.train.images)
        assert -1.00001 <= unit.min() < unit.max() <= 1.00001


# -- wrong input ------------------------------------------------------------------------------------------------------

GOOD = {"x": np.zeros((4, 8, 8, 3), np.uint8), "y": np.arange(4)}


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("something was unpickled",)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"x": None}, "no array whose name says that it holds samples"),
        ({"x": np.zeros((4, 8, 8, 3), complex)}, "complex numbers; save numpy.stack([x.real, x.imag], -1)"),
        ({"x": np.array([Bomb()] * 4)}, "cannot be read"),
        ({"y": np.array([Bomb()] * 4)}, "cannot be read"),
        ({"x": np.zeros((4, 8, 8, 8), np.uint8)}, "as in (N, H, W, C)"),
        (
            {"x": np.zeros((4, 3, 160))},
            "(4, 3, 160) can be read in 2 ways: give --axes NCL for 4 functions of 160 points with 3 channel(s), or ",
        ),
        ({"x": np.zeros((4, 2, 8, 8, 3), np.uint8)}, "(N, H, W, C)"),
        ({"x": np.zeros(4, np.uint8)}, "(N, L)"),
        ({"x": np.zeros((0, 8, 8), np.uint8), "y": None}, "(0, 8, 8)"),
        ({"x": np.zeros((4, 0), np.float32), "y": None}, "(4, 0)"),
        ({"x": np.zeros((1, 8, 8), np.uint8), "y": None}, "at least two"),
        ({"x": np.full((4, 8), 2.5)}, "every value to learn from is 2.5"),
        ({"y": np.arange(4) / 2}, "y[1] is 0.5: labels are integers 0 .. n-1"),
        ({"y": np.zeros(4, "M8[s]")}, "y of datetime64[s] (4,) cannot be read: it holds times"),
        ({"y": np.zeros((4, 1, 1), int)}, "(4, 1, 1): labels are integers 0 .. n-1"),
        ({"y": np.array([0, 1, 2, 2026_11_28])}, "the label 2.02611e+07, 99999 is the largest"),
        ({"y": np.arange(5)}, "5 labels for 4 samples; save one per sample, or leave y out"),
        ({"y": np.array([0, -1, 1, 2])}, "label -1"),
        ({"y_test": np.arange(4)}, "y_test without samples"),
        ({"x_test": np.zeros((2, 8, 8, 3), np.uint8)}, "only one of"),
        ({"x_test": np.zeros((2, 8, 8, 3), np.uint8), "y": None, "y_test": np.arange(2)}, "only one of"),
        ({"x_test": np.zeros((2, 8, 9, 3), np.uint8), "y_test": np.arange(2)}, "8x9"),
        ({"x_test": np.random.rand(2, 8, 8, 3), "y_test": np.arange(2)}, "float64"),
        ({"x_test": np.zeros((2, 8, 8, 3), np.uint8), "y_test": np.array([0, 4])}, "label 4"),
        ({"x_test": np.zeros((2, 8, 8, 3), np.uint8), "y_test": np.arange(3)}, "3 labels for 2 samples"),
    ],
)
def test_wrong_content_is_refused_by_name(tmp_path, change, problem):
    content = {key: array for key, array in {**GOOD, **change}.items() if array is not None}
    np.savez(tmp_path / "a.npz", **content)
    message = refused(tmp_path / "a.npz")
    assert problem in message
    assert message.startswith(f"--data_name arrays: {tmp_path / 'a.npz'}: ")


@pytest.mark.parametrize("large", [False, True])
def test_a_file_without_x_says_what_it_holds(tmp_path, monkeypatch, large):
    """And what to do about it; the arrays are not read for that, so Python objects do no harm."""
    if large:
        monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    np.savez(tmp_path / "a.npz", series=np.zeros((4, 9)), y=np.arange(4), extra=np.array([Bomb()]))
    message = refused(tmp_path / "a.npz")
    assert "; there is series (4, 9) of float64, y (4,) of int64, extra (1,) of object. " in message
    assert "numpy.savez('named.npz', x=a['..'], y=a['..'], " in message
    np.savez(tmp_path / "a.npz", **{f"s{i}": np.zeros(2) for i in range(20)})
    assert "s7 (2,) of float64 and 12 more. " in refused(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz")
    assert "; there is none at all. " in refused(tmp_path / "a.npz")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("index", [0, 2, 300])  # 300 lies in a later chunk
@pytest.mark.parametrize("key", ["x", "x_test"])
def test_values_that_are_not_finite_are_refused_by_index(tmp_path, bad, index, key):
    arrays = {"x": values(400, 8, dtype=np.float64)}
    if key == "x_test":
        arrays["x_test"] = arrays["x"].copy()
    arrays[key][index, 5] = bad
    arrays[key][350, 5] = bad
    np.savez(tmp_path / "a.npz", **arrays)
    message = refused(tmp_path / "a.npz")
    assert f"{key}[{index}] " in message
    assert "2 samples" in message
    with np.errstate(over="ignore"):
        exec(re.search(r"(ok = .*), save", message)[1], names := {"numpy": np, **arrays})
    assert np.flatnonzero(~names["ok"]).tolist() == [index, 350]


def test_values_that_are_not_finite_are_found_in_a_large_file(tmp_path, monkeypatch):
    x = values(400, 8, dtype=np.float64)
    x[333, 0] = np.nan
    np.save(tmp_path / "a.npy", x)
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    assert "x[333] " in refused(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 no archive", None, pickle.dumps([1, 2])])
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, memory):
    file = tmp_path / name
    if name == "a.npy":
        np.save(file, values(4, 8, 8))
    else:
        np.savez(file, x=values(4, 8, 8))
    file.write_bytes(file.read_bytes()[:-20] if content is None else content)  # None: cut
    message = refused(file)
    assert message.startswith(f"--data_name arrays: {file}: cannot be read")


def test_objects_are_never_unpickled(tmp_path, memory):
    np.save(tmp_path / "a.npy", np.array([Bomb()] * 4), allow_pickle=True)
    assert "cannot be read" in refused(tmp_path / "a.npy")


def test_files_that_are_not_there_are_named(tmp_path):
    assert str(tmp_path / "a.npy") in refused(tmp_path / "a.npy")
    (tmp_path / "a.txt").write_text("no array")
    assert "a.txt is no .npy or .npz file" in refused(tmp_path / "a.txt")
    assert "is not to be looked at (File name too long)" in refused(tmp_path / ("a" * 300 + ".npy"))
    os.mkfifo(tmp_path / "pipe.npy")
    assert "pipe.npy is no .npy or .npz file" in refused(tmp_path / "pipe.npy")
    message = refused(tmp_path)
    assert "neither train.npy nor train.npz" in message
    assert str(tmp_path) in message
    assert "--data_name folder" not in message


def test_the_other_source_is_named_for_its_files(tmp_path):
    (tmp_path / "cats").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "cats" / "a.png")
    assert "give --data_name folder for the images there, or " in refused(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"")
    assert "a.zip is no .npy or .npz file; give --data_name folder, or " in refused(tmp_path / "a.zip")
    np.save(tmp_path / "a.npy", values(4, 8, 8))
    with pytest.raises(DataUnavailable, match=r"a\.npy is no folder; give --data_name arrays"):
        Folder().load(DataOptions(tmp_path / "a.npy"))


@pytest.mark.parametrize("part", ["train", "test"])
def test_two_files_for_one_part_are_refused(tmp_path, part):
    for name in {"train", part}:
        np.savez(tmp_path / f"{name}.npz", x=values(4, 8, 8))
    np.save(tmp_path / f"{part}.npy", values(4, 8, 8))
    message = refused(tmp_path)
    assert f"{part}.npy" in message
    assert f"{part}.npz" in message


def test_two_held_out_parts_are_refused(tmp_path):
    np.savez(tmp_path / "train.npz", x=values(4, 8, 8), x_test=values(4, 8, 8))
    np.save(tmp_path / "test.npy", values(4, 8, 8))
    message = refused(tmp_path)
    assert "test.npy and train.npz: x_test may all be the samples of a test part; keep one of them; there is" in message


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "problem"),
    [
        ((4, 64), np.float32, {"image_size": 8}, "image_size 8"),
        ((4, 64, 2), np.float32, {"image_size": 64}, "functions of 64 points with 2 channel(s)"),
        ((4, 64, 2), np.float32, {"channels": 1}, "channels 1"),
        ((4, 8, 8), np.uint8, {"channels": 3}, "(4, 8, 8) was read as 4 images of 8x8 with 1 channel(s)"),
        ((4, 8, 8, 3), np.uint8, {"channels": 1}, "channels 1"),
    ],
)
def test_flags_that_do_not_fit_are_refused_by_name(tmp_path, shape, dtype, options, problem):
    np.save(tmp_path / "a.npy", values(*shape, dtype=dtype))
    assert problem in refused(tmp_path / "a.npy", **options)
    (name,) = options
    assert f"{name} " in refused(tmp_path / "a.npy", **options)
