"""Arrays as people have them: names, axes, types, labels, sizes and damage; symptoms of public threads, by name."""

import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import args
from common.config.build import kind_of_data, load_data
from common.config.stored import from_json, to_json
from common.data import DataOptions, DataUnavailable, npy, reading
from common.data.array_files import Mapped
from common.data.arrays import Arrays
from common.refusal import Refusal

RANDOM = np.random.default_rng(0)


def load(path, **options):
    return Arrays().load(DataOptions(Path(path), **options))


def refused(path, **options) -> str:
    with pytest.raises(DataUnavailable) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# -- names ------------------------------------------------------------------------------------------------------------

X, Y, X_TEST, Y_TEST = pixels(12, 6, 6), np.arange(12) % 3, pixels(5, 6, 6), np.arange(5) % 3
COLUMN, COLUMN_TEST = Y[:, None], Y_TEST[:, None]
NAMED = {
    "issue 13, Keras' mnist.npz": {"x_train": X, "y_train": Y, "x_test": X_TEST, "y_test": Y_TEST},
    "MedMNIST/MedMNIST#53": {
        **{"train_images": X, "val_images": X[:3], "test_images": X_TEST},
        **{"train_labels": COLUMN, "val_labels": COLUMN[:3], "test_labels": COLUMN_TEST},
    },
    "vanvalenlab/intro-to-deepcell#41": {"X": X, "y": Y, "X_test": X_TEST, "y_test": Y_TEST},
    "notMNIST": {
        **{"train_dataset": X, "train_labels": Y, "valid_dataset": X[:3], "valid_labels": Y[:3]},
        **{"test_dataset": X_TEST, "test_labels": Y_TEST},
    },
    "sklearn": {"data": X, "target": Y, "data_test": X_TEST, "target_test": Y_TEST},
    "validation only": {"trainX": X, "trainY": Y, "valX": X_TEST, "valY": Y_TEST},
    "folders in a zip": {"train/images": X, "train/labels": Y, "test/images": X_TEST, "test/labels": Y_TEST},
}
ALONE = {
    "openai/guided-diffusion#117": {"arr_0": X, "arr_1": Y},
    "FID reference batches": {"arr_0": X, "mu": np.zeros(9), "sigma": np.zeros((9, 9))},
    "kentsommer/pytorch-value-iteration-networks#9": {"arr_0": X},
    "images, labels": {"images": X, "labels": Y, "class_weights": np.ones(3)},
    "xamyzhao/brainstorm#26": {"vol_data": X},
}


@pytest.mark.parametrize("thread", NAMED)
def test_names_that_people_use(thread):
    np.savez("set.npz", **NAMED[thread])
    data = load("set.npz")
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(X))
    assert torch.equal(data.held_out.images[:, 0], torch.from_numpy(X_TEST))
    assert (data.train.labels.tolist(), data.held_out.labels.tolist()) == (Y.tolist(), Y_TEST.tolist())
    samples, labels, *_ = list(NAMED[thread])
    first, second, *more = data.found
    assert first.startswith(f"found     {samples} (12, 6, 6) uint8 read as 12 images of 6x6 with 1 channel(s); labels ")
    assert second.startswith("found     held out: ")
    unread = [key for key in NAMED[thread] if key.startswith("val") and "only" not in thread]
    assert more == ([f"note      not read: {', '.join(unread)}"] if unread else [])
    assert labels in " ".join(data.found)


