"""Predictor-corrector sampling (score-SDE, arXiv 2011.13456, algorithm 1) with FDP's predictors (arXiv 2303.00800).

A solver step corrects the state at time t, then predicts from t to s < t. Predictors may take a second stage: back up
from s with fresh noise, exactly, and down again (the churn of EDM's sampler, arXiv 2206.00364, algorithm 2). All is
written for any number of components and any basis; under heat dynamics it is the published preconditioned scheme.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from common.broadcast import align
from common.dynamics import LinearDynamics
from common.refusal import Refusal
from common.samplers.base import Impose, Posterior, Solver
from common.samplers.correctors import CORRECTORS
from common.samplers.grids import GRIDS, Grid


def symmetric_root(cov: Tensor) -> Tensor:
    """R = R' with R R = S for covariances S (N, A, A, *modes) of any rank."""
    values, vectors = torch.linalg.eigh(cov.movedim((1, 2), (-2, -1)))
    root = (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT
    found: Tensor = root.movedim((-2, -1), (1, 2))
    return found


# -- between two times -------------------------------------------------------------------------------------------------


def check_law(dynamics: LinearDynamics, times: Tensor) -> None:
    """Refuse times (N,), beyond T, at which a dynamics has no law."""
    known = torch.stack([part.isfinite().reshape(len(times), -1).all(1) for part in dynamics._level(times)]).all(0)
    if not bool(known.all()):
        raise Refusal(
            f"True adds noise again up to t = {float(times[~known][0]):.4g}, where {dynamics} has no law; take "
            "paper=False, more steps, or a smaller factor",
            "paper",
        )


class ExactMoves:
    """The forward process between two times of every step, exactly and in either direction.

    Backward its linear part is undone, and as much noise added as the reverse SDE has. One component has formulas.
    With more, all steps are integrated beforehand: linear algebra within a step would wait for the device.

    Args:
        dynamics: whose transitions they are.
        start: times of the given states, (steps,) float64.
        end: times that they are carried to, (steps,) float64.
    """

    def __init__(self, dynamics: LinearDynamics, start: Tensor, end: Tensor) -> None:
        self._dynamics, self._start, self._end = dynamics, start, end
        self._tables: tuple[Tensor, ...] = ()
        if dynamics.num_components > 1:
            self._tables = self._integrate(start, end)

    def _integrate(self, start: Tensor, end: Tensor) -> tuple[Tensor, ...]:
        """Maps and roots of the noise's covariance, each (N, A, A, *modes)."""
        maps, cov = self._dynamics.transition(start, end)
        if self._dynamics.num_components == 1:
            return maps, cov.abs().sqrt()
        return maps, symmetric_root(align((end - start).sign(), cov) * cov)  # backward, the covariance is negative

    def __call__(self, step: int, z: Tensor, noise: Tensor | None) -> Tensor:
        """Carry z (B, A, C, *S) over a step, with white noise in its shape; None gives the mean."""
        here, mix = slice(step, step + 1), self._dynamics.basis.mix
        if self._tables:
            maps, root = (table[here] for table in self._tables)
        else:
            maps, root = self._integrate(self._start[here], self._end[here])
        moved = mix(maps, z)
        return moved if noise is None else moved + mix(root, noise)


class Stage(ABC):
    """One way from the first to the second time of every step, on the reverse SDE or the probability-flow ODE.

    Args:
        dynamics: the dynamics that is reversed.
        start: times before, (steps,) float64.
        end: times after, (steps,) float64.
        stochastic: True reverses the SDE, False follows the ODE.
    """

    def __init__(self, dynamics: LinearDynamics, start: Tensor, end: Tensor, stochastic: bool) -> None:
        self.dynamics, self.stochastic = dynamics, stochastic
        self._start, self._end = start, end

    def _times(self, step: int) -> tuple[Tensor, Tensor]:
        return self._start[step : step + 1], self._end[step : step + 1]

    @staticmethod
    @abstractmethod
    def fields(components: int) -> int:
        """Number of white-noise fields that the reverse SDE takes."""

    @abstractmethod
    def __call__(self, step: int, posterior: Posterior, z: Tensor, noise: Tensor | None) -> Tensor:
        """Advance z (B, A, C, *S) with noise (B, fields, C, *S); None gives the mean (SDE) or is all there is (ODE)."""


class EulerStage(Stage):
    """Euler-Maruyama, or Euler on the ODE."""

    @staticmethod
    def fields(components: int) -> int:
        return 1

    def __call__(self, step: int, posterior: Posterior, z: Tensor, noise: Tensor | None) -> Tensor:
        t, s = self._times(step)
        drift = self.dynamics.reverse_drift(z, t, posterior(z, t), stochastic=self.stochastic)
        advanced = z + align(s - t, z) * drift
        if noise is None:
            return advanced
        return advanced + align((t - s).sqrt(), z) * self.dynamics.apply_diffusion(noise.squeeze(1), t)


class SemiAnalyticStage(Stage):
    """The score by Euler's step, then linear part and noise exactly."""

    def __init__(self, dynamics: LinearDynamics, start: Tensor, end: Tensor, stochastic: bool) -> None:
        super().__init__(dynamics, start, end, stochastic)
        self._back = ExactMoves(dynamics, start, end)

    @staticmethod
    def fields(components: int) -> int:
        return components

    def attract(self, step: int, posterior: Posterior, z: Tensor) -> Tensor:
        """The score's part alone."""
        t, s = self._times(step)
        share = 1.0 if self.stochastic else 0.5
        return z + align(share * (t - s), z) * self.dynamics.attraction(z, t, posterior(z, t))

    def __call__(self, step: int, posterior: Posterior, z: Tensor, noise: Tensor | None) -> Tensor:
        return self._back(step, self.attract(step, posterior, z), noise)


# -- predictors --------------------------------------------------------------------------------------------------------


class Predictor:
    """From t to s in one stage, or in two with re-noising between.

    Args:
        factor: how far re-noising goes, in steps: from s up to s + factor (t - s), yet not beyond T; 0 leaves
            re-noising and the second stage out.
        stochastic: True reverses the SDE; False follows the ODE, where re-noising still draws noise.
        paper: as published: re-noising may pass T.
    """

    stage: type[Stage]

    def __init__(self, factor: float, stochastic: bool, paper: bool) -> None:
        self.factor, self.stochastic, self.paper = factor, stochastic, paper

    @property
    def evaluations(self) -> int:
        """Denoiser calls per step."""
        return 2 if self.factor else 1

    def draws(self, components: int) -> list[int]:
        """White-noise fields of the first stage, and of re-noising and second stage if there is one."""
        own = self.stage.fields(components) if self.stochastic else 0
        return [own, components, own] if self.factor else [own]

    def prepare(self, dynamics: LinearDynamics, times: Tensor) -> None:
        """Lay out the stages for times (steps + 1,)."""
        t, s = times[:-1], times[1:]
        self._first = self.stage(dynamics, t, s, self.stochastic)
        if self.factor:
            again = s + self.factor * (t - s)
            if self.paper:
                check_law(dynamics, again)
            else:
                again = again.clamp_max(dynamics.horizon)
            self._renoise = ExactMoves(dynamics, s, again)
            self._second = self.stage(dynamics, again, s, self.stochastic)

    def __call__(self, step: int, posterior: Posterior, z: Tensor, noise: Sequence[Tensor] | None) -> Tensor:
        """Advance z (B, A, C, *S) over a step.

        Args:
            step: number of the step, from 0.
            posterior: z and t to x0_hat.
            z: state at t.
            noise: parts (B, fields, C, *S) as :meth:`draws` counts them; None takes the mean of the first stage.

        Returns:
            The state at s.
        """
        if noise is None:
            return self._first(step, posterior, z, None)
        z = self._first(step, posterior, z, noise[0] if self.stochastic else None)
        return self.again(step, posterior, z, noise) if self.factor else z

    def again(self, step: int, posterior: Posterior, z: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Re-noise the state at s and take the second stage."""
        z = self._renoise(step, z, noise[1])
        return self._second(step, posterior, z, noise[2] if self.stochastic else None)


class EulerPredictor(Predictor):
    """Euler's step, by default twice: FDP's own predictor."""

    stage = EulerStage


class ReverseDiffusionPredictor(EulerPredictor):
    """One Euler step, whatever the factor."""

    def __init__(self, factor: float, stochastic: bool, paper: bool) -> None:
        super().__init__(0.0, stochastic, paper)


class SemiAnalyticPredictor(Predictor):
    """The linear part of the reverse process, and its noise, without discretisation error.

    Under ``paper`` the second stage is what the published code returns: on the SDE the score's part alone, so that
    the state keeps the damping and the noise of the re-noised time; on the ODE the mean of re-noising.
    """

    stage = SemiAnalyticStage
    _second: SemiAnalyticStage

    @property
    def evaluations(self) -> int:
        return 1 if self.paper and not self.stochastic else super().evaluations

    def again(self, step: int, posterior: Posterior, z: Tensor, noise: Sequence[Tensor]) -> Tensor:
        if not self.paper:
            return super().again(step, posterior, z, noise)
        if not self.stochastic:
            return self._renoise(step, z, None)
        return self._second.attract(step, posterior, self._renoise(step, z, noise[1]))


PREDICTORS: dict[str, type[Predictor]] = {
    "euler": EulerPredictor,
    "reverse_diffusion": ReverseDiffusionPredictor,
    "semianalytic": SemiAnalyticPredictor,
}


# -- the solver --------------------------------------------------------------------------------------------------------


class PredictorCorrector(Solver):
    """A correction at t, then a prediction from t to s.

    N steps end exactly at t_end; no time lies beyond T. In the last step, which has no noise, only the mean of the
    predictor's first stage is taken, with one denoiser call: what Euler-Maruyama does there. The published loop makes
    N - 1 updates and returns x0_hat of the last mean: ``sample(.., denoise_last=True)``.

    On a state of several components re-noising helps the ODE but costs the SDE accuracy: under FVP at H = 0.9, K = 2,
    variances are 8 % too large after 400 steps, and 0.4 % without, so it is left out there by default. The
    semi-analytic predictor needs steps that are short against the damping, at T too: a uniform grid.

    Args:
        predictor: how the state moves from t to s, a name of ``PREDICTORS``.
        corrector: what brings the state nearer to the law at t, a name of ``CORRECTORS``.
        snr: signal-to-noise ratio of the corrector, above 0, and below 1 unless ``paper`` (published: 0.16 to 0.19;
            0.06 in conditional tasks).
        factor: how far the predictor adds noise again, in steps, at least 0; 0 leaves it out (published: 0.5 to 2;
            default: 1, or 0 where an SDE of several components is reversed).
        stochastic: predictors reverse the SDE (True) or follow the probability-flow ODE, with re-noising (False).
        paper: repeat the published details, for one component: re-noising beyond T, the semi-analytic predictor's
            unfinished second stage, and a step size of the corrector that samples of a batch share.

    Raises:
        Refusal: for an unknown name or a value out of range.
    """

    order = 1
    default_steps = 100  # as published for the UViT on faces
    denoise_last = True  # as published

    def __init__(
        self,
        predictor: Annotated[str, PREDICTORS] = "euler",
        corrector: Annotated[str, CORRECTORS] = "langevin",
        snr: float = 0.16,
        factor: float | None = None,
        stochastic: bool = True,
        paper: bool = False,
    ) -> None:
        if predictor not in PREDICTORS:
            raise Refusal(f"must be one of {', '.join(PREDICTORS)}, got {predictor!r}", "predictor")
        if corrector not in CORRECTORS:
            raise Refusal(f"must be one of {', '.join(CORRECTORS)}, got {corrector!r}", "corrector")
        if factor is not None and not 0 <= factor < math.inf:
            raise Refusal(f"must be at least 0 and finite, got {factor}", "factor")
        self._several = PREDICTORS[predictor](float(not stochastic) if factor is None else factor, stochastic, paper)
        self.predictor = PREDICTORS[predictor](1.0 if factor is None else factor, stochastic, paper)
        self.corrector = CORRECTORS[corrector](snr, paper)
        self.evaluations = self.predictor.evaluations + self.corrector.evaluations
        self.imposes = 1 + (self.corrector.draws > 0)
        self.stochastic = self.draws(1) > 0
        self._paper = paper
        self._position = 0

    @classmethod
    def refuse_idle(cls, given: Mapping[str, object]) -> None:
        """Refuse re-noising of a predictor with one stage, and the ratio of no corrector."""
        predictor, corrector = given.get("predictor"), given.get("corrector")
        if predictor == "reverse_diffusion" and given.get("factor"):
            raise Refusal(f"has no effect on --predictor {predictor}, which has one stage; leave it out", "factor")
        if corrector == "none" and "snr" in given:
            raise Refusal(f"has no effect on --corrector {corrector}; leave it out", "snr")

    def check(self, dynamics: LinearDynamics) -> None:
        """Refuse the published details if there is more than one component."""
        if self._paper and dynamics.num_components > 1:
            raise Refusal(
                f"True is for one component, got {dynamics.num_components} of {dynamics}: take paper=False or "
                "the scalar path",
                "paper",
            )

    def calls(self, steps: int, *, components: int = 1, denoise_last: bool | None = None) -> int:
        """One in the last step, which is neither corrected nor noised again."""
        each = self.corrector.evaluations + self._for(components).evaluations
        return each * (steps - 1) + 1 + (self.denoise_last if denoise_last is None else denoise_last)

    def draws(self, components: int) -> int:
        """Those of corrector and predictor together."""
        return self.corrector.draws + sum(self._for(components).draws(components))

    def _for(self, components: int) -> Predictor:
        return self.predictor if components == 1 else self._several

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """Uniform in time, as published, or what the dynamics says; log_time serves fine modes better."""
        return GRIDS[dynamics.default_grid]

    def prepare(self, dynamics: LinearDynamics, times: Tensor) -> None:
        """Lay out the predictor's stages."""
        self._position = 0
        self._for(dynamics.num_components).prepare(dynamics, times)

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        return self.imposed(dynamics, posterior, z, t, s, noise, lambda state, time: state)

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
        """As of every solver, after each of the two parts, as published."""
        predictor, parts = self._for(dynamics.num_components), None
        if noise is not None:
            fields = noise.reshape(len(z), -1, *z.shape[2:])  # a single draw comes without its axis
            correction, *parts = fields.split([self.corrector.draws, *predictor.draws(z.shape[1])], dim=1)
            z = self.corrector(dynamics, posterior, z, t, correction)
            if self.corrector.draws:
                z = impose(z, t)
        step, self._position = self._position, self._position + 1
        return impose(predictor(step, posterior, z, parts), s)
