"""A denoiser of one process under another: the same function of u = v / m and sigma, and the right law of samples."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.denoiser import PREDICTIONS, Clipped, Denoiser
from common.dynamics import LinearDynamics
from common.dynamics.inverse import TimeOfLevel
from common.guidance import ClassifierFree, Matched, NotReached
from common.refusal import Refusal
from common.samplers import sample
from gfdm.dynamics import FVP
from tests.dynamics.members import PIXEL, build
from tests.oracles import GaussianDenoiser
from tests.test_product import make

PROCESSES = ["vp", "ve", "fvp-0.9-2", "fvp-0.3-3", "fve-0.7-2", "subvp", "cld", "edm", "flow"]


class Small(nn.Module):
    """A smooth network with random weights that reads its input, its time and its labels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4 + 2, 16), nn.Linear(16, 4)
        self.seen: Tensor = torch.empty(0)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen = x
        t, kinds = t.to(x.dtype).unsqueeze(1), torch.zeros(len(x)) if labels is None else labels
        features = torch.cat([x.flatten(1), (20 * t).sin(), kinds.to(x.dtype).unsqueeze(1)], 1)
        return self.last(self.first(features).tanh()).unflatten(1, (1, 2, 2))


def at(number: float) -> Tensor:
    return torch.tensor([number], dtype=torch.float64)


def level(dynamics: LinearDynamics, t: float) -> float:
    return float(dynamics.log_sigma(at(t)))


@pytest.mark.parametrize(("trained", "other"), list(itertools.permutations(PROCESSES, 2)))
def test_x0_hat_is_the_same_function_of_u_and_sigma(trained, other):
    own, target = build(trained), build(other)
    # both at the same levels, found by bisection; the wrapper reads a table
    low = max(level(own, own.t_min), level(target, target.t_min))
    high = min(level(own, own.horizon), level(target, target.horizon))
    levels = torch.linspace(low + 0.1, high, 9, dtype=torch.float64)
    times, times_of_other = own.time_at(levels), target.time_at(levels)
    t_end = max(float(times_of_other[0]), target.t_min)
    u, labels = torch.randn(9, 1, 2, 2, dtype=torch.float64), torch.arange(9)

    def scaled(dynamics: LinearDynamics, t: Tensor) -> Tensor:
        return dynamics.basis.scale(dynamics.moments(t).scale, u)

    for prediction in PREDICTIONS:
        denoiser = Denoiser(Small().double(), own, prediction)
        if level(target, target.horizon) > level(own, own.horizon) + 0.01:
            with pytest.raises(NotReached, match=r"begins at sigma\(T\) = .* the network was trained up to"):
                Matched(denoiser, target, t_end=t_end)
            continue
        want = denoiser(scaled(own, times), times, labels)
        network_saw = denoiser.backbone.seen
        found = Matched(denoiser, target, t_end=t_end)(scaled(target, times_of_other), times_of_other, labels)
        assert (found - want).abs().max() < 1e-5, prediction
        assert torch.allclose(denoiser.backbone.seen, network_saw, rtol=1e-5, atol=0), prediction


@pytest.mark.parametrize("name", PIXEL)
def test_the_table_names_the_times_of_the_bisection(name):
    dynamics = build(name)
    inverse = TimeOfLevel(dynamics).half()  # which leaves tables alone
    ends = level(dynamics, dynamics.t_min), level(dynamics, dynamics.horizon)
    levels = torch.cat([torch.linspace(*ends, 1001, dtype=torch.float64), at(ends[0] - 1), at(ends[1] + 1)])
    times = inverse(levels)
    assert times.dtype == torch.float64
    # where the level stands still, times differ and levels do not
    assert (dynamics.log_sigma(times) - dynamics.log_sigma(dynamics.time_at(levels))).abs().max() < 2e-6
    assert times[-2:].tolist() == pytest.approx([dynamics.t_min, dynamics.horizon], rel=1e-6)