@pytest.mark.parametrize("thread", ALONE)
def test_names_without_a_held_out_part(thread):
    np.savez("set.npz", **ALONE[thread])
    data = load("set.npz")
    assert data.shape == (1, 6, 6)
    labels = [key for key in ALONE[thread] if key in ("arr_1", "labels")]
    assert data.num_classes == (3 if labels else None)
    assert "; labels " in data.found[0] or not labels
    unread = list(ALONE[thread])[1 + len(labels) :]
    assert data.found[1:] == (
        "found     1 held out, the same ones always: there is no array of a test part",
        *([f"note      not read: {', '.join(unread)}"] if unread else []),
    )


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        (
            {"x": X, "x_train": X},
            "x and x_train may all be the samples to learn from; keep one of them; there is x ",
        ),
        ({"x": X, "X": X}, "x and X may all be the samples"),
        ({"images": X, "data": X.reshape(12, 36), "target": Y}, "images and data may all be the samples"),
        ({"x": X, "y": Y, "labels": Y}, "y and labels may all be the labels to learn from"),
        (
            {"arr_0": X, "arr_1": Y, "arr_2": X_TEST, "arr_3": Y_TEST},
            "several arrays without names; there is arr_0 ",
        ),
        ({"arr_0": X, "arr_1": X_TEST}, "arr_1 of uint8 (5, 6, 6): labels are"),
        # chenhsuanlin/inverse-compositional-STN#19: a file of another program
        ({"weights": X, "bias": Y}, "no array whose name says that it holds samples to learn from (x, images, "),
        ({"x_test": X, "y_test": Y}, "no array whose name says that it holds samples to learn from"),
        ({"labels": Y}, "there is labels (12,) of int64. Name them: a = numpy.load(..); numpy.savez('named.npz', x=a["),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused_with_the_list(arrays, problem):
    np.savez("set.npz", **arrays)
    assert problem in refused("set.npz")


FOLDERS = {
    "train_images": ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"),
    "x_train": ("x_train.npy", "y_train.npy", "x_test.npy", "y_test.npy"),
    "capitals": ("X_TRAIN.NPY", "Y_TRAIN.NPY", "X_TEST.NPY", "Y_TEST.NPY"),
    "valid": ("train_x.npy", "train_y.npy", "valid_x.npy", "valid_y.npy"),
    "unnamed in npz": ("x_train.npz", "y_train.npz", "x_test.npz", "y_test.npz"),
}


@pytest.mark.parametrize("names", FOLDERS.values(), ids=FOLDERS)
def test_files_beside_each_other(names):
    for name, array in zip(names, (X, Y, X_TEST, Y_TEST), strict=True):
        with Path(name).open("wb") as file:
            (np.savez if name.endswith("npz") else np.save)(file, array)
    np.save("mean.npy", np.zeros(3))
    Path("notes.txt").write_text("mine")
    data = load(".")
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(X))
    assert (data.train.labels.tolist(), data.held_out.labels.tolist()) == (Y.tolist(), Y_TEST.tolist())
    assert data.found[-1] == "note      not read: mean.npy"
    alone = load(names[0])
    assert alone.num_classes is None
    assert alone.found[-1] == f"note      {names[1]} beside it is not read: for both, point --data_dir at the folder"


def test_capitals_and_wrong_endings(tmp_path):
    """What a file is, its first bytes say; any case of its ending will do."""
    for name, save in (("Train.npz", np.save), ("TEST.NPY", np.savez)):
        with Path(name).open("wb") as file:
            save(file, X if "Train" in name else X_TEST)
    data = load(".")
    assert (len(data.train.labels), len(data.held_out.labels)) == (12, 5)
    for name in ("a.NPZ", "a.Npy"):
        with Path(name).open("wb") as file:
            np.savez(file, x=X, y=Y)
        assert load(name).num_classes == 3
    (tmp_path / "only").mkdir()
    np.savez("only/mnist.npz", x_train=X, y_train=Y)
    assert load("only").num_classes == 3
    np.savez("only/other.npz", x_train=X, y_train=Y)
    assert "there is mnist.npz: x_train (12, 6, 6) of uint8, mnist.npz: y_train" in refused("only")


# -- axes -------------------------------------------------------------------------------------------------------------

