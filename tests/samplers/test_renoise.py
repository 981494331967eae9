"""Renoising: exact laws on Gaussian fields under every process, given times, and times that are chosen."""

import itertools
import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from common.dynamics import LinearDynamics, Prior
from common.guidance import ClassifierFree, Matched
from common.refusal import Refusal
from common.samplers import GRIDS, path_of, sample
from common.samplers.grids import Density, level_angle, position, stepped
from common.samplers.renoise import Renoise
from common.samplers.renoise_times import EVALUATIONS, MIDDLES, OTHERS, _Answers, choose
from tests.dynamics.members import HEATS, build, data_shape
from tests.oracles import GaussianDenoiser
from tests.samplers.fields import Field, returned_law, smooth_field

FALLING = "fvp-0.3-3-paper"  # its noise level falls in places
EVERY = [
    *("vp", "subvp", "ve", "edm", "flow", "cld", "cld-path", "heat-8", "heat-7", FALLING),
    *("fvp-0.9-2", "fvp-0.9-2-path", "fve-0.3-3", "fve-0.3-3-path", "fve-0.9-2-paper"),
]


def field_of(name: str) -> Field:
    """Waves and, where modes have levels of their own, a smooth spectrum; else one variance, as the prior has it."""
    field = smooth_field(data_shape(name) if name in HEATS else (8,))
    return field if name in HEATS else Field(field.mean, torch.full_like(field.spectrum, 0.3))


def started(name: str) -> tuple[LinearDynamics, Field]:
    """A process that starts from the law of its data at T."""
    dynamics, field = build(name), field_of(name)
    own = dynamics.prior
    dynamics.prior = Prior(dynamics, field.mean.unsqueeze(0), field.spectrum if dynamics.basis.modes else 0.3)
    yield dynamics, field
    dynamics.prior = own  # members are shared by all tests


@pytest.fixture
def member(request: pytest.FixtureRequest):
    yield from started(request.param)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("member", EVERY, indirect=True)
def test_exact_answers_give_the_law_of_the_data(member, steps):
    """Mean and variance of every mode at 1 to 4 evaluations, without sampling error."""
    dynamics, field = member
    got = returned_law(dynamics, field, Renoise(), steps, t_end=dynamics.default_t_end, consistent=True)
    assert ((got.mean - field.analysis(field.mean)).abs() / field.spectrum.sqrt()).max() < 1e-5
    assert (got.variance / field.spectrum - 1).abs().max() < 1e-5


@pytest.mark.parametrize("member", ["fvp-0.9-2", FALLING], indirect=True)
def test_given_times_give_the_law_of_the_data(member):
    dynamics, field = member
    solver = Renoise((0.7, 0.15))
    got = returned_law(dynamics, field, solver, solver.own_steps, consistent=True)
    assert (got.variance / field.spectrum - 1).abs().max() < 1e-5


def test_the_exact_answer_is_the_end_of_the_flow():
    """Against the probability-flow ODE itself, solved by SciPy: what the laws above take as exact is."""
    dynamics, field, v = build("vp"), field_of("vp"), torch.linspace(-2, 2, 8, dtype=torch.float64)[None, None]
    law, denoise = dynamics, field.denoiser(dynamics)

    def slope(t: float, flat) -> Tensor:
        z, time = torch.tensor(flat).reshape(1, 1, 1, 8), torch.tensor([t], dtype=torch.float64)
        return law.reverse_drift(z, time, denoise(z[:, 0], time), stochastic=False).flatten().numpy()

    end = solve_ivp(slope, (0.6, 1e-6), v.flatten().numpy(), method="DOP853", rtol=1e-9, atol=1e-11).y[:, -1]
    found = field.consistency(dynamics)(v, torch.tensor([0.6], dtype=torch.float64)).flatten()
    assert torch.allclose(found, torch.from_numpy(end), atol=2e-3)  # the ODE ends at t_min, where noise is left


def test_a_posterior_mean_taken_for_a_sample_loses_variance():
    """Why a run that was not tuned is warned of: its samples are blurred."""
    dynamics, field = build("vp"), field_of("vp")
    got = returned_law(dynamics, field, Renoise(), 2)
    assert (got.variance < 0.6 * field.spectrum).all()


# -- the loop ----------------------------------------------------------------------------------------------------------


