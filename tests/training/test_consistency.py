"""Consistency tuning against closed forms: the law of levels, the loss written again, and whose gradient is zero.

For Gaussian data of variance c^2 in a mode the function that is constant along paths of the probability-flow ODE is
known, x0 = mu + c (v - m mu) / r with r^2 = m^2 c^2 + sc^2: the score is linear, so the ODE only scales v - m mu.
"""

import math
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm
from torch import Tensor, nn

from common.backbones import INR
from common.broadcast import align
from common.config.schema import Recipe
from common.denoiser import Denoiser
from common.dynamics import CLD, EDM, VP, Flow, LinearDynamics
from common.labels import NULL_LABEL
from common.meta import MetaLearned
from common.refusal import Refusal
from common.seeding import StepRandomness
from common.training.consistency import BEND, FACTOR, LARGEST_WEIGHT, Consistency
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVE, FVP

MEMBERS = {
    "vp": VP,
    "fvp-0.3": lambda: FVP(0.3, 2),
    "fvp-0.9": lambda: FVP(0.9, 2),
    "fve": lambda: FVE(0.7, 2),
    "cld": CLD,
    "edm": EDM,
    "flow": Flow,
    "heat": lambda: HeatSubVP((4, 4), x_norm=4),
}
LAW = {"level_mean": 0.2, "level_std": 1.1}
BROAD = {"level_mean": -0.5, "level_std": 3.0}  # to where paths begin


class Draws:
    """Random numbers of a step that a test has chosen."""

    def __init__(self, u: Tensor, noise: Tensor) -> None:
        self.u, self.noise = u, noise

    def uniform(self, stream: int) -> Tensor:
        return self.u

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        assert shape == self.noise.shape[1:]
        return self.noise

    def restart_dropout(self) -> None:
        torch.manual_seed(5)


def tuning(dynamics: LinearDynamics, **arguments: object) -> Consistency:
    return Consistency(dynamics, Recipe(train_steps=60, label_dropout=0.1), **arguments)


def test_the_account_tells_of_folded_guidance():
    assert tuning(VP(), guidance_scale=1.5).account.endswith("in 4 stages, guidance of scale 1.5 folded in")
    assert "guidance" not in tuning(VP()).account


# -- which levels are compared -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp", "fvp-0.3", "heat"])
def test_levels_are_a_truncated_normal_law(name):
    dynamics, u = MEMBERS[name](), torch.linspace(0.001, 0.999, 41, dtype=torch.float64)
    mean, std = LAW.values()
    low, high = dynamics.log_sigma(torch.tensor([1e-5, dynamics.horizon])).tolist()
    expected = truncnorm.ppf(u.numpy(), (low - mean) / std, (high - mean) / std, loc=mean, scale=std)
    found = tuning(dynamics, **LAW).levels(u, 0)[0]
    np.testing.assert_allclose(found.log().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stages", [1, 6])
def test_pairs_come_closer_stage_by_stage(stages):
    objective, u = tuning(VP(), stages=stages, **BROAD), torch.linspace(0, 1 - 1e-12, 200, dtype=torch.float64)
    length = 60 // stages
    firsts = [(length * stage, stage + 1) for stage in range(stages)]
    lasts = [(length * (stage + 1) - 1, stage + 1) for stage in range(stages)]
    for step, stage in (*firsts, *lasts, (60, stages), (None, stages)):  # validation: the last stage at any time
        later, earlier = (sigma.numpy() for sigma in objective.levels(u, step))
        gap = FACTOR**-stage * (1 + BEND / (1 + np.exp(later)))
        expected = later * np.maximum(0, 1 - gap)
        expected[expected < objective.lowest] = 0
        np.testing.assert_allclose(earlier, expected, rtol=1e-9)
        assert (earlier < later).all()
        assert earlier[0] == 0  # a pair at the start of paths: the data itself is the answer
    assert objective.lowest == pytest.approx(math.sqrt(math.expm1(0.1e-5 + 9.95e-10)), rel=1e-6)


# -- the loss ----------------------------------------------------------------------------------------------------------


class Affine(nn.Module):
    """x0_hat = a v + b t + c label, a network that can be written down twice."""

    def __init__(self, a: float = 0.8, b: float = 0.3, c: float = 0.1) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b, c))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.a * x + self.b * align(t, x) + self.c * align(labels.to(x.dtype), x)