CERTAIN = [  # shape in the file, type, order, shape of a sample
    ((12, 3, 7, 6), np.uint8, "NCHW", (3, 7, 6)),  # torchvision's tensors
    ((12, 1, 16, 28), np.float32, "NCHW", (1, 16, 28)),  # RichardYang40148/MidiNet#7
    ((7, 6, 3, 12), np.uint8, "HWCN", (3, 7, 6)),  # SVHN as .mat has it
    ((7, 6, 1, 12), np.float64, "HWCN", (1, 7, 6)),
]
ASKED = [
    ((12, 3, 3, 3), np.uint8, ("NHWC", "HWCN", "NCHW")),
    ((12, 8, 4, 3), np.uint8, ("NHWC", "HWCN")),
    ((12, 3, 64), np.uint8, ("NCL", "NHW")),
    ((12, 3, 64), np.float32, ("NCL", "NHW")),
    ((12, 1, 64), np.float32, ("NCL", "NHW")),
    ((12, 64, 3), np.uint8, ("NLC", "NHW")),
    ((12, 4, 3), np.float32, ("NLC", "NCL", "NHW")),
    ((28, 28, 60), np.uint8, ("NHW", "HWN")),  # MATLAB's grey images
]


@pytest.mark.parametrize("limit", [10**9, 0])
@pytest.mark.parametrize(("shape", "dtype", "axes", "sample"), CERTAIN)
def test_an_order_that_is_certain_is_recognised_and_said(monkeypatch, limit, shape, dtype, axes, sample):
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", limit)
    x = RANDOM.integers(0, 256, shape).astype(dtype)
    np.savez("a.npz", x=x)
    data = load("a.npz")
    assert data.shape == sample
    assert f", axes {axes}" in data.found[0]
    assert isinstance(data.train.images, torch.Tensor) == bool(limit)
    ours = np.einsum(f"{axes}->NCHW", x)
    rows = [i for i in range(12) if not np.array_equal(ours[i], data.held_out.read()[0][0].numpy())]
    assert np.array_equal(data.train.read()[0].numpy(), ours[rows])
    assert torch.equal(load("a.npz", axes=axes.lower()).train.read()[0], data.train.read()[0])


@pytest.mark.parametrize(("shape", "dtype", "orders"), ASKED)
def test_an_order_that_is_not_certain_is_asked_for(shape, dtype, orders):
    x = RANDOM.integers(0, 256, shape).astype(dtype)
    np.save("a.npy", x)
    message = refused("a.npy")
    assert f"can be read in {len(orders)} ways: give --axes {orders[0]} for " in message
    assert kind_of_data("arrays", "a.npy") is None
    for order in orders:
        assert f"--axes {order} for {shape[order.index('N')]} " in message
        data = load("a.npy", axes=order)
        ours = np.einsum(f"{order}->{''.join(letter for letter in 'NCHWL' if letter in order)}", x)
        assert data.train.images.shape[1:] == (ours.shape[1:] if "C" in order else (1, *ours.shape[1:]))
        assert np.array_equal(data.train.images[0].numpy().squeeze(), ours[0].squeeze())
        assert kind_of_data("arrays", "a.npy", order) == ("image" if "H" in order else "function")


def test_the_held_out_part_has_the_same_order():
    np.savez("a.npz", x=pixels(12, 3, 8, 9), x_test=pixels(5, 3, 8, 9))
    assert load("a.npz").held_out.images.shape == (5, 3, 8, 9)
    np.savez("a.npz", x=pixels(9, 6, 8), x_test=pixels(6, 6, 8))  # six images of 6x8 look like (H, W, N)
    assert load("a.npz").held_out.images.shape == (6, 1, 6, 8)


@pytest.mark.parametrize(
    ("axes", "problem"),
    [
        ("NHW", "NHW names 3 axes; x of uint8 (12, 7, 6, 3) in a.npy has 4"),
        ("NCHW", "NCHW gives x of uint8 (12, 7, 6, 3) in a.npy 7 channels; 1 to 4 are read"),
        ("NHWX", "must be each of N, H, W, perhaps C, or N, L, perhaps C, as in NHWC, NCHW, HWCN, NCL, got 'NHWX'"),
        ("NHHC", "must be each of"),
        ("", "must be each of"),
    ],
)
def test_axes_that_contradict_the_file_are_refused_by_name(axes, problem):
    np.save("a.npy", pixels(12, 7, 6, 3))
    with pytest.raises(Refusal) as caught:
        load("a.npy", axes=axes)
    assert caught.value.argument == "axes"
    assert problem in str(caught.value)


