"""What a training will cost, told before it is started: a few real steps with few samples, and a straight line.

Activations grow in proportion to the samples of a step, weights and the state of the optimiser do not: two sizes give
both. Sizes grow only as far as the next one fits into memory and time, so that nothing is killed on the way.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from common.config.schema import RunConfig
from common.data.source import DataSet
from common.training.build import build_data
from common.training.callbacks import GRID_SAMPLES, GRID_SOUNDS, GRID_STEPS
from common.training.memory import TensorMemory, available, taken
from common.training.module import DiffusionModule
from common.training.trainer import trial_trainer

SECONDS = 25.0  # that sizes may go on growing
SECOND, GROWTH = 2, 4  # the second size, and the factor from there on
STEPS = 2  # of a trial: the second has the optimiser's state, and is the one that is timed
QUICK, REPEATED = 1.0, 12  # a trial of fewer seconds is timed over more steps
SHARE = 0.8  # of the free memory that a trial may be expected to take
FITS = 0.95  # of the free memory: what is estimated to take more does not fit


@dataclass(frozen=True)
class Trial:
    """What a step and an evaluation of the network took.

    Attributes:
        samples: in one micro-step.
        step_bytes: most that the step took beside what was there before it.
        kept_bytes: gradients and state of the optimiser, which stay between steps.
        step_seconds: of an optimiser step.
        call_bytes: most that an evaluation took, without gradients.
        call_seconds: of an evaluation.
        loss: mean over the samples.
    """

    samples: int
    step_bytes: float
    kept_bytes: float
    step_seconds: float
    call_bytes: float
    call_seconds: float
    loss: float

    def line_through(self, other: "Trial | None", figure: Callable[["Trial"], float], samples: int) -> float:
        """A figure for another number of samples, on the line through two trials; in proportion if there is but one."""
        here = figure(self)
        if samples == self.samples:
            return here
        if other is None:
            return here * samples / self.samples
        slope = max(0.0, (here - figure(other)) / (self.samples - other.samples))
        return here + slope * (samples - self.samples)


@dataclass(frozen=True)
class Estimate:
    """What a training will cost on one device.

    Attributes:
        largest: the largest trial.
        smaller: the one before; None if there was no other.
        base_bytes: memory of the program, weights, averages and data, before the first step.
        config: what is trained.
    """

    largest: Trial
    smaller: Trial | None
    base_bytes: int
    config: RunConfig

    def _of(self, figure: Callable[[Trial], float], samples: int) -> float:
        return self.largest.line_through(self.smaller, figure, samples)

    @property
    def is_measured(self) -> bool:
        """Whether a whole batch was tried, so that nothing is extrapolated."""
        return self.largest.samples == self.config.recipe.batch_size

    def peak_bytes(self, batch: int) -> float:
        """Most memory of a training with so many samples in a micro-step, its sample grids among it."""
        step = self._of(lambda trial: trial.step_bytes - trial.kept_bytes, batch)
        grid = self._of(lambda trial: trial.call_bytes, self.grid_samples)
        return self.base_bytes + self.largest.kept_bytes + max(step, grid)

    @property
    def tried(self) -> str:
        """The sizes that were tried last, in words."""
        sizes = [f"{trial.samples:,}" for trial in (self.smaller, self.largest) if trial]
        return f"{' and '.join(sizes)} samples"

    def fits(self, batch: int, free: int) -> bool:
        """Whether a step of so many samples fits into so much free memory."""
        return self.peak_bytes(batch) - self.base_bytes <= FITS * free

    @property
    def grid_samples(self) -> int:
        """Samples of a grid."""
        return GRID_SAMPLES if self.config.sample.sample_rate is None else GRID_SOUNDS

    def step_seconds_of(self, batch: int) -> float:
        """Seconds of an optimiser step with so many samples in a micro-step."""
        return self._of(lambda trial: trial.step_seconds, batch)

    @property
    def step_seconds(self) -> float:
        """Seconds of an optimiser step of the run."""
        return self.step_seconds_of(self.config.recipe.batch_size)

    def call_seconds(self, samples: int) -> float:
        """Seconds of an evaluation of the network."""
        return self._of(lambda trial: trial.call_seconds, samples)

    def seconds(self, val_samples: int) -> float:
        """Seconds of the whole training, with its validations and grids."""
        recipe, keeping = self.config.recipe, self.config.keeping
        validations = recipe.train_steps // keeping.val_check_interval
        batches = -(-val_samples // recipe.batch_size)
        each = batches * self.call_seconds(recipe.batch_size) + GRID_STEPS * self.call_seconds(self.grid_samples)
        return recipe.train_steps * self.step_seconds + validations * each

    def largest_batch(self, free: int) -> int:
        """Most samples of a micro-step that fit into so much memory; 0 if none does."""
        batch = self.config.recipe.batch_size
        while batch and not self.fits(batch, free):
            batch //= 2
        return batch


class _Stopwatch(Callback):
    """When each optimiser step of a trial ended, and the loss of the last one."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends, self.loss = device, list[float](), torch.nan

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Note the time once the device has done the step."""
        if trainer.global_step > len(self.ends):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.ends.append(time.perf_counter())
            self.loss = float(outputs["loss"])


def try_size(config: RunConfig, dataset: DataSet, module: DiffusionModule, device: torch.device, samples: int) -> Trial:
    """Train a few steps with so many samples, and evaluate the network once; the weights change.

    Args:
        config: what is trained.
        dataset: what to learn from.
        module: the network with its recipe.
        device: where.
        samples: in one micro-step.
    """
    few = replace(config, data=replace(config.data, num_workers=0), recipe=replace(config.recipe, batch_size=samples))
    data = build_data(few, dataset)
    watch, counted = _Stopwatch(device), TensorMemory()
    trainer = trial_trainer(few, device, STEPS, 1, [])
    began = time.perf_counter()
    with counted:
        trainer.fit(module, data)
    kept = counted.live
    del trainer
    quick = time.perf_counter() - began < QUICK
    steps = min(REPEATED, config.recipe.train_steps) if quick else STEPS  # no schedule goes on after its end
    trial_trainer(few, device, steps, 1, [watch]).fit(module, data)
    module.to(device)
    call_bytes, call_seconds = _try_call(config, module, device, samples)
    step = statistics.median(after - before for before, after in itertools.pairwise(watch.ends))
    return Trial(samples, counted.peak, kept, step, call_bytes, call_seconds, watch.loss)


@torch.no_grad()
def _try_call(config: RunConfig, module: DiffusionModule, device: torch.device, samples: int) -> tuple[int, float]:
    """Bytes and seconds of one evaluation of the denoiser, as in sampling."""
    denoiser = module.best_denoiser()
    was_training = denoiser.backbone.training
    denoiser.backbone.eval()
    v = torch.randn(samples, *config.sample.shape, device=device)
    t = torch.full((samples,), module.dynamics.horizon / 2, dtype=torch.float64, device=device)
    labels = torch.zeros(samples, dtype=torch.int64, device=device)
    with TensorMemory() as counted:
        denoiser(v, t, labels)
    start = time.perf_counter()
    answer = denoiser(v, t, labels)
    float(answer.flatten()[0])  # waits for the device
    seconds = time.perf_counter() - start
    denoiser.backbone.train(was_training)
    return counted.peak, seconds


def estimate(
    config: RunConfig,
    dataset: DataSet,
    module: DiffusionModule,
    device: torch.device,
    *,
    largest: int | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Estimate:
    """Try growing numbers of samples, up to a batch or as far as memory and time allow.

    Args:
        config: what is trained.
        dataset: what to learn from.
        module: the network with its recipe; its weights change.
        device: where.
        largest: most samples that are tried; None tries up to a batch.
        on_trial: told every trial, as a sign of life.
    """
    began, base, batch = time.monotonic(), taken(device), min(config.recipe.batch_size, largest or sys.maxsize)
    smaller: Trial | None = None
    trial = try_size(config, dataset, module, device, 1)
    on_trial(trial)
    while trial.samples < batch:
        size = min(batch, trial.samples * GROWTH if smaller else SECOND)
        so_far = Estimate(trial, smaller, base, config)
        cost = 2 * STEPS * so_far.step_seconds_of(size)
        if time.monotonic() - began + cost > SECONDS or so_far.peak_bytes(size) - base > SHARE * available(device):
            break
        trial, smaller = try_size(config, dataset, module, device, size), trial
        on_trial(trial)
    return Estimate(trial, smaller, base, config)
