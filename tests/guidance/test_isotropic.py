"""Isotropic covariance: exact where values are independent, its formula by the whole Jacobian, and what it refuses."""

import pytest
import torch

from benchmarks.conditional_field import NOISE, case, exact_denoiser
from common.dynamics import VP
from common.guidance import ExactCovariance, Isotropic
from common.guidance.operators import Blur, Grey, Mask
from common.refusal import Refusal
from gfdm.dynamics import FVP

STD = 0.7


def white(dynamics):
    """The exact denoiser of independent values of deviation ``STD``."""

    def denoise(v, t, labels=None):
        law = dynamics.moments(t)
        gain = law.scale * STD**2 / (law.scale.square() * STD**2 + law.std.square())
        return gain.reshape(-1, *(1,) * (v.ndim - 1)).to(v.dtype) * v

    return denoise


@pytest.mark.parametrize("dynamics", [VP(), FVP(0.9, 2)], ids=["vp", "fvp"])
@pytest.mark.parametrize("name", ["mask", "grey", "blur"])
def test_for_independent_values_it_is_the_exact_covariance(dynamics, name):
    operator = {"mask": Mask((torch.arange(64).reshape(8, 8) % 3 == 0).double()), "grey": Grey(),
                "blur": Blur(0.5, (8, 8))}[name]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    y, denoiser = operator(STD * x), white(dynamics)
    for time in (0.1, 0.5, 1.0):
        t = torch.full((2,), time)
        v = dynamics.perturb(STD * x, t, noise)
        found = Isotropic(denoiser, dynamics, operator, y, noise_std=NOISE, data_std=STD)(v, t)
        wanted = ExactCovariance(denoiser, dynamics, operator, y, noise_std=NOISE, iterations=60)(v, t)
        assert torch.allclose(found, wanted, atol=1e-4)
        assert not torch.allclose(found, denoiser(v, t), atol=1e-2)


def test_it_is_one_product_with_the_jacobian():
    truth, process = case("points"), VP()
    denoiser, t = exact_denoiser(process), torch.tensor([0.4])
    v = torch.randn(1, *truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = Isotropic(denoiser, process, truth.operator, truth.y, noise_std=NOISE, data_std=STD)(v, t)
    law, size = process.moments(t), v.numel()
    jacobian = torch.autograd.functional.jacobian(lambda v: denoiser(v, t).flatten(), v).reshape(size, size)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *truth.shape)
    matrix = truth.operator(basis).flatten(1).T
    level = float(law.sigma) ** 2
    inner = level * STD**2 / (level + STD**2) * matrix @ matrix.T
    inner = inner + NOISE**2 * torch.eye(len(matrix), dtype=torch.float64)
    x0 = denoiser(v, t).flatten()
    moved = float(law.std) ** 2 / float(law.scale) * jacobian.T @ matrix.T
    wanted = x0 + moved @ torch.linalg.solve(inner, truth.y.flatten() - matrix @ x0)
    assert torch.allclose(found.flatten(), wanted, atol=1e-5)


def test_values_out_of_range_are_refused():
    operator, y = Mask(torch.ones(4)), torch.zeros(1, 1, 4)
    for kind, given, flag in (
        (Isotropic, {"data_std": 0.0}, "data_std"),
        (Isotropic, {"noise_std": -1.0}, "noise_std"),
        (ExactCovariance, {"iterations": 0}, "iterations"),
    ):
        with pytest.raises(Refusal) as refused:
            kind(white(VP()), VP(), operator, y, **given)
        assert refused.value.argument == flag
