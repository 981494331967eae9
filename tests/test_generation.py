"""Generation in blocks: any restart gives the same arrays, and a block is either whole or not there."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.spec import DataSpec
from common.dynamics import CLD, VP
from common.generation.blocks import Job, blocks, not_finite, read_samples
from common.generation.config import SampleConfig
from common.generation.drawing import generate, missing
from common.generation.identity import evaluations_of
from common.generation.pictures import shown_level
from common.refusal import Refusal
from common.samplers import SOLVERS
from gfdm.dynamics import FVP

SHAPE = (2, 3, 4)


class Point:
    """The denoiser of one image per class, c / 5 - 1 everywhere; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        self.calls.append(len(v))
        level = torch.full((len(v),), 0.5) if labels is None else labels / 5 - 1
        return level.reshape(-1, 1, 1, 1).expand_as(v).to(v.dtype)


def draw(folder, denoiser=None, shape=SHAPE, *, num_classes=10, value_range=(0.0, 1.0), solver="em", on_step=None,
         **changes) -> list[int]:  # fmt: skip
    settings = {"seeds": tuple(range(7)), "batch_size": 3, "steps": 4, "t_end": 1e-3, **changes}
    settings["seeds"] = tuple(settings["seeds"])
    spec = DataSpec(
        "image" if len(shape) == 3 else "function",
        shape,
        value_range,
        classes=None if num_classes is None else tuple(map(str, range(num_classes))),
    )
    config = SampleConfig(solver=solver, denoise_last=False, clip_x0=False, device="cpu", **settings)
    job = Job(VP(), denoiser or Point(), spec, SOLVERS[solver], None, config)
    return generate(folder, job, missing(folder, job), on_step=on_step or (lambda time, x: None))


def files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.npy"))}


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 1.5])
def test_seeds_that_are_none_are_refused_however_they_are_given(seed):
    with pytest.raises(Refusal, match="must be whole numbers from 0 to 4294967295") as refused:
        SampleConfig(seeds=(0, seed))
    assert refused.value.argument == "seeds"


@pytest.mark.parametrize("count", [0, 10**8 + 1, 2**63])
def test_more_samples_than_a_list_of_seeds_holds_are_refused(count):
    with pytest.raises(Refusal, match="must be at least 1 and at most 100000000") as refused:
        SampleConfig(n_samples=count)
    assert refused.value.argument == "n_samples"


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(7, 3, [(0, 3), (3, 6), (6, 7)]), (6, 3, [(0, 3), (3, 6)]), (2, 5, [(0, 2)]), (0, 5, [])],
)
def test_blocks_are_consecutive(count, size, expected):
    assert [(block.start, block.stop) for block in blocks(count, size)] == expected


def spec_of(num_classes: int | None) -> DataSpec:
    return DataSpec("image", (1, 4, 4), classes=None if num_classes is None else tuple(map(str, range(num_classes))))


def test_classes_are_asked_for_by_name_and_drawn_if_they_were_learned():
    """torchvision#4028 and its like: numbers as names are not the numbers of classes."""
    spec = DataSpec("image", (1, 4, 4), classes=("1", "2", "10", "Kühe"), per_class=(3, 0, 5, 1))
    assert spec.labels_for(range(4)).tolist() == [0, 2, 3, 0]  # class "2" has no sample
    assert spec.labels_for(range(4), ("10", "Ku\u0308he", "2", "3")).tolist() == [2, 3, 1, 3]  # a name counts first
    assert spec.labels_for(range(2), (0, 1)).tolist() == [0, 1]  # numbers from Python are numbers
    apart = DataSpec("image", (1, 4, 4), classes=("cow", "Ku\u0308he"))  # as runs have it from tables of macOS
    assert apart.numbers_of(("Kühe", "Ku\u0308he", "1")) == (1, 1, 1)
    assert apart.names_classes_like(replace(apart, classes=("cow", "Kühe"), per_class=(1, 1)))
    spaced = DataSpec("image", (1, 4, 4), classes=("cat", "cat ", "dog "))
    assert spaced.numbers_of(("cat ", "cat", "dog", " cat ")) == (1, 0, 2, 0)  # as it is written, if that is a name
    with pytest.raises(ValueError, match="labels 'Kuehe' is no class; of the 4 there are, the nearest: 3 Kühe"):
        spec.labels_for(range(1), ("Kuehe",))
    with pytest.raises(ValueError, match="'x' is no class; there are 0 1, 1 2, 2 10, 3 Kühe"):
        spec.labels_for(range(1), ("x",))


