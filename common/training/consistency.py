"""Consistency tuning: a network that was trained to denoise learns to answer any point of a path with the path's end.

Of one path v = m x0 + sc eps (the same x0 and eps throughout) two times t > s are drawn, and the answer at t is drawn
to the one at s, which is held fixed (consistency training, arXiv 2303.01469, section 5; from a trained denoiser: ECT,
arXiv 2406.14548):

    E w(t, s) d(D(v_t, t), D(v_s, s)),    d(a, b) = sqrt(|a - b|^2 + c^2) - c,    w = min(50, 1 / (sigma_t - sigma_s))

with x0 itself in place of D(v_s, s) where s is before the path begins. In expectation v_s lies on the path of the
probability-flow ODE through v_t as t - s becomes small, whatever linear SDE the path is of; under heat dynamics, where
every mode has a noise level of its own, sigma is that of the representative mode. Both come close stage by stage,

    sigma_s = sigma_t max(0, 1 - 2^-j (1 + 8 / (1 + exp sigma_t))),      j = 1 .. 4 in equal parts of the training.

Guidance (arXiv 2207.12598) of a fixed scale g is folded in by a path whose end is x0 + (g - 1) (D'_label - D'_null) at
v_t, with D' the network as the tuning found it: its drift is that of the guided ODE. g = 1 needs no D'.
"""

import copy
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from common.broadcast import align
from common.config.flags import POSITIVE, REAL, Range
from common.config.schema import Recipe, RunConfig
from common.config.tuned import folded_guidance, is_consistent, tuned_from
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics
from common.dynamics.inverse import TimeOfLevel
from common.labels import NULL_LABEL
from common.refusal import Refusal, require
from common.seeding import NOISE, TIMES, StepRandomness
from common.sides import written
from common.training.objective import Objective
from common.training.times import CutNormal

FACTOR, BEND = 2.0, 8.0  # of the distance of two levels: 2^-j (1 + 8 / (1 + exp sigma))
LARGEST_WEIGHT = 50.0
CENTRE, MEAN = 0.73, -0.6  # levels that are compared: share of the decision level; log sigma if that is unknown
LEAST_STEPS, SHARE = 1500, 4  # of a tuning: a quarter of the training it starts from, at least 1,500
SLOWER = 5  # learning rate: a fifth of that of the training
STAGES = Range(1, 16, whole=True)  # points of more would be as good as one in float32: nothing would be learned
DISTANCES = Range(1e-6, 1e3)  # whose squares float32 has, beside those of samples


