"""The bases and the one broadcasting helper."""

import numpy as np
import pytest
import torch

from common.broadcast import align
from common.dynamics import Fourier, Pixel

SHAPES = [(8,), (7,), (4, 6), (5, 7), (6, 5), (2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_fourier_is_orthonormal_and_inverts(shape):
    basis, x = Fourier(shape), torch.randn(3, 2, *shape, dtype=torch.float64)
    coefficients = basis.analysis(x)
    assert coefficients.shape == (3, 2, *basis.modes)
    assert torch.allclose(basis.synthesis(coefficients), x, atol=1e-14)
    full = np.fft.fftn(x.numpy(), axes=tuple(range(2, x.ndim)), norm="ortho")
    assert np.allclose(coefficients, full[..., : basis.modes[-1]], atol=1e-13)
    assert np.square(np.abs(full)).sum() == pytest.approx(x.square().sum().item())


@pytest.mark.parametrize("shape", SHAPES)
def test_mix_is_the_matrix_product_of_every_mode(shape):
    # against an explicit loop over the modes of a full FFT, with factors even in frequency
    basis, rng = Fourier(shape), np.random.default_rng(0)
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    squared = sum(f**2 for f in frequencies)
    matrices = np.cos(rng.standard_normal((3, 2, 4))[..., None] * squared.ravel()).reshape(3, 2, 4, *shape)
    z = rng.standard_normal((3, 4, 2, *shape))
    axes = tuple(range(3, z.ndim))
    spectrum = np.fft.fftn(z, axes=axes, norm="ortho")
    mixed = np.einsum("bia...,ba...->bi...", matrices[:, :, :, None], spectrum[:, :])
    want = np.fft.ifftn(mixed, axes=axes, norm="ortho")
    assert np.abs(want.imag).max() < 1e-12
    half = torch.from_numpy(matrices[..., : basis.modes[-1]].copy())
    assert np.allclose(basis.mix(half, torch.from_numpy(z)), want.real, atol=1e-12)
    one = basis.scale(half[:, 0, 0], torch.from_numpy(z[:, 0]))
    single = np.fft.ifftn(matrices[:, 0, 0][:, None] * spectrum[:, 0], axes=tuple(range(2, z.ndim - 1)), norm="ortho")
    assert np.allclose(one, single.real, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
def test_pixel_basis_shares_one_matrix_over_the_grid(batch):
    matrix, z = torch.randn(batch, 2, 4), torch.randn(3, 4, 2, 5, 6)
    got = Pixel().mix(matrix.double(), z)
    assert got.dtype == torch.float32
    for b in range(3):
        want = torch.tensordot(matrix[min(b, batch - 1)], z[b], dims=1)
        assert torch.allclose(got[b], want, rtol=1e-5, atol=1e-6)
    assert torch.allclose(Pixel().scale(matrix[:, 0, 0], z[:, 0]), matrix[:, 0, 0].reshape(-1, 1, 1, 1) * z[:, 0])


@pytest.mark.parametrize(
    ("coefficient", "like", "lead", "want"),
    [
        ((3,), (3, 2, 4, 5), 1, (3, 1, 1, 1)),
        ((1,), (3, 2, 4, 5), 1, (1, 1, 1, 1)),
        ((3, 4, 5), (3, 2, 4, 5), 1, (3, 1, 4, 5)),
        ((3, 4), (3, 4, 2, 6), 2, (3, 4, 1, 1)),
        ((3, 4, 6), (3, 4, 2, 6), 2, (3, 4, 1, 6)),
    ],
)
def test_align(coefficient, like, lead, want):
    x = torch.randn(coefficient, dtype=torch.float64)
    got = align(x, torch.empty(like), lead)
    assert got.shape == want
    assert got.dtype == torch.float32
    assert torch.equal(got.flatten(), x.float().flatten())
    assert align(x, torch.empty(like, dtype=torch.complex128), lead).dtype == torch.float64
