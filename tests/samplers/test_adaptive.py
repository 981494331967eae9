"""Adaptive solvers: exact flows within the tolerance, times that are known, batch mates that do not matter, an end."""

import gc
import math

import pytest
import torch
from torch import Tensor

from common.denoiser import Clipped
from common.refusal import Refusal
from common.samplers import SOLVERS, sample
from common.samplers.adaptive import LEAST
from tests.dynamics.members import build, data_shape
from tests.samplers.test_order import END, PartwiseDenoiser, end_of, exact_flow, run_by_scipy, start_of
from tests.samplers.test_register import demo

METHODS = [name for name, kind in SOLVERS.items() if kind.adaptive]


def run(solver, dynamics, denoiser, init: Tensor, end: float, **more):
    return sample(
        dynamics, denoiser, (len(init), *init.shape[2:]), solver=solver, steps=1, init=init, t_end=end, **more
    )


FLOWS = [
    *((method, name) for method in METHODS for name in ("vp", "fvp-0.3-3-path", "heat-8")),
    *((method, name) for method in METHODS[1:] for name in ("edm", "flow", "cld")),
    ("dopri5", "fve-0.9-2"),
]


def often(cases: list[tuple[str, str]], place: int, known: str) -> list:
    """Every method on one process, and one method on all; the other pairs are slow."""
    return [
        pytest.param(*case, marks=[] if "dopri5" in case or case[place] == known else [pytest.mark.slow])
        for case in cases
    ]


@pytest.mark.parametrize(("method", "name"), often(FLOWS, 1, "vp"))
def test_a_flow_is_followed_within_the_tolerance(method, name):
    """Of a mixture in float64: against quantiles, mode by mode; of several components against SciPy."""
    dynamics = build(name)
    if dynamics.num_components > 1:
        (init, exact), end = run_by_scipy(name), END
    else:
        init, end = start_of(dynamics, name), end_of(dynamics)
        exact = exact_flow(dynamics, init[:, 0], end)
    finest, found = 1e-4 if SOLVERS[method].order == 2 else 1e-5, {}
    for rtol in (1e-3, finest):
        result = run(SOLVERS[method](rtol), dynamics, PartwiseDenoiser(dynamics), init, end)
        found[rtol] = (result.x - exact).square().mean().sqrt().item(), result.nfe
    # of a run of many steps; most where the noise level stands still or falls from 80, whose states are large
    assert all(error < 60 * rtol for rtol, (error, _) in found.items()), found
    assert found[1e-3][1] <= found[finest][1] < 1000