def test_axes_are_a_flag_that_a_run_keeps():
    np.save("a.npy", RANDOM.normal(size=(12, 3, 64)).astype(np.float32))
    words = ["--data_name", "arrays", "--data_dir", "a.npy", "--axes"]
    config = args.parse_train([*words, "ncl"]).config
    assert (config.data.axes, config.network.name) == ("NCL", "unet1d")
    assert load_data(config.data).shape == (3, 64)
    assert args.parse_train([*words, "NHW"]).config.network.name == "unet"
    content = to_json(config)
    assert from_json(content, "it").data.axes == "NCL"
    del content["data"]["axes"]  # a run of an earlier version
    assert from_json(content, "it").data.axes is None
    with pytest.raises(Refusal, match="--axes: must be each of N, H, W"):
        args.parse_train([*words, "NCX"])
    for name in ("digits", "folder"):
        Path("folder").mkdir(exist_ok=True)
        words = ["--data_name", name, *(["--data_dir", "folder"] if name == "folder" else [])]
        with pytest.raises(Refusal, match="only --data_name arrays is told it; leave --axes out"):
            load_data(args.parse_train([*words, "--axes", "NHW"]).config.data)


def test_rows_of_pixels_are_told_how_to_become_images():
    """MNIST as tables have it: functions, as a (N, L) array is."""
    for length, shape in ((784, "28, 28"), (3072, "3, 32, 32"), (100, "10, 10"), (63, None), (7, None)):
        np.save("a.npy", pixels(12, length))
        data = load("a.npy")
        assert data.shape == (1, length)
        note = f"note      a.npy: if these are images, save x.reshape(-1, {shape})"
        assert data.found[2:] == ((note,) if shape else ())


# -- types ------------------------------------------------------------------------------------------------------------

OWN_UNITS = {
    "pytorch/vision#8359, uint16": (np.array([0, 40000, 65535]), "<u2"),
    "pytorch/vision#105, int16": (np.array([-1024, 0, 3071]), "<i2"),
    "pytorch/pytorch#18679, int64 levels": (np.array([0, 4, 30]), "<i8"),
    "int32": (np.array([0, 100, 255]), "<i4"),
    "big-endian": (np.array([0, 513, 4095]), ">u2"),
    "float64 0 .. 255": (np.array([0.0, 127.5, 255.0]), "<f8"),
    "float16": (np.array([-1.0, 0.5, 1.0]), "<f2"),
}


@pytest.mark.parametrize("thread", OWN_UNITS)
@pytest.mark.parametrize("limit", [10**9, 0])
def test_numbers_keep_their_units(monkeypatch, thread, limit):
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", limit)
    levels, dtype = OWN_UNITS[thread]
    x = RANDOM.choice(levels, (40, 6, 6)).astype(dtype)
    np.save("a.npy", x)
    data = load("a.npy")
    low, high = float(levels[0]), float(levels[-1])
    assert data.value_range == (low, high)
    assert f"found     values {low:g} .. {high:g} keep their units: these become -1 .. 1" in data.found
    found = torch.cat([data.train.read()[0], data.held_out.read()[0]])
    assert found.dtype == torch.float32
    assert found.double().mean() == pytest.approx(x.astype(np.float64).mean(), rel=1e-6)


@pytest.mark.parametrize("limit", [10**9, 0])
def test_masks_are_black_and_white(monkeypatch, limit):
    """ConstantinSeibold/ChestXRayAnatomySegmentation#2: arrays of bool."""
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", limit)
    x = RANDOM.random((12, 6, 6)) < 0.5
    np.save("a.npy", x)
    data = load("a.npy")
    images = torch.cat([data.train.read()[0], data.held_out.read()[0]])
    assert (images.dtype, images.unique().tolist()) == (torch.uint8, [0, 255])
    assert images.double().mean() == 255 * x.mean()
    assert "False black and True white" in data.found[0]


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        # keras-team/keras#12729: "Object arrays cannot be loaded when allow_pickle=False"
        (
            np.array([[1], [1, 2], [3]], object),
            "never unpickled; save numbers, as numpy.stack(list(x)) if all",
        ),
        (np.zeros(12, [("pixels", "u1", (6, 6)), ("label", "i8")]), "records of pixels, label; save one of them under"),
        (np.zeros((12, 6), complex), "complex numbers; save numpy.stack([x.real, x.imag], -1)"),
        (np.zeros((12, 6), "U3"), "it holds texts"),
        (np.zeros((12, 6), "M8[s]"), "it holds times"),
        (np.zeros((12, 6), "V2"), "if it was bfloat16, save x.astype('float32')"),
        (np.zeros((2, 3, 8, 8, 3), np.uint8), "(2, 3, 8, 8, 3): samples are (N, H, W, C)"),
    ],
)
def test_what_is_no_number_is_refused_with_the_fix(x, problem):
    for name in ("a.npy", "a.npz"):
        np.save(name, x, allow_pickle=True) if name == "a.npy" else np.savez(name, x=x)
        assert problem in refused(name)
        assert kind_of_data("arrays", name) is None


