"""What is said before drawing that takes long: measured, true of every solver, and without an effect on samples."""

from functools import partial

import pytest
import torch

import args
from common.data.spec import DataSpec
from common.dynamics import VP
from common.generation import forecast as forecasting
from common.generation.blocks import Job, blocks
from common.generation.config import SampleConfig
from common.generation.forecast import forecast
from common.samplers import SOLVERS, default_solver, path_of
from gfdm.dynamics import FVP

FALLING = partial(FVP, 0.1, 3, marginals="paper")  # its noise level falls in time


class Clocked:
    """A denoiser whose calls take so many seconds of a clock of its own, in turn, and draw from torch's generator."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.calls, self.now = seconds, 0, 0.0

    def __call__(self, v, t, labels):
        torch.rand(3)
        self.now += self.seconds[self.calls]
        self.calls += 1
        assert (v.shape[1:], len(t), len(labels)) == ((1, 4, 4), len(v), len(v))
        return v


@pytest.fixture
def told(monkeypatch):
    """The lines for a solver on a dynamics, and the denoiser that was asked."""

    def tell(solver, steps, *seconds, samples=10, dynamics=VP, denoise_last=False, **arguments):
        denoiser, kind = Clocked(*seconds), SOLVERS[solver]
        monkeypatch.setattr(forecasting.time, "perf_counter", lambda: denoiser.now)
        config = SampleConfig(
            seeds=tuple(range(samples)), steps=steps, batch_size=10, denoise_last=denoise_last, solver=solver
        )
        spec = DataSpec("image", (1, 4, 4), classes=("a", "b"))
        job = Job(path_of(kind, dynamics()), denoiser, spec, partial(kind, **arguments), None, config)
        return forecast(job, list(blocks(samples, 10))), denoiser

    return tell


def test_the_time_of_the_published_sampler_and_the_short_way(told):
    (time, note), denoiser = told("em", 1000, 0.9, 0.5)  # the first evaluation also sets things up
    assert denoiser.calls == 2
    assert time == "time      about 8.3 min: 1,000 evaluations of the network, 0.5 s for 10 samples at a time"
    assert note == "note      a short way: --solver ab3 --steps 10 (without --mode) takes about 5.0 s"
    assert told("em", 1000, 20.0)[1].calls == 1  # a slow one is timed once
    assert "0.2 s for 10 samples" in told("em", 1000, 2.4, 0.2)[0][0]  # a network that adapts is slow to set up


@pytest.mark.parametrize(
    ("solver", "steps", "samples", "more", "said"),
    [
        ("exp2", 20, 10, {}, None),  # few
        ("em", 100, 10, {}, None),
        ("em", 101, 10, {}, "about 10 s: 101 evaluations"),
        ("exp2", 20, 65, {}, "about 13 s: 140 evaluations"),  # six blocks of ten and half a one
        ("pc", 100, 10, {}, "about 30 s: 298 evaluations"),
        ("pc", 100, 10, {"denoise_last": True}, "about 30 s: 299 evaluations"),
        ("pc", 200, 10, {"corrector": "none", "factor": 0.0}, "about 20 s: 200 evaluations"),
    ],
)
def test_what_is_counted(told, solver, steps, samples, more, said):
    lines, denoiser = told(solver, steps, 0.1, 0.1, samples=samples, **more)
    assert [line.startswith(f"time      {said} of the network, 0.1 s for 10 samples") for line in lines] == [
        True
    ] * bool(said)
    assert denoiser.calls == 2 * bool(said)


def test_a_short_way_is_named_where_there_is_one(told):
    assert len(told("em", 1000, 0.5, 0.5)[0]) == 2
    assert len(told("em", 1000, 0.05, 0.05)[0]) == 1  # 50 s
    assert len(told("em", 1000, 0.5, 0.5, dynamics=FALLING)[0]) == 1
    assert len(told("ab3", 10, 2.0, 2.0, samples=200)[0]) == 1  # it is what is taken
    assert len(told("exp2", 20, 2.0, 2.0, samples=100)[0]) == 2
    assert len(told("exp2", 500, 2.0, 2.0)[0]) == 2


@pytest.mark.parametrize("name", args.DYNAMICS)
def test_the_short_way_applies(name):
    kind = args.DYNAMICS[name]
    dynamics = kind(**kind.defaults_for((8, 8)), **({"shape": (8, 8)} if name == "heat" else {}))
    solver = SOLVERS[default_solver(dynamics)]
    solver().check(path_of(solver, dynamics))


def test_no_random_stream_is_touched(told):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert told("em", 1000, 0.5, 0.5)[1].calls == 2
    assert torch.equal(torch.rand(2), expected)
