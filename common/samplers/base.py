"""What a solver is: a step, a declared order and its evaluations per step."""

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from common.denoiser import Imposes, X0Denoiser
from common.dynamics import LinearDynamics
from common.refusal import Refusal
from common.samplers.grids import Grid
from common.samplers.noise import NoiseSource

Reached = Callable[[float, Tensor], None]
Impose = Callable[[Tensor, Tensor], Tensor]


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
        imposes: how often in a step a state may be made to agree with an observation (:meth:`imposed`).
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
    imposes: int = 1

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
        observation: Imposes | None = None,
    ) -> Tensor:
        """Advance the state from the first to the last of the times, step by step.

        Args:
            dynamics: the dynamics that is reversed.
            posterior: z and t to x0_hat.
            z: state (B, A, C, *S).
            times: (steps + 1,) float64, falling.
            source: noise of the steps, of which a stochastic scheme takes none in the last one.
            reached: called after every step with the time reached and the state there.
            observation: what states are made to agree with; its noise comes after the solver's own of every step.

        Returns:
            The state at the last time.
        """
        readable, own = times.tolist(), self.draws(dynamics.num_components) if self.stochastic else 0
        for i in range(len(times) - 1):
            last, t, s = i == len(times) - 2, times[i : i + 1], times[i + 1 : i + 2]
            if observation is None:
                z = self.step(dynamics, posterior, z, t, s, source.step() if own and not last else None)
            else:
                impose = _Imposing(observation, (t, s), None if last else source.step(), own)
                z = self.imposed(dynamics, posterior, z, t, s, None if last else impose.own, impose)
            reached(readable[i + 1], z)
        return z

    def imposed(
        self,
        dynamics: LinearDynamics,
        posterior: Posterior,
        z: Tensor,
        t: Tensor,
        s: Tensor,
        noise: Tensor | None,
        impose: Impose,
    ) -> Tensor:
        """A step that ends with a state which agrees with an observation; a scheme of several parts asks after each.

        Args:
            dynamics: as of :meth:`step`, as are posterior, z, t, s and noise.
            posterior: z and t to x0_hat.
            z: state (B, A, C, *S).
            t: present time.
            s: next time.
            noise: white noise of the step.
            impose: from a state and its time (1,) to the state that agrees; asked ``imposes`` times.
        """
        return impose(self.step(dynamics, posterior, z, t, s, noise), s)

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


class _Imposing:
    """What makes states of one step agree with an observation, each with noise of its own.

    Args:
        observation: what they agree with.
        step: times (1,) at which the step starts and ends.
        noise: white noise of the solver and of all calls, (B, fields, C, *S) or (B, C, *S); None in the last step.
        own: fields of the solver.
    """

    def __init__(self, observation: Imposes, step: tuple[Tensor, Tensor], noise: Tensor | None, own: int) -> None:
        self._observation, self._step, self._next = observation, step, own
        self._noise = noise
        self.own = None
        if noise is not None and own:
            self.own = noise[:, 0] if own == 1 else noise[:, :own]

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        noise = torch.zeros_like(z)
        if self._noise is not None:
            fields = self._noise.reshape(len(z), -1, *z.shape[2:])  # a single one comes without its axis
            noise, self._next = fields[:, self._next : self._next + z.shape[1]], self._next + z.shape[1]
        return self._observation.impose(z, t, noise, self._step)