class Consistency(Objective):
    """Answers that are equal all along a path, so that one or two evaluations of the network are a sample.

    Args:
        dynamics: the process.
        recipe: how the network is trained; paths begin at its ``t_min``.
        level_mean: mean of log sigma at which answers are compared, one of a path (default: .73 of the level at which
            samples are told apart, which grows with the root of their number of points)
        level_std: deviation of log sigma at which answers are compared
        stages: parts of a tuning, each with half the distance of two noise levels of the one before
        distance_scale: c of the distance sqrt(|a - b|^2 + c^2) - c of two answers
        guidance_scale: strength of classifier-free guidance that is folded into the answers, of a run that was trained
            with --label_dropout; 1 is none

    Raises:
        Refusal: for a noise level that falls in time, arguments out of range, or guidance without label dropout.
    """

    consistent: ClassVar[bool] = True
    starts_from_run: ClassVar[bool] = True
    idle: ClassVar[frozenset[str]] = frozenset({"time_sampling", "time_warmup", "loss_weight", "loss_reduction"})

    def __init__(
        self,
        dynamics: LinearDynamics,
        recipe: Recipe,
        *,
        level_mean: Annotated[float | None, REAL] = None,
        level_std: Annotated[float, POSITIVE] = 1.6,
        stages: Annotated[int, STAGES] = 4,
        distance_scale: Annotated[float, DISTANCES] = 0.03,
        guidance_scale: Annotated[float, Range(0)] = 1.0,
    ) -> None:
        super().__init__(dynamics, recipe)
        require(level_std > 0, "level_std", "above 0", level_std)
        require(stages in STAGES, "stages", "in 1 .. 16", stages)
        require(distance_scale in DISTANCES, "distance_scale", "in [1e-6, 1000]", distance_scale)
        require(guidance_scale >= 0, "guidance_scale", "at least 0", guidance_scale)
        if not dynamics.is_monotone:
            raise Refusal(
                f"consistency compares noise levels of one path, and that of {dynamics} falls in time; --marginals "
                "exact has none that falls",
                "objective",
            )
        if guidance_scale != 1 and not recipe.label_dropout:
            raise Refusal(
                f"{guidance_scale:g}: the network has to know samples without a label; start from a run that was "
                "trained with --label_dropout",
                "guidance_scale",
            )
        decisive = dynamics.decision_level
        suits = MEAN if decisive is None else math.log(CENTRE * decisive)
        ends = torch.tensor([recipe.t_min, dynamics.horizon], dtype=torch.float64, device=dynamics.device)
        low, high = dynamics.log_sigma(ends).tolist()
        self.level_mean = min(max(suits, low), high) if level_mean is None else level_mean
        require(
            low <= self.level_mean <= high,
            "level_mean",
            f"a level of a path, from log sigma = {low:.3g} to {high:.3g}",
            level_mean,
        )
        self.stages = stages
        self.distance_scale, self.guidance_scale = distance_scale, guidance_scale
        self.time_of_level = TimeOfLevel(dynamics)
        self.lowest = math.exp(low)
        self._law = CutNormal(self.level_mean, level_std, low, high)
        self._guide: tuple[Denoiser, ...] = ()  # a tuple: its network is registered once

    @property
    def account(self) -> str:
        guided = f", guidance of scale {self.guidance_scale:g} folded in" if self.guidance_scale != 1 else ""
        levels = f"at noise levels around sigma = {math.exp(self.level_mean):.2g}"
        return f"consistency, {levels}, in {self.stages} stages{guided}"

    @classmethod
    def suited(cls, start: RunConfig) -> Mapping[str, object]:
        slower = 1 if is_consistent(start) else SLOWER
        return {
            "train_steps": max(LEAST_STEPS, start.recipe.train_steps // SHARE),
            "optimizer": "radam",
            "lr": start.recipe.lr / slower,
            "lr_schedule": "warmup_cosine",
            "ema_decay": (0.99,),
            "ema_every": 1,
        }

    @classmethod
    def check_start(cls, config: RunConfig, start: RunConfig) -> list[str]:
        """Refuse guidance by a network that cannot guide; note other samples, and guidance that is lost."""
        scale = folded_guidance(config)
        if scale != 1 and not start.recipe.label_dropout:
            raise Refusal(
                f"{scale}: the network of {start.folder_name} does not know samples without a label; start from a "
                "run that was trained with --label_dropout",
                "guidance_scale",
            )
        if scale != 1 and is_consistent(start):
            raise Refusal(
                f"{scale}: {start.folder_name} answers with samples, and guidance is by means of many; start from the "
                f"run that it was tuned from, {tuned_from(start)}",
                "guidance_scale",
            )
        found = []
        if differs := _other_samples(config, start):
            found.append(f"{differs}, and a tuning is short for learning new ones: train on them first")
        if (folded := folded_guidance(start)) != 1:
            found.append(f"guidance of scale {folded:g} is folded into these weights; this tuning takes it away")
        return found

    def begin(self, denoiser: Denoiser) -> None:
        """Keep a copy of the network as the tuning finds it, if guidance is folded in."""
        if self.guidance_scale != 1:
            network = copy.deepcopy(denoiser.backbone).requires_grad_(False)
            self.guide = network  # a part of checkpoints: a resumed tuning is guided by the same one
            self._guide = (Denoiser(network, denoiser.dynamics, denoiser.prediction),)

    def train(self, mode: bool = True) -> "Consistency":
        """The copy that guides is only ever evaluated: its dropout stays off."""
        return super().train(False)

    def levels(self, u: Tensor, step: int | None) -> tuple[Tensor, Tensor]:
        """Noise levels of a pair.

        Args:
            u: numbers (B,) in [0, 1).
            step: optimiser steps done; None takes the last stage.

        Returns:
            sigma_t and sigma_s < sigma_t, (B,) float64; sigma_s is 0 before the path begins.
        """
        later = self._law(u.clamp(1e-9, 1 - 1e-9)).exp()
        done = 1.0 if step is None else step / self.recipe.train_steps
        stage = min(self.stages, 1 + int(done * self.stages))
        gap = FACTOR**-stage * (1 + BEND / (1 + later.exp()))
        earlier = later * (1 - gap).clamp_min(0)
        return later, torch.where(earlier < self.lowest, 0.0, earlier)

    def errors(
        self, denoiser: Denoiser, x0: Tensor, labels: Tensor, draws: StepRandomness, step: int | None
    ) -> tuple[Tensor, Tensor]:
        dynamics = denoiser.dynamics
        sigma_t, sigma_s = self.levels(draws.uniform(TIMES), step)
        t, s = (self.time_of_level(sigma.log()) for sigma in (sigma_t, sigma_s))
        noise = draws.normal(NOISE, tuple(x0.shape[1:]))
        law, before = dynamics.moments(t), dynamics.moments(s)
        v = dynamics.perturb_by(law, x0, noise)
        draws.restart_dropout()
        # first: after a call without gradient, autocast of torch before 2.10 has the weights in half precision without
        answer = denoiser(v, t, labels)
        with torch.no_grad():
            earlier = dynamics.perturb_by(before, x0, noise)
            if self._guide:  # the same v_t lies on a path that ends elsewhere
                shift = self._guidance(v, t, labels)
                x0 = x0 + shift
                earlier += dynamics.basis.scale(before.scale - before.std * (law.scale / law.std), shift)
            draws.restart_dropout()  # the same masks on both sides
            fixed = denoiser(earlier, s, labels)
            fixed = torch.where(align(sigma_s, x0) > 0, fixed, x0)
        away = (answer - fixed).square().flatten(1).sum(1)
        c = self.distance_scale
        weight = (1 / (sigma_t - sigma_s)).clamp_max(LARGEST_WEIGHT).to(away.dtype)
        return t, weight * ((away + c * c).sqrt() - c)

    def _guidance(self, v: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """(g - 1) (D'_label - D'_null), (B, C, *S); 0 of samples whose label is left out."""
        both = torch.cat([labels, torch.full_like(labels, NULL_LABEL)])
        found: Tensor = self._guide[0](torch.cat([v, v]), torch.cat([t, t]), both)
        with_label, without = found.chunk(2)
        return (self.guidance_scale - 1) * (with_label - without)


def _other_samples(config: RunConfig, start: RunConfig) -> str:
    """How the samples of a training differ from those that a run was trained on, in words; empty if they do not."""
    new, known = config.spec, start.spec
    if new is None or known is None:
        return ""
    if new.shape != known.shape:
        return f"samples are {written(new.shape)}, those that these weights know {written(known.shape)}"
    if not known.names_classes_like(new):
        return f"there are {known.other_classes(new)} that these weights know"
    name, before = config.data.data_name, start.data.data_name
    return "" if name == before else f"samples are of {name}, those that these weights know of {before}"
