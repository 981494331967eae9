"""The law of Z_t given x0: golden numbers, the SDE's own moment equations, and the identities between its fields."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gfdm.dynamics import FVE, FVP
from tests import oracles
from tests.dynamics.members import EVERY, PIXEL, build, sde

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "marginals.npz")
GOLDEN_NAMES = sorted({key.split("/")[0] for key in GOLDEN.files})
FIELDS = ("mean", "cov", "weight", "scale", "std", "log_sigma", "sigma", "complement")

# shares of T where the law changes fast: small times, and the layer of width 1 / 20 before T
TIMES = np.concatenate([np.geomspace(1e-5, 0.1, 30), np.linspace(0.15, 0.85, 8), np.linspace(0.9, 1, 30)])


def worst(got: Tensor, want: oracles.Array) -> float:
    """Largest error in units of the largest entry at each time."""
    reference = want.reshape(len(want), -1)
    error = np.abs(got.numpy().reshape(len(want), -1) - reference).max(1)
    return float((error / np.abs(reference).max(1)).max())


# -- golden numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["exact", "paper"])
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_law_is_the_golden_one(name, convention):
    family, hurst, num_aug, weights = name.split("_")
    member = {"fvp": FVP, "fve": FVE}[family]
    dynamics = member(float(hurst), int(num_aug), normalize=weights == "normalized", marginals=convention)
    t = torch.from_numpy(GOLDEN[f"{name}/t"])
    scale, alpha = GOLDEN[f"{name}/mean"], GOLDEN[f"{name}/{convention}_alpha"]
    std, cov = GOLDEN[f"{name}/{convention}_std"], GOLDEN[f"{name}/{convention}_cov"]
    ones, zeros = np.ones((len(t), 1)), np.zeros_like(alpha)

    law = dynamics.moments(t)
    assert worst(law.std, std) < 1e-9
    assert worst(law.sigma, std / scale) < 1e-9
    assert worst(law.scale, scale) < 1e-12
    assert worst(law.mean, np.concatenate([scale[:, None], zeros], 1)) < 1e-12
    assert worst(law.cov, cov) < 1e-10
    assert worst(law.weight, np.concatenate([ones, -alpha], 1)) < 1e-10

    rounded = dynamics.moments(t.float())
    assert worst(rounded.std, std) < 1e-6
    assert rounded.std.dtype == torch.float64


# -- the SDE and its moment equations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIXEL)
def test_drift_and_diffusion_are_the_papers(name):
    dynamics, reference = build(name), sde(name)
    assert dynamics.horizon == reference.horizon
    t = torch.tensor([dynamics.t_min, 1e-3, 0.3, 0.7, dynamics.horizon], dtype=torch.float64)
    matrices = np.stack([reference.F(s) for s in t.tolist()])
    assert np.allclose(dynamics.drift_matrix(t), matrices, rtol=1e-7, atol=0)
    assert np.allclose(dynamics.diffusion_vector(t), np.stack([reference.G(s) for s in t.tolist()]), rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", [*PIXEL, "fvp-0.7-6", "fve-0.7-6"])
def test_law_solves_the_moment_equations(name):
    tolerance = 1e-6 if name.endswith("-6") else 2e-9
    t = TIMES * sde(name).horizon
    law = build(name).moments(torch.from_numpy(t))
    mean, cov = oracles.moments(sde(name), t)
    assert worst(law.mean, mean) < 1e-9
    assert worst(law.cov, cov) < max(1e-9, tolerance / 10)
    assert worst(law.sigma, oracles.information(mean, cov)) < tolerance


@pytest.mark.parametrize("name", [*PIXEL, "fvp-0.7-6", "fve-0.7-6"])
def test_noise_level_grows_at_the_rate_of_the_kick(name):
    # d(sigma^2)/dt = (G' psi)^2, integrated from t = 1e-3 on
    t = sde(name).horizon * TIMES[TIMES > 1.1e-3]
    log_sigma = build(name).moments(torch.from_numpy(t)).log_sigma.numpy()
    tolerance = 1e-6 if name.endswith("-6") else 1e-7  # of the oracle's own interpolation between its steps
    assert np.abs(log_sigma - oracles.log_sigma_by_rate(sde(name), 1e-3, t)).max() < tolerance


@pytest.mark.parametrize(("family", "hurst", "num_aug"), [("fvp", 0.7, 5), ("fvp", 0.2, 4), ("fve", 0.8, 5)])
def test_paper_adds_to_the_variance_of_the_augmenting_processes_only(family, hurst, num_aug):
    name = f"{family}-{hurst}-{num_aug}"
    reference = sde(name)
    phi, cov = oracles.solve(reference, TIMES)
    extra = np.einsum("tkk,kk->tk", phi**2, reference.start)
    cov = cov + np.einsum("tk,kj->tkj", extra, np.eye(num_aug + 1))
    law = build(f"{name}-paper").moments(torch.from_numpy(TIMES))
    assert worst(law.cov, cov) < 1e-9
    assert worst(law.sigma, oracles.information(phi[:, :, 0], cov)) < 2e-9


# -- every time, every member ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EVERY, "fvp-0.1-3-paper", "fve-0.9-3-paper", "fvp-0.3-3-path", "fve-0.9-2-path"])
def test_every_field_is_finite_at_every_time(name):
    """From 0 on, and a little beyond T, where published samplers may look."""
    dynamics = build(name)
    rng = np.random.default_rng(0)
    t = np.concatenate(
        [
            [0.0, 1e-30, 1e-6, 1e-5, 1e-3, 1.0, 1.1],
            rng.uniform(high=1.1, size=50_000),
            10 ** rng.uniform(-6, 0, 50_000),
        ]
    )
    for chunk in torch.from_numpy(t * dynamics.horizon).split(10_000):
        law = dynamics.moments(chunk)
        for field in FIELDS:
            assert torch.isfinite(getattr(law, field)).all(), field
        assert (law.std > 0).all()
        assert (law.cov.diagonal(dim1=1, dim2=2) > 0).all() if dynamics.num_components > 1 else True


@pytest.mark.parametrize("name", [*EVERY, "fvp-0.3-3-path", "fvp-0.7-6", "fve-0.5-3", "fvp-0.3-2", "fve-0.7-2"])
def test_noise_level_never_falls(name):
    dynamics = build(name)
    rng = np.random.default_rng(1)
    t = np.sort(
        np.concatenate(
            [rng.uniform(size=40_000), 10 ** rng.uniform(-6, 0, 40_000), 1 - 10 ** rng.uniform(-8, 0, 20_000)]
        )
    )
    levels = torch.cat(
        [
            dynamics.moments(chunk).log_sigma.flatten(1)
            if dynamics.basis.modes
            else dynamics.moments(chunk).log_sigma[:, None]
            for chunk in torch.from_numpy(t * dynamics.horizon).split(20_000)
        ]
    )
    fall = (
        (levels.cummax(0).values - levels).max().item()
    )  # from the highest level before, not from one time to the next
    assert fall < 1e-8
    assert dynamics.is_monotone


def test_times_of_any_float_dtype_give_float64():
    dynamics = build("fvp-0.9-2")
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        t = torch.tensor([0.25, 0.5, 1.0]).to(dtype)  # exact in all of them
        law, reference = dynamics.moments(t), dynamics.moments(torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64))
        for field in FIELDS:
            assert getattr(law, field).dtype == torch.float64
            assert torch.equal(getattr(law, field), getattr(reference, field))


def test_a_time_does_not_see_its_batch_mates():
    dynamics = build("fvp-0.9-5")
    t = torch.rand(257, dtype=torch.float64)
    together = dynamics.moments(t)
    for i in (0, 100, 256):
        alone = dynamics.moments(t[i : i + 1])
        for field in FIELDS:
            assert torch.equal(getattr(together, field)[i], getattr(alone, field)[0]), field


# -- identities between the fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_shapes(name):
    dynamics = build(name)
    size, modes = dynamics.num_components, dynamics.basis.modes
    law = dynamics.moments(torch.rand(3))
    for field in FIELDS:
        axes = {"mean": (size,), "weight": (size,), "cov": (size, size), "complement": (size, size)}.get(field, ())
        assert getattr(law, field).shape == (3, *axes, *modes), field
    t = torch.rand(3, dtype=torch.float64)
    assert dynamics.drift_matrix(t).shape == (3, size, size, *modes)
    assert dynamics.diffusion_vector(t).shape == (3, size, *modes)
    assert dynamics.log_sigma(t).shape == (3,)
    assert dynamics.metric.shape == modes


SCHUR = [*PIXEL, "fvp-0.1-3-paper", "fvp-0.9-5-paper", "fve-0.9-3-paper"]


@pytest.mark.parametrize("name", SCHUR)
def test_schur_form_inverts_the_covariance(name):
    dynamics = build(name)
    law = dynamics.moments(torch.linspace(1e-3, dynamics.horizon, 200, dtype=torch.float64))
    unit = law.cov.diagonal(dim1=1, dim2=2).sqrt()  # everything in units of the components' own deviations
    cov = law.cov / unit.unsqueeze(2) / unit.unsqueeze(1)
    weight = law.weight * unit / law.std.unsqueeze(1)
    complement = law.complement * unit.unsqueeze(2) * unit.unsqueeze(1)
    inverse = weight.unsqueeze(2) * weight.unsqueeze(1) + complement
    size = inverse.abs().amax((1, 2)) * torch.finfo(torch.float64).eps
    error = (inverse @ cov - torch.eye(cov.shape[1], dtype=torch.float64)).abs().amax((1, 2))
    assert (error < 1e-9 + 1e5 * size).all()
    assert error.max() < 1e-4


@pytest.mark.parametrize("name", SCHUR)
def test_weight_and_complement_split_the_mean(name):
    dynamics = build(name)
    law = dynamics.moments(torch.linspace(1e-4, dynamics.horizon, 200, dtype=torch.float64))
    assert torch.allclose((law.weight * law.mean).sum(1), law.scale, rtol=1e-9, atol=0)  # M' psi = 1
    assert torch.allclose(law.scale, law.mean[:, 0], rtol=1e-12, atol=0)
    assert torch.allclose(law.complement, law.complement.mT, rtol=1e-12, atol=0)
    unit = law.cov.diagonal(dim1=1, dim2=2).sqrt()
    complement, mean = law.complement * unit.unsqueeze(2) * unit.unsqueeze(1), law.mean / unit
    product = (complement @ mean.unsqueeze(2)).abs().amax((1, 2))
    assert (product <= 1e-9 * complement.abs().amax((1, 2)) * mean.abs().amax(1)).all()  # R M = 0
    assert (torch.linalg.eigvalsh(complement).amin(1) >= -1e-9 * complement.abs().amax((1, 2))).all()
    assert torch.allclose(law.std, law.scale * law.sigma, rtol=1e-12)


@pytest.mark.parametrize("name", [*SCHUR, "heat-5x7"])
def test_root_is_a_root_of_the_covariance(name):
    dynamics = build(name)
    t = torch.linspace(1e-4, dynamics.horizon, 100, dtype=torch.float64)
    law, root = dynamics.moments(t), dynamics._root(t)
    square = torch.einsum("bij...,bkj...->bik...", root, root)
    unit = law.cov.diagonal(dim1=1, dim2=2).movedim(-1, 1).sqrt() if not dynamics.basis.modes else law.std.unsqueeze(1)
    error = (square - law.cov) / unit.unsqueeze(2) / unit.unsqueeze(1)
    assert error.abs().max() < 1e-8
    first = law.mean * law.sigma.unsqueeze(1)  # the prior adds the data's variance to this column
    assert ((root[:, :, 0] - first) / unit).abs().max() < 1e-9


# -- computed when asked for -------------------------------------------------------------------------------------------


def forbid(dynamics, monkeypatch, names: tuple[str, ...]) -> None:
    for name in names:
        monkeypatch.setattr(dynamics, name, lambda *_, n=name: pytest.fail(f"{n} was computed"), raising=True)


def test_training_needs_scale_and_std_only(monkeypatch):
    dynamics = FVP(0.9, 3)
    forbid(dynamics, monkeypatch, ("_mean", "_cov", "_weight", "_complement", "_root"))
    x0, noise, t = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.rand(2)
    law = dynamics.moments(t)
    expected = law.scale.reshape(2, 1, 1, 1) * x0 + law.std.reshape(2, 1, 1, 1) * noise
    assert torch.allclose(dynamics.perturb(x0, t, noise), expected.float(), rtol=1e-6)


def test_a_field_is_computed_once(monkeypatch):
    dynamics = FVP(0.9, 2)
    law = dynamics.moments(torch.rand(2))
    for field in FIELDS:
        getattr(law, field)
    forbid(dynamics, monkeypatch, ("_level", "_mean", "_cov", "_weight", "_complement", "_std"))
    for field in FIELDS:
        getattr(law, field)


def test_casting_a_module_leaves_the_tables_in_float64():
    dynamics, reference = FVP(0.9, 2), build("fvp-0.9-2")
    dynamics.half().float()
    t = torch.rand(5)
    for field in FIELDS:
        assert torch.equal(getattr(dynamics.moments(t), field), getattr(reference.moments(t), field))
    heat = type(build("heat-8"))((8,), x_norm=8, energy_norm=1.0, beta_max=5.0).half()
    assert torch.equal(heat.moments(t).std, build("heat-8").moments(t).std)


def test_tables_are_no_part_of_a_checkpoint():
    assert all(not build(name).state_dict() for name in ("fvp-0.9-2", "cld", "heat-8", "fvp-0.9-2-path"))


@pytest.mark.parametrize("t", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=["number", "0-d"])
def test_one_time_is_a_batch_of_one(t):
    dynamics = FVP(0.7, 2)
    one, batch = dynamics.moments(t), dynamics.moments(torch.tensor([0.1], dtype=torch.float64))
    assert torch.equal(one.log_sigma, batch.log_sigma)
    assert torch.equal(one.cov, batch.cov)
