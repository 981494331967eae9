"""What every data set can do: its statistics, its scale, its size, and a source of one's own."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import BUILT_IN, SOURCES, DataOptions, DataSet, DataSpec, DataUnavailable, Source, Split, reading
from common.data.readers import num_readers
from common.data.reading import Rows
from common.data.resize import Resized, fit
from common.data.source import hold_out
from common.dynamics.basis import Fourier
from common.refusal import Refusal
from common.sides import Sides


class Lazy:
    """Images behind an index."""

    def __init__(self, images: torch.Tensor) -> None:
        self._images, self.shape, self.dtype = images, tuple(images.shape), images.dtype

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        return self._images[indices]


def of(images, *, lazy=False, held_out=2, num_classes=None, **options) -> DataSet:
    images = Lazy(images) if lazy else images
    labels = torch.zeros(images.shape[0], dtype=torch.int64)
    rows = torch.arange(held_out)
    return DataSet(Split(images, labels), Split(images[rows], labels[rows]), num_classes, **options)


def test_files_are_gathered_a_few_at_a_time():
    """The bar of 300 photographs stood at 0 until 256 were read."""

    class Counted(Lazy):
        most = 0

        def __getitem__(self, indices):
            self.most = max(self.most, len(indices))
            return super().__getitem__(indices)

    images = torch.arange(100, dtype=torch.uint8).reshape(100, 1, 1, 1)
    counted = Counted(images)
    assert torch.equal(reading.gather(counted, torch.arange(100)), images)
    assert counted.most <= 16


# -- scale and statistics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_statistics_are_those_of_the_network_scale(lazy, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK_BYTES", 100)
    images = torch.randint(0, 200, (301, 2, 5, 5), dtype=torch.uint8)
    scaled = images.numpy() / 127.5 - 1
    mean, variance = of(images, lazy=lazy).statistics()
    assert isinstance(mean, float)
    assert mean == pytest.approx(scaled.mean(), abs=1e-13)
    assert variance == pytest.approx(scaled.var(), abs=1e-13)
    floats = torch.randn(301, 7) * 5 + 1000  # a mean far from zero costs no digits
    low, high = float(floats.min()), float(floats.max())
    scaled = (floats.double().numpy() - low) / (high - low) * 2 - 1
    mean, variance = of(floats[:, None], lazy=lazy, value_range=(low, high)).statistics()
    assert mean == pytest.approx(scaled.mean(), abs=1e-11)
    assert variance == pytest.approx(scaled.var(), abs=1e-11)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 5), (1, 5, 8), (3, 9), (1, 10)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_spectrum_is_that_of_the_network_scale(lazy, shape, dtype, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK_BYTES", 500)  # many parts, of unequal size
    grid, axes = shape[1:], tuple(range(-len(shape) + 1, 0))
    samples = torch.randint(0, 200, (301, *shape), dtype=torch.uint8)
    if dtype == torch.float32:
        samples = samples / 40 + 1000  # a mean far from zero costs no digits
    levels = (0.0, 255.0) if dtype == torch.uint8 else (float(samples.min()), float(samples.max()))
    scaled = (samples.double().numpy() - levels[0]) / (levels[1] - levels[0]) * 2 - 1
    value_range = (0.0, 1.0) if dtype == torch.uint8 else levels
    mean, variance = of(samples, lazy=lazy, value_range=value_range).spectral_statistics(Fourier(grid))
    assert mean.dtype == variance.dtype == torch.float64
    assert np.allclose(mean, scaled.mean(0), rtol=0, atol=1e-11)
    whole = (np.abs(np.fft.fftn(scaled - scaled.mean(0), axes=axes, norm="ortho")) ** 2).mean((0, 1))
    assert variance.shape == Fourier(grid).modes
    assert np.allclose(variance, whole[..., : grid[-1] // 2 + 1], rtol=1e-10, atol=1e-12)
    twice = np.full(grid[-1] // 2 + 1, 2.0)  # of f and -f only one is there, but for 0 and, on even grids, the last
    twice[[0, -1] if grid[-1] % 2 == 0 else [0]] = 1
    # Parseval: the modes share the variance of all values around the mean function
    assert (variance.numpy() * twice).sum() / np.prod(grid) == pytest.approx(scaled.var(0).mean(), rel=1e-10)


def test_the_spectrum_may_look_at_some_samples():
    functions = torch.randn(50, 1, 8)
    mean, variance = of(functions, value_range=(-1.0, 1.0)).spectral_statistics(Fourier((8,)), limit=10)
    some = functions[::5].double()
    assert torch.allclose(mean, some.mean(0), atol=1e-14)
    expected = torch.fft.rfft(some - some.mean(0), norm="ortho").abs().square().mean((0, 1))
    assert torch.allclose(variance, expected, rtol=1e-12)


@pytest.mark.parametrize(("count", "limit"), [(1000, 10), (1001, 10), (10, 10), (5, 10), (100, 99)])
def test_statistics_look_at_samples_evenly_spaced(count, limit):
    seen = []

    class Noting(Lazy):
        def __getitem__(self, indices):
            seen.extend(indices.tolist())
            return super().__getitem__(indices)

    images = Noting(torch.randint(0, 255, (count, 1, 2, 2), dtype=torch.uint8))
    labels = torch.zeros(count, dtype=torch.int64)
    DataSet(Split(images, labels), Split(images, labels), None).statistics(limit)
    assert len(seen) == min(count, limit)
    steps = np.diff([*seen, count])  # the last sample stands for the rest
    assert seen[0] == 0
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


def test_statistics_are_right_when_workers_read_and_draw_no_number():
    images = torch.randint(0, 255, (1100, 1, 4, 4), dtype=torch.uint8)
    state = torch.get_rng_state()
    here = of(images).statistics()
    assert of(images, lazy=True).statistics() == here
    assert torch.equal(of(images, lazy=True).train.read()[0], images)
    assert torch.equal(torch.get_rng_state(), state)


def test_bytes_and_floats_come_to_the_scale_of_the_network():
    levels = torch.arange(256, dtype=torch.uint8)
    images = DataSpec("image", (1, 4, 4))
    scaled = images.to_network(levels)
    assert scaled.dtype == torch.float32
    assert scaled[[0, 255]].tolist() == [-1, 1]
    assert torch.equal(scaled, levels.float() / 127.5 - 1)
    assert torch.equal(DataSpec("image", (1, 4, 4), (5.0, 6.0)).to_network(levels), scaled)
    functions = DataSpec("function", (1, 4), (-2.0, 6.0))
    assert functions.to_network(torch.tensor([-2.0, 0.0, 2.0, 6.0])).tolist() == [-1, -0.5, 0, 1]
    assert images.to_network(torch.tensor([0.0, 0.25, 1.0])).tolist() == [-1, -0.5, 1]
    data = of(torch.zeros(3, 1, 4), value_range=(-1.0, 3.0))
    assert data.to_unit_range(torch.tensor([-1.0, 3.0, 5.0])).tolist() == [-1, 1, 2]


def test_samples_come_back_in_their_own_units():
    beyond = torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0])
    assert DataSpec("image", (1, 2, 2)).from_network(beyond).tolist() == [0, 0, 0.5, 1, 1]  # images are clipped
    assert DataSpec("image", (1, 2, 2), (-2.0, 6.0)).from_network(beyond).tolist() == [-2, -2, 2, 6, 6]
    assert DataSpec("function", (1, 9), (-2.0, 6.0)).from_network(beyond).tolist() == [-4, -2, 2, 6, 10]
    assert DataSpec("sound", (1, 9), (-1.0, 1.0), 8000).from_network(beyond).tolist() == beyond.tolist()


@pytest.mark.parametrize(
    ("shape", "options", "kind"),
    [
        ((3, 1, 4, 4), {}, "image"),
        ((3, 2, 16), {}, "function"),
        ((3, 2, 16), {"value_range": (-1.0, 1.0), "sample_rate": 8000}, "sound"),
    ],
)
def test_a_set_says_what_its_samples_are(shape, options, kind):
    data = of(torch.zeros(shape), num_classes=2, **options)
    assert data.spec == DataSpec(
        kind, shape[1:], options.get("value_range", (0.0, 1.0)), options.get("sample_rate"), ("0", "1"), 3, (3, 0)
    )
    assert (data.shape, data.is_image) == (shape[1:], kind == "image")
    assert (data.spec.channels, data.spec.grid) == (shape[1], shape[2:])
    assert (data.num_classes, data.spec.num_classes, data.spec.unlabelled().num_classes) == (2, 2, None)
    assert (of(torch.zeros(shape)).classes, of(torch.zeros(shape)).num_classes) == (None, None)


def test_classes_have_names():
    data = of(torch.zeros(3, 1, 4), classes=("sine", "square"))
    assert (data.num_classes, data.spec.classes) == (2, ("sine", "square"))
    assert replace(data, value_range=(0.0, 2.0)).spec == replace(data.spec, value_range=(0.0, 2.0))
    with pytest.raises(ValueError, match="num_classes is 3, but there are 2"):
        of(torch.zeros(3, 1, 4), num_classes=3, classes=("sine", "square"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("picture", (1, 4, 4)), "kind must be image, function or sound, got 'picture'"),
        (("image", (1, 4)), r"shape must be \(C, H, W\), got \(1, 4\)"),
        (("function", (1, 4, 4, 4)), r"shape must be \(C, L\), got"),
        (("function", (1, 4), (1.0, 1.0)), "value_range must be two rising numbers"),
        (("function", (1, 4), (0.0, 1.0), 8000), "sample_rate must be given for sounds and for nothing else, got 8000"),
        (("sound", (1, 4)), "sample_rate must be given for sounds and for nothing else, got None"),
    ],
)
def test_what_is_no_sample_is_refused(arguments, problem):
    with pytest.raises(Refusal, match=problem):
        DataSpec(*arguments)


def test_one_set_is_built_in():
    assert BUILT_IN in SOURCES
    published = {name: source.published_shape for name, source in SOURCES.items() if source.published_shape}
    assert published == {"mnist": (1, 28), "fashionmnist": (1, 28), "cifar10": (3, 32), "cifar100": (3, 32)}


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 0, 1, 7, 100])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_part_is_read_into_memory(limit, lazy):
    images, labels = torch.randint(0, 255, (20, 1, 2, 2), dtype=torch.uint8), torch.arange(20)
    read, read_labels = Split(Lazy(images) if lazy else images, labels).read(limit)
    expected = {None: range(20), 0: [], 1: [0], 7: [0, 2, 5, 8, 11, 14, 17], 100: range(20)}[limit]  # i * 20 / 7
    assert read_labels.tolist() == list(expected)
    assert torch.equal(read, images[read_labels])
    assert read.dtype == torch.uint8


@pytest.mark.parametrize(
    ("count", "size"), [(2, 1), (9, 1), (19, 1), (20, 2), (9_999, 999), (10_001, 1000), (50_000, 1000)]
)
def test_one_in_ten_is_held_out_and_never_more_than_a_thousand(count, size):
    train, held_out = hold_out(count)
    assert (len(train), len(held_out)) == (count - size, size)
    assert torch.equal(torch.cat([train, held_out]).sort().values, torch.arange(count))
    assert train.tolist() == sorted(train.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())


def test_the_same_samples_are_held_out_always():
    torch.manual_seed(3)
    assert hold_out(30)[1].tolist() == [13, 14, 23]
    assert hold_out(20)[1].tolist() == [4, 5]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_are_refused(count):
    with pytest.raises(DataUnavailable, match="at least two"):
        hold_out(count)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 images, but 2 labels"):
        Split(torch.zeros(3, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="float64"):
        Split(torch.zeros(2, 1, 4, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    labels = torch.zeros(2, dtype=torch.int64)
    one = Split(torch.zeros(2, 1, 4, 4), labels)
    for other in (torch.zeros(2, 1, 4, 5), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="held-out"):
            DataSet(one, Split(other, labels), None)


def test_an_image_size_is_one_number_or_two(tmp_path):
    assert DataOptions(tmp_path, image_size=3).sides == (3, 3)
    for wrong in ((3,), (3, 4, 5), (3, 0)):
        with pytest.raises(Refusal, match=r"^image_size must be"):
            DataOptions(tmp_path, image_size=wrong)


@pytest.mark.parametrize("name", ["image_size", "channels", "length"])
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_below_one_are_refused(tmp_path, name, value):
    with pytest.raises(Refusal, match=f"^{name} must be at least 1, got {value}$"):
        DataOptions(tmp_path, **{name: value})


@pytest.mark.parametrize("value", [0.0, -0.5, 1.01, float("nan")])
def test_crops_that_are_no_share_are_refused(tmp_path, value):
    with pytest.raises(Refusal, match=f"^center_crop must be above 0 and at most 1, got {value}$"):
        DataOptions(tmp_path, center_crop=value)


# -- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 4), (9, 6, 3), (6, 8, 6), (5, 5, 10), (28, 28, 32)])
def test_images_are_cropped_and_resized(lazy, channels, height, width, size):
    images = torch.randint(0, 256, (5, channels, height, width), dtype=torch.uint8)
    data = fit(of(images, lazy=lazy), DataOptions("", image_size=size), "it")
    assert data.shape == (channels, size, size)
    assert isinstance(data.train.images, torch.Tensor) == (not lazy)
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    for found, image in zip(data.train.read()[0], images, strict=True):
        for plane, given in zip(found, image, strict=True):
            square = Image.fromarray(given[top : top + side, left : left + side].numpy())
            expected = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
            assert np.abs(plane.numpy() - expected).max() <= 1


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("own", "size", "center_crop", "cut", "treatment"),
    [
        ((48, 32), (48, 32), None, (48, 32), "48x32 as they are"),
        ((218, 178), (64, 64), None, (178, 178), "from 218x178, cropped to 178x178, resized to 64x64"),
        ((100, 70), (48, 32), None, (100, 67), "from 100x70, cropped to 100x67, resized to 48x32"),
        ((20, 30), (30, 20), 0.5, (10, 7), "from 20x30, cropped to 10x7, resized to 30x20"),
        ((24, 16), (48, 32), None, (24, 16), "from 24x16, resized to 48x32"),
        ((9, 6), None, 1.0, (6, 6), "from 9x6, cropped to 6x6"),
    ],
)
def test_rectangles_are_cropped_to_their_shape_and_resized(lazy, own, size, center_crop, cut, treatment):
    images = torch.randint(0, 256, (3, 1, *own), dtype=torch.uint8)
    data = fit(of(images, lazy=lazy), DataOptions("", image_size=size, center_crop=center_crop), "it")
    height, width = size or cut
    assert (data.shape, data.treatment) == ((1, height, width), treatment)
    top, left = (round((side - part) / 2) for side, part in zip(own, cut, strict=True))
    for found, image in zip(data.train.read()[0], images, strict=True):
        part = Image.fromarray(image[0, top : top + cut[0], left : left + cut[1]].numpy())
        expected = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(found[0].numpy() - expected).max() <= 1


def test_growing_images_are_interpolated_without_smoothing():
    """28 to 32, as published for MNIST: plain bilinear, here from centre to centre by hand."""
    images = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    centres = np.clip((np.arange(32) + 0.5) * 28 / 32 - 0.5, 0, 27)
    below = np.minimum(centres.astype(int), 26)
    weights = np.zeros((32, 28))
    weights[np.arange(32), below] = 1 - (centres - below)
    weights[np.arange(32), below + 1] += centres - below
    expected = weights @ images[:, 0].numpy() @ weights.T
    floats = fit(of(images.float()), DataOptions("", image_size=32), "it").train.images
    assert np.allclose(floats[:, 0], expected, atol=1e-3)
    plain = torch.nn.functional.interpolate(images.float(), (32, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(floats, plain, atol=1e-3)
    levels = fit(of(images), DataOptions("", image_size=32), "it").train.images
    assert (levels - plain).abs().max() <= 1  # bytes are rounded


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "center_crop", "side", "size"),
    [
        (218, 178, 140 / 178, 140, 64),
        (9, 12, 1.0, 9, None),
        (8, 8, 0.5, 4, None),
        (10, 10, 0.3, 3, 6),
        (4, 4, 0.01, 1, 2),
    ],
)
def test_a_part_of_the_middle_is_cut_out(lazy, height, width, center_crop, side, size):
    images = torch.randint(0, 256, (3, 1, height, width), dtype=torch.uint8)
    data = fit(of(images, lazy=lazy), DataOptions("", image_size=size, center_crop=center_crop), "it")
    assert data.shape == (1, size or side, size or side)
    top, left = round((height - side) / 2), round((width - side) / 2)
    for found, image in zip(data.train.read()[0], images, strict=True):
        square = Image.fromarray(image[0, top : top + side, left : left + side].numpy())
        expected = np.asarray(square.resize((size or side,) * 2, Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(found[0].numpy() - expected).max() <= (0 if size is None else 1)


def test_resizing_keeps_floats_within_their_range():
    images = torch.rand(50, 1, 9, 9).round() * 7 - 3
    data = fit(of(images, value_range=(-3.0, 4.0)), DataOptions("", image_size=5), "it")
    assert data.value_range == (-3, 4)
    assert data.train.images.dtype == torch.float32
    rounding = 1e-5
    assert -3 - rounding <= data.train.images.min() < data.train.images.max() <= 4 + rounding


def test_the_own_size_is_left_alone():
    square, oblong = of(torch.zeros(3, 1, 8, 8)), of(torch.zeros(3, 1, 8, 6))
    assert fit(square, DataOptions("", image_size=8, channels=1), "it") is square
    assert fit(square, DataOptions(""), "it") is square
    assert fit(oblong, DataOptions(""), "it") is oblong
    assert fit(square, DataOptions("", center_crop=1.0), "it") is square
    assert fit(square, DataOptions("", image_size=8, center_crop=0.5), "it") is not square
    assert fit(oblong, DataOptions("", image_size=8), "it").shape == (1, 8, 8)


def test_a_set_that_would_grow_too_large_is_resized_as_it_is_read(monkeypatch):
    data = of(torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8))
    at_once = fit(data, DataOptions("", image_size=8), "it")
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 10 * 16)
    lazily = fit(data, DataOptions("", image_size=8), "it")
    assert isinstance(lazily.train.images, Resized)
    assert torch.equal(lazily.train.read()[0], at_once.train.images)


def test_resizing_many_is_resizing_each():
    images = torch.randint(0, 256, (30, 3, 9, 9), dtype=torch.uint8)
    together = fit(of(images), DataOptions("", image_size=6), "it").train.images
    for i, image in enumerate(images):
        assert torch.equal(
            fit(of(image[None], held_out=1), DataOptions("", image_size=6), "it").train.images[0], together[i]
        )


@pytest.mark.parametrize(
    ("shape", "options", "problem"),
    [
        ((3, 1, 8, 8), {"channels": 3}, "3: it has 1"),
        ((3, 3, 8, 8), {"channels": 1}, "1: it has 3"),
        ((3, 1, 8), {"image_size": 8}, "8: it has samples of shape"),
        ((3, 1, 8), {"center_crop": 0.5}, "0.5: it has samples of shape"),
        ((3, 1, 8), {"length": 4}, "4: it cannot be cut"),
        ((3, 1, 8, 8), {"length": 4}, "4: it cannot be cut"),
        ((3, 1, 8), {"sample_rate": 4}, "4: it keeps its own, only --data_name sounds takes another"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(shape, options, problem):
    with pytest.raises(DataUnavailable) as caught:
        fit(of(torch.zeros(shape)), DataOptions("", **options), "it")
    (flag,) = options
    assert caught.value.argument == flag
    assert caught.value.line({flag: flag}).startswith(f"--{flag} {problem}")


@pytest.mark.parametrize("size", [4, 8, 16])
def test_digits_in_another_size(tmp_path, size):
    data = SOURCES["digits"]().load(DataOptions(tmp_path, image_size=size, channels=1))
    assert data.shape == (1, size, size)
    assert (len(data.train.labels), len(data.held_out.labels)) == (1500, 297)
    with pytest.raises(DataUnavailable, match="channels 3"):
        SOURCES["digits"]().load(DataOptions(tmp_path, channels=3))


# -- extension --------------------------------------------------------------------------------------------------------


class Waves(Source):
    """What a user writes for functions of their own."""

    name = "waves"

    def load(self, options: DataOptions) -> DataSet:
        phase = torch.linspace(0, 6, 40)[:, None, None]
        waves = torch.sin(torch.linspace(0, 6, 16) + phase)
        train, held_out = (Split(waves[rows], torch.zeros(len(rows)).long()) for rows in hold_out(40))
        data = DataSet(train, held_out, num_classes=None, value_range=(-1.0, 1.0))
        return fit(data, options, "--data_name waves")


def test_a_source_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "waves", Waves)
    data = SOURCES["waves"]().load(DataOptions(tmp_path))
    assert (data.shape, data.is_image, len(data.held_out.labels)) == ((1, 16), False, 4)
    with pytest.raises(DataUnavailable, match="image_size 4: --data_name waves"):
        SOURCES["waves"]().load(DataOptions(tmp_path, image_size=4))
    with pytest.raises(TypeError):
        Source()


# -- small things -----------------------------------------------------------------------------------------------------


def test_views_are_pickled():
    images = torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8)
    view = Resized(Rows(Lazy(images), torch.tensor([3, 1, 9])), Sides(2, 2))
    assert Resized(images, None, 0.5).shape == (10, 1, 2, 2)
    assert view.shape == (3, 1, 2, 2)
    again = pickle.loads(pickle.dumps(view))
    rows = torch.tensor([2, 0])
    assert torch.equal(again[rows], Resized(images, Sides(2, 2))[torch.tensor([9, 3])])


def test_a_message_survives_a_worker_process():
    error = DataUnavailable("--data_name x: what to do")
    assert str(error) == "--data_name x: what to do"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    traceback = f"Caught in worker.\nOriginal Traceback ..\ncommon.data.source.DataUnavailable: {error}\n"
    assert str(DataUnavailable(traceback)) == str(error)
    error = pickle.loads(pickle.dumps(DataUnavailable("3: it has 1", "channels")))
    assert (error.problem, error.argument, str(error)) == ("3: it has 1", "channels", "channels 3: it has 1")


class Processes(Lazy):
    """Every value is the process that reads it."""

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        return torch.full((len(indices), *self.shape[1:]), float(os.getpid()))


@pytest.mark.parametrize("count", [reading.WORTH_WORKERS - 1, reading.WORTH_WORKERS])
def test_many_samples_are_read_by_other_processes(count):
    readers = Split(Processes(torch.zeros(count, 1, 64)), torch.zeros(count).long()).read()[0].unique().tolist()
    assert (os.getpid() in readers) == (count < reading.WORTH_WORKERS)
    assert len(readers) <= num_readers()


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (5, 5), (64, 8)])
def test_readers_are_as_many_as_cores_but_at_most_eight(cores, expected, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert num_readers() == expected
