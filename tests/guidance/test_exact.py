"""Exact covariance: E[x0 | v, y] by dense linear algebra, whole samplers, blocks, networks, wrong Jacobians."""

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.conditional_field import NOISE, case, exact_denoiser, spectrum
from common.backbones import INR, UNet
from common.denoiser import Clipped, Denoiser
from common.dynamics import CLD, VE, VP, LinearDynamics
from common.dynamics.prior import Prior
from common.guidance import ClassifierFree, ExactCovariance, Isotropic, Matched, Replacement
from common.guidance.conjugate import BY_LOT, solve
from common.guidance.covariance import Covariance
from common.guidance.operators import LowPass, Mask
from common.meta import MetaLearned
from common.samplers import SOLVERS, path_of, sample
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVP

SIDE = 12


@functools.cache
def field(name: str):
    return case(name)


@functools.cache
def dynamics(name: str) -> LinearDynamics:
    if name == "heat":
        heat = HeatSubVP((SIDE, SIDE), x_norm=12.0, energy_norm=200.0)
        heat.prior = Prior(heat, 0.0, spectrum())
        return heat
    made = {"fvp": lambda: FVP(0.9, 2), "vp": VP, "ve": VE, "cld": CLD}[name.removesuffix("-path")]()
    return made.scalar_path() if name.endswith("-path") else made


def transform() -> Tensor:
    """Rows of the real orthonormal basis that diagonalises every stationary covariance of the grid, by NumPy."""
    one = np.fft.fft(np.eye(SIDE), norm="ortho")
    return torch.from_numpy(np.kron(one, one))


