"""Tasks and masks: adjoints of those that are built in, what is known of a sample, registration of others."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.spec import DataSpec
from common.guidance.operators import Mask, check_adjoint
from common.guidance.tasks import TASKS, Task
from common.guidance.tasks.masks import mask_of
from common.refusal import Refusal

IMAGES = DataSpec("image", (3, 8, 10))
SOUNDS = DataSpec("sound", (1, 40), (-1.0, 1.0), 20)
FUNCTIONS = DataSpec("function", (2, 12), (-3.0, 5.0))

UNSUITED = {("colorize", "sound"), ("colorize", "function"), ("bandwidth", "image"), ("bandwidth", "function")}


@pytest.mark.parametrize("name", TASKS)
def test_the_adjoint_of_every_built_in_task_is_one(name):
    task = TASKS[name]
    check_adjoint(task().operator(task.probe, 2), task.probe.shape, 2)
    for spec in (IMAGES, SOUNDS, FUNCTIONS):
        if (name, spec.kind) not in UNSUITED:
            check_adjoint(task().operator(spec, 2), spec.shape, 2)
            continue
        with pytest.raises(Refusal, match=r"^task "):
            task().operator(spec, 2)


class Sideways(Task):
    """Not its own adjoint."""

    def operator(self, spec, count):
        operator = Mask(torch.ones(*spec.grid))
        operator.forward = lambda x: x.roll(1, -1)
        return operator


class Straight(Task):
    """Everything."""

    def operator(self, spec, count):
        return Mask(torch.ones(*spec.grid))


def test_a_task_is_registered_if_its_adjoint_is_one(monkeypatch):
    before = dict(TASKS)
    with pytest.raises(ValueError, match="is not the adjoint"):
        TASKS["sideways"] = Sideways
    assert dict(TASKS) == before
    TASKS["straight"] = Straight
    del TASKS["straight"]


def hidden(text: str, spec: DataSpec = IMAGES, count: int = 1, seed: int = 0) -> np.ndarray:
    """1 where a mask hides."""
    return 1 - mask_of(text, spec, count, seed).numpy()


def test_halves_boxes_and_gaps():
    assert hidden("half")[0, :, 5:].all()
    assert not hidden("half")[0, :, :5].any()
    assert (hidden("half:left") == hidden("half")[..., ::-1]).all()
    assert hidden("half:top")[0, :4].all()
    assert hidden("half:bottom").sum() == 40
    box = np.zeros((1, 8, 10))
    box[:, 2:5, 1:8] = 1
    assert (hidden("box:2,1,3,7") == box).all()
    gap = np.zeros((1, 40))
    gap[:, 10:16] = 1  # .5 to .8 of 2 seconds at 20 Hz
    assert (hidden("gap:0.5,0.8", SOUNDS) == gap).all()
    assert hidden("gap:0.25,0.5", FUNCTIONS)[0].tolist() == [0] * 3 + [1] * 3 + [0] * 6


def test_masks_by_lot_are_of_an_input_and_of_a_seed():
    for text, share in (("random:0.3", 0.7), ("random", 0.75)):
        found = hidden(text, count=5)
        assert found.shape == (5, 1, 8, 10)
        np.testing.assert_allclose(found.mean((1, 2, 3)), share, atol=0.01)
        assert len({one.tobytes() for one in found}) == 5
        assert (hidden(text, count=2) == found[:2]).all()  # the others do not matter
        assert (hidden(text, count=5, seed=1) != found).any((1, 2, 3)).all()
    strokes = hidden("strokes", DataSpec("image", (3, 64, 64)), 20)
    assert 0.1 < strokes.mean() < 0.3
    assert len({one.tobytes() for one in strokes}) == 20
    inner = strokes[:, 0, 1:-1, 1:-1]  # strokes are pieces of lines, not single points
    near = sum(strokes[:, 0, 1 + i : 63 + i, 1 + j : 63 + j] for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    assert (near[inner > 0] > 0).mean() > 0.99


def test_masks_in_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = np.random.default_rng(0).random((2, 8, 10)) < 0.5
    Image.fromarray(known[0].astype(np.uint8) * 255).save("one.png")
    np.save("one.npy", known[0])
    np.savez("last.npz", mask=known[0][..., None].astype(np.float32))
    np.save("each.npy", known.astype(np.int64))
    np.save("channels.npy", np.repeat(known[0][..., None], 3, -1))
    for name in ("one.png", "one.npy", "last.npz", "channels.npy"):
        assert (mask_of(name, IMAGES, 2, 0).numpy() == known[0]).all()
    assert (mask_of("each.npy", IMAGES, 2, 0).numpy() == known[:, None]).all()
    for name, count in (("each.npy", 3), ("one.npy", 1)):
        with pytest.raises(Refusal, match="has shape"):
            mask_of(name, DataSpec("image", (1, 10, 8)) if count == 1 else IMAGES, count, 0)


def test_sensors():
    on_grid = TASKS["sense"](sensors=4).operator(IMAGES, 3)
    assert isinstance(on_grid, Mask)
    assert on_grid.mask.sum((1, 2, 3)).tolist() == [4] * 3
    assert on_grid.rows([2]).mask.equal(on_grid.mask[2:])
    assert TASKS["sense"]().operator(DataSpec("image", (1, 64, 64)), 1).mask.sum() == round(0.03 * 64 * 64)
    anywhere = TASKS["sense"](sensors=4, anywhere=True).operator(IMAGES, 3)
    assert anywhere.shape_of(IMAGES.shape) == (3, 4)


def test_sensors_at_given_places(tmp_path):
    """Ends of the axes are the first and the last point."""
    np.save(tmp_path / "places.npy", np.array([[-1, -1], [1, 1], [-1, 1]]))
    operator = TASKS["sense"](coordinates=tmp_path / "places.npy").operator(IMAGES, 2)
    x = torch.randn(2, *IMAGES.shape)
    expected = torch.stack([x[..., 0, 0], x[..., -1, -1], x[..., 0, -1]], -1)
    torch.testing.assert_close(operator(x), expected)


def test_what_deblurring_keeps():
    """As published: 305 of the 4,096 frequencies of an image of 64 x 64; a sound below 2.5 of 10 Hz."""
    spec = DataSpec("image", (1, 64, 64))
    operator = TASKS["deblur"]().operator(spec, 1)
    impulse = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    impulse[..., 0, 0] = 1
    kept = torch.fft.fft2(operator(impulse)).abs() > 0.5
    assert int(kept.sum()) == 305
    impulse = torch.zeros(1, 1, 40, dtype=torch.float64)
    impulse[..., 0] = 1
    heard = torch.fft.rfft(TASKS["bandwidth"]().operator(SOUNDS, 1)(impulse)).abs()[0, 0] > 0.5
    assert heard.tolist() == [frequency / 2 < 2.5 for frequency in range(21)]
