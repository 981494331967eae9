"""What a network is trained towards: the errors of samples, whose mean training lowers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from common.config.plugins import resolve_class
from common.config.schema import Recipe, RunConfig
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics
from common.seeding import StepRandomness


class Objective(nn.Module, ABC):
    """An objective under a dynamics, of the register ``OBJECTIVES``; further arguments of its constructor are flags.

    Args:
        dynamics: the process.
        recipe: how the network is trained.

    Attributes:
        consistent: whether it makes the network answer any point of a path with the path's end, so that one or two
            evaluations are a sample.
        starts_from_run: whether it tunes what was trained before (``--init_from``), and keeps what that run is.
        idle: flags of every training that have no effect on it.
    """

    consistent: ClassVar[bool] = False
    starts_from_run: ClassVar[bool] = False
    idle: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, dynamics: LinearDynamics, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    @property
    def account(self) -> str:
        """What it does, in a line of a training; empty if there is nothing to say."""
        return ""

    @classmethod
    def suited(cls, start: RunConfig) -> Mapping[str, object]:
        """Values of flags that suit it, which a preset and given flags win over.

        Args:
            start: the run that it starts from.
        """
        return {}

    @classmethod
    def check_start(cls, config: RunConfig, start: RunConfig) -> list[str]:
        """What there is to say before a training starts from the weights of a run; nothing unless a member says so.

        Args:
            config: the training.
            start: the run, as it was trained.

        Raises:
            Refusal: if what the run has learned does not do.
        """
        return []

    def begin(self, denoiser: Denoiser) -> None:
        """Look at the network before its first step; most objectives need nothing of it.

        Args:
            denoiser: what is trained, with the weights that it starts from.

        Raises:
            Refusal: if the objective does not apply to it.
        """
        return

    @abstractmethod
    def errors(
        self, denoiser: Denoiser, x0: Tensor, labels: Tensor, draws: StepRandomness, step: int | None
    ) -> tuple[Tensor, Tensor]:
        """Times and errors of the samples of a micro-step; nothing here waits for the device.

        Args:
            denoiser: what is trained or, in validation, its average.
            x0: clean data (B, C, *S).
            labels: classes (B,) int64, some of them left out.
            draws: random numbers of the micro-step.
            step: optimiser steps done; None in validation, where errors must not depend on how far the training is.

        Returns:
            Times (B,) float64 and weighted errors (B,).
        """


def objective_of(config: RunConfig) -> type[Objective]:
    """The class of what a run's network is trained towards.

    Raises:
        Refusal: if the configuration names none.
    """
    found: type[Objective] = resolve_class(config.objective.path, Objective)
    return found