def posterior_mean(process: LinearDynamics, name: str, v: Tensor, t: float, y: Tensor) -> Tensor:
    """E[x0 | v, y] of the field by dense linear algebra on both observations."""
    truth = field(name)
    size = v[0].numel()
    law, plane = process.moments(t), transform()

    def dense(per_mode: Tensor) -> Tensor:
        values = per_mode.expand(SIDE, SIDE // 2 + 1)
        whole = torch.stack([
            torch.stack([values[i, j] if j <= SIDE // 2 else values[-i % SIDE, SIDE - j] for j in range(SIDE)])
            for i in range(SIDE)
        ])  # fmt: skip
        matrix = (plane.mH * whole.flatten()) @ plane
        return torch.block_diag(*[matrix.real] * (size // SIDE**2))

    basis = torch.eye(size, dtype=torch.float64).reshape(size, *truth.shape)
    observed = truth.operator(basis).flatten(1).T
    both = torch.cat([dense(law.scale[0]), observed])
    noise = torch.block_diag(dense(law.std[0].square()), NOISE**2 * torch.eye(len(observed), dtype=torch.float64))
    prior = dense(spectrum())
    gain = torch.linalg.solve(both @ prior @ both.T + noise, both @ prior).T
    return (torch.cat([v.flatten(1), y.flatten(1).expand(len(v), -1)], 1) @ gain.T).reshape(v.shape)


@pytest.mark.parametrize("name", ["mask", "lowpass", "points", "grey"])
@pytest.mark.parametrize("kind", ["fvp", "fvp-path", "vp", "ve", "cld", "heat"])
def test_it_is_the_posterior_mean_given_state_and_observation(kind, name):
    process, truth = dynamics(kind), field(name)
    y = truth.y.expand(2, *truth.y.shape[1:])
    method = ExactCovariance(exact_denoiser(process), process, truth.operator, y, noise_std=NOISE, iterations=300)
    for t in (0.05, 0.3, 0.7):
        white = torch.randn(2, 2, len(truth.mean), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        root = torch.linalg.cholesky(truth.cov + 1e-9 * torch.eye(len(truth.cov), dtype=torch.float64))
        x0, noise = ((part).reshape(2, *truth.shape) for part in (truth.mean + white[0] @ root.T, white[1]))
        v = process.perturb(x0, torch.full((2,), t), noise)  # of a field that may have been observed so
        found = method(v, torch.full((2,), t))
        wanted = posterior_mean(process, name, v, t, y[:1])
        # under heat V is filtered where a mode is gone
        assert torch.allclose(found, wanted, atol=1e-4 if kind != "heat" else 1e-3)
    assert not torch.allclose(method.denoiser(v, torch.full((2,), t)), wanted, atol=1e-2)


@pytest.mark.parametrize("kind", ["fvp", "heat"])
def test_a_whole_sampler_has_mean_and_variance_of_the_posterior(kind):
    """Without sampling noise: samples are affine in the noise they start from, so unit impulses give their law."""
    truth, process = field("mask"), path_of(SOLVERS["exp2"], dynamics(kind))
    size = SIDE**2
    noise = torch.cat([torch.zeros(1, size), torch.eye(size)]).double().reshape(-1, 1, 1, SIDE, SIDE)
    rows = len(noise)
    start = process.prior.sample((rows, 1, SIDE, SIDE), noise)
    y = truth.y.expand(rows, *truth.y.shape[1:])
    method = ExactCovariance(exact_denoiser(process), process, truth.operator, y, noise_std=NOISE)
    x = sample(process, method, (rows, 1, SIDE, SIDE), solver="exp2", steps=50, seeds=range(rows), init=start).x
    mean = x[0].flatten()
    assert float((mean - truth.mean).norm() / truth.mean.norm()) < 0.03
    assert float((x[1:] - x[:1]).square().sum() / truth.cov.trace()) == pytest.approx(1, abs=0.06)
    if kind == "heat":
        return  # one variance per mode is almost right for a stationary field
    isotropic = Isotropic(exact_denoiser(process), process, truth.operator, y[:1], noise_std=NOISE)
    other = sample(process, isotropic, (1, 1, SIDE, SIDE), solver="exp2", steps=50, seeds=[0], init=start[:1]).x
    assert float((other.flatten() - truth.mean).norm() / truth.mean.norm()) > 0.03


# -- conjugate gradients -----------------------------------------------------------------------------------------------


def test_every_system_stops_for_itself_and_gives_the_solution():
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(4, 6, 6, generator=generator, dtype=torch.float64))[0]
    values = torch.tensor([[1.0] * 6, [1, 1, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6], [1e-3, 1, 1, 1, 1, 1]]).double()
    matrix = turn @ torch.diag_embed(values) @ turn.mT
    target = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    found = solve(lambda u: ((matrix @ u.unsqueeze(-1)).squeeze(-1), 3 * u), target, steps=20, tolerance=1e-9)
    assert torch.allclose(found.solution, torch.linalg.solve(matrix, target), rtol=1e-6)
    assert torch.allclose(found.carried, 3 * found.solution)
    assert found.steps.tolist() == [1, 2, 6, 2]
    zero = solve(lambda u: (u, u), torch.zeros(2, 3), steps=5, tolerance=1e-5)
    assert not zero.solution.any()
    assert not zero.carried.any()
    assert not zero.steps.any()


def test_a_matrix_that_is_not_positive_or_not_symmetric_does_no_harm():
    indefinite = torch.diag(torch.tensor([-1.0, 1.0, 2.0]))
    found = solve(lambda u: (u @ indefinite, u), torch.tensor([[1.0, 0, 0], [0, 1, 1]]), steps=8, tolerance=1e-5)
    assert not found.solution[0].any()
    assert torch.allclose(found.solution[1], torch.tensor([0.0, 1.0, 0.5]), atol=1e-5)
    skew = torch.eye(3) + 3 * torch.tensor([[0.0, 1, 0], [-1, 0, 1], [0, -1, 0]])
    one = torch.tensor([[1.0, 0, 0]])
    found = solve(lambda u: (u @ skew, u), one, steps=50, tolerance=1e-5, learned=True)
    assert found.steps.tolist() == [2]  # the first step in which it shows
    assert float(found.solution.norm()) <= 2


def test_what_a_target_has_beyond_its_covariance_is_an_error_of_all_values():
    values = torch.tensor(400.0)
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 400, generator=generator, dtype=torch.float64) * torch.tensor([[0.1], [1.0]])
    found = solve(lambda u: (0.01 * u, u), target, steps=8, tolerance=1e-9, values=values)
    assert torch.allclose(found.solution[0], target[0] / 0.01)  # as large as it should be
    excess = target[1].square().mean() - 0.01 * (1 + BY_LOT * (2 / 400) ** 0.5)
    assert torch.allclose(found.solution[1], target[1] / (0.01 + excess))
    blind = solve(lambda u: (0.01 * u, u), target, steps=8, tolerance=1e-9)
    assert torch.allclose(blind.solution, target / 0.01)


# -- networks ----------------------------------------------------------------------------------------------------------


def unet(**given) -> nn.Module:
    torch.manual_seed(0)
    network = UNet(8, 1, 8, num_res_blocks=1, attention_resolutions=(), channel_mult=(1, 1), **given)
    for parameter in network.parameters():  # layers that start at zero would make a network of no derivative
        nn.init.normal_(parameter, std=0.02) if not parameter.any() else None
    return network.eval()


def denoisers() -> dict[str, tuple[nn.Module, LinearDynamics, dict[str, Tensor]]]:
    """Networks of every kind, their process, and what else a call takes."""
    fvp, heat = dynamics("fvp"), HeatSubVP((8, 8), x_norm=8.0, energy_norm=8.0)
    labels = {"labels": torch.tensor([0, 1, 2])}
    plain = Denoiser(unet(), fvp, "v")
    by_class = Denoiser(unet(num_classes=3), fvp, "v")
    inr = INR((8, 8), 1, 1, width=8, depth=2, frequency=3.0)
    meta = MetaLearned(inr, heat.basis, heat.metric, steps=2, checkpointing=True)
    matched = Matched(plain, VP(beta_max=15.0), t_end=2e-2)
    return {
        "unet": (plain, fvp.scalar_path(), {}),
        "guided by class": (ClassifierFree(by_class, 2.0), fvp, labels),
        "meta-learned": (Denoiser(meta, heat, "x0"), heat, {}),
        "matched": (matched, matched.process, {}),
        "bf16": (HalfPrecision(plain), fvp.scalar_path(), {}),
    }


class HalfPrecision(nn.Module):
    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, v, t, labels=None):
        with torch.autocast("cpu", torch.bfloat16):
            return self.denoiser(v, t, labels)


@pytest.mark.parametrize("name", ["unet", "guided by class", "meta-learned", "matched", "bf16"])
def test_products_with_the_covariance_are_those_of_the_whole_jacobian(name):
    denoiser, process, given = denoisers()[name]
    denoiser.eval()
    v, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.full((3,), 0.4)
    q = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = given.get("labels")
    covariance = Covariance(denoiser, process, v, t, labels)
    with torch.no_grad():
        assert torch.allclose(covariance.x0, denoiser(v, t, labels).float(), atol=1e-5)
        # finite differences along one direction: <q, J w> = <J' q, w>
        w, step = torch.randn_like(v), 1e-2
        law = process.moments(t)
        moved = (denoiser(v + step * w, t, labels) - denoiser(v - step * w, t, labels)) / (2 * step)
        if name == "bf16":
            assert covariance(q).isfinite().all()
            return
        back = process.basis.scale(law.scale / law.std.square(), covariance(q))
        keep = law.scale > 0.01
        assert bool(keep.all())
        assert torch.allclose((back * w).flatten(1).sum(1), (q * moved).flatten(1).sum(1), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, ExactCovariance) for name in ("unet", "guided by class", "meta-learned", "matched", "bf16")]
    + [("unet", Isotropic), ("unet", Replacement)],
)
def test_samples_of_a_block_are_those_of_every_other_block(name, method):
    denoiser, process, given = denoisers()[name]
    denoiser.eval()
    operator, count = Mask((torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(4)) > 0).float(),
                           per_sample=True), 7  # fmt: skip
    y = operator(torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5)).clamp(-1, 1))

    def draw(rows: list[int]) -> Tensor:
        known = method(denoiser, process, operator.rows(rows), y[rows], noise_std=0.1)
        labels = torch.tensor(rows) % 3 if given else None
        return sample(
            process, Clipped(known), (len(rows), 1, 8, 8), solver="exp2", steps=3, seeds=rows, labels=labels,
            t_end=2e-2, observation=known if known.imposes else None,
        ).x  # fmt: skip

    whole = draw(list(range(count)))
    assert whole.isfinite().all()
    if name == "bf16":
        return  # products of matrices in half precision depend on how many rows there are
    for size in (1, 3):
        blocks = torch.cat([draw(list(range(i, min(i + size, count)))) for i in range(0, count, size)])
        assert torch.allclose(blocks, whole, atol=2e-5)  # 1e-5 of the range: it is two wide