@pytest.mark.parametrize(
    ("indices", "wanted", "num_classes", "expected"),
    [
        (range(5), None, 3, [0, 1, 2, 0, 1]),
        (range(4, 7), None, 10, [4, 5, 6]),
        (range(5), (3, 3, 7), 10, [3, 3, 7, 3, 3]),
        (range(3, 6), (8, 9), 10, [9, 8, 9]),  # in turn over all samples, not per block
        (range(3), (), 2, [0, 1, 0]),
        (range(3), None, None, None),
    ],
)
def test_labels_come_in_turn(indices, wanted, num_classes, expected):
    found = spec_of(num_classes).labels_for(indices, wanted)
    assert (found if found is None else found.tolist()) == expected
    assert found is None or found.dtype == torch.int64


@pytest.mark.parametrize(
    ("wanted", "num_classes", "message"),
    [
        ((10,), 10, "'10' is no class; there are 0 to 9"),
        ((0, -1), 10, "'-1' is no class"),
        (("9" * 5000,), 10, "is no class"),
        ((0,), None, "without labels"),
    ],
)
def test_labels_that_cannot_be_are_refused(wanted, num_classes, message):
    with pytest.raises(ValueError, match=message):
        spec_of(num_classes).labels_for(range(3), wanted)


def test_arrays_are_images_in_the_unit_range(tmp_path):
    nfe = draw(tmp_path, labels=[0, 9], steps=200)
    assert nfe == [200, 200, 200]  # of each block
    names = ["data_000000.npy", "data_000003.npy", "data_000006.npy"]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == names
    assert sorted(p.name for p in (tmp_path / "label").iterdir()) == [n.replace("data", "label") for n in names]
    images, labels = read_samples(tmp_path)
    assert images.shape == (7, 3, 4, 2)  # channels last
    assert images.dtype == np.float32
    assert labels.tolist() == [0, 9, 0, 9, 0, 9, 0]
    assert images.min() >= 0
    assert images.max() <= 1
    # x = c / 5 - 1 in [-1, 1] is c / 10 in [0, 1]
    assert images.mean((1, 2, 3)) == pytest.approx(np.array([0, 0.9, 0, 0.9, 0, 0.9, 0]), abs=0.03)


def test_axes_go_where_they_belong(tmp_path):
    """A denoiser that paints row, column and channel: nothing is transposed."""
    c, h, w = SHAPE
    picture = torch.arange(c * h * w).reshape(SHAPE) / 24
    draw(tmp_path, lambda v, t, labels: (2 * picture - 1).expand_as(v), solver="exp1", steps=1, t_end=1e-6)
    assert np.allclose(read_samples(tmp_path)[0], picture.permute(1, 2, 0).numpy(), atol=2e-3)


def test_without_labels_there_are_no_label_files(tmp_path):
    draw(tmp_path, num_classes=None)
    images, labels = read_samples(tmp_path)
    assert len(images) == 7
    assert labels is None
    assert not (tmp_path / "label").exists()


def test_a_restart_gives_identical_arrays_and_keeps_what_is_there(tmp_path):
    draw(tmp_path)
    whole = files(tmp_path)
    for lost in (["data/data_000003.npy"], ["data/data_000000.npy", "label/label_000000.npy"], list(whole)):
        for name in lost:
            (tmp_path / name).unlink()
        kept = {name: (tmp_path / name).stat().st_mtime_ns for name in whole if name not in lost and "data_" in name}
        denoiser, steps = Point(), []
        draw(tmp_path, denoiser, on_step=lambda time, x, steps=steps: steps.append(1))
        assert files(tmp_path) == whole
        assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
        assert len(denoiser.calls) == len(steps) == 4 * sum("data_" in name for name in lost)


def test_a_run_cut_off_leaves_whole_blocks(tmp_path):
    class CutOff(Point):
        def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            if len(self.calls) == 6:
                raise KeyboardInterrupt
            return super().__call__(v, t, labels)

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, CutOff())
    assert {"data/data_000000.npy", "label/label_000000.npy"} == set(files(tmp_path)) - {"manifest.json"}
    listed = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert sorted(listed) == ["data/data_000000.npy", "label/label_000000.npy"]
    draw(tmp_path)
    whole = files(tmp_path)
    draw(tmp_path / "again")
    assert files(tmp_path / "again") == whole


def test_a_block_of_another_length_is_drawn_again(tmp_path):
    draw(tmp_path, seeds=range(5))
    draw(tmp_path, seeds=range(7))
    draw(tmp_path / "again", seeds=range(7))
    assert {k: v for k, v in files(tmp_path).items() if "again" not in k} == files(tmp_path / "again")


