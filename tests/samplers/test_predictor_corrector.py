"""Predictors and correctors: the published numbers, what ours does otherwise, orders, invariance, refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.dynamics import LinearDynamics
from common.samplers import GRIDS, PREDICTORS, SOLVERS, NoiseSource, Posterior, PredictorCorrector, sample
from common.samplers.predictor_corrector import ExactMoves, symmetric_root
from fdp.dynamics import HeatSubVP
from tests import oracles
from tests.dynamics.members import build, data_shape
from tests.marks import later

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "sampling.npz")
BATCH, CHANNELS, SIDE = 2, 3, 16
STEP = (1 - 1e-3) / 100
HEAT = HeatSubVP((SIDE, SIDE), x_norm=16, energy_norm=1.0, beta_max=5.0)


def images(recorded: np.ndarray) -> Tensor:
    """(B, G, C) as recorded to (B, C, side, side)."""
    return torch.from_numpy(recorded).mT.reshape(BATCH, CHANNELS, SIDE, SIDE)


def distance(got: Tensor, name: str) -> float:
    """Largest difference to the entries that were recorded of a field (B, C, side, side)."""
    flat = got.reshape(BATCH, CHANNELS, -1).mT.reshape(-1)
    return float((flat[::7] - torch.from_numpy(GOLDEN[name])).abs().max())


def recorded_noise(j: int) -> Tensor:
    n = np.arange(BATCH * CHANNELS * SIDE**2)
    values = math.sqrt(2) * np.sin(0.7 * n + 1.1 * j + 0.01 * n**2 / (1 + j))
    return images(values.reshape(BATCH, -1, CHANNELS))


def shrink(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    return 0.9 * v


def update(solver: PredictorCorrector, z: Tensor, times: tuple[float, float], noise: Tensor | None) -> Tensor:
    """One step of a solver on HEAT with its own noise."""
    both = torch.tensor(times, dtype=torch.float64)
    solver.prepare(HEAT, both)
    return solver.step(HEAT, Posterior(HEAT, shrink, None), z, both[:1], both[1:], noise)


def published_update(predictor: str, factor: float, stochastic: bool, t: float, last: float = 1.0) -> Tensor:
    """One update of a predictor as published, its last noise multiplied by ``last``."""
    solver = PredictorCorrector(predictor, "none", factor=factor, stochastic=stochastic, paper=True)
    draws = solver.draws(1)
    # without noise of its own the ODE re-noises with the second draw of the update
    order = range(draws) if stochastic else range(1, 1 + draws)
    noise = torch.stack([recorded_noise(j) for j in order], 1) if draws else None
    if noise is not None:
        noise[:, -1] *= last
    return update(solver, images(GOLDEN["y"]).unsqueeze(1), (t, t - STEP), noise)[:, 0]


# -- published numbers -------------------------------------------------------------------------------------------------

PUBLISHED = [name for name in GOLDEN.files if name.startswith("factor")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_updates_of_predictors_are_the_published_ones(name):
    setting, predictor, kind = name.split("/")
    factor, flow, t = setting.split("_")
    stochastic = flow == "pf0"
    got = published_update(
        predictor, float(factor[6:]), stochastic, float(t[1:]), last=0.0 if kind == "x_mean" and stochastic else 1.0
    )
    assert distance(got, name) < 1e-9


def test_everything_recorded_is_compared():
    names = {name.split("/")[1] for name in PUBLISHED}
    assert names == set(PREDICTORS)
    assert len(PUBLISHED) == 12 + 12 + 6 + 6 + 3  # Euler, semi-analytic, reverse diffusion; means of the last kick


@pytest.mark.parametrize("t", ["1.0", "0.5", "0.02"])
@pytest.mark.parametrize("snr", ["0.16", "0.06"])
@pytest.mark.parametrize("kind", ["x", "x_mean"])
def test_corrections_are_the_published_ones(snr, t, kind):
    corrector = PredictorCorrector(snr=float(snr), paper=True).corrector
    time, z = torch.tensor([float(t)], dtype=torch.float64), images(GOLDEN["y"]).unsqueeze(1)
    noise = recorded_noise(0).unsqueeze(1)
    posterior = Posterior(HEAT, shrink, None)
    got = corrector(HEAT, posterior, z, time, noise)
    if kind == "x_mean":  # the noise is symmetric: the mean lies halfway between it and its mirror image
        got = (got + corrector(HEAT, posterior, z, time, -noise)) / 2
    assert distance(got[:, 0], f"langevin_snr{snr}_t{t}/{kind}") < 1e-9


def test_a_published_loop_of_five_updates():
    # N - 1 = 5 updates of length dt = 0.999 / 6, and the denoiser at the mean of the last
    times = torch.linspace(1, 1e-3, 7, dtype=torch.float64)[:6]
    noise = recorded_noise(0).unsqueeze(1).expand(-1, 4, -1, -1, -1)
    solver, posterior = PredictorCorrector(snr=0.16, factor=2.0, paper=True), Posterior(HEAT, shrink, None)
    states = [HEAT.prior.sample((BATCH, CHANNELS, SIDE, SIDE), noise[:, :1])]
    solver.prepare(HEAT, times)
    for i in range(5):
        states.append(solver.step(HEAT, posterior, states[-1], times[i : i + 1], times[i + 1 : i + 2], noise))
    assert distance(states[-1][:, 0], "loop/x") < 1e-9
    quiet = noise.clone()
    quiet[:, -1] = 0
    mean = update(solver, states[-2], (times[4].item(), times[5].item()), quiet)
    assert distance(shrink(mean[:, 0], times), "loop/reconstructed") < 1e-9
    assert posterior.calls == 5 * solver.evaluations == 15


# -- what ours does otherwise ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1.0, 0.5])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_predictors_differ_from_the_published_where_stated(predictor, stochastic, factor, t):
    solvers = [
        PredictorCorrector(predictor, "none", factor=factor, stochastic=stochastic, paper=p) for p in (True, False)
    ]
    draws = solvers[0].draws(1)
    noise = torch.randn(BATCH, draws, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    z = images(GOLDEN["y"]).unsqueeze(1)
    published, ours = (update(solver, z, (t, t - STEP), noise if draws else None) for solver in solvers)
    two_stages = factor > 0 and predictor != "reverse_diffusion"
    beyond = two_stages and t + (factor - 1) * STEP > 1
    unfinished = two_stages and predictor == "semianalytic"
    assert torch.equal(published, ours) == (not beyond and not unfinished)


def test_the_second_semianalytic_stage_ends_with_its_exact_part():
    # zero score: both stages undo the damping, so a re-noised state is back where it would be without
    def still(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return HEAT.basis.scale(1 / HEAT.moments(t).scale, v)

    z = torch.randn(BATCH, 1, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    times = torch.tensor([0.5, 0.49], dtype=torch.float64)

    def run(factor: float, paper: bool = False) -> Tensor:
        solver = PredictorCorrector("semianalytic", "none", factor=factor, stochastic=False, paper=paper)
        solver.prepare(HEAT, times)
        silence = torch.zeros_like(z) if solver.stochastic else None
        return solver.step(HEAT, Posterior(HEAT, still, None), z, times[:1], times[1:], silence)

    assert torch.allclose(run(1.0), run(0.0), rtol=1e-9, atol=1e-9)
    undamped = HEAT.basis.mix(HEAT.transition(times[:1], times[1:])[0], z)
    assert torch.allclose(run(2.0), undamped, rtol=1e-9, atol=1e-9)
    assert torch.allclose(run(1.0, paper=True), z, rtol=1e-9, atol=1e-9)  # the mean of re-noising, up again


def asked_times(solver: PredictorCorrector, steps: int) -> list[float]:
    asked = []

    def watch(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        asked.append(t[0].item())
        return 0.9 * v

    trace: list[float] = []
    sample(
        HEAT,
        watch,
        (1, 1, SIDE, SIDE),
        solver=solver,
        steps=steps,
        seeds=[0],
        callback=lambda i, t, z, x: trace.append(t),
    )
    assert trace == GRIDS["uniform"](HEAT, 1e-3, steps).tolist()[1:]
    return asked


def test_no_time_lies_beyond_the_end_except_as_published():
    first, second = GRIDS["uniform"](HEAT, 1e-3, 4).tolist()[:2]
    ours = asked_times(PredictorCorrector(factor=2.0), 4)
    assert max(ours) == 1.0
    assert ours[:3] == [1.0, 1.0, 1.0]
    assert ours[3:5] == [second, second]
    assert ours[5] == pytest.approx(first)  # two steps up from the next time
    assert asked_times(PredictorCorrector(factor=2.0, paper=True), 4)[2] == pytest.approx(2 * first - second)


# -- counts, noise, seeds ----------------------------------------------------------------------------------------------

SETTINGS: dict[str, tuple[dict, int, tuple[int, int]]] = {  # arguments, calls per step, draws of 1 and of 3 components
    "default": ({}, 3, (4, 2)),
    "euler-plain": ({"corrector": "none", "factor": 0.0}, 1, (1, 1)),
    "reverse-diffusion": ({"predictor": "reverse_diffusion"}, 2, (2, 2)),
    "semianalytic": ({"predictor": "semianalytic"}, 3, (4, 4)),
    "renoised": ({"factor": 1.0}, 3, (4, 6)),
    "semianalytic-plain": ({"predictor": "semianalytic", "factor": 0.0, "corrector": "none"}, 1, (1, 3)),
    "flow": ({"stochastic": False}, 3, (2, 4)),
    "flow-plain": ({"stochastic": False, "factor": 0.0, "corrector": "none"}, 1, (0, 0)),
    "flow-corrected": ({"stochastic": False, "factor": 0.0}, 2, (1, 1)),
}
MEMBERS = ["vp", "fvp-0.9-2", "fvp-0.9-2-path", "cld", "heat-5x7"]


def smooth(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    return torch.tanh(v).roll(1, -1)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", MEMBERS)
def test_counts_and_shapes(name, setting):
    arguments, calls, draws = SETTINGS[setting]
    solver, dynamics, shape = PredictorCorrector(**arguments), build(name), (2, 3, *data_shape(name))
    assert solver.evaluations == calls
    assert (solver.draws(1), solver.draws(3)) == draws
    assert solver.stochastic == (draws[0] > 0)
    result = sample(dynamics, smooth, shape, solver=solver, steps=5, seeds=[4, 2])
    left_out = dynamics.num_components > 1 and setting in ("default", "semianalytic")  # re-noising
    assert result.nfe == 4 * (calls - left_out) + 1  # the last step is one stage of the predictor
    assert result.z.shape == (2, dynamics.num_components, *shape[1:])
    assert result.z.dtype == torch.get_default_dtype()
    assert torch.isfinite(result.z).all()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", MEMBERS)
def test_a_sample_depends_on_its_seed_only(name, setting):
    dynamics = build(name)

    def run(seeds: list[int]) -> Tensor:
        solver = PredictorCorrector(**SETTINGS[setting][0])
        return sample(dynamics, smooth, (len(seeds), 2, *data_shape(name)), solver=solver, steps=18, seeds=seeds).z

    together = run([5, 3, 9])
    tolerance = 1e-4 * float(together.abs().max())
    for index, seed in enumerate([5, 3, 9]):
        torch.testing.assert_close(run([seed])[0], together[index], rtol=1e-4, atol=tolerance)
    assert not torch.allclose(together[0], together[1])


def test_published_step_sizes_mix_the_batch_and_ours_do_not():
    # sample 0 with a mate ten times as large
    z, noise = torch.randn(2, 2, 1, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    mates = z.clone()
    mates[1] *= 10
    t = torch.tensor([0.4], dtype=torch.float64)
    for paper in (False, True):
        corrector = PredictorCorrector(paper=paper).corrector
        first, second = (corrector(HEAT, Posterior(HEAT, shrink, None), x, t, noise)[0] for x in (z, mates))
        assert torch.equal(first, second) == (not paper)


@pytest.mark.parametrize(("stochastic", "plain"), [(True, "em"), (False, "euler")])
@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("arguments", [{"predictor": "reverse_diffusion"}, {"factor": 0.0}])
def test_a_single_euler_stage_is_the_plain_solver(name, stochastic, plain, arguments):
    solver = PredictorCorrector(corrector="none", stochastic=stochastic, **arguments)
    shape = (2, 2, *data_shape(name))
    runs = [sample(build(name), smooth, shape, solver=s, steps=9, seeds=[1, 2]).z for s in (solver, plain)]
    assert torch.equal(*runs)


def test_a_solver_is_used_again():
    solver = PredictorCorrector(predictor="semianalytic")
    runs = [sample(build("cld"), smooth, (1, 1, 2, 2), solver=solver, steps=4, seeds=[0]).z for _ in range(2)]
    assert torch.equal(*runs)


def test_several_draws_come_in_chunks_of_16_steps():
    generator = torch.Generator().manual_seed(7)
    source = NoiseSource([3, 7], (2, 3), torch.device("cpu"), torch.float32, draws=4)
    start = source.start(2)
    steps = torch.stack([source.step() for _ in range(20)])
    assert steps.shape == (20, 2, 4, 2, 3)
    assert torch.equal(start[1], torch.randn(2, 2, 3, generator=generator))
    assert torch.equal(steps[:16, 1], torch.randn(16, 4, 2, 3, generator=generator))
    assert torch.equal(steps[16:, 1], torch.randn(16, 4, 2, 3, generator=generator)[:4])


@pytest.mark.parametrize("solver", ["em", "exp2", "pc"])
@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2", "heat-5x7"])
def test_the_last_state_can_be_denoised(solver, name):
    dynamics, shape = build(name), (2, 1, *data_shape(name))
    runs = [
        sample(dynamics, smooth, shape, solver=solver, steps=4, seeds=[0, 1], denoise_last=last)
        for last in (False, True)
    ]
    assert torch.equal(runs[0].z, runs[1].z)
    assert runs[1].nfe == runs[0].nfe + 1
    t = torch.full((1,), 1e-3, dtype=torch.float64)
    assert torch.allclose(runs[1].x, smooth(dynamics.statistic(runs[1].z, t), t), rtol=1e-4, atol=1e-5)


# -- exact moves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_roots_of_covariances_of_any_rank(rank):
    factor = torch.randn(5, 3, rank, 4, dtype=torch.float64)  # two times, three components, four modes
    cov = torch.einsum("nirm,njrm->nijm", factor, factor)
    root = symmetric_root(cov)
    assert torch.allclose(root, root.transpose(1, 2))
    assert torch.allclose(torch.einsum("nijm,njkm->nikm", root, root), cov, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["vp", "edm", "flow", "fvp-0.9-2", "fve-0.9-2", "fvp-0.9-5", "cld", "heat-8"])
def test_exact_moves_keep_the_law_of_the_process(name):
    # Z_a to Z_b upward: U S_a U' + L L' = S_b; and back with as much noise as the reverse SDE has
    dynamics = build(name)
    low, high = torch.tensor([0.3, 0.005], dtype=torch.float64), torch.tensor([0.302, 0.1], dtype=torch.float64)
    size, modes = dynamics.num_components, dynamics.basis.modes
    law = [dynamics.moments(t).cov for t in (low, high)]

    def moved(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Map and covariance of the added noise per step, (2, A, A, *modes), by pushing unit vectors through."""
        moves, shape = ExactMoves(dynamics, start, end), data_shape(name) if modes else ()
        units = torch.zeros(size, size, 1, *shape, dtype=torch.float64)
        units[range(size), range(size), 0, *(0 for _ in shape)] = 1
        parts = []
        for step in range(2):
            still = moves(step, units, None)
            kicks = moves(step, 0 * units, units)
            columns = [
                dynamics.basis.analysis(x)[:, :, 0] / dynamics.basis.analysis(units)[0, 0, 0] for x in (still, kicks)
            ]
            maps, root = (c.real.transpose(0, 1) for c in columns)
            parts.append((maps, torch.einsum("ij...,kj...->ik...", root, root)))
        return tuple(torch.stack(x) for x in zip(*parts, strict=True))

    maps, noise = moved(low, high)
    want = torch.einsum("nij...,njk...,nlk...->nil...", maps, law[0], maps) + noise
    unit = torch.einsum("nii...->ni...", law[1]).sqrt()
    assert ((want - law[1]) / unit.unsqueeze(1) / unit.unsqueeze(2)).abs().max() < 1e-7
    back, added = moved(high, low)
    identity = torch.einsum("nij...,njk...->nik...", back, maps)
    assert (identity - torch.eye(size).reshape(1, size, size, *(1,) * len(modes))).abs().max() < 1e-8
    taken = torch.einsum("nij...,njk...,nlk...->nil...", maps, added, maps)
    assert ((taken - noise) / unit.unsqueeze(1) / unit.unsqueeze(2)).abs().max() < 1e-7