def squashed(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """Some smooth function of v and t."""
    return torch.tanh(v) * (1 - t.to(v.dtype).reshape(-1, *(1,) * (v.ndim - 1)) / 2)


@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2", "cld", FALLING, "heat-5x7"])
def test_calls_and_callbacks_are_at_the_given_times(name):
    dynamics, shape, asked, seen = build(name), (2, 1, *data_shape(name)), [], []

    def counted(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        asked.append((float(t[0]), v))
        return squashed(v, t)

    def draw(last: bool):
        asked.clear(), seen.clear()
        return sample(
            dynamics, counted, shape, solver=Renoise((0.6, 0.3)), steps=3, seeds=[3, 4], denoise_last=last,
            callback=lambda step, time, z, x: seen.append((step, time, z)),
        )  # fmt: skip

    found = draw(False)
    assert [time for time, _ in asked] == [dynamics.horizon, 0.6, 0.3]
    assert [(step, time) for step, time, _ in seen] == [(0, 0.6), (1, 0.3), (2, dynamics.default_t_end)]
    assert found.nfe == 3
    last = squashed(asked[-1][1], torch.full((2,), 0.3))
    assert torch.equal(found.x, last)
    assert torch.equal(found.z, seen[-1][2])
    again = draw(True)  # one more answer, from the mean path that ends in the sample
    assert again.nfe == 4
    assert torch.allclose(asked[-1][1], last, atol=1e-5)


@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2-path", "fvp-0.9-2", FALLING, "heat-5x7"])
def test_a_sample_is_a_function_of_its_seed(name):
    dynamics, data = build(name), (1, *data_shape(name))

    def draw(*seeds: int) -> Tensor:
        return sample(dynamics, squashed, (len(seeds), *data), solver="renoise", steps=4, seeds=seeds).x

    whole = draw(5, 6, 7, 8)
    assert torch.equal(whole, draw(5, 6, 7, 8))
    for i, seeds in ((0, (5,)), (1, (6, 7)), (3, (8, 5))):
        assert (draw(*seeds)[0] - whole[i]).abs().max() < 1e-6
    assert (whole[0] - whole[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2"])
def test_half_precision_stays_near(name):
    """Of answers alone, which come back in the dtype of states, and of states too."""
    dynamics, shape = build(name), (2, 1, 8)

    def answers(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return squashed(v, t).bfloat16()

    noise = torch.randn(2, dynamics.num_components, 1, 8, generator=torch.Generator().manual_seed(1))
    init = dynamics.prior.sample(shape, noise)
    exact = sample(dynamics, squashed, shape, solver="renoise", steps=3, seeds=[0, 1], init=init)
    half = sample(dynamics, answers, shape, solver="renoise", steps=3, seeds=[0, 1], init=init)
    assert half.x.dtype == half.z.dtype == torch.float32
    assert (half.x - exact.x).abs().max() < 0.03
    whole = sample(dynamics, answers, shape, solver="renoise", steps=3, seeds=[0, 1], init=init.bfloat16())
    assert whole.z.dtype == torch.bfloat16
    assert whole.x.isfinite().all()


def test_a_denoiser_of_another_process_serves_by_its_noise_level():
    """Matched: an exact answer under VP is one under FVE, and so gives the law of the data there, too."""
    trained, other = build("vp"), build("fve-0.9-2-path")

    class Exact(torch.nn.Module):
        dynamics = trained

        def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            law = trained.moments(t)
            k, s = law.scale.reshape(-1, 1, 1), law.std.square().reshape(-1, 1, 1)
            return (0.2 / (0.04 * k**2 + s).sqrt() * v.double()).to(v.dtype)

    found = sample(other, Matched(Exact(), other), (4000, 1, 8), solver="renoise", steps=3, seeds=range(4000)).x
    assert found.mean().abs() < 4 * 0.2 / math.sqrt(found.numel())
    assert found.std().item() == pytest.approx(0.2, rel=4 / math.sqrt(2 * found.numel()))


def test_guidance_goes_around_every_answer():
    def labelled(v: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return squashed(v, t) * 0 + labels.reshape(-1, 1, 1)

    dynamics, labels = build("vp"), torch.tensor([2, 5])
    guided = ClassifierFree(labelled, scale=3.0)  # null is -1
    found = sample(dynamics, guided, (2, 1, 4), solver="renoise", steps=2, seeds=[0, 1], labels=labels)
    assert found.x[:, 0, 0].tolist() == [-1 + 3 * 3, -1 + 3 * 6]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [(0.3, 0.6), (0.5, 0.5), (math.nan,), (0.5, math.inf), (0.5, math.nan, 0.1)])
def test_times_that_do_not_fall_are_refused(times):
    with pytest.raises(Refusal, match=r"^times must be finite and fall"):
        Renoise(times)


@pytest.mark.parametrize("times", [(1.0,), (1.5, 0.5), (0.5, 1e-3), (0.5, 0.0), (0.5, -0.5)])
def test_times_outside_the_way_are_refused(times):
    with pytest.raises(Refusal, match=r"^times .*must lie between t_end = 0.001 and T = 1$"):
        sample(build("vp"), squashed, (1, 1, 4), solver=Renoise(times), steps=len(times) + 1)


def test_what_contradicts_given_times_is_refused():
    with pytest.raises(Refusal, match=r"^times 0.6,0.3 takes 3 steps, got 4"):
        sample(build("vp"), squashed, (1, 1, 4), solver=Renoise((0.6, 0.3)), steps=4)
    with pytest.raises(Refusal, match=r"^grid and times 0.6,0.3 of the solver exclude each other"):
        sample(build("vp"), squashed, (1, 1, 4), solver=Renoise((0.6, 0.3)), steps=3, grid=GRIDS["uniform"])


# -- times that are chosen ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp", "ve", "flow", "heat-8"])
def test_a_density_in_steps_lays_the_times_it_was_made_of(name):
    dynamics, wanted = build(name), [1.0, 0.8, 0.72, 0.5, 0.31, 0.2, 1e-3]
    wanted[0] = dynamics.horizon
    times = torch.tensor(wanted, dtype=torch.float64)
    grid = stepped(position(dynamics, times).tolist(), (0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1))
    assert all(a < b for a, b in itertools.pairwise(grid.nodes))
    assert min(grid.values) > 0
    for steps, inner in ((2, [0.5]), (3, [0.72, 0.31]), (4, [0.8, 0.5, 0.2])):
        assert grid(dynamics, 1e-3, steps)[1:-1].tolist() == pytest.approx(inner, abs=3e-3)


LARGE = 1e6  # beside which noise is nothing


class Remembering:
    """Answers that hold the angles of all levels at which they were asked, the newest first."""

    def __init__(self, dynamics: LinearDynamics) -> None:
        self.dynamics, self.calls = dynamics, 0

    def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += len(v)
        past = v.double() / self.dynamics.moments(t).scale.reshape(-1, 1, 1)
        phi = level_angle(self.dynamics, t[:1]).expand(len(v), 1, 1)
        return torch.cat([LARGE * phi, past[:, :, :-1]], 2).to(v.dtype)


@pytest.mark.parametrize("pick", [(0, 0, 2), (MIDDLES // 2, 1, 1), (MIDDLES - 1, 2, 0)])
@pytest.mark.parametrize("name", ["edm", "fve-0.9-2-path"])
def test_the_best_times_are_found(name, pick):
    """The distance is that of the levels of an answer from known best ones, so these and no others are chosen."""
    dynamics = build(name)
    ends = torch.tensor([dynamics.horizon, dynamics.default_t_end], dtype=torch.float64)
    first, last = level_angle(dynamics, ends).tolist()

    def between(high: float, low: float, count: int) -> list[float]:
        return [high + (low - high) * (i + 1) / (count + 1) for i in range(count)]

    middle, above, below = pick
    middle = between(first, last, MIDDLES)[middle]
    upper, lower = between(first, middle, OTHERS)[above], between(middle, last, OTHERS)[below]
    top, bottom = between(first, upper, OTHERS)[above], between(lower, last, OTHERS)[below]
    best = {2: [middle], 3: [upper, lower], 4: [top, middle, bottom]}

    def distance(samples: Tensor) -> float:
        angles = samples.double().mean(0).flatten() / LARGE
        asked = angles[: next(i for i, phi in enumerate(angles) if abs(phi - first) < 1e-3)].flip(0)
        return float((asked - torch.tensor(best[len(asked) + 1])).square().sum())

    told, denoiser = [], Remembering(dynamics)
    grid = choose(
        dynamics,
        denoiser,
        (3, 1, 8),
        distance,
        seeds=[1, 2, 3],
        at_once=2,
        on_block=lambda: told.append(denoiser.calls),
    )
    for steps, inner in best.items():
        found = level_angle(dynamics, grid(dynamics, dynamics.default_t_end, steps)[1:-1])
        assert found.tolist() == pytest.approx(inner, abs=2e-3)
    assert len(told) == 2 * denoiser.calls / 3  # two blocks
    assert denoiser.calls == 3 * (EVALUATIONS - (pick[1] == 1))  # an answer is computed once: 1/4 of all is 1/2 of 1/2


@pytest.mark.parametrize("name", ["fvp-0.9-2-path", "heat-5x7"])
def test_times_are_judged_by_the_samples_that_are_drawn_at_them(name):
    dynamics, shape, seeds = build(name), (5, 1, *data_shape(name)), range(70, 75)
    answers = _Answers(dynamics, squashed, shape, seeds, None, 5, lambda: None)
    for times in ((), (0.5,), (0.7, 0.2)):
        drawn = sample(dynamics, squashed, shape, solver=Renoise(times), steps=len(times) + 1, seeds=seeds).x
        assert torch.equal(answers(times), drawn)


def test_no_times_are_chosen_of_samples_that_are_not_finite():
    dynamics = build("edm")
    with pytest.raises(Refusal, match="grid measured: samples of this network are not finite"):
        choose(dynamics, lambda v, t, labels: v * math.nan, (2, 1, 4), lambda x: float(x.sum()), seeds=[0, 1])
    with pytest.raises(Refusal, match="a choice of times needs a noise level that never falls"):
        choose(build(FALLING), squashed, (2, 1, 4), lambda x: 0.0, seeds=[0, 1])


def test_what_was_measured_is_taken():
    dynamics = build("edm")
    dynamics.node_density = ((-3.0, 0.0, 3.0), (0.1, 1.0, 0.1))
    try:
        assert Renoise().default_grid(dynamics) is GRIDS["measured"]
        found = sample(dynamics, GaussianDenoiser(dynamics), (1, 1, 4), solver="renoise", steps=2, seeds=[0])
    finally:
        dynamics.node_density = None
    assert found.nfe == 2
    assert path_of(Renoise, dynamics) is dynamics
    assert Density((-1.0, 1.0), (1.0, 1.0))(dynamics, 1e-3, 2)[0] == dynamics.horizon
