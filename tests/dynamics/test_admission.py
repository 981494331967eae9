"""Two functions of time make a dynamics: what follows from them, and what is refused when one is made."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from common.dynamics import CLD, VE, VP, ClosedForm, Flow, LinearDynamics, SubVP
from common.refusal import Refusal
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVE, FVP
from tests.dynamics.members import HEATS, build, calls_of_a_step, data_shape, sde

Function = Callable[[Tensor], Tensor]


def derived(base: type[ClosedForm], name: str = "Derived", **functions: Function) -> type[ClosedForm]:
    """A class whose drift and diffusion follow from its law, given as functions of time or by ``base``."""
    methods = {key: lambda self, t, function=function: function(t) for key, function in functions.items()}
    rates = {"drift": ClosedForm.drift, "diffusion": ClosedForm.diffusion}
    return type(name, (base,), rates | methods)


# -- what follows from the two functions -------------------------------------------------------------------------------

BY_LOGARITHMS: dict[str, Callable[[], LinearDynamics]] = {
    "vp": derived(VP),
    "subvp": derived(SubVP),
    "ve": derived(VE),
    "edm": lambda: build("edm"),
    "flow": lambda: build("flow"),
}
BY_SCALE_AND_STD: dict[str, Callable[[], LinearDynamics]] = {
    "vp": derived(
        ClosedForm,
        scale=lambda t: torch.exp(-0.05 * t - 4.975 * t**2),
        std=lambda t: torch.sqrt(-torch.expm1(-0.1 * t - 9.95 * t**2)),
    ),
    "edm": derived(ClosedForm, scale=torch.ones_like, std=lambda t: 80 * t),
}


@pytest.mark.parametrize(
    ("name", "make"),
    [*BY_LOGARITHMS.items(), *BY_SCALE_AND_STD.items()],
    ids=[*BY_LOGARITHMS, *(f"{name}-scale-std" for name in BY_SCALE_AND_STD)],
)
def test_drift_and_diffusion_follow_from_the_law(name, make):
    """They are those of the papers, written out in tests/oracles.py."""
    dynamics, reference = make(), sde(name)
    t = np.concatenate([np.geomspace(1e-6, 0.1, 30), np.linspace(0.12, reference.horizon, 30)])
    times = torch.from_numpy(t)
    assert np.allclose(dynamics.drift(times), [reference.F(s)[0, 0] for s in t], rtol=1e-10, atol=0)
    assert np.allclose(dynamics.diffusion(times), [reference.G(s)[0] for s in t], rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", HEATS)
def test_drift_and_diffusion_follow_mode_by_mode(name):
    shape, constants = HEATS[name]
    written, own = build(name), derived(HeatSubVP)(shape, **constants)
    t = torch.linspace(1e-3, 1, 30, dtype=torch.float64)
    assert torch.allclose(own.drift(t), written.drift(t), rtol=1e-10, atol=0)
    assert torch.allclose(own.diffusion(t), written.diffusion(t), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["edm", "flow", "heat-4x6"])
def test_a_step_runs_in_every_mode_and_with_times_of_float32(name):
    """Differentiation inside no_grad and inference_mode, with times made there or outside, changes no number."""
    dynamics = build(name) if name not in HEATS else derived(HeatSubVP)(HEATS[name][0], **HEATS[name][1])
    x0, z = torch.randn(2, 1, *data_shape(name)), torch.randn(2, 1, 1, *data_shape(name))
    t = torch.tensor([0.1, 0.9])

    def results(times: Tensor) -> dict[str, list[Tensor]]:
        calls = calls_of_a_step(dynamics, x0, times, z)
        found = {key: call() for key, call in calls.items()}
        return {key: value if isinstance(value, list) else [value] for key, value in found.items()}

    want = results(t.double())
    assert all(tensor.isfinite().all() for tensors in want.values() for tensor in tensors)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            for times in (t.double(), t.clone(), t):
                for key, tensors in results(times).items():
                    for got, expected in zip(tensors, want[key], strict=True):
                        error = (got - expected).abs().max()
                        assert error <= 1e-6 * expected.abs().max(), (mode.__name__, times.dtype, key)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [(), ("log_scale",), ("noise_level",), ("scale",), ("std",), ("log_scale", "std"), ("scale", "noise_level")],
    ids="+".join,
)
def test_a_class_must_give_one_of_the_two_pairs(given):
    with pytest.raises(TypeError, match="Half must define log_scale and noise_level, or scale and std"):
        type("Half", (ClosedForm,), dict.fromkeys(given, lambda self, t: t))


def around(value: float) -> Function:
    """A function of time that is 1, but ``value`` for t between 0.3 and 0.5."""
    return lambda t: torch.where((t - 0.4).abs() < 0.1, value, 1.0)


def at_the_end(value: float) -> Function:
    """A function of time that is 1, but ``value`` at t = 1."""
    return lambda t: torch.where(t < 1, 1.0, value)


ONE, ZERO = torch.ones_like, torch.zeros_like
NO_LAW: dict[str, tuple[dict[str, Function], str]] = {
    "nothing-left": ({"scale": lambda t: 1 - t, "std": ONE}, r"scale is 0 at t = 1, .*T 1$"),
    "scale-negative": ({"scale": lambda t: 0.8 - t, "std": ONE}, r"scale is -0\.075\d* at t = 0\.875, "),
    "scale-nan-at-T": ({"scale": at_the_end(torch.nan), "std": ONE}, r"scale is nan at t = 1, "),
    "scale-infinite-inside": ({"scale": around(torch.inf), "std": ONE}, r"scale is inf at t = 0\.375\d*, "),
    "level-nan-at-T": ({"log_scale": ZERO, "noise_level": at_the_end(torch.nan)}, r"level is nan at t = 1, "),
    "level-infinite-inside": (
        {"log_scale": ZERO, "noise_level": around(torch.inf)},
        r"level is inf at t = 0\.375\d*, ",
    ),
    "no-noise-at-T": ({"scale": ONE, "std": lambda t: 1 - t}, r"level is -inf at t = 1, "),
    "no-noise-at-t_min": ({"scale": ONE, "std": lambda t: (t - 0.1).clamp_min(0)}, r"level is -inf at t = 1e-06, "),
}


@pytest.mark.parametrize("case", NO_LAW)
def test_what_is_no_law_is_refused_by_name_and_time(case):
    functions, message = NO_LAW[case]
    with pytest.raises(Refusal, match=f"^Broken: the (log of its noise )?{message}"):
        derived(ClosedForm, "Broken", **functions)()


def test_a_straight_path_to_the_very_end_is_told_where_to_stop():
    class Straight(Flow):
        horizon = 1.0

        def scale(self, t: Tensor) -> Tensor:
            return 1 - t

    with pytest.raises(Refusal, match=r"Straight: the scale is 0 at t = 1, .*end of time.* \(horizon = 0\.995\)"):
        Straight()
    Straight.horizon = 0.995
    t = torch.tensor([0.3, 0.995], dtype=torch.float64)
    assert torch.equal(Straight().moments(t).sigma, build("flow").moments(t).sigma)


def test_one_mode_that_is_no_law_is_enough():
    class Broken(HeatSubVP):
        def noise_level(self, t: Tensor) -> Tensor:
            level = super().noise_level(t)
            level[:, 1, 2] = torch.nan
            return level

    with pytest.raises(Refusal, match="Broken: the log of its noise level is nan at t = 1e-06"):
        Broken((4, 6), x_norm=6.0)


MEMBERS = {
    "VP": VP,
    "SubVP": SubVP,
    "VE": VE,
    "HeatSubVP": lambda: HeatSubVP((7,), x_norm=7.0),
    "CLD": CLD,
    "FVP": lambda: FVP(0.9, 1),
    "FVE": lambda: FVE(0.9, 1),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_every_object_is_admitted_once(name, monkeypatch):
    """When its constructor is through, whether that is its own, inherited, or made from fields."""
    admitted = []
    admit = LinearDynamics.admit
    monkeypatch.setattr(LinearDynamics, "admit", lambda self: admitted.append(admit(self) or repr(self)))
    assert admitted == [repr(MEMBERS[name]())]


@pytest.mark.parametrize("share", [1.01, 0.99])
@pytest.mark.parametrize("rate", ["drift", "diffusion"])
@pytest.mark.parametrize(
    ("base", "arguments"),
    [
        (VP, {}),
        (SubVP, {}),
        (HeatSubVP, {"shape": (8,), "x_norm": 8.0}),
        (HeatSubVP, {"shape": (4, 6), "x_norm": 32.0, "beta_max": 5.0}),
    ],
    ids=["vp", "subvp", "heat-8", "heat-4x6"],
)
def test_a_rate_of_another_law_is_refused_by_name(base, arguments, rate, share):
    """Off by a hundredth in one mode of many is enough; as it should be, the same method is accepted."""

    def off(factor: float) -> type[LinearDynamics]:
        def wrong(self, t: Tensor) -> Tensor:
            values = getattr(base, rate)(self, t).clone()
            values.flatten(1 if values.ndim > 1 else 0)[..., -1] *= factor
            return values

        return type("Off", (base,), {rate: wrong})

    off(1.0)(**arguments)
    with pytest.raises(Refusal, match=rf"^Off: {rate} does not belong to its law: at t = 0\.\d+ .*Leave {rate} out"):
        off(share)(**arguments)


def test_where_nothing_should_drift_a_small_drift_is_refused():
    class Drifting(VE):
        def drift(self, t: Tensor) -> Tensor:
            return torch.full_like(t, 1e-6)

    with pytest.raises(Refusal, match=r"Drifting: drift .* it is 1e-06, and that of log_scale and noise_level is 0\."):
        Drifting()
