"""A step on an accelerator without one: fake tensors refuse to mix devices and to be read by the host.

A call that passes here neither looks up a table with tensors of another device nor waits for the device.
"""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.denoiser import PREDICTIONS, Denoiser
from common.dynamics import propagator
from common.refusal import Refusal
from common.samplers import SOLVERS, Posterior
from tests.dynamics.members import build, calls_of_a_step, data_shape

NAMES = ["vp", "subvp", "ve", "edm", "flow", "cld", "fvp-0.9-2", "fve-0.3-3", "fvp-0.9-2-path", "heat-8", "heat-5x7"]
FAST = ("vp", "flow", "cld", "fvp-0.9-2", "heat-5x7")  # one component and several, of pixels and of modes


class Still(nn.Module):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return x


@pytest.fixture(params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def moved(request, monkeypatch):
    """A member moved to a device that is not there, with x0, t and z on it."""
    dynamics, shape = copy.deepcopy(build(request.param)), (2, 1, *data_shape(request.param))
    _ = dynamics.scale_vanishes  # read once, when a denoiser is made
    # how many steps a solver's preparation integrates in is read back, once
    monkeypatch.setattr(propagator, "plan", lambda start, end: [(torch.arange(len(start), device=start.device), 4)])
    with FakeTensorMode(allow_non_fake_inputs=True):
        dynamics.to("cuda")
        z = torch.randn(2, dynamics.num_components, *shape[1:], device="cuda")
        yield dynamics, torch.randn(shape, device="cuda"), torch.rand(2, device="cuda"), z


def test_every_call_stays_on_the_device(moved):
    dynamics, x0, t, z = moved
    assert dynamics.device.type == "cuda"
    for name, call in calls_of_a_step(dynamics, x0, t, z).items():
        result = call()
        for tensor in result if isinstance(result, list) else [result]:
            assert tensor.device.type == "cuda" or name == "metric", name


def test_training_error_stays_on_the_device(moved):
    dynamics, x0, t, _ = moved
    for prediction in PREDICTIONS:
        if prediction != "eps" or not dynamics.scale_vanishes:
            assert Denoiser(Still(), dynamics, prediction).error(x0, t, x0).device.type == "cuda"


def test_solver_steps_stay_on_the_device(moved):
    dynamics, x0, _, z = moved
    times = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64).to("cuda")
    posterior = Posterior(dynamics, lambda v, t, labels: v, None)
    for scheme in (kind for kind in SOLVERS.values() if not kind.adaptive):  # a tolerance waits for the device
        solver, state = scheme(), z
        try:
            solver.check(dynamics)
        except Refusal:
            continue
        solver.prepare(dynamics, times)
        draws = solver.draws(dynamics.num_components)
        noise = x0 if draws == 1 else x0.unsqueeze(1).expand(-1, draws, *x0.shape[1:])
        for i in range(2):
            state = solver.step(dynamics, posterior, state, times[i : i + 1], times[i + 1 : i + 2], noise)
        assert state.device.type == "cuda"


def test_the_guard_bites():
    dynamics = copy.deepcopy(build("fvp-0.9-2"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        dynamics.to("cuda")
        with pytest.raises(RuntimeError, match="same device"):
            dynamics.log_sigma(torch.rand(2))
        with pytest.raises(Exception, match="_local_scalar_dense"):
            dynamics.log_sigma(torch.rand(1, device="cuda")).item()
