"""How many Fourier transforms a call under heat dynamics takes: what it costs beside the network."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from common.denoiser import PREDICTIONS, Denoiser
from common.samplers import SOLVERS, Posterior
from fdp.dynamics import HeatSubVP
from tests.dynamics.members import calls_of_a_step

Counted = Callable[[Callable[[], object]], tuple[int, int]]

HEAT = HeatSubVP((4, 6), x_norm=6.0, beta_max=1.0)  # damped so little that noise may be predicted too
X0, T, Z = torch.ones(2, 1, 4, 6), torch.tensor([0.3, 0.8]), torch.ones(2, 1, 1, 4, 6)


class Still(nn.Module):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return x


@pytest.fixture
def transforms(monkeypatch) -> Counted:
    """Counts the transforms of a call, (forward, inverse), each of a whole batch."""
    counts = {"rfftn": 0, "irfftn": 0}

    def count(name: str) -> None:
        function = getattr(torch.fft, name)

        def counted(*args, **arguments) -> Tensor:
            counts[name] += 1
            return function(*args, **arguments)

        monkeypatch.setattr(torch.fft, name, counted)

    for name in counts:
        count(name)

    def of(call: Callable[[], object]) -> tuple[int, int]:
        before = tuple(counts.values())
        call()
        forward, inverse = (after - start for after, start in zip(counts.values(), before, strict=True))
        return forward, inverse

    return of


def test_a_formula_comes_back_from_the_coefficients_once(transforms):
    found = {name: transforms(call) for name, call in calls_of_a_step(HEAT, X0, T, Z).items()}
    nothing, one_state, two_states = (0, 0), (1, 1), (2, 1)
    assert found == {
        "moments": nothing,
        "metric": nothing,
        "statistic": one_state,
        "apply_drift": one_state,
        "apply_diffusion": one_state,
        "perturb": two_states,
        "sample_state": two_states,
        "score": two_states,
        "attraction": two_states,
        "reverse_sde": two_states,
        "reverse_ode": two_states,
        "prior": (2, 2),
    }


LEARNED = {  # of the error, of the error with a weight, and of a call of the denoiser
    "eps": ((3, 2), (3, 2), (2, 1)),  # perturb, metric or weight
    "x0": ((3, 2), (3, 2), (0, 0)),
    "v": ((5, 3), (6, 4), (3, 2)),  # perturb, input, target, (weight)
    "edm": ((5, 3), (6, 4), (3, 2)),
}


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_transforms_of_training_and_of_a_denoiser(transforms, prediction):
    denoiser = Denoiser(Still(), HEAT, prediction)
    error, weighted, call = LEARNED[prediction]
    assert transforms(lambda: denoiser.error(X0, T, X0)) == error
    assert transforms(lambda: denoiser.error(X0, T, X0, weight=torch.exp)) == weighted
    assert transforms(lambda: denoiser(X0, T)) == call


STEPS = {  # of a step that is not the first, without those of the denoiser
    "ab2": (2, 1),
    "ab3": (2, 1),
    "em": (3, 2),
    "euler": (2, 1),
    "exp1": (2, 1),
    "exp2": (2, 1),
    "exp3": (2, 1),
    "exp-sde": (3, 1),  # and the noise
    "exp-sde2": (3, 1),
    "heun": (3, 2),  # two evaluations
    "renoise": (2, 1),  # the answer and the noise
    "pc": (11, 7),  # a correction, two Euler stages, and re-noising between
}


@pytest.mark.parametrize("name", [name for name, kind in SOLVERS.items() if not kind.adaptive])
def test_transforms_of_a_solver_step(transforms, name):
    solver, posterior = SOLVERS[name](), Posterior(HEAT, lambda v, t, labels: v, None)
    times = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
    solver.prepare(HEAT, times)
    noise = None
    if solver.stochastic:
        noise = torch.ones(2, solver.draws(1), 1, 4, 6) if solver.draws(1) > 1 else X0
    z = solver.step(HEAT, posterior, Z, times[:1], times[1:2], noise)
    assert transforms(lambda: solver.step(HEAT, posterior, z, times[1:2], times[2:], noise)) == STEPS[name]
