"""Operators: adjoints, formulas written again, grids of any parity, blocks of samples, pictures, refusals."""

import math

import numpy as np
import pytest
import torch

from common.guidance.operators import Blur, Downsample, Grey, LowPass, Mask, Operator, Points, check_adjoint
from common.refusal import Refusal

GRIDS = [(8,), (7,), (6, 5), (4, 6)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coordinates(count: int, axes: int, samples: int | None = None) -> torch.Tensor:
    shape = (count, axes) if samples is None else (samples, count, axes)
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def operators(grid: tuple[int, ...]) -> dict[str, tuple[Operator, int]]:
    """Every operator for a grid, and how many channels it is tried on."""
    kept = (noise(*grid) > 0).double()
    own = (noise(2, 1, *grid, seed=3) > 0).double()
    found = {
        "mask": (Mask(kept), 3),
        "mask of channels": (Mask((noise(3, *grid) > 0).double()), 3),
        "masks": (Mask(own, per_sample=True), 3),
        "lowpass": (LowPass(2.1, grid), 2),
        "blur": (Blur(0.7, grid), 2),
        "grey": (Grey(), 3),
        "points": (Points(coordinates(5, len(grid)), grid), 2),
        "points of samples": (Points(coordinates(5, len(grid), 2), grid), 2),
    }
    if not any(n % 2 for n in grid):
        found["downsample"] = (Downsample(2), 3)
    return found


CASES = [(grid, name) for grid in GRIDS for name in operators(grid)]


@pytest.mark.parametrize(("grid", "name"), CASES)
def test_adjoints_pseudo_inverses_and_shapes(grid, name):
    operator, channels = operators(grid)[name]
    check_adjoint(operator, (channels, *grid))
    x = noise(2, channels, *grid, seed=5)
    y = operator(x)
    assert tuple(y.shape[1:]) == operator.shape_of((channels, *grid))
    # the smallest sample of this observation, by NumPy from the matrix of A
    size = x[0].numel()
    for i in range(2):
        basis = torch.eye(size, dtype=torch.float64).reshape(size, channels, *grid)
        each = operator.rows([i]).double()  # of one sample, so that it is the same for all rows
        matrix = torch.stack([each(e.unsqueeze(0)).flatten() for e in basis], 1).numpy()
        values = operator.values((channels, *grid)).expand(2)[i]
        rank = np.linalg.matrix_rank(matrix)
        assert values == (size if name == "blur" else len(matrix) if name.startswith("points") else rank)
        if name == "blur":
            continue  # its smallest factors are 1e-9: what comes back is what conjugate gradients resolve
        wanted = np.linalg.pinv(matrix, rcond=1e-9) @ y[i].flatten().numpy()
        assert np.allclose(each.inverse(y[i : i + 1]).flatten().numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_lowpass_is_the_disc_of_the_shifted_spectrum(grid):
    x, radius = noise(1, 1, *grid), 2.1
    spectrum = np.fft.fftshift(np.fft.fftn(x[0, 0].numpy()))
    far = sum((np.arange(n) - n // 2).reshape(-1, *(1,) * (len(grid) - 1 - a)) ** 2 for a, n in enumerate(grid))
    wanted = np.fft.ifftn(np.fft.ifftshift(spectrum * (far < radius**2)))
    assert abs(wanted.imag).max() < 1e-12
    assert np.allclose(LowPass(radius, grid)(x)[0, 0], wanted.real, atol=1e-12)


def test_the_published_disc_keeps_as_many_modes_as_theirs():
    lowpass = LowPass(10, (64, 64))
    full = torch.fft.fftn(torch.zeros(64, 64)).real
    full[0, 0] = 1
    impulse = torch.fft.ifftn(torch.ones(64, 64)).real
    assert int((torch.fft.fftn(lowpass(impulse[None, None])[0, 0]).abs() > 0.5).sum()) == 305


def test_the_blur_is_a_convolution_with_a_gaussian():
    x, std, size = noise(1, 1, 41), 2.5, 41
    at = np.arange(size)
    kernel = sum(np.exp(-((at + size * k) ** 2) / (2 * std**2)) for k in range(-3, 4)) / (std * math.sqrt(2 * math.pi))
    wanted = [sum(kernel[(i - j) % size] * float(x[0, 0, j]) for j in range(size)) for i in range(size)]
    assert np.allclose(Blur(std, (size,))(x)[0, 0], wanted, atol=1e-12)


def test_downsampling_is_the_mean_over_blocks_and_points_interpolate():
    x = noise(2, 3, 4, 6)
    assert torch.allclose(Downsample(2)(x), torch.nn.functional.avg_pool2d(x, 2))
    at = coordinates(9, 2)
    # grid_sample counts the last axis first
    wanted = torch.nn.functional.grid_sample(x, at.flip(-1).expand(2, 1, -1, -1), align_corners=True).squeeze(2)
    assert torch.allclose(Points(at, (4, 6))(x), wanted)
    corners = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    assert torch.allclose(Points(corners, (4, 6))(x), torch.stack([x[..., 0, 0], x[..., -1, -1], x[..., 0, -1]], -1))


def test_rows_are_those_of_the_samples():
    x = noise(4, 1, 6, 5)
    for make in (
        lambda: Mask((noise(3, 1, 6, 5) > 0).double(), per_sample=True),
        lambda: Points(coordinates(4, 2, 3), (6, 5)),
    ):
        operator, indices = make(), [2, 0, 2, 1]
        got = operator.rows(indices)(x)
        for row, i in enumerate(indices):
            assert torch.equal(got[row : row + 1], operator.rows([i])(x[row : row + 1]))
        assert not torch.equal(got[0], operator.rows([0])(x[:1])[0])


def test_pictures_have_holes_where_nothing_is_known():
    x = noise(2, 1, 6, 5)
    mask = Mask((noise(6, 5) > 0).double())
    picture = mask.picture(mask(x))
    assert torch.equal(picture.isnan(), (mask.mask == 0).expand_as(x))
    assert torch.equal(picture[~picture.isnan()], x[(mask.mask > 0).expand_as(x)])
    points = Points(torch.tensor([[-1.0, -1.0], [1.0, 0.02]]), (6, 5))
    seen = points.picture(points(x))
    assert int((~seen.isnan()).sum()) == 4
    assert torch.allclose(seen[:, 0, 5, 2], points(x)[:, 0, 1])
    assert Downsample(2).picture(torch.zeros(1, 3, 2, 2)).shape == (1, 3, 2, 2)


def test_wrong_operators_and_samples_are_refused():
    grid = (6, 4)
    for make, shape in (
        (lambda: Mask(torch.full(grid, 0.5)), None),
        (lambda: Mask(torch.ones(6, 5)), (1, *grid)),
        (lambda: Mask(torch.ones(2, *grid)), (3, *grid)),
        (lambda: Mask(torch.ones(2, 6, 4), per_sample=True), (1, *grid)),
        (lambda: LowPass(0, grid), None),
        (lambda: LowPass(2, (4, 4)), (1, *grid)),
        (lambda: Blur(math.inf, grid), None),
        (lambda: Grey(), (1, *grid)),
        (lambda: Grey(), (4, *grid)),
        (lambda: Downsample(1), None),
        (lambda: Downsample(4), (1, *grid)),
        (lambda: Points(torch.zeros(3, 1), grid), None),
        (lambda: Points(torch.full((3, 2), 1.1), grid), None),
        (lambda: Points(torch.full((3, 2), math.nan), grid), None),
        (lambda: Points(torch.zeros(3, 2), (4, 4)), (1, *grid)),
    ):
        with pytest.raises(Refusal):
            make().shape_of(shape)


def test_what_is_no_adjoint_or_projector_is_found():
    class Doubled(Grey):
        def adjoint(self, y):
            return 2 * super().adjoint(y)

    class Projects(Grey):
        projector = True

    class Shapeless(Grey):
        def shape_of(self, shape):
            return shape

    for operator, what in ((Doubled(), "adjoint"), (Projects(), "projector"), (Shapeless(), "shape")):
        with pytest.raises(ValueError, match=what):
            check_adjoint(operator, (3, 4, 4))


def test_dtypes_follow_samples():
    for operator, channels in operators((4, 6)).values():
        x = noise(2, channels, 4, 6).float()
        assert operator(x).dtype == operator.adjoint(operator(x)).dtype == operator.inverse(operator(x)).dtype
        assert operator(x).dtype == torch.float32