@pytest.mark.parametrize("step", [0, 25, None])
def test_the_loss_is_that_of_its_formula(step):
    """Under VP, in NumPy: sigma^2 = exp(B) - 1 with B = .1 t + 9.95 t^2, m^2 = exp(-B)."""
    rng, a, b, c, scale = np.random.default_rng(0), 0.8, 0.3, 0.1, 0.05
    x0, noise = rng.normal(size=(2, 64, 1, 3, 2))
    labels, u = rng.integers(0, 10, 64), rng.uniform(size=64) ** 3
    objective = tuning(VP(), distance_scale=scale, **BROAD)
    pair = objective.levels(torch.from_numpy(u), step)

    def answer(sigma: np.ndarray) -> np.ndarray:
        total = np.log1p(sigma**2)
        t = (-0.1 + np.sqrt(0.01 + 4 * 9.95 * total)) / (2 * 9.95)
        m = np.exp(-total / 2)
        v = m[:, None, None, None] * (x0 + sigma[:, None, None, None] * noise)
        return a * v + (b * t + c * labels)[:, None, None, None]

    later, earlier = (sigma.numpy() for sigma in pair)
    assert step is None or 0 < (earlier == 0).sum() < 64
    wanted = np.where((earlier > 0)[:, None, None, None], answer(earlier), x0)
    away = ((answer(later) - wanted) ** 2).sum((1, 2, 3))
    expected = np.minimum(LARGEST_WEIGHT, 1 / (later - earlier)) * (np.sqrt(away + scale**2) - scale)
    draws = Draws(torch.from_numpy(u), torch.from_numpy(noise))
    t, found = objective.errors(
        Denoiser(Affine(), VP(), "x0"), torch.from_numpy(x0), torch.from_numpy(labels), draws, step
    )
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(VP().log_sigma(t).exp().numpy(), later, rtol=1e-7)


class Between(nn.Module):
    """Of Gaussian data: the function that is constant along paths at ``power`` 0, the posterior mean at 1."""

    def __init__(self, dynamics: LinearDynamics, mean: Tensor, deviation: Tensor, power: float) -> None:
        super().__init__()
        self.dynamics, self.mean, self.deviation = dynamics, mean, deviation
        self.power = nn.Parameter(torch.tensor(power, dtype=torch.float64))

    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        law, basis = self.dynamics.moments(t), self.dynamics.basis
        radius = (law.scale.square() * self.deviation.square() + law.std.square()).sqrt()
        factor = self.deviation / radius * (law.scale * self.deviation / radius) ** self.power
        mean = self.mean.expand_as(v)
        return mean + basis.scale(factor, v - basis.scale(law.scale, mean))


@pytest.mark.parametrize("name", MEMBERS)
def test_the_exact_consistency_function_stays(name):
    """Of close pairs: the expected gradient is zero there, and leads back to it from the posterior mean."""
    dynamics, rows = MEMBERS[name](), 20_000
    torch.manual_seed(3)
    grid = (4, 4) if dynamics.basis.modes else (2, 1)
    deviation = 0.2 + 0.7 * dynamics.metric / dynamics.metric.max()  # alike in modes that are conjugate, as the metric
    mean = torch.linspace(-0.5, 0.7, math.prod(grid), dtype=torch.float64).reshape(1, *grid)
    white, noise = torch.randn(2, rows, 1, *grid, dtype=torch.float64)
    x0 = mean + dynamics.basis.scale(deviation.expand(rows, *dynamics.basis.modes), white)
    draws = Draws(torch.rand(rows, dtype=torch.float64), noise)
    objective, score = tuning(dynamics, stages=13, **LAW), {}
    for power in (0.0, 1.0):
        exact = Between(dynamics, mean, deviation, power)
        labels = torch.zeros(rows, dtype=torch.int64)
        copies = exact.power.expand(rows).clone().detach().requires_grad_()  # one a row: a gradient for each sample
        del exact.power
        exact.power = align(copies, torch.empty(rows, *dynamics.basis.modes))
        _, errors = objective.errors(exact, x0, labels, draws, None)
        (gradient,) = torch.autograd.grad(errors.sum(), copies)
        score[power] = (gradient.mean() / gradient.std() * math.sqrt(rows)).item()  # in standard errors
    assert abs(score[0.0]) < 4
    assert score[1.0] > 12