# -- labels -----------------------------------------------------------------------------------------------------------

NAMES = np.array(["10", "9", "ship"])
LABELS = {  # as stored, what is said of it, names of the classes
    "MedMNIST/MedMNIST#53, a column": (COLUMN, "", None),
    "a row": (Y[None], "", None),
    "carpedm20/DCGAN-tensorflow#168, floats": (Y.astype(np.float32), " (whole numbers as floats)", None),
    "priya-dwivedi/Deep-Learning#57, one-hot": (np.eye(4)[Y], " (rows with one 1 in 4)", ("0", "1", "2", "3")),
    "lisa-lab/pylearn2#496, one-hot bool": (np.eye(3, dtype=bool)[Y], " (rows with one 1 in 3)", None),
    "uint64": (Y.astype(np.uint64), "", None),
    "big-endian": (Y.astype(">i4"), "", None),
    "names": (NAMES[[1, 0, 2]][Y], " (3 names of classes)", ("9", "10", "ship")),
    "names in bytes": (NAMES.astype("S")[[1, 0, 2]][Y], " (3 names of classes)", ("9", "10", "ship")),
}


@pytest.mark.parametrize("thread", LABELS)
def test_labels_as_they_are_stored(thread):
    stored, form, classes = LABELS[thread]
    np.savez("a.npz", x=X, y=stored, x_test=X_TEST, y_test=stored[0, :5] if stored.shape[0] == 1 else stored[:5])
    data = load("a.npz")
    assert data.train.labels.tolist() == Y.tolist()
    assert data.held_out.labels.tolist() == Y_TEST.tolist()
    assert data.classes == (classes or ("0", "1", "2"))
    assert data.found[0].endswith(f"; labels y{form}")


def test_labels_of_two_values():
    np.savez("a.npz", x=X, y=Y == 1)
    assert load("a.npz").num_classes == 2
    np.savez("a.npz", x=X, y=Y + 1)  # NervanaSystems/neon#201: labels from 1 on; class 0 stays, without a sample
    assert load("a.npz").num_classes == 4


@pytest.mark.parametrize(
    ("y", "problem"),
    [
        # MedMNIST/MedMNIST#46: ChestMNIST has several classes or none per sample
        (
            np.repeat([[0, 1, 0], [1, 0, 1]], 6, 0),
            "or rows with a single 1; 6 rows, y[6] first, have several or none.",
        ),
        (np.full((12, 3), 1 / 3), "have several or none"),
        (np.where(Y == 2, np.nan, Y), "y[2] is nan: labels are integers"),
        (Y - 1, "y has the label -1; labels count from 0: leave out the samples that have none"),
        (Y * 10**15, "99999 is the largest; if these are classes, save numpy.unique(y, return_inverse=True)[1]"),
        (np.full(12, 2**64 - 1, np.uint64), "99999 is the largest"),
        (np.zeros((12, 6, 6), int), "(12, 6, 6): labels are integers"),
        (np.array(["a", "\ud800"] * 6), "y has the class '\\ud800', which is no text"),
        (np.full(12, 2**31, np.uint32).view("<U1"), "y of <U1 holds bytes that are no text"),
        (np.array([b"\xe4", b"\xf6"] * 6), "y has the class '\\udce4', which is no text in UTF-8"),  # once one class
        (np.zeros(12, "M8[s]"), "y of datetime64[s] (12,) cannot be read: it holds times"),
        (
            np.arange(6),
            "6 labels for 12 samples; save one per sample, or leave y out (with samples along another ",
        ),
    ],
)
def test_what_is_no_label_is_refused(y, problem):
    np.savez("a.npz", x=X, y=y)
    assert problem in refused("a.npz")


