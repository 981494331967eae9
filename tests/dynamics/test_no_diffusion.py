"""Laws that no diffusion has, refused when a dynamics is made; slopes of a law in any mode, silently."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.dynamics import EDM, VP, ClosedForm, Flow
from common.refusal import Refusal
from common.samplers import PredictorCorrector, sample
from fdp.dynamics import HeatSubVP

ROOT = Path(__file__).parents[2]


class Clearing(ClosedForm):
    """Its noise grows up to t = 1/2 and goes away again."""

    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def std(self, t: Tensor) -> Tensor:
        return 0.1 + t * (1 - t)


def test_a_noise_level_that_falls_is_refused_where_it_does():
    """Its diffusion would be the root of a negative number: NaN in every sample, and nothing said."""
    with pytest.raises(Refusal, match=r"Clearing: the noise level falls between t = 0\.5 and 0\.625"):
        Clearing()


def test_one_falling_mode_is_enough():
    class Falling(HeatSubVP):
        def noise_level(self, t: Tensor) -> Tensor:
            level = super().noise_level(t).clone()
            level[:, -1] = -t
            return level

    with pytest.raises(Refusal, match="Falling: the noise level falls"):
        Falling((8,), x_norm=8.0)


def test_a_law_of_the_wrong_shape_is_refused_by_its_name():
    class Constant(ClosedForm):
        def scale(self, t: Tensor) -> Tensor:
            return torch.ones(())

        def std(self, t: Tensor) -> Tensor:
            return t

    with pytest.raises(Refusal, match=r"Constant: the scale of 9 times must be of shape \(9,\), got \(\)"):
        Constant()


@pytest.mark.parametrize("rate", ["drift", "diffusion"])
def test_a_rate_that_is_nan_is_refused(rate):
    broken = type("Broken", (VP,), {rate: lambda self, t: t * torch.nan})
    with pytest.raises(Refusal, match=f"Broken: {rate} does not belong to its law: .* it is nan"):
        broken()


def test_the_mode_that_is_wrong_is_the_one_shown():
    class Off(HeatSubVP):
        def drift(self, t: Tensor) -> Tensor:
            rate = super().drift(t).clone()
            rate[:, 3] = 7.0
            return rate

    with pytest.raises(Refusal, match=r"Off: drift .* it is 7, and"):
        Off((8,), x_norm=8.0)


class Straight(ClosedForm):
    """A path with no law from t = 1 on."""

    horizon = 0.995

    def scale(self, t: Tensor) -> Tensor:
        return 1 - t

    def std(self, t: Tensor) -> Tensor:
        return t


def test_to_add_noise_where_there_is_no_law_is_refused():
    def run(dynamics: ClosedForm, steps: int, *, paper: bool) -> Tensor:
        solver = PredictorCorrector(paper=paper, factor=2.0)
        return sample(dynamics, lambda v, t, labels: 0 * v, (1, 1, 2, 2), solver=solver, steps=steps, seeds=[0]).x

    with pytest.raises(Refusal, match=r"^paper True adds noise again up to t = 1\.0\d+, where Straight\(\) has no law"):
        run(Straight(), 50, paper=True)
    assert run(Straight(), 1000, paper=True).isfinite().all()  # the first step is shorter than what is left to 1
    assert run(Straight(), 50, paper=False).isfinite().all()
    assert run(Flow(), 50, paper=True).isfinite().all()


@pytest.mark.parametrize("make", [EDM, Flow])
def test_rates_before_the_first_time_are_those_of_it(make):
    dynamics = make()
    early = torch.tensor([0.0, 1e-12, dynamics.t_min], dtype=torch.float64)
    for rate in (dynamics.drift(early), dynamics.diffusion(early)):
        assert rate.isfinite().all()
        assert (rate == rate[-1]).all()


def test_slopes_in_inference_mode_are_those_outside():
    t = torch.tensor([0.1, 0.9], dtype=torch.float64)
    want = Flow().drift(t), Flow().diffusion(t)
    with torch.inference_mode():
        inside = t.clone()
        for times in (t, inside):
            got = Flow().drift(times), Flow().diffusion(times)
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.slow
def test_the_first_slope_of_a_process_says_nothing():
    """Torch warns of code of its own that it loads then; a user of --dynamics flow would see it at every start."""
    code = "import torch; from common.dynamics import Flow; Flow().drift(torch.ones(1).double() / 2)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stderr == ""


@dataclass(eq=False, repr=False)
class Decaying(ClosedForm):
    """An ordinary dataclass: arguments are fields, and its constructor is made after the class."""

    rate: float = 2.0

    def __post_init__(self) -> None:
        super().__init__()

    def scale(self, t: Tensor) -> Tensor:
        return 1 - self.rate * t

    def std(self, t: Tensor) -> Tensor:
        return t


@dataclass(eq=False, repr=False)
class DecayingLater(Decaying):
    """Another field, and a constructor around that of its base."""

    delay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rate /= 1 + self.delay


def test_an_ordinary_dataclass_is_admitted_once_it_is_whole(monkeypatch):
    assert Decaying(rate=0.5).drift(torch.ones(1, dtype=torch.float64)).item() == pytest.approx(-1)
    with pytest.raises(Refusal, match="Decaying: the scale is 0 at t = 1"):
        Decaying(rate=1.0)
    admitted = []
    monkeypatch.setattr(ClosedForm, "admit", lambda self: admitted.append(self.rate))
    DecayingLater(rate=1.0, delay=1.0)
    assert admitted == [0.5]