# -- guidance ----------------------------------------------------------------------------------------------------------


class TwoClasses(nn.Module):
    """Posterior means of two Gaussian classes, N(-1, 0.3) and N(1, 0.3) in every entry, and of their even mixture."""

    def __init__(self, dynamics: LinearDynamics) -> None:
        super().__init__()
        self.dynamics, self.weight = dynamics, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, v: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        law = self.dynamics.moments(t)
        m, spread = align(law.scale, v), align(law.scale.square() * 0.3 + law.std.square(), v)
        one, other = (centre + m * 0.3 / spread * (v - m * centre) for centre in (-1.0, 1.0))
        odds = (2 * m * v / spread).flatten(1).sum(1)  # log p(v | 1) - log p(v | 0)
        share = torch.where(labels == NULL_LABEL, odds.sigmoid(), labels.double())
        return self.weight * torch.lerp(one, other, align(share, v))


@pytest.mark.parametrize("name", ["vp", "fvp-0.9", "edm", "flow"])
def test_guided_paths_drift_as_the_guided_ode_does(name):
    """The mean of the earlier point over x0 given v_t is an Euler step of the ODE, but for (t - s)^2."""
    path = MEMBERS[name]().scalar_path()
    labels, g = torch.tensor([0, 0, 1, 1]), 2.5
    u = torch.tensor([0.3, 0.3, 0.7, 0.7], dtype=torch.float64)
    denoiser = Denoiser(TwoClasses(path), path, "x0")
    missed, unguided = [], []
    for stages in (10, 12):
        objective = tuning(path, stages=stages, guidance_scale=g, **LAW)
        objective.begin(denoiser)
        t = objective.time_of_level(objective.levels(u, None)[0].log())
        law = path.moments(t)
        v = torch.tensor([0.4, -0.3], dtype=torch.float64).reshape(1, 1, 2).expand(4, 1, 1, 2)
        v = v * align((law.scale.square() + law.std.square()).sqrt(), v)
        hat = denoiser(v, t, labels)
        null = denoiser(v, t, torch.full((4,), NULL_LABEL))
        x0 = hat + torch.tensor([0.2, -0.2, 0.5, -0.5]).reshape(4, 1, 1, 1)  # pairs whose mean is E[x0 | v_t, label]
        noise = (v - align(law.scale, v) * x0) / align(law.std, v)
        seen: list[tuple[Tensor, Tensor]] = []
        hook = denoiser.backbone.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[:2]))
        objective.errors(denoiser, x0, labels, Draws(u, noise), None)
        hook.remove()
        (later, _), (earlier, s) = seen
        torch.testing.assert_close(later, v)

        slope = ((earlier - v) / align(s - t, v)).unflatten(0, (2, 2)).mean(1)
        for found, x0_hat in ((missed, hat + (g - 1) * (hat - null)), (unguided, hat)):
            drift = path.reverse_drift(v.unsqueeze(1), t, x0_hat.detach(), stochastic=False).squeeze(1)
            found.append(float((slope - drift[::2]).abs().max()))
    if name in ("edm", "flow"):  # straight lines
        assert missed[0] < 1e-3 * unguided[0]
    else:
        assert math.log2(missed[0] / missed[1]) == pytest.approx(2, abs=0.2)  # of a gap that is a quarter
    assert unguided[1] > 20 * missed[1]


def test_guidance_by_one_is_none():
    """It keeps no second network, and what a network that ignores labels is guided by changes nothing."""
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 8, 1, 2, 2, dtype=torch.float64)
    draws, labels = Draws(torch.rand(8, dtype=torch.float64), noise), torch.arange(8) % 2
    found = {}
    for scale in (1.0, 3.0):
        objective, denoiser = tuning(VP(), guidance_scale=scale, **LAW), Denoiser(Affine(c=0.0), VP(), "x0")
        objective.begin(denoiser)
        assert bool(list(objective.parameters())) == (scale != 1)
        assert not any(weight.requires_grad for weight in objective.parameters())
        found[scale] = objective.errors(denoiser, x0, labels, draws, 30)[1]
    assert torch.equal(found[1.0], found[3.0])


