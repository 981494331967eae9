"""Figures about point sets against closed forms, constructed sets and independent implementations."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from common.metrics import points as p


def normal(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_of_known_gaussians():
    rng = np.random.default_rng(0)
    a, b = (m @ m.T for m in rng.standard_normal((2, 6, 6)))
    mean = rng.standard_normal((2, 6))
    expected = ((mean[0] - mean[1]) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    one, other = (p.Moments(*map(torch.from_numpy, pair)) for pair in ((mean[0], a), (mean[1], b)))
    assert p.frechet(one, other) == pytest.approx(expected, rel=1e-10)
    assert p.frechet(one, one) == pytest.approx(0, abs=1e-9)
    # commuting: sum of (s - s')^2
    diagonal = [
        p.Moments(torch.zeros(3).double(), torch.diag(torch.tensor(v).double() ** 2))
        for v in ([1.0, 2, 3], [2.0, 2, 0])
    ]
    assert p.frechet(*diagonal) == pytest.approx(1 + 0 + 9)


def test_moments_are_those_of_numpy():
    x = normal(50, 4)
    assert np.allclose(p.moments(x).cov, np.cov(x.numpy(), rowvar=False))
    assert np.allclose(p.moments(x).mean, x.numpy().mean(0))
    assert p.moments(normal(9, 1)).cov.shape == (1, 1)


def test_kid_is_unbiased_and_the_kernel_is_that_of_scikit_learn(monkeypatch):
    from sklearn.metrics.pairwise import polynomial_kernel

    monkeypatch.setattr(p, "ROWS", 7)
    x, y = normal(30, 5), normal(20, 5, 1) + 0.3
    k = [polynomial_kernel(a, b, degree=3, gamma=1 / 5, coef0=1) for a, b in ((x, x), (y, y), (x, y))]
    expected = (k[0].sum() - np.trace(k[0])) / 870 + (k[1].sum() - np.trace(k[1])) / 380 - 2 * k[2].mean()
    assert p.kid(x, y) == pytest.approx(expected, rel=1e-10)
    figures = torch.tensor([p.kid(normal(40, 3, 2 * i), normal(25, 3, 2 * i + 1)) for i in range(400)])
    assert abs(figures.mean()) < 4 * figures.std() / math.sqrt(400)  # 0 on equal laws


def test_sliced_w2_of_a_shift_and_of_one_dimension():
    x, shift = normal(200, 5), torch.tensor([3.0, 0, 4, 0, 0]).double()
    found = p.sliced_w2(x, x + shift, count=4000)
    assert found == pytest.approx(25 / 5, rel=0.05)  # mean over the sphere of (shift . u)^2
    a, b = normal(300, 1), normal(300, 1, 1) * 2 + 1
    assert p.sliced_w2(a, b, count=2) == pytest.approx(float((a.sort(0).values - b.sort(0).values).square().mean()))
    exact = wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy()) ** 2  # W1 is no more than W2
    assert p.sliced_w2(a, b, count=2) >= exact
    # sets of different sizes: the same law twice as often is the same law
    assert p.sliced_w2(a, torch.cat([a, a])) == pytest.approx(0, abs=1e-3)
    # two normal laws: (m - m')^2 + (s - s')^2
    big = [normal(200_000, 1, seed) for seed in (2, 3)]
    assert p.sliced_w2(big[0], 2 * big[1] + 1, count=1) == pytest.approx(2, rel=0.02)


def test_precision_and_recall_on_constructed_sets(monkeypatch):
    monkeypatch.setattr(p, "ROWS", 33)
    real = normal(400, 2)
    assert p.manifolds(real, real.clone()) == pytest.approx((1, 1, 1, 1), abs=0.21)  # density is 1 in the mean
    far = real + 100
    assert p.manifolds(far, real) == (0, 0, 0, 0)
    two = torch.cat([normal(200, 2), normal(200, 2, 1) + 50])
    half = p.manifolds(normal(200, 2, 2), two)  # all that is drawn is right, and half of what there is is missed
    assert half.precision > 0.95
    assert half.recall == pytest.approx(0.5, abs=0.03)
    assert half.coverage == pytest.approx(0.5, abs=0.03)
    both = p.manifolds(two, normal(200, 2, 3))
    assert both.precision == pytest.approx(0.5, abs=0.03)
    assert both.recall > 0.95


def test_radii_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    x = normal(60, 3)
    expected = NearestNeighbors(n_neighbors=6).fit(x).kneighbors(x)[0][:, 5]
    assert np.allclose(p.radii(x, 5), expected)


@pytest.mark.parametrize("distinct", [1, 3, 8])
@pytest.mark.parametrize("dim", [8, 200])
def test_vendi_and_rke_count_distinct_points(distinct, dim):
    x = torch.eye(dim).double()[torch.arange(48) % distinct] * 3
    assert p.vendi(x) == pytest.approx(distinct)
    assert p.rke(x) == pytest.approx(distinct)


def test_both_forms_of_the_spectrum_agree():
    x = normal(40, 25)
    wide = torch.cat([x, torch.zeros(40, 100).double()], 1)
    assert p.vendi(x) == pytest.approx(p.vendi(wide))
    assert p.rke(x) == pytest.approx(p.rke(wide))
    assert p.rke(x) == pytest.approx(1 / float(p.spectrum(x).square().sum()))
    assert p.spectrum(x).sum() == pytest.approx(1)
    assert p.rke(x) <= p.vendi(x)  # orders 2 and 1 of the same entropy