def test_labels_of_the_held_out_part_mean_the_same():
    names = NAMES[Y]
    np.savez("a.npz", x=X, y=names, x_test=X_TEST, y_test=np.array(["ship", "9", "9", "10", "ship"]))
    assert load("a.npz").held_out.labels.tolist() == [2, 0, 0, 1, 2]
    for other, problem in (
        (np.array(["ship", "9", "9", "10", "car"]), "y_test has the class 'car'; the training labels are 9, 10, ship"),
        (Y_TEST, "only one of the training labels and y_test are names of classes"),
    ):
        np.savez("a.npz", x=X, y=names, x_test=X_TEST, y_test=other)
        assert problem in refused("a.npz")


# -- sizes ------------------------------------------------------------------------------------------------------------


def npy_bytes(shape: str, descr: str = "'|u1'", values: bytes = b"", version: int = 1, fortran: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + values


def zipped(content: bytes, name: str = "x.npy", method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile("a.npz", "w", method) as archive:
        archive.writestr(name, content)


def test_a_file_of_20_gb_stays_on_disk():
    shape = (20_000, 1024, 1024)
    with Path("a.npy").open("wb") as file:
        file.write(npy_bytes(str(shape)))
        file.truncate(file.tell() + 20_000 * 2**20)
    tracemalloc.start()
    data = load("a.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert data.train.images.shape == (19_000, 1, 1024, 1024)
    assert data.train.images[torch.tensor([5])].sum() == 0
    assert len(pickle.dumps(data.train.images)) < 200_000


def test_large_arrays_of_an_npz_stay_on_disk_unless_they_are_compressed(monkeypatch):
    """numpy/numpy#5976 and #28795: numpy.load ignores mmap_mode for .npz files."""
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 1000)
    x, y = pixels(50, 6, 6, 3), np.arange(50) % 3
    np.savez("a.npz", unused=np.zeros(7), x=x, y=y)
    data = load("a.npz")
    assert not isinstance(data.train.images, torch.Tensor)
    images = Mapped(npy.header(Path("a.npz"), "x"), "NHWC")
    again = pickle.loads(pickle.dumps(images))
    assert np.array_equal(again[torch.arange(50)].numpy(), x.transpose(0, 3, 1, 2))
    np.savez_compressed("a.npz", x=x, y=y)
    assert isinstance(load("a.npz").train.images, torch.Tensor)


def test_no_memory_is_taken_for_what_does_not_fit(monkeypatch):
    """keras-team/keras#23016: a small file, and a header that promises much."""
    zipped(npy_bytes("(400, 256, 256)", values=bytes(400 * 2**16)))
    assert Path("a.npz").stat().st_size < 50_000
    monkeypatch.setattr(npy, "free_memory", lambda: 60_000_000)
    tracemalloc.start()
    message = refused("a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
    assert "x (400, 256, 256) of uint8 takes 79 MB while it is read, 60 MB are free; save it without" in message
    zipped(npy_bytes("(400, 256, 256)", values=bytes(400 * 2**16)), method=zipfile.ZIP_STORED)
    assert not isinstance(load("a.npz").train.images, torch.Tensor)
    np.savez_compressed("b.npz", x=X, other=np.zeros((1000, 1000, 100), np.uint8))
    assert len(load("b.npz").train.labels) == 11  # what is not wanted is not inflated


BROKEN = {
    "empty": (b"", "cannot be read: it is empty"),
    "optimas-org/optimas#257, header only": (
        npy_bytes("(113, 8)"),
        "has 904 bytes by its header, but only 0",
    ),
    "EmbodiedGPT/EgoCOT_Dataset#4, cut": (
        npy_bytes("(12, 8)", values=bytes(95)),
        "has 96 bytes by its header, but only 95",
    ),
    "10^12 samples": (npy_bytes("(1000000000000, 784)"), "has 784,000 GB by its header, but only 0 bytes are there"),
    "beyond 64 bits": (npy_bytes(f"({10**30}, {10**30})"), "by its header, but only 0"),
    "negative": (npy_bytes("(-12, 8)", values=bytes(96)), "the impossible shape (-12, 8)"),
    "zero": (npy_bytes("(0, 8)"), "(0, 8): samples are"),
    "LaurentMazare/npy-ocaml#4, shape is no tuple": (npy_bytes("(184)"), "cannot be read: the header of "),
    "ml-explore/mlx#3365, header of 4 GB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "has 4.3 GB, 10 kB are read at most"),
    "numpy/numpy#22393, long header": (npy_bytes("(" + "1," * 9000 + ")"), "has 18 kB, 10 kB are read at most"),
    "nested header": (npy_bytes("(" * 4000 + ")" * 4000), "is damaged; save or fetch it again"),
    "version 1.7": (b"\x93NUMPY\x01\x07\x00\x00", "is no array of NumPy's, or of a newer format than 3"),
    "no header": (b"\x93NUMPY\x01\x00\x05\x00hello", "cannot be read"),
    "future": (npy_bytes("(12, 8)", version=9), "or of a newer format than 3"),
    "code": (npy_bytes("(12, 8)", descr="__import__('os').abort()"), "cannot be read"),
    "two arrays": (npy_bytes("(12, 8)", values=bytes(96)) * 2, "several arrays, one after the other, without names"),
    "pickle": (pickle.dumps({"x": [1]}), "it is a Python pickle, which is never opened here"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file; read it with h5py"),
    "page": (b"<!DOCTYPE html><html>", "it is a page of the web"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "half a zip": (b"PK\x03\x04 and nothing", "cannot be read (File is not a zip file)"),
}


@pytest.mark.parametrize("thread", BROKEN)
def test_damage_is_refused_in_bounded_memory(thread):
    content, problem = BROKEN[thread]
    Path("a.npy").write_bytes(content)
    zipped(content)
    tracemalloc.start()
    messages = [refused("a.npy"), *([refused("a.npz")] if content.startswith(b"\x93") and "two" not in thread else [])]
    assert kind_of_data("arrays", "a.npy") is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    for message, name in zip(messages, ("a.npy", "a.npz"), strict=False):
        assert message.startswith(f"--data_name arrays: {name}: ")
        assert problem in message


def test_archives_that_are_odd(monkeypatch):
    plain = io.BytesIO()
    np.save(plain, X)
    zipped(plain.getvalue() + b"more")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile("a.npz", "a") as archive:
        archive.writestr("x.npy", plain.getvalue())
    assert "holds x twice" in refused("a.npz")
    zipped(plain.getvalue())
    content = bytearray(Path("a.npz").read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    Path("a.npz").write_bytes(content)
    assert "x is encrypted; save it without a password" in refused("a.npz")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED):
        zipped(plain.getvalue(), method=method)
        assert len(load("a.npz").train.labels) == 11
    with zipfile.ZipFile("a.npz", "w") as archive:  # with sizes in 64 bits, and what macOS adds
        archive.writestr("__MACOSX/._x.npy", b"Mac OS X")
        archive.writestr("readme.txt", b"mine")
        with archive.open("x.npy", "w", force_zip64=True) as member:
            member.write(plain.getvalue())
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    assert np.array_equal(load("a.npz").train.read()[0][0, 0], X[0])
    content = Path("a.npz").read_bytes().replace(X[3:6].tobytes(), X[6:9].tobytes())  # damage in the values
    Path("a.npz").write_bytes(content)
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 10**9)
    assert "a.npz: cannot be read (Bad CRC-32 for file 'x.npy'); save or fetch it again" in refused("a.npz")
    Path("a.npy").write_bytes(plain.getvalue() + b"more")
    assert load("a.npy").found[-1] == "note      a.npy: 4 bytes after the array are not read"
