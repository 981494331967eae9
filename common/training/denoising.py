"""Denoising: the network's own error, or that of x0_hat, at one time of a path per sample."""

from torch import Tensor

from common.config.schema import Recipe, RunConfig
from common.config.tuned import is_consistent
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics
from common.seeding import NOISE, TIMES, StepRandomness
from common.training.objective import Objective
from common.training.times import TIME_SAMPLINGS, growth
from common.training.weights import LOSS_WEIGHTS, REDUCTIONS


class Denoising(Objective):
    """Mean squared error of what the network predicts (GFDM, arXiv 2310.17638, eq. 24; FDP, arXiv 2303.00800).

    Args:
        dynamics: the process.
        recipe: law of times, weight of errors and how they are reduced.

    Raises:
        Refusal: for a law of times that the dynamics does not have.
    """

    def __init__(self, dynamics: LinearDynamics, recipe: Recipe) -> None:
        super().__init__(dynamics, recipe)
        law_of_times = TIME_SAMPLINGS[recipe.time_sampling or dynamics.default_time_sampling]
        self.times = law_of_times(dynamics, recipe.t_min)
        self._weight = LOSS_WEIGHTS[recipe.loss_weight]

    @classmethod
    def check_start(cls, config: RunConfig, start: RunConfig) -> list[str]:
        """A network that was tuned for few evaluations forgets that."""
        if not is_consistent(start):
            return []
        return [
            f"these weights were trained by --objective {start.objective.name}; denoising takes that away, and samples "
            "are drawn as from any denoiser"
        ]

    def errors(
        self, denoiser: Denoiser, x0: Tensor, labels: Tensor, draws: StepRandomness, step: int | None
    ) -> tuple[Tensor, Tensor]:
        share = 1.0 if step is None else growth(step, self.recipe.time_warmup)
        t = self.times(draws.uniform(TIMES) * share)
        noise = draws.normal(NOISE, tuple(x0.shape[1:]))
        draws.restart_dropout()
        factor = REDUCTIONS[self.recipe.loss_reduction](tuple(x0.shape[2:]))
        return t, factor * denoiser.error(x0, t, noise, labels, weight=self._weight)
