"""The sampling loop: what it promises about evaluations, seeds, memory and refusals; one step against NumPy."""

import gc
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from common.denoiser import Clipped, Denoiser, X0Denoiser
from common.dynamics import CLD, EDM, VE, VP, Flow, LinearDynamics, Prior
from common.guidance import ClassifierFree
from common.refusal import Refusal
from common.samplers import (
    GRIDS,
    PREDICTORS,
    SOLVERS,
    Posterior,
    PredictorCorrector,
    Solver,
    default_solver,
    noise,
    path_of,
    quick_solver,
    sample,
    sampling,
)
from common.samplers.noise import CHUNK
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVE, FVP
from tests import oracles
from tests.dynamics.members import build, data_shape, sde
from tests.samplers.fields import returned_law, smooth_field

CASES = [
    *(
        (solver, name)
        for solver in ("em", "euler")
        for name in ("vp", "ve", "edm", "flow", "cld", "fvp-0.9-2", "fve-0.3-3", "heat-5x7")
    ),
    *(
        (solver, name)
        for solver in ("exp1", "exp2")
        for name in ("vp", "subvp", "edm", "flow", "fvp-0.9-2-path", "cld-path", "heat-5x7")
    ),
]


def denoise(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """Some smooth function of v and t."""
    return (torch.tanh(v) * (1 - t.to(v.dtype).reshape(-1, *(1,) * (v.ndim - 1)) / 2)).roll(1, -1)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize(("solver", "name"), CASES)
def test_counts_shapes_and_times(solver, name, steps):
    dynamics, shape, calls, trace = build(name), (2, 3, *data_shape(name)), [], []

    def counted(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        assert v.shape == shape
        assert t.shape == (2,)
        assert labels is None
        calls.append(t[0].item())
        return denoise(v, t)

    result = sample(
        dynamics, counted, shape, solver=solver, steps=steps, seeds=[4, 2], callback=lambda *seen: trace.append(seen)
    )
    assert result.nfe == len(calls) == steps * SOLVERS[solver].evaluations
    assert result.x.shape == shape
    assert result.z.shape == (2, dynamics.num_components, *shape[1:])
    assert torch.equal(result.x, result.z[:, 0])
    assert torch.isfinite(result.z).all()
    assert result.x.dtype == torch.get_default_dtype()
    times = SOLVERS[solver]().default_grid(dynamics)(dynamics, dynamics.default_t_end, steps).tolist()
    assert calls == times[:-1]
    assert [seen[0] for seen in trace] == list(range(steps))
    assert [seen[1] for seen in trace] == times[1:]
    assert torch.equal(trace[-1][2], result.z)
    assert torch.equal(trace[-1][3], result.x)


SHORT_RUNS: dict[str, Callable[[], Solver]] = {
    **{name: kind for name, kind in SOLVERS.items() if not kind.adaptive},
    **{  # looks for times beyond T
        f"pc-{name}-paper": lambda name=name: PredictorCorrector(name, factor=2.0, paper=True) for name in PREDICTORS
    },
}


@pytest.mark.parametrize("solver", SHORT_RUNS)
@pytest.mark.parametrize("name", ["edm", "flow"])
def test_few_steps_stay_finite(name, solver):
    """On every grid, from a noise level of 80 or a drift of 200; exponential solvers end within five deviations."""
    dynamics = build(name)
    dynamics.node_density = ((-4.0, 0.0, 3.0), (0.5, 2.0, 0.5))
    denoiser = oracles.GaussianDenoiser(dynamics, mean=0.3, std=0.2)
    for grid in GRIDS.values():
        for steps in (1, 2, 3, 6):
            run = sample(dynamics, denoiser, (2, 1, 2, 2), solver=SHORT_RUNS[solver](), steps=steps, grid=grid)
            assert run.z.isfinite().all()
            assert not solver.startswith("exp") or (run.x - 0.3).abs().max() < 1


# -- a step against NumPy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("name", ["vp", "cld", "fvp-0.9-2", "fve-0.3-3"])
def test_euler_step_is_the_published_one(name, stochastic):
    # z + dt (F z - c G G' s) + sqrt|dt| G xi, c = 1 or 1/2, with the score of Gaussian data from the oracle's S
    dynamics, reference, mean, std = build(name), sde(name), 0.3, 0.2
    start, stop = 0.6, 0.55
    (m,), (cov,) = oracles.moments(reference, np.array([start]))
    rng = np.random.default_rng(0)
    z = np.linalg.cholesky(cov + std**2 * np.outer(m, m)) @ rng.standard_normal((len(m), 5)) + mean * m[:, None]
    kick = rng.standard_normal(5)
    score = -np.linalg.solve(cov + std**2 * np.outer(m, m), z - mean * m[:, None])
    vector = reference.G(start)
    drift = reference.F(start) @ z - (1.0 if stochastic else 0.5) * np.outer(vector, vector @ score)
    want = z + (stop - start) * drift + (math.sqrt(start - stop) * np.outer(vector, kick) if stochastic else 0)

    solver = SOLVERS["em" if stochastic else "euler"]()
    t, s = (torch.tensor([x], dtype=torch.float64) for x in (start, stop))
    posterior = Posterior(dynamics, oracles.GaussianDenoiser(dynamics, mean, std), None)
    noise = torch.from_numpy(kick).reshape(1, 1, 5) if stochastic else None
    got = solver.step(dynamics, posterior, torch.from_numpy(z).reshape(1, -1, 1, 5), t, s, noise)
    assert np.abs(got[0, :, 0].numpy() - want).max() < 1e-8 * np.abs(want).max()


@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2"])
def test_last_step_is_taken_without_noise(name):
    dynamics = build(name)
    init = dynamics.prior.sample((2, 1, 2, 2), torch.randn(2, dynamics.num_components, 1, 2, 2))
    runs = [
        sample(dynamics, denoise, (2, 1, 2, 2), solver="em", steps=1, seeds=[seed, seed + 1], init=init).z
        for seed in (0, 10)
    ]
    assert torch.equal(*runs)
    noisy = [
        sample(dynamics, denoise, (2, 1, 2, 2), solver="em", steps=2, seeds=[seed, seed + 1], init=init).z
        for seed in (0, 10)
    ]
    assert not torch.allclose(*noisy)


def test_steps_draw_the_noise_of_the_seed():
    # the whole Euler-Maruyama run of VP written out, with the generator's own stream
    steps, seed = 20, 77
    result = sample(VP(), lambda v, t, labels: 0 * v, (1, 1, 2, 2), solver="em", steps=steps, seeds=[seed], t_end=1e-2)
    generator = torch.Generator().manual_seed(seed)
    times = np.linspace(1, 1e-2, steps + 1)
    z = torch.randn((1, 1, 2, 2), generator=generator).double().numpy() * math.sqrt(-math.expm1(-10.05))
    noise = torch.cat([torch.randn((CHUNK, 1, 2, 2), generator=generator) for _ in range(2)]).double().numpy()
    for i in range(steps):
        t, dt = times[i], times[i + 1] - times[i]
        beta = 0.1 + 19.9 * t
        variance = -math.expm1(-0.1 * t - 9.95 * t**2)
        z = z + dt * (-beta / 2 + beta / variance) * z
        if i < steps - 1:
            z = z + math.sqrt(-dt * beta) * noise[i]
    assert np.allclose(result.x.numpy(), z[0], rtol=1e-4, atol=1e-5)


# -- seeds and batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "name"), CASES)
def test_a_sample_depends_on_its_seed_only(solver, name):
    dynamics, shape = build(name), data_shape(name)

    def run(seeds: list[int]) -> Tensor:
        return sample(dynamics, denoise, (len(seeds), 2, *shape), solver=solver, steps=19, seeds=seeds).z

    together = run([5, 3, 9, 1, 0, 8, 2])
    reordered = run([9, 5, 3])
    for alone, index in ((run([5]), 0), (run([9]), 2), (reordered[1:2], 0), (reordered[:1], 2)):
        if dynamics.num_components == 1:
            assert torch.equal(alone[0], together[index])
        else:  # matrix products over components may round differently in another batch
            assert torch.allclose(alone[0], together[index], rtol=1e-4, atol=1e-5 * float(together.abs().max()))
    assert torch.equal(run([5, 3, 9, 1, 0, 8, 2]), together)
    assert not torch.allclose(together[0], together[1])


def test_no_seeds_follow_torchs_generator():
    dynamics = build("vp")
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(sample(dynamics, denoise, (2, 1, 2, 2), solver="em", steps=3).x)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def seeds_of_a_call(monkeypatch, count: int) -> list[int]:
    """The seeds that :func:`sample` chooses for ``count`` samples of one point each."""
    seen = []

    class Silent(noise.NoiseSource):
        """Keeps its seeds, and makes no generators of them."""

        def __init__(self, seeds, *arguments):
            seen.extend(seeds)
            super().__init__([], *arguments)

        def start(self, components):
            return torch.zeros(count, components, *self.shape)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "NoiseSource", Silent)
        sample(build("vp"), lambda v, t, labels: v, (count, 1, 1), solver="em", steps=1)
    return seen


def test_no_seeds_repeat_no_sample(monkeypatch):
    """The CPU's generator tells 2^32 seeds apart: of 200,000 independent draws 4.7 pairs are one sample."""
    torch.manual_seed(0)
    seeds = seeds_of_a_call(monkeypatch, 200_000)
    assert len({seed % 2**32 for seed in seeds}) == 200_000
    assert stats.kstest(seeds, stats.uniform(0, 2**32).cdf).pvalue > 1e-3


def test_no_seeds_end_when_all_are_drawn(monkeypatch):
    monkeypatch.setattr(noise, "SEEDS", 16)
    torch.manual_seed(0)
    assert sorted(seeds_of_a_call(monkeypatch, 16)) == list(range(16))


def test_no_seeds_are_what_they_were():
    """Earlier versions drew 62 bits, of which the CPU took 32: samples by ``torch.manual_seed`` stay."""
    dynamics, settings = build("vp"), {"solver": "em", "steps": 3}
    torch.manual_seed(3)
    found = sample(dynamics, denoise, (4, 1, 2, 2), **settings).x
    torch.manual_seed(3)
    seeds = [int(seed) % 2**32 for seed in torch.randint(2**62, (4,))]
    assert torch.equal(found, sample(dynamics, denoise, (4, 1, 2, 2), seeds=seeds, **settings).x)


def test_given_seeds_leave_torchs_generator_alone():
    state = torch.get_rng_state()
    sample(build("fvp-0.9-2"), denoise, (2, 1, 2, 2), solver="em", steps=3, seeds=[0, 1])
    assert torch.equal(torch.get_rng_state(), state)


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "name"), [("em", "fvp-0.9-2"), ("exp2", "fvp-0.9-2-path"), ("euler", "heat-4x6")])
def test_init_replaces_the_prior_and_sets_the_dtype(solver, name):
    dynamics, shape = build(name), (2, 1, *data_shape(name))
    init = torch.randn(2, dynamics.num_components, 1, *data_shape(name), dtype=torch.float64)
    kept = init.clone()
    result = sample(dynamics, denoise, shape, solver=solver, steps=3, seeds=[0, 1], init=init)
    assert result.z.dtype == torch.float64
    assert torch.equal(init, kept)
    other = sample(dynamics, denoise, shape, solver=solver, steps=3, seeds=[0, 1], init=init + 1)
    assert not torch.allclose(result.x, other.x)