# -- laws --------------------------------------------------------------------------------------------------------------


def joint_law(dynamics: LinearDynamics, t: Tensor, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Mean (A,) and covariance (A, A) of Z_t for data N(mean, std^2)."""
    law = dynamics.moments(t)
    factor = law.mean[0]
    return factor * mean, law.cov[0] + std**2 * torch.outer(factor, factor)


@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2", *map(later, ("ve", "fvp-0.3-3", "cld"))])
@pytest.mark.parametrize("t", [0.05, later(0.6)])
def test_many_corrections_keep_the_law(name, t):
    # Langevin of step e makes variances 1 / (1 - snr^2) times too large along G; a wrong factor would show at once
    dynamics, snr, mean, std, rounds = build(name), 0.1, 0.3, 0.2, 300
    time = torch.tensor([t], dtype=torch.float64)
    centre, cov = joint_law(dynamics, time, mean, std)
    shape = (50, 1, 20, 20)
    root = torch.linalg.cholesky(cov)
    noise = torch.randn(shape[0], len(cov), *shape[1:], dtype=torch.float64)
    z = torch.einsum("ij,bj...->bi...", root, noise) + centre.reshape(-1, 1, 1, 1)
    corrector = PredictorCorrector(snr=snr).corrector
    posterior = Posterior(dynamics, oracles.GaussianDenoiser(dynamics, mean, std), None)
    for _ in range(rounds):
        z = corrector(dynamics, posterior, z, time, torch.randn(shape, dtype=torch.float64).unsqueeze(1))
    flat = torch.linalg.solve_triangular(
        root, (z - centre.reshape(-1, 1, 1, 1)).transpose(0, 1).reshape(len(cov), -1), upper=False
    )
    count = flat.shape[1]
    assert flat.mean(1).abs().max() < 5 / math.sqrt(count)
    error = flat @ flat.T / count - torch.eye(len(cov))
    assert error.abs().max() < 5 * math.sqrt(2 / count) + 1.5 * snr**2


def test_a_correction_approaches_the_law():
    # a state that is three times too wide and lies elsewhere is brought home
    dynamics, t = build("vp"), torch.tensor([0.5], dtype=torch.float64)
    corrector = PredictorCorrector(snr=0.2).corrector
    posterior = Posterior(dynamics, oracles.GaussianDenoiser(dynamics, 0.3, 0.2), None)
    centre, cov = joint_law(dynamics, t, 0.3, 0.2)
    z = 1 + 3 * torch.randn(20, 1, 1, 20, 20, dtype=torch.float64)
    for _ in range(300):
        z = corrector(dynamics, posterior, z, t, torch.randn(20, 1, 1, 20, 20, dtype=torch.float64))
    assert z.mean().item() == pytest.approx(centre.item(), abs=0.06)
    assert z.var().item() == pytest.approx(cov.item() / (1 - 0.2**2), rel=0.08)


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictor": "heun"}, r"predictor must be one of euler, reverse_diffusion, semianalytic, got 'heun'"),
        ({"corrector": "ald"}, r"corrector must be one of langevin, none, got 'ald'"),
        ({"snr": 0.0}, r"snr must be above 0 and finite, got 0"),
        ({"snr": math.inf}, r"snr must be above 0 and finite, got inf"),
        ({"snr": math.nan}, r"snr must be above 0 and finite, got nan"),
        ({"factor": -0.5}, r"factor must be at least 0 and finite, got -0.5"),
        ({"factor": math.inf}, r"factor must be at least 0 and finite, got inf"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        PredictorCorrector(**arguments)


def test_the_published_details_are_for_one_component():
    solver = PredictorCorrector(paper=True)
    with pytest.raises(ValueError, match=r"paper True is for one component, got 3 of FVP.*the scalar path"):
        sample(build("fvp-0.9-2"), smooth, (1, 1, 2, 2), solver=solver, steps=2, seeds=[0])
    solver.check(build("fvp-0.9-2-path"))


def test_pc_is_a_solver_by_name():
    solver = SOLVERS["pc"]()
    assert isinstance(solver, PredictorCorrector)
    named = sample(HEAT, smooth, (1, 1, SIDE, SIDE), solver="pc", steps=3, seeds=[0]).x
    assert torch.equal(named, sample(HEAT, smooth, (1, 1, SIDE, SIDE), solver=solver, steps=3, seeds=[0]).x)