def test_the_guide_stays_as_it_was_found():
    """Training moves the network, not its copy, whose dropout is off."""
    objective = tuning(VP(), guidance_scale=2.0)
    denoiser = Denoiser(nn.Sequential(nn.Dropout(0.5)), VP(), "x0")
    objective.begin(denoiser)
    objective.train()
    assert not any(module.training for module in objective.modules())
    denoiser = Denoiser(Affine(), VP(), "x0")
    objective.begin(denoiser)
    with torch.no_grad():
        denoiser.backbone.c.fill_(7.0)
    assert float(objective.state_dict()["guide.c"]) == pytest.approx(0.1)


def test_guidance_needs_label_dropout():
    with pytest.raises(Refusal, match="without a label"):
        Consistency(VP(), Recipe(), guidance_scale=2.0)


# -- networks ----------------------------------------------------------------------------------------------------------


class Unconditional(nn.Module):
    """A network of x alone."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(x)


def same_point(monkeypatch: pytest.MonkeyPatch, objective: Consistency) -> None:
    """Compare every point of a path with itself."""
    sigma = torch.linspace(0.3, 3, 6, dtype=torch.float64)
    monkeypatch.setattr(objective, "levels", lambda u, step: (sigma, sigma))


@pytest.mark.parametrize("kind", ["dropout", "adapting"])
def test_both_sides_are_the_same_network(kind, monkeypatch):
    """A point compared with itself has error zero: the masks are the same, and adaptation needs no gradient outside."""
    dynamics = HeatSubVP((4, 4), x_norm=4)
    torch.manual_seed(1)
    if kind == "dropout":
        network: nn.Module = Unconditional(
            nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(8, 1, 1))
        )
    else:
        inner = INR(in_channels=1, out_channels=1, shape=(4, 4), num_classes=2, width=8, depth=2)
        network = MetaLearned(inner, dynamics.basis, dynamics.metric, steps=2, rate=0.1)
    objective, denoiser = tuning(dynamics), Denoiser(network, dynamics, "x0").train()
    x0, labels = torch.randn(6, 1, 4, 4), torch.arange(6) % 2
    same_point(monkeypatch, objective)
    draws = StepRandomness(0, 3, 6, 0, 1, "cpu")
    assert objective.errors(denoiser, x0, labels, draws, 0)[1].abs().max() < 1e-4
    if kind == "adapting":
        t = torch.full((6,), 0.3)
        assert (network(x0, t, labels) - inner(x0, t, labels)).abs().max() > 1e-2
    else:
        monkeypatch.setattr(draws, "restart_dropout", lambda: None)
        assert objective.errors(denoiser, x0, labels, draws, 0)[1].min() > 1e-2


def test_half_precision_learns_the_same():
    """The call without gradient leaves nothing behind that the other would take for its weights."""
    torch.manual_seed(2)
    layers = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1))
    network = Unconditional(layers)
    x0, labels = torch.randn(64, 1, 4, 4), torch.zeros(64, dtype=torch.int64)
    found = {}
    for half in (False, True):
        network.zero_grad()
        draws = StepRandomness(0, 3, 64, 0, 1, "cpu")
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            errors = tuning(VP()).errors(Denoiser(network, VP(), "v"), x0, labels, draws, 0)[1]
        assert errors.dtype == torch.float32
        errors.mean().backward()
        found[half] = torch.cat([weight.grad.flatten() for weight in network.parameters()])
    assert torch.nn.functional.cosine_similarity(found[False], found[True], dim=0) > 0.99


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_network_learns_the_same():
    """With and without gradient are two compilations of one network."""
    torch.manual_seed(4)
    network = Unconditional(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 1)))
    x0, labels, found = torch.randn(6, 1, 4, 4), torch.zeros(6, dtype=torch.int64), []
    for compiled in (False, True):
        if compiled:
            network.compile()
        network.zero_grad()
        draws = StepRandomness(0, 3, 6, 0, 1, "cpu")
        tuning(VP()).errors(Denoiser(network, VP(), "v"), x0, labels, draws, 0)[1].mean().backward()
        found.append(torch.cat([weight.grad.flatten() for weight in network.parameters()]))
    torch.testing.assert_close(found[0], found[1])