def test_it_works_in_inference_mode_and_leaves_no_graph():
    process, truth = dynamics("vp"), field("mask")
    method = ExactCovariance(exact_denoiser(process), process, truth.operator, truth.y.float(), noise_std=NOISE)
    v, t = torch.randn(1, 1, SIDE, SIDE), torch.tensor([0.3])
    with torch.inference_mode():
        inside = method(v.clone(), t.clone())
    with torch.no_grad():
        outside = method(v, t)
    assert torch.equal(inside, outside)
    assert not outside.requires_grad
    assert outside.dtype == torch.float32


def test_dead_modes_have_what_the_prior_knows():
    """Under heat m is 1e-8 at T: the Jacobian of a network that does not fall with it is multiplied by 1e7."""
    heat = dynamics("heat")
    right = exact_denoiser(heat)

    def wrong(v, t, labels=None):
        return right(v, t) + 1e-3 * v.tanh()

    truth, t = field("mask"), torch.tensor([1.0])
    v = torch.randn(1, 1, SIDE, SIDE, dtype=torch.float64)
    found = {}
    for name, denoiser in (("right", right), ("wrong", wrong)):
        found[name] = ExactCovariance(denoiser, heat, truth.operator, truth.y, noise_std=NOISE, iterations=40)(v, t)
    wanted = posterior_mean(heat, "mask", v, 1.0, truth.y)
    assert torch.allclose(found["right"], wanted, atol=0.02)
    assert torch.allclose(found["wrong"], wanted, atol=0.15)


def test_the_lowpass_of_a_sound_is_conditioned_on_too():
    process, shape = VP(), (1, 64)
    lowpass = LowPass(8, (64,))
    y = lowpass(torch.randn(2, *shape, generator=torch.Generator().manual_seed(6)))
    # white data of variance 1: what is known is y, what is not is white
    method = ExactCovariance(lambda v, t, labels=None: process.moments(t).scale.float()[:, None, None] * v, process,
                             lowpass, y, noise_std=0.01)  # fmt: skip
    found = sample(process, method, (2, *shape), solver="exp2", steps=10, seeds=[0, 1]).x
    assert torch.allclose(lowpass(found), y, atol=0.06)
    assert float((found - lowpass(found)).var()) == pytest.approx(0.75, abs=0.3)
