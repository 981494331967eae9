"""What a solver is: a step, a declared order and its evaluations per step."""

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.refusal import Refusal
from common.samplers.grids import Grid
from common.samplers.noise import NoiseSource

Reached = Callable[[float, Tensor], None]


class Posterior:
    """The denoiser seen from a solver: z and t to x0_hat, labels bound, calls counted."""

    def __init__(self, dynamics: LinearDynamics, denoiser: X0Denoiser, labels: Tensor | None) -> None:
        self._dynamics, self._denoiser, self._labels = dynamics, denoiser, labels
        self.calls = 0

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """x0_hat (B, C, *S) for the state z (B, A, C, *S) at time t (1,)."""
        self.calls += 1
        v = z.squeeze(1) if self._dynamics.num_components == 1 else self._dynamics.statistic(z, t)
        return self._denoiser(v, t.expand(len(v)), self._labels)


class Solver(ABC):
    """One scheme. Instances hold what a scheme remembers between steps, so each run takes a fresh one.

    Attributes:
        order: order of the global error in the step (weak order for stochastic schemes).
        evaluations: denoiser calls per step, at most.
        stochastic: whether a step uses noise.
        path: what it runs on: the whole ``augmented`` state, or the ``scalar`` path if the noise level is monotone.
        default_steps: steps that it needs.
        fewest_steps: steps below which its samples are still noisy; a program says so.
        denoise_last: whether x0_hat at the end is given by default, instead of the state there.
        clips: whether clipping x0_hat to the range of images helps it.
        adaptive: whether it chooses its own steps, so that evaluations are known only when it is done.
        renoises: whether it takes every answer for a sample, as networks tuned by ``--objective consistency`` give it.
    """

    order: int
    evaluations: int = 1
    stochastic: bool = False
    path: ClassVar[Literal["augmented", "scalar"]] = "augmented"
    default_steps: ClassVar[int] = 1000
    fewest_steps: ClassVar[int] = 1
    denoise_last: ClassVar[bool] = False
    clips: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    renoises: ClassVar[bool] = False

    @classmethod
    def refuse_idle(cls, given: Mapping[str, object]) -> None:
        """Raise a Refusal for given arguments that have no effect beside the others; most schemes have no such ones."""
        return

    @property
    def own_steps(self) -> int | None:
        """Steps that it takes unless told otherwise; None if it chooses them."""
        return self.default_steps

    def calls(self, steps: int, *, components: int = 1, denoise_last: bool | None = None) -> int:
        """Denoiser calls of so many steps on a state of so many components, with one for x0_hat at the end if wanted.

        Args:
            steps: at least 1.
            components: A.
            denoise_last: whether x0_hat at the end is given; None takes what the scheme does by default.
        """
        return self.evaluations * steps + (self.denoise_last if denoise_last is None else denoise_last)

    def steps_for(self, nfe: int, *, components: int = 1, denoise_last: bool | None = None) -> int:
        """Steps that take so many denoiser calls.

        Raises:
            Refusal: if no number of steps takes just as many, with the nearest ones that can be had.
        """

        def calls(steps: int) -> int:
            return self.calls(steps, components=components, denoise_last=denoise_last)

        steps = 1 + bisect.bisect_left(range(1, nfe + 1), nfe, key=calls)  # the first that takes as many, or more
        near = sorted({calls(max(steps - 1, 1)), calls(steps)})
        if nfe not in near:
            raise Refusal(f"{nfe}: no number of steps takes just as many; give {' or '.join(map(str, near))}", "nfe")
        return steps

    def extent(self, steps: int | None) -> str:
        """How finely it solves, for the name of a set of samples: its steps, or a tolerance if it chooses them."""
        return str(steps)

    def draws(self, components: int) -> int:
        """White-noise fields (B, C, *S) that a step uses on a state of so many components; most use one."""
        return 1

    def check(self, dynamics: LinearDynamics) -> None:
        """Raise a Refusal if the scheme does not apply to the dynamics; most apply to all."""
        return

    def prepare(self, dynamics: LinearDynamics, times: Tensor) -> None:
        """Compute what can be computed once the times (steps + 1,) are known; most schemes need nothing."""
        return

    @abstractmethod
    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """The time grid that suits the scheme under this dynamics."""

    def run(
        self,
        dynamics: LinearDynamics,
        posterior: Posterior,
        z: Tensor,
        times: Tensor,
        source: NoiseSource,
        reached: Reached,
    ) -> Tensor:
        """Advance the state from the first to the last of the times, step by step.

        Args:
            dynamics: the dynamics that is reversed.
            posterior: z and t to x0_hat.
            z: state (B, A, C, *S).
            times: (steps + 1,) float64, falling.
            source: noise of the steps, of which a stochastic scheme takes none in the last one.
            reached: called after every step with the time reached and the state there.

        Returns:
            The state at the last time.
        """
        readable = times.tolist()
        for i in range(len(times) - 1):
            noise = source.step() if self.stochastic and i < len(times) - 2 else None
            z = self.step(dynamics, posterior, z, times[i : i + 1], times[i + 1 : i + 2], noise)
            reached(readable[i + 1], z)
        return z

    @abstractmethod
    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Advance the state from time t to time s < t.

        Args:
            dynamics: the dynamics that is reversed.
            posterior: z and t to x0_hat.
            z: state (B, A, C, *S).
            t: present time (1,) float64.
            s: next time (1,) float64.
            noise: white noise (B, C, *S), or (B, draws, C, *S) for a scheme of several draws; None in the last step
                and for deterministic schemes.

        Returns:
            The state at time s.
        """