@pytest.mark.parametrize(
    ("trained", "other", "solver", "steps"),
    [
        ("vp", "fvp-0.3-3", "ab3", 20),
        ("vp", "fve-0.7-2", "ab3", 20),
        ("vp", "edm", "exp2", 40),
        ("cld", "flow", "ab3", 20),
        ("fvp-0.9-2", "fve-0.7-2", "em", 200),  # on the augmented state
        ("ve", "fve-0.9-2", "exp1", 200),
    ],
)
def test_samples_have_the_law_of_the_data(trained, other, solver, steps):
    own, target = build(trained), build(other)
    path = target if solver == "em" else target.scalar_path()
    denoiser = Matched(GaussianDenoiser(own), target)
    prior = type(target.prior)(path, 0.3, 0.2**2)
    start = prior.sample((4000, 1, 1), torch.randn(4000, path.num_components, 1, 1))
    x = sample(path, denoiser, (4000, 1, 1), solver=solver, steps=steps, init=start, seeds=range(4000)).x
    assert float(x.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(x.std()) == pytest.approx(0.2, abs=0.01)


def test_a_matched_denoiser_says_what_it_is_for():
    own, target = build("vp"), build("fve-0.7-2")
    denoiser = Clipped(ClassifierFree(Matched(Denoiser(Small(), own), target), 2.0))
    arguments = {"shape": (2, 1, 2, 2), "solver": "em", "steps": 2, "labels": torch.tensor([0, 1])}
    for path in (target, target.scalar_path()):
        assert sample(path, denoiser, **arguments).x.isfinite().all()
    for other in (own, build("edm")):
        with pytest.raises(Refusal, match=r"^denoiser of FVE\(.*\) cannot reverse .*common\.guidance\.Matched"):
            sample(other, denoiser, **arguments)


def test_a_network_that_adapts_is_matched_like_any_other():
    """Its inner steps see what they saw in training: v of the trained process."""
    denoiser = make("fvp", "unet", more="--dropout 0 --inner_steps 2 --num_aug 2").eval()
    own, target = denoiser.dynamics, build("fve-0.7-2")
    t = at(0.5).expand(3)
    other, u = target.time_at(own.log_sigma(t)), torch.randn(3, 1, 8, 8)
    labels = torch.arange(3)
    want = denoiser(own.basis.scale(own.moments(t).scale, u), t, labels)
    found = Matched(denoiser, target)(target.basis.scale(target.moments(other).scale, u), other, labels)
    assert torch.allclose(found, want, atol=1e-4)


def test_what_cannot_be_matched_is_refused():
    plain = Denoiser(Small(), build("vp"))
    heat = build("heat-4x6")
    for denoiser, target in ((Denoiser(Small(), heat), build("vp")), (plain, heat)):
        with pytest.raises(Refusal, match=r"cannot be matched: HeatSubVP\(.*has one per mode"):
            Matched(denoiser, target)
    falling = FVP(0.3, 2, marginals="paper")
    for denoiser, target in ((Denoiser(Small(), falling), build("ve")), (plain, falling)):
        with pytest.raises(Refusal, match=r"cannot be matched: that of FVP\(hurst=0\.3.*paper.*falls in places"):
            Matched(denoiser, target)
    with pytest.raises(NotReached, match=r"begins at sigma\(T\) = 152\.2, .*trained up to 21\.77"):
        Matched(Denoiser(Small(), FVP(0.9, 3)), build("vp"))


def test_too_early_an_end_is_refused_with_one_that_will_do():
    denoiser, target = Denoiser(Small(), build("ve")), FVP(0.9, 3)
    with pytest.raises(Refusal, match=r"^t_end 0\.001 is too early: .* from 0\.01 on; take ") as refused:
        Matched(denoiser, target)
    t_end = float(str(refused.value).rpartition(" ")[2])
    assert math.exp(level(target, t_end)) == pytest.approx(0.01, rel=0.05)
    Matched(denoiser, target, t_end=t_end)
    # times before those of training do not count
    Matched(plain := Denoiser(Small(), build("vp")), target)
    with pytest.raises(Refusal, match="too early"):
        Matched(plain, target, t_min=1e-3)


def test_a_call_does_not_wait_for_the_device():
    """Fake tensors refuse to be read by the host, and to mix devices."""
    denoiser = Matched(Denoiser(Small(), FVP(0.9, 2)), FVP(0.7, 3))
    with FakeTensorMode(allow_non_fake_inputs=True):
        denoiser.to("cuda")
        v, t = torch.randn(8, 1, 2, 2, device="cuda"), torch.rand(8, device="cuda")
        assert denoiser(v, t, torch.arange(8, device="cuda")).device.type == "cuda"