def test_a_sample_belongs_to_its_seed(tmp_path):
    draw(tmp_path / "a", seeds=[5, 9, 2, 4], labels=[1])
    draw(tmp_path / "b", seeds=[2, 7, 5, 9], labels=[1], batch_size=4)
    first, second = (read_samples(tmp_path / name)[0] for name in "ab")
    assert np.allclose(first[[0, 1, 2]], second[[2, 3, 0]], atol=1e-6)
    assert not np.allclose(first[3], second[1], atol=1e-3)


def test_block_size_changes_rounding_only(tmp_path):
    for block in (1, 4, 7):
        draw(tmp_path / str(block), batch_size=block)
    whole = read_samples(tmp_path / "7")[0]
    for block in (1, 4):
        assert np.allclose(read_samples(tmp_path / str(block))[0], whole, atol=1e-5)


def test_samples_are_read_in_order_of_index(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "label").mkdir()
    for start in (0, 999998, 1000000, 2):  # names that do not sort as text
        np.save(tmp_path / "data" / f"data_{start:06d}.npy", np.full((2, 1, 1, 1), start / 2e6, np.float32))
        np.save(tmp_path / "label" / f"label_{start:06d}.npy", np.array([start, start + 1]))
    images, labels = read_samples(tmp_path)
    assert labels.tolist() == [0, 1, 2, 3, 999998, 999999, 1000000, 1000001]
    assert np.all(np.diff(images[::2, 0, 0, 0]) > 0)
    images, labels = read_samples(tmp_path, 3)
    assert labels.tolist() == [0, 1, 2]
    assert len(images) == 3


def test_reading_nothing_says_how_to_get_something(tmp_path):
    with pytest.raises(ValueError, match=r"generate\.py"):
        read_samples(tmp_path)


@pytest.mark.parametrize(("shape", "clipped"), [((1, 2, 2), True), ((1, 4), False)])
def test_arrays_are_in_the_units_of_the_data(tmp_path, shape, clipped):
    """-1 and 1 stand for the ends of the value range; images stay inside, functions need not."""

    def beyond(v, t, labels):  # x0_hat = 1.5: past the upper end
        return torch.full_like(v, 1.5)

    draw(tmp_path, beyond, shape=shape, value_range=(10.0, 30.0), solver="exp1", num_classes=None)
    values, _ = read_samples(tmp_path)
    assert values.shape == (7, *shape[1:], 1)
    assert np.allclose(values, 30.0 if clipped else 35.0, atol=0.5)
    assert not clipped or values.max() <= 30.0


def test_samples_that_are_not_finite_are_found(tmp_path):
    calls = []

    def denoiser(v, t, labels):
        calls.append(0)
        x0 = torch.zeros_like(v)
        if len(calls) == 2:  # in the second block of three, the last sample
            x0[2, 0, 0] = torch.nan
        return x0

    draw(tmp_path, denoiser, solver="exp1", steps=1)
    assert len(calls) == 3
    assert not_finite(tmp_path) == [5]


@pytest.mark.parametrize("dynamics", [VP(), FVP(0.7, 3), CLD()], ids=repr)
def test_the_noise_level_of_a_trajectory_is_that_of_what_it_shows(dynamics):
    """The data component of an augmented state is noisier than the scalar that its network sees."""
    x0, t = torch.ones(200_000, 1, 1), torch.full((200_000,), 0.5)
    x = dynamics.sample_state(x0, t, torch.randn(len(t), dynamics.num_components, 1, 1))[:, 0]
    assert shown_level(dynamics, 0.5) == pytest.approx(float(x.std() / x.mean()), rel=0.05)


@pytest.mark.parametrize("solver", [name for name, kind in SOLVERS.items() if not kind.adaptive])
def test_a_set_says_how_many_evaluations_it_takes(tmp_path, solver):
    denoiser = Point()
    draw(tmp_path, denoiser, solver=solver, seeds=range(2))
    most = evaluations_of({"solver": solver, "steps": 4, "denoise_last": False})
    assert most is not None
    assert len(denoiser.calls) <= most < 2 * len(denoiser.calls)
    assert evaluations_of({"solver": solver, "steps": 4, "denoise_last": True}) == most + 1


@pytest.mark.parametrize(
    "identity", [{}, {"solver": "exp2"}, {"solver": "gone", "steps": 3}, {"solver": "exp2", "steps": "x"},
                 {"solver": "exp2", "steps": 3, "solver_arguments": {"no": 1}},
                 {"solver": "pc", "steps": 3, "solver_arguments": {"snr": -1}},
                 {"solver": "dopri5", "solver_arguments": {"rtol": 1e-3}}, {"solver": "dopri5", "steps": 3},
                 {"solver": ["exp2"], "steps": None}, {"solver": "exp2", "steps": 3, "solver_arguments": 4}],
)  # fmt: skip
def test_a_set_that_does_not_say_how_many_evaluations_it_takes(identity):
    assert evaluations_of(identity) is None