@pytest.mark.parametrize("end", [None, 0.3, 1e-6])
@pytest.mark.parametrize("name", ["vp", "edm", "flow", "heat-5x7", "fvp-0.9-2"])
def test_times_lie_between_the_ends_and_evaluations_are_counted(name, end):
    dynamics, asked, passed = build(name), [], []
    last = end or dynamics.default_t_end

    def denoise(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        asked.append(t)
        return torch.tanh(v)

    shape = (2, 1, *data_shape(name))
    for method in METHODS:
        asked.clear(), passed.clear()
        result = sample(
            dynamics, denoise, shape, solver=method, steps=1, seeds=[0, 1], t_end=end,
            callback=lambda i, t, z, x: passed.append((i, t, z)),
        )  # fmt: skip
        times = torch.cat(asked)
        assert result.nfe == len(asked)
        assert times.dtype == torch.float64
        assert last <= times.min() <= times.max() <= dynamics.horizon
        assert times.max() == pytest.approx(dynamics.horizon, rel=1e-6)
        assert [i for i, _, _ in passed] == list(range(len(passed)))
        reached = [t for _, t, _ in passed]
        assert reached == sorted(set(reached), reverse=True)
        assert reached[-1] == last
        assert torch.equal(passed[-1][2], result.z)
        assert result.x.dtype == torch.float32


def test_a_wanted_time_is_met_and_passed():
    """Several steps: the states at their ends lie on the flow."""
    dynamics, states = build("vp"), {}
    init, solver = start_of(dynamics, "vp"), SOLVERS["dopri5"](1e-5)
    sample(
        dynamics, PartwiseDenoiser(dynamics), (7, 1, 1, 1), solver=solver, steps=3, init=init, t_end=END,
        callback=lambda i, t, z, x: states.update({t: x}),
    )  # fmt: skip
    for time in solver.default_grid(dynamics)(dynamics, END, 3).tolist()[1:]:
        assert (states[time] - exact_flow(dynamics, init[:, 0], time)).abs().max() < 1e-4


DEMOS = [("digits-demo", method) for method in METHODS] + [
    ("digits-heat-demo", "bosh3"),
    ("digits-heat-demo", "dopri5"),
]


@pytest.mark.parametrize(("name", "method"), often(DEMOS, 1, "bosh3"))
def test_a_sample_hardly_depends_on_its_batch_mates(name, method):
    """10 x rtol between blocks of 1, 7 and 16, of a trained network; an easy sample is not coarser beside others."""
    opened = demo(name)
    dynamics, denoiser, rtol = opened.dynamics.scalar_path(), Clipped(opened.denoiser), 1e-2

    def draw(seeds: range) -> Tensor:
        labels = opened.data.labels_for(range(16), None)[list(seeds)]
        shape = (len(seeds), *opened.data.shape)
        return sample(dynamics, denoiser, shape, solver=SOLVERS[method](rtol), steps=1, seeds=seeds, labels=labels).x

    most = draw(range(16))
    for seeds in (range(7), range(12, 13)):
        apart = (draw(seeds) - most[list(seeds)]).square().flatten(1).mean(1).sqrt().max()
        assert apart < 10 * rtol


@pytest.mark.parametrize(("name", "method"), often(DEMOS, 1, "bosh3"))
def test_defaults_leave_most_samples_within_a_hundredth(name, method):
    """The promise of their docstring, against many steps of another scheme; some samples lie where paths part."""
    opened = demo(name)
    dynamics, shape = opened.dynamics.scalar_path(), (8, *opened.data.shape)
    settings = {"seeds": range(8), "labels": opened.data.labels_for(range(8), None)}
    exact = converged(name)
    found = sample(dynamics, Clipped(opened.denoiser), shape, solver=method, steps=1, **settings).x
    assert (found - exact).square().flatten(1).mean(1).sqrt().median() < 1e-2


CONVERGED: dict[str, Tensor] = {}


def converged(name: str) -> Tensor:
    if name not in CONVERGED:
        opened = demo(name)
        CONVERGED[name] = sample(
            opened.dynamics.scalar_path(), Clipped(opened.denoiser), (8, *opened.data.shape), solver="ab2", steps=200,
            seeds=range(8), labels=opened.data.labels_for(range(8), None),
        ).x  # fmt: skip
    return CONVERGED[name]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_sample_that_fails_leaves_its_batch_mates_alone(value):
    dynamics = build("vp")

    def denoise(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        failed = torch.full_like(v, value)
        return torch.where((torch.arange(len(v)) == 1).reshape(-1, 1, 1) & (t[0] < 0.5), failed, torch.tanh(v))

    for method in METHODS:
        got = sample(dynamics, denoise, (3, 1, 4), solver=method, steps=1, seeds=[0, 1, 2]).x
        assert got[1].isnan().all()
        alone = sample(dynamics, lambda v, t, labels: torch.tanh(v), (2, 1, 4), solver=method, steps=1, seeds=[0, 2]).x
        assert (got[::2] - alone).abs().max() < 0.1


def test_a_denoiser_without_a_slope_comes_to_an_end():
    """Steps have a least length, at which they are taken whatever their error."""
    dynamics, generator = build("vp"), torch.Generator().manual_seed(0)
    got = sample(
        dynamics, lambda v, t, labels: torch.randn(v.shape, generator=generator), (2, 1, 4), seeds=[0, 1], steps=1,
        solver=SOLVERS["bosh3"](1e-6),
    )  # fmt: skip
    assert got.x.isfinite().all()
    assert got.nfe < 2 * SOLVERS["bosh3"].evaluations / LEAST


@pytest.mark.parametrize(
    "arguments", [{"rtol": 0.0}, {"rtol": 1e-7}, {"rtol": 2.0}, {"rtol": math.nan}, {"atol": -1.0}]
)
def test_a_tolerance_out_of_range_is_refused_by_name(arguments):
    (name,) = arguments
    with pytest.raises(Refusal, match=rf"^{name} must be from 1e-6 to 1, got ") as refused:
        SOLVERS["dopri5"](**arguments)
    assert refused.value.argument == name


def test_nobody_knows_evaluations_beforehand():
    with pytest.raises(Refusal, match="known only when it is done"):
        SOLVERS["dopri5"]().calls(3)
    with pytest.raises(Refusal, match="nfe has no effect on dopri5, which chooses its own steps; give --rtol"):
        SOLVERS["dopri5"]().steps_for(30)


def test_memory_does_not_grow_with_the_steps():
    held = []

    def measure(i: int, t: float, z: Tensor, x: Tensor) -> None:
        if i % 10 == 9:
            held.append(sum(o.numel() for o in gc.get_objects() if issubclass(type(o), Tensor)))

    solver = SOLVERS["dopri5"](1e-6)
    sample(build("cld"), lambda v, t, labels: torch.tanh(3 * v), (2, 1, 40, 40), solver=solver, steps=1, seeds=[0, 1],
           callback=measure)  # fmt: skip
    assert len(held) >= 3
    assert max(held) - min(held) < 2 * 40 * 40  # less than half a state
