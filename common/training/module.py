"""One LightningModule for every dynamics, network and prediction."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from common.config.schema import Recipe
from common.data.module import Batch, Rows
from common.denoiser import Denoiser
from common.labels import NULL_LABEL
from common.meta import MetaLearned
from common.seeding import LABELS, StepRandomness
from common.training.ema import NetworkAverage
from common.training.objective import Objective
from common.training.optimizers import OPTIMIZERS, SCHEDULERS, Schedule

LOSS, VALIDATION = "train/loss", "val/loss"  # names in the log,
EVALUATION = "eval/"  # and what those of figures about samples begin with
LEVELS = 24  # bins of the noise level in the loss-by-level picture
LEVEL_MEMORY = 0.999  # share of the past that the picture keeps per step


class NonFiniteLoss(RuntimeError):
    """Training met a NaN or an infinity."""


class DiffusionModule(pl.LightningModule):
    """Training of a network under a dynamics, towards an objective.

    Args:
        denoiser: network, dynamics and prediction.
        recipe: how to train.
        objective: what for.
    """

    level_loss: Tensor
    level_count: Tensor
    level_edges: Tensor
    loss_sum: Tensor
    first_bad_step: Tensor
    bad_levels: Tensor

    def __init__(self, denoiser: Denoiser, recipe: Recipe, objective: Objective) -> None:
        super().__init__()
        self.recipe, self.objective = recipe, objective
        self.network = denoiser.backbone.to(memory_format=torch.channels_last)
        self.dynamics = denoiser.dynamics
        self.prediction = denoiser.prediction
        self._denoiser = (denoiser,)  # a tuple: the network is registered once, under its own name
        self.averages = nn.ModuleList(
            NetworkAverage(self.network, decay=decay, every=recipe.ema_every) for decay in recipe.averages
        )
        objective.begin(denoiser)
        low, high = self.dynamics.log_sigma(torch.tensor([recipe.t_min, self.dynamics.horizon])).tolist()
        self.register_buffer(
            "level_edges", torch.linspace(low, high, LEVELS + 1, dtype=torch.float64), persistent=False
        )
        self.register_buffer("level_loss", torch.zeros(LEVELS))
        self.register_buffer("level_count", torch.zeros(LEVELS))
        self.register_buffer("loss_sum", torch.zeros(()))  # since the last log line; kept over a stop
        self.register_buffer("first_bad_step", torch.tensor(-1), persistent=False)
        self.register_buffer("bad_levels", torch.full((2,), -math.inf, dtype=torch.float64), persistent=False)
        self.val_loss = MeanMetric()
        self.latest: dict[str, float] = {}
        self._timed = 0
        self._clock = time.perf_counter()

    # -- what sampling and validation use ---------------------------------------------------------------------------

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser that is trained."""
        return self._denoiser[0]

    @property
    def parameter_count(self) -> int:
        """Parameters of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def is_averaged(self) -> bool:
        """Whether :attr:`best_network`, which is validated and sampled from, is an average of the weights."""
        return len(self.averages) > 0

    @property
    def best_network(self) -> nn.Module:
        """The (first) averaged network, or the trained one if there is no average."""
        first: nn.Module = self.averages[0].module if self.is_averaged else self.network  # type: ignore[assignment]
        return first

    def best_denoiser(self) -> Denoiser:
        """The denoiser of :attr:`best_network`."""
        return Denoiser(self.best_network, self.dynamics, self.prediction)

    # -- training -----------------------------------------------------------------------------------------------------

    def _randomness(self, micro_step: int, batch: int, device: torch.device) -> StepRandomness:
        trainer = self.trainer
        place = (trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches)
        return StepRandomness.of_micro_step(self.recipe.seed, micro_step, batch, *place, device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of one micro-step; nothing here waits for the device."""
        x0, labels, micro_step, _ = batch
        draws = self._randomness(micro_step, len(x0), x0.device)
        if self.recipe.label_dropout:
            labels = labels.masked_fill(draws.uniform(LABELS) < self.recipe.label_dropout, NULL_LABEL)
        t, errors = self.objective.errors(self.denoiser, x0, labels, draws, self.trainer.global_step)
        loss = errors.mean()
        if micro_step % self._period == 0:
            self.loss_sum.zero_()
        self._record(t, errors.detach(), loss.detach())
        return loss

    @property
    def _period(self) -> int:
        """Micro-steps between log lines."""
        return self.recipe.log_every * self.trainer.accumulate_grad_batches

    @torch.no_grad()
    def _record(self, t: Tensor, errors: Tensor, loss: Tensor) -> None:
        self.loss_sum += loss
        step = torch.full_like(self.first_bad_step, self.trainer.global_step)
        bad = ~torch.isfinite(loss) & (self.first_bad_step < 0)
        self.first_bad_step.copy_(torch.where(bad, step, self.first_bad_step))
        log_sigma = self.dynamics.log_sigma(t).contiguous()
        broken = ~torch.isfinite(errors)
        span = torch.stack([torch.where(broken, sign * log_sigma, -math.inf).amax() for sign in (-1, 1)])
        self.bad_levels.copy_(torch.where(bad, span, self.bad_levels))
        level = torch.bucketize(log_sigma, self.level_edges[1:-1])
        count = self.trainer.world_size  # a process stands for all: their mean is what one would have
        self.level_loss.mul_(LEVEL_MEMORY).index_add_(0, level, errors.float() * count)
        self.level_count.mul_(LEVEL_MEMORY).index_add_(0, level, torch.full_like(errors, count, dtype=torch.float32))
        self._timed += 1

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimiser, then the averages: a checkpoint taken after the step holds all."""
        super().optimizer_step(*args, **kwargs)
        for module in self.network.modules():
            if isinstance(module, MetaLearned):
                module.clamp_rates()
        for average in self.averages:
            average.update(self.network, self.trainer.global_step + 1)  # type: ignore[operator]  # counted later

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the mean over all processes of what was summed."""
        for name in ("loss_sum", "level_loss", "level_count"):
            mean = self.trainer.strategy.reduce(self.get_buffer(name).clone(), reduce_op="mean")
            checkpoint["state_dict"][name] = mean

    def on_train_start(self) -> None:
        """Start the clock of the images-per-second figure."""
        self._timed, self._clock = 0, time.perf_counter()

    @contextlib.contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Leave what is done meanwhile out of the images-per-second figure."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._clock += time.perf_counter() - began

    def log_line(self, batch: Batch) -> None:
        """After a micro-step, at log steps only: read loss and flags from the device and write the log line."""
        trainer = self.trainer
        summed = batch.micro_step % self._period + 1
        if summed < self._period and trainer.global_step < trainer.max_steps:
            return
        self.require_finite()
        mean = trainer.strategy.reduce(self.loss_sum / summed, reduce_op="mean")
        seconds = time.perf_counter() - self._clock
        samples = len(batch.x0) * self._timed * trainer.world_size
        figures = {
            LOSS: float(mean),
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/images_per_s": samples / seconds,
        }
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)
        self.latest |= figures  # beside the last validation loss
        self.on_train_start()

    def require_finite(self) -> None:
        """Wait for the device and stop if a loss was NaN or infinite.

        Raises:
            NonFiniteLoss: naming the first such step and the noise levels it happened at.
        """
        reduce = self.trainer.strategy.reduce
        bad = int(reduce(self.first_bad_step.double(), reduce_op="max"))
        if bad >= 0:
            low, high = (float(end) for end in reduce(self.bad_levels, reduce_op="max").exp())
            where = f", noise levels sigma from {1 / low:.3g} to {high:.3g}" if high else ""
            raise NonFiniteLoss(
                f"the loss became NaN or infinite at step {bad}{where}; lower --lr, or resume from an "
                "earlier checkpoint"
            )

    # -- validation ---------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss of the best network on held-out data at fixed times and noise."""
        x0, labels, index, held_out = batch
        rows = held_out or Rows(len(x0), slice(None))
        draws = StepRandomness.of_rows(self.recipe.seed, -1 - index, *rows, x0.device)
        self.val_loss.update(self.objective.errors(self.best_denoiser(), x0, labels, draws, None)[1])

    def on_validation_epoch_end(self) -> None:
        """Log the validation loss."""
        value = float(self.val_loss.compute())
        self.val_loss.reset()
        if self.trainer.sanity_checking:
            return
        self.latest[VALIDATION] = value
        for logger in self.trainer.loggers:
            logger.log_metrics({VALIDATION: value}, step=self.trainer.global_step)

    # -- optimiser ----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Optimiser and learning rate of the recipe."""
        recipe = self.recipe
        optimizer = OPTIMIZERS[recipe.optimizer](self.network.parameters(), recipe.lr, recipe.weight_decay)
        schedule = Schedule(recipe.lr, recipe.train_steps, recipe.warmup_steps, recipe.decay_steps, recipe.lr_end)
        scheduler = SCHEDULERS[recipe.lr_schedule](optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def loss_by_level(self) -> list[tuple[float, float]]:
        """(log sigma, recent mean loss) for every bin of the noise level that has been met."""
        edges = self.level_edges.tolist()
        losses, counts = self.level_loss.tolist(), self.level_count.tolist()
        return [
            ((a + b) / 2, loss / count)
            for a, b, loss, count in zip(edges, edges[1:], losses, counts, strict=False)
            if count > 0 and math.isfinite(loss)
        ]
