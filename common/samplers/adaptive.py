"""Adaptive Runge-Kutta methods on the probability-flow ODE, by torchdiffeq: steps follow from a tolerance.

They run in t^(1/3): on both demo models no other variable (t, log t, noise level, angle) took clearly fewer
evaluations for an error. A step is judged by its worst sample, by the root mean square of the error over the sample's
entries, so a sample hardly depends on its batch mates. Times asked for stay between those of the step, float64
made from a cube root in the dtype of states.
"""

from collections.abc import Mapping
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from common.broadcast import align
from common.denoiser import Imposes
from common.dynamics import LinearDynamics
from common.refusal import Refusal, require
from common.samplers.base import Posterior, Reached, Solver
from common.samplers.grids import Grid, rho3
from common.samplers.noise import NoiseSource

ROOT = 3  # of time, in which the ODE is integrated
LEAST = 1e-3  # of the way: a step is taken at that length whatever its error, so that every run ends
MOST = 0.2  # of the way: the error of a longer step is not always seen
HUGE = 1e18  # slope from which on a sample is given up as NaN; its batch mates go on


class Adaptive(Solver):
    """A method of torchdiffeq; its steps are those that keep the error of each below rtol |z| + atol.

    A step from t to s makes as many of them as that takes, and the network's evaluations are known afterwards only.
    Defaults leave most samples of the 8 x 8 demo models of both families within 0.01 of the exact solution (root mean
    square over pixels on [-1, 1]: about a grey level of 256).

    Args:
        rtol: error of a step relative to the state, from 1e-6, which is what float32 resolves, to 1.
        atol: error of a step where the state is small, in the same range (default: that of rtol).

    Raises:
        Refusal: for a value out of range.
    """

    adaptive = True
    path = "scalar"
    default_steps = 1
    clips = True
    method: ClassVar[str]

    def __init__(self, rtol: float, atol: float | None = None) -> None:
        atol = rtol if atol is None else atol
        for name, value in (("rtol", rtol), ("atol", atol)):
            require(1e-6 <= value <= 1, name, "from 1e-6 to 1", value)
        self.rtol, self.atol = rtol, atol

    @classmethod
    def refuse_idle(cls, given: Mapping[str, object]) -> None:
        """Refuse what would choose the steps."""
        for name in ("steps", "nfe", "grid"):
            if given.get(name) is not None:
                cls._refuse(name)

    @classmethod
    def _refuse(cls, name: str) -> NoReturn:
        raise Refusal(f"has no effect on {cls.method}, which chooses its own steps; give --rtol instead", name)

    @property
    def own_steps(self) -> None:
        """It chooses them."""
        return

    def calls(self, steps: int, *, components: int = 1, denoise_last: bool | None = None) -> int:
        """Not known beforehand.

        Raises:
            Refusal: always.
        """
        raise Refusal(f"of {self.method} are known only when it is done", "evaluations")

    def steps_for(self, nfe: int, *, components: int = 1, denoise_last: bool | None = None) -> int:
        """Not to be chosen.

        Raises:
            Refusal: always.
        """
        self._refuse("nfe")

    def extent(self, steps: int | None) -> str:
        """The tolerance."""
        return f"{self.rtol:g}"

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """In the variable of integration; it is of use only if states at some times are asked for."""
        return rho3

    def run(
        self,
        dynamics: LinearDynamics,
        posterior: Posterior,
        z: Tensor,
        times: Tensor,
        source: NoiseSource,
        reached: Reached,
        observation: Imposes | None = None,
    ) -> Tensor:
        """As of every solver; ``reached`` is called after every step of the method. ``sample`` refuses observations."""
        for t, s in zip(times[:-1].split(1), times[1:].split(1), strict=True):
            z = self._integrate(dynamics, posterior, z, t, s, reached)
        return z

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        return self._integrate(dynamics, posterior, z, t, s, lambda time, state: None)

    def _integrate(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, reached: Reached
    ) -> Tensor:
        from torchdiffeq import odeint  # here: it takes SciPy to import

        slope, ends = _Slope(dynamics, posterior, t, s, z, reached), torch.cat([t, s]) ** (1 / ROOT)
        way = float(ends[0] - ends[1])
        options = {"norm": worst, "step_t": ends[1:], "min_step": LEAST * way, "max_step": MOST * way}
        found: Tensor = odeint(slope, z, ends, rtol=self.rtol, atol=self.atol, method=self.method, options=options)[1]
        found = found.where(align(~slope.lost, found).bool(), torch.nan)
        reached(float(s), found)
        return found


class AdaptiveHeun(Adaptive):
    """Order 2, one evaluation a step: torchdiffeq keeps the slope at the predicted state for the next."""

    order, evaluations, method = 2, 1, "adaptive_heun"

    def __init__(self, rtol: float = 5e-3, atol: float | None = None) -> None:
        super().__init__(rtol, atol)


class BogackiShampine3(Adaptive):
    """Order 3, three evaluations a step (Bogacki and Shampine, 1989)."""

    order, evaluations, method = 3, 3, "bosh3"

    def __init__(self, rtol: float = 5e-3, atol: float | None = None) -> None:
        super().__init__(rtol, atol)


class DormandPrince5(Adaptive):
    """Order 5, six evaluations a step (Dormand and Prince, 1980), what others report as RK45."""

    order, evaluations, method = 5, 6, "dopri5"

    def __init__(self, rtol: float = 1e-3, atol: float | None = None) -> None:
        super().__init__(rtol, atol)


class DormandPrince8(Adaptive):
    """Order 8, thirteen evaluations a step (Prince and Dormand, 1981), for denoisers that are smooth."""

    order, evaluations, method = 8, 13, "dopri8"

    def __init__(self, rtol: float = 5e-3, atol: float | None = None) -> None:
        super().__init__(rtol, atol)


class _Slope:
    """dz / dt^(1/3) along the probability flow, and what torchdiffeq is to do after a step.

    Attributes:
        lost: samples (B,) whose slope was not finite; from then on it is 0, so that the others go on.
    """

    def __init__(
        self, dynamics: LinearDynamics, posterior: Posterior, t: Tensor, s: Tensor, z: Tensor, reached: Reached
    ) -> None:
        self._dynamics, self._posterior, self._reached = dynamics, posterior, reached
        self._first, self._last = t, s
        self.lost = torch.zeros(len(z), dtype=torch.bool, device=z.device)

    def __call__(self, u: Tensor, z: Tensor) -> Tensor:
        root = u.double().reshape(1)
        t = (root**ROOT).clamp(self._last, self._first)
        drift = self._dynamics.reverse_drift(z, t, self._posterior(z, t), stochastic=False)
        slope = align(ROOT * root ** (ROOT - 1), drift) * drift
        self.lost |= ~(slope.abs() < HUGE).flatten(1).all(1)
        return slope.where(align(~self.lost, slope).bool(), 0)

    def callback_accept_step(self, u: Tensor, z: Tensor, du: Tensor) -> None:
        """Called by torchdiffeq with where a step began; its end is where the next one begins."""
        time = float(u) ** ROOT
        if time < float(self._first):
            self._reached(time, z)


def worst(error: Tensor) -> Tensor:
    """The largest root mean square over the entries of a sample, of errors (B, A, C, *S)."""
    return error.square().flatten(1).mean(1).max().sqrt()