def test_the_dynamics_own_prior_starts_the_run():
    dynamics, starts = FVP(0.9, 5), []
    for prior in (Prior(dynamics), Prior(dynamics, 5.0, 2.0)):
        dynamics.prior = prior
        seen = []

        def keep(v: Tensor, t: Tensor, labels: Tensor | None = None, seen=seen) -> Tensor:
            seen.append(v)
            return 0 * v

        sample(dynamics, keep, (1, 1, 1, 1), solver="em", steps=1, seeds=[0])
        starts.append(seen[0].item())
    law = dynamics.moments(torch.ones(1))
    noise = starts[0] / law.std.item()
    spread = math.sqrt(law.std.item() ** 2 + 2 * law.scale.item() ** 2)
    assert starts[1] == pytest.approx(5 * law.scale.item() + spread * noise, rel=1e-4)


def test_labels_reach_the_denoiser():
    given = []

    def labelled(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        given.append(labels)
        return v

    labels = torch.tensor([2, 0])
    sample(build("vp"), labelled, (2, 1, 2, 2), solver="exp2", steps=3, seeds=[0, 1], labels=labels)
    assert len(given) == 3
    assert all(one is labels for one in given)


def test_own_grid_and_solver_object():
    dynamics, trace = build("vp"), []
    sample(
        dynamics,
        denoise,
        (1, 1, 2, 2),
        solver=SOLVERS["exp1"](),
        steps=4,
        seeds=[0],
        grid=GRIDS["log_time"],
        t_end=1e-2,
        callback=lambda i, t, z, x: trace.append(t),
    )
    assert trace == GRIDS["log_time"](dynamics, 1e-2, 4).tolist()[1:]


REFUSED = [
    ({"solver": "ddim"}, r"solver must be one of ab2, ab3.*got 'ddim'"),
    ({"steps": 0}, r"steps must be at least 1, got 0"),
    ({"steps": -3}, r"steps must be at least 1, got -3"),
    ({"t_end": 0.0}, r"t_end must lie in \[1e-06, 1\.0\), got 0\.0"),
    ({"t_end": 1.0}, r"t_end must lie in \[1e-06, 1\.0\), got 1\.0"),
    ({"t_end": math.nan}, r"t_end must lie in .* got nan"),
    ({"seeds": [0, 1, 2]}, r"seeds must hold one integer per sample \(2\), got 3"),
    ({"seeds": [0, 2**32]}, r"seeds must be whole numbers from 0 to 4294967295, got 4294967296"),
    ({"seeds": [-1, 0]}, r"seeds must be whole numbers from 0 to 4294967295, got -1"),
    ({"labels": torch.zeros(3, dtype=torch.long)}, r"labels must have shape \(2,\), got \(3,\)"),
    ({"labels": torch.zeros(2, 1, dtype=torch.long)}, r"labels must have shape \(2,\), got \(2, 1\)"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_an_argument_out_of_range_is_refused_by_name(arguments, message):
    settings = {"solver": "em", "steps": 2, "seeds": [0, 1]} | arguments
    with pytest.raises(ValueError, match=message):
        sample(build("vp"), denoise, (2, 1, 2, 2), **settings)


def test_order_2_refuses_a_noise_level_that_falls_and_order_1_does_not_need_it():
    dynamics = FVP(0.3, 3, marginals="paper")
    with pytest.raises(
        ValueError, match=r"solver Exponential2 needs a noise level that never falls.*marginals='exact'"
    ):
        sample(dynamics, denoise, (1, 1, 2, 2), solver="exp2", steps=2, seeds=[0])
    assert sample(dynamics, denoise, (1, 1, 2, 2), solver="exp1", steps=2, seeds=[0]).nfe == 2


# -- whose denoiser, and how far ---------------------------------------------------------------------------------------


class Still(nn.Module):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return x


class Wrapped:
    """Somebody's own wrapper: no module, but with the attribute that all wrappers have."""

    def __init__(self, denoiser: X0Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.denoiser(v, t, labels)


WRAPPERS: dict[str, Callable[[X0Denoiser], X0Denoiser]] = {
    "itself": lambda denoiser: denoiser,
    "clipped": Clipped,
    "guided": lambda denoiser: ClassifierFree(denoiser, 2.0),
    "own": Wrapped,
    "three": lambda denoiser: Clipped(Wrapped(ClassifierFree(denoiser))),
}


def draw(dynamics: LinearDynamics, denoiser: X0Denoiser, **arguments) -> Tensor:
    shape, labels = (2, 1, *(dynamics.basis.shape if dynamics.basis.modes else (2, 2))), torch.tensor([0, 1])
    return sample(dynamics, denoiser, shape, solver="em", steps=2, seeds=[0, 1], labels=labels, **arguments).x


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_denoiser_of_another_process_is_refused_through_wrappers(wrapper):
    denoiser = WRAPPERS[wrapper](Denoiser(Still(), FVP(0.9, 2), "x0"))
    message = r"^denoiser of FVP\(hurst=0\.9.*\) cannot reverse VE\(sigma_min=0\.01.*\): .*any_process=True"
    with pytest.raises(Refusal, match=message):
        draw(VE(), denoiser)
    assert draw(VE(), denoiser, any_process=True).isfinite().all()
    for own in (FVP(0.9, 2), FVP(0.9, 2).scalar_path()):
        assert torch.equal(draw(own, denoiser), draw(own, denoiser, any_process=True))


def heat(shape: tuple[int, ...] = (4, 6), energy_norm: float = 1.0) -> LinearDynamics:
    return HeatSubVP(shape, x_norm=6.0, energy_norm=energy_norm)


class Shorter(Flow):
    horizon = 0.9


@pytest.mark.parametrize(
    ("trained", "used", "same"),
    [
        (VP(), VP(), True),
        (VP(), FVP(0.3, 0), True),  # tables of the same law
        (VE(), FVE(0.3, 0), True),
        (FVP(0.9, 2).scalar_path(), FVP(0.9, 2), True),
        (heat(), heat(), True),
        (EDM(80.0), EDM(80), True),
        (VP(), VP(0.1, 20.1), False),
        (FVP(0.9, 2), FVP(0.89, 2), False),
        (FVP(0.9, 2), FVP(0.9, 3), False),
        (FVP(0.9, 3), FVP(0.9, 3, aug_init_var=1e-2).scalar_path(), False),
        (VE(), VE(sigma_min=0.011), False),
        (EDM(80.0), EDM(80.1), False),
        (VP(), Flow(), False),
        (Flow(), Shorter(), False),
        (heat(), heat(energy_norm=1.01), False),
        (heat(), heat((6, 4)), False),
        (heat(), VP(), False),
    ],
    ids=lambda value: str(value).split("(")[0],
)
def test_processes_are_the_same_if_a_network_sees_the_same_law(trained, used, same):
    for dynamics, other in ((trained, used), (used, trained)):
        denoiser = Denoiser(Still(), other, "x0")
        if same:
            draw(dynamics, denoiser)
        else:
            with pytest.raises(Refusal, match=r"denoiser of .* cannot reverse"):
                draw(dynamics, denoiser)


def test_a_plain_function_is_asked_for_no_process():
    for function in (denoise, Wrapped(denoise), Clipped(denoise), oracles.GaussianDenoiser(VP())):
        assert draw(VE(), function).isfinite().all()


class Late(CLD):
    default_t_end = 0.02


@pytest.mark.parametrize(
    ("dynamics", "end"),
    [(VP(), 1e-3), (EDM(), 2.5e-5), (Late(), 0.02), (Late().scalar_path(), 0.02), (CLD().scalar_path(), 1e-3)],
    ids=["vp", "edm", "cld-late", "cld-late-path", "cld-path"],
)
def test_sampling_ends_where_the_dynamics_says(dynamics, end):
    """Unless another end is given: also the first one that a network may be asked for, t_min."""
    for given, want in ((None, end), (0.1, 0.1), (dynamics.t_min, dynamics.t_min)):
        trace: list[float] = []
        draw(dynamics, denoise, t_end=given, callback=lambda i, t, z, x, trace=trace: trace.append(t))
        assert trace[-1] == want


def test_a_solver_runs_on_what_suits_it():
    """The scalar path where it wants that one and there is one; the best solver needs a level that never falls."""
    rising, falling = FVP(0.9, 2), FVP(0.3, 3, marginals="paper")
    whole = {name: path_of(solver, rising) is rising for name, solver in SOLVERS.items()}
    assert {name for name, is_whole in whole.items() if is_whole} == {"em", "euler", "pc"}
    assert path_of(SOLVERS["exp2"], rising).shows_the_law_of(rising)
    assert path_of(SOLVERS["exp1"], falling) is falling
    assert (default_solver(rising), default_solver(falling)) == ("ab3", "em")
    assert default_solver(rising, published=True) == "em"


@pytest.mark.parametrize("name", ["vp", "heat-8", "fvp-0.9-2", "falling"])
def test_seven_steps_of_the_quick_solver_never_diverge(name):
    """Euler-Maruyama does, where the noise level falls: a thousand times the deviation and more."""
    dynamics = FVP(0.3, 3, marginals="paper") if name == "falling" else build(name)
    solver = quick_solver(dynamics)
    path = path_of(SOLVERS[solver], dynamics)
    assert (solver, path is dynamics) == {
        "vp": ("ab3", True), "heat-8": ("ab2", True), "fvp-0.9-2": ("ab3", False), "falling": ("exp1", True)
    }[name]  # fmt: skip
    field = smooth_field((8,))
    got = returned_law(path, field, SOLVERS[solver](), 7, t_end=dynamics.default_t_end)
    assert (got.variance / field.at(path, dynamics.default_t_end).variance - 1).abs().max() < 1


# -- cost --------------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.factor * torch.tanh(v)


@pytest.mark.parametrize(("solver", "name"), [("em", "fvp-0.9-2"), ("exp2", "fvp-0.9-2-path"), ("euler", "vp")])
def test_memory_does_not_grow_with_the_steps(solver, name):
    shape, steps, held = (2, 1, 40, 40), 70, []
    state = math.prod(shape) * build(name).num_components

    def entries() -> int:
        """Number of floats in all tensors that are alive."""
        return sum(o.numel() for o in gc.get_objects() if issubclass(type(o), Tensor))

    def measure(i: int, t: float, z: Tensor, x: Tensor) -> None:
        if i % 20 == 19:
            held.append(entries())

    before = entries()
    network = Scaled()
    result = sample(build(name), network, shape, solver=solver, steps=steps, seeds=[0, 1], callback=measure)
    assert not result.x.requires_grad  # no graph is kept
    assert len(held) == 3
    assert held[0] == held[1] == held[2]
    assert held[0] - before < 2 * CHUNK * math.prod(shape) + 10 * state < steps * state
