"""What a training will cost, told before it is started: a few real steps with few samples, and a straight line.

Activations grow in proportion to the samples of a step, weights and the state of the optimiser do not: two sizes give
both. Sizes grow only as far as the next one fits into memory and time, so that nothing is killed on the way.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from common.config.build import build_dynamics
from common.config.schema import RunConfig
from common.config.tuned import is_consistent
from common.data.source import DataSet
from common.samplers import SOLVERS, quick_solver
from common.training.build import build_data
from common.training.callbacks import GRID_SAMPLES, GRID_SOUNDS, grid_steps
from common.training.memory import TensorMemory, available, bytes_of, taken
from common.training.module import DiffusionModule
from common.training.trainer import run_trainer, trial_trainer

SECONDS = 38.0  # that sizes may go on growing
SECOND, GROWTH = 2, 4  # the second size, and the factor from there on; twice as many, if that is too much
STEPS = 2  # of a trial: the second has the optimiser's state, and is the one that is timed
QUICK, REPEATED = 1.0, 12  # a trial of fewer seconds is timed once more, over more steps
SLOW = 8.0  # seconds of a first step after which no second is taken
SHARE = 0.8  # of the free memory that a trial may be expected to take
LOOP = 150 * 10**6  # bytes of a CPU's memory that pictures, checkpoints and the allocator's gaps take, by measurement
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
        base_bytes: memory of the program, weights, averages, data and the training's loop, beside its steps.
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
        drawn = max(self.grid_samples, self.config.keeping.eval_samples if evaluations(self.config) else 0)
        grid = self._of(lambda trial: trial.call_bytes, min(batch, drawn))
        return self.base_bytes + self.largest.kept_bytes + max(step, grid)

    @property
    def tried(self) -> str:
        """The sizes that were tried last, in words."""
        sizes = [f"{trial.samples:,}" for trial in (self.smaller, self.largest) if trial]
        return f"{' and '.join(sizes)} samples"

    def fits(self, batch: int, free: int) -> bool:
        """Whether a step of so many samples fits into so much free memory."""
        return self.peak_bytes(batch) - self.base_bytes <= FITS * free

    def can_try(self, size: int, seconds: float, free: int) -> bool:
        """Whether a trial of so many samples would be done in so many seconds, and fit into so much free memory."""
        affordable = (STEPS + 1) * self.step_seconds_of(size) <= seconds
        return affordable and self.peak_bytes(size) - self.base_bytes <= SHARE * free

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
        """Seconds of the whole training, with its validations, grids and samples that are judged."""
        recipe, keeping = self.config.recipe, self.config.keeping
        validations = recipe.train_steps // keeping.val_check_interval
        batches = -(-val_samples // recipe.batch_size)
        solver = quick_solver(build_dynamics(self.config), consistent=is_consistent(self.config))
        drawing = grid_steps(solver) * self.call_seconds(self.grid_samples)
        each = batches * self.call_seconds(recipe.batch_size) + drawing
        count = evaluations(self.config)
        judged = count * SOLVERS[solver].default_steps * self.call_seconds(keeping.eval_samples)
        return recipe.train_steps * self.step_seconds + validations * each + judged

    def largest_batch(self, free: int) -> int:
        """Most samples of a micro-step that fit into so much memory; 0 if none does."""
        batch = self.config.recipe.batch_size
        while batch and not self.fits(batch, free):
            batch //= 2
        return batch


def evaluations(config: RunConfig) -> int:
    """How often samples of a training are judged: every few steps, and after the last."""
    every = config.keeping.eval_every
    return -(-config.recipe.train_steps // every) if every else 0


class _Stopwatch(Callback):
    """How long each optimiser step of a trial took, and the loss of the last one; a slow trial ends after one step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.loss = device, list[float](), torch.nan
        self._before = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._before = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Note the time once the device has done the step."""
        if trainer.global_step > len(self.seconds):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            now = time.perf_counter()
            self.seconds.append(now - self._before)
            self._before, self.loss = now, float(outputs["loss"])
            trainer.should_stop = self.seconds[0] > SLOW

    @property
    def typical(self) -> float:
        """Median of the steps after the first, which also sets things up; its own time if there is no other."""
        return statistics.median(self.seconds[1:] or self.seconds)


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
    data, watch, counted = build_data(few, dataset), _Stopwatch(device), TensorMemory()
    trainer = trial_trainer(few, device, STEPS, 1, [watch])
    with counted:
        run_trainer(trainer, module, data)
    kept, peak = counted.live, counted.peak
    if len(watch.seconds) < STEPS:  # the state of the optimiser was not there yet when the step needed most
        peak += kept - bytes_of(module.network.parameters())
    del trainer
    if sum(watch.seconds) < QUICK:  # counting costs little beside long operations, much beside short ones
        watch = _Stopwatch(device)
        steps = min(REPEATED, config.recipe.train_steps)  # no schedule goes on after its end
        run_trainer(trial_trainer(few, device, steps, 1, [watch]), module, data)
    module.to(device)
    call_bytes, call_seconds = _try_call(config, module, device, samples)
    return Trial(samples, peak, kept, watch.typical, call_bytes, call_seconds, watch.loss)


@torch.no_grad()
def _try_call(config: RunConfig, module: DiffusionModule, device: torch.device, samples: int) -> tuple[int, float]:
    """Bytes and seconds of one evaluation of the denoiser, as in sampling."""
    denoiser = module.best_denoiser()
    was_training = denoiser.backbone.training
    denoiser.backbone.eval()
    v = torch.randn(samples, *config.sample.shape, device=device)
    t = torch.full((samples,), module.dynamics.horizon / 2, dtype=torch.float64, device=device)
    labels = torch.zeros(samples, dtype=torch.int64, device=device)

    def seconds() -> float:
        start = time.perf_counter()
        float(denoiser(v, t, labels).flatten()[0])  # waits for the device
        return time.perf_counter() - start

    with TensorMemory() as counted:
        took = seconds()
    if took < QUICK:
        took = seconds()
    denoiser.backbone.train(was_training)
    return counted.peak, took


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
    loop = LOOP if device.type == "cpu" else 0
    began, base, batch = time.monotonic(), taken(device) + loop, min(config.recipe.batch_size, largest or sys.maxsize)
    smaller: Trial | None = None
    trial = try_size(config, dataset, module, device, 1)
    on_trial(trial)
    while trial.samples < batch:
        so_far = Estimate(trial, smaller, base, config)
        left = SECONDS - (time.monotonic() - began)
        sizes = (trial.samples * factor for factor in ((GROWTH, 2) if smaller else (SECOND,)))
        size = next((size for size in sizes if so_far.can_try(min(size, batch), left, available(device))), None)
        if size is None:
            break
        trial, smaller = try_size(config, dataset, module, device, min(size, batch)), trial
        on_trial(trial)
    return Estimate(trial, smaller, base, config)
