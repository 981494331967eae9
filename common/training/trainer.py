"""Lightning's Trainer for a run folder."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, Strategy

from common.files import save
from common.training.callbacks import CleanStop, FiniteGuard, KeepWeights, LossPicture, StepProgress
from common.training.csv_log import CsvLog

LAST = "last.ckpt"


# What Lightning says that does not apply here: the loader yields indices, so workers would only cost; the averaged
# network is in evaluation mode on purpose; a run folder that is resumed is not empty; the rest is about its own code.
NOT_APPLICABLE = (
    ".*does not have many workers.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    ".*module\\(s\\) in eval mode at the start of training.*",
    ".*treespec, LeafSpec.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
)


def quieten_lightning() -> None:
    """Keep Lightning's warnings that concern the user, and drop its advertisements."""
    for message in NOT_APPLICABLE:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written atomically."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint to a temporary file, then rename it."""
        save(Path(path), checkpoint)


@dataclass(frozen=True)
class Hardware:
    """Where a run computes; the words are Lightning's.

    Attributes:
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: devices per node.
        num_nodes: nodes.
        strategy: ``auto``, ``ddp``, ..
        precision: ``32-true``, ``bf16-mixed``, ..
        deterministic: bit-identical results on CUDA too, at some cost in speed.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    deterministic: bool = False

    def resolved_strategy(self) -> str | Strategy:
        """DDP where there are several processes; its buffers are tables and counters, alike everywhere."""
        if self.strategy in ("auto", "ddp") and self.devices * self.num_nodes > 1:
            return DDPStrategy(broadcast_buffers=False)
        return self.strategy


def make_trainer(
    folder: Path,
    log: CsvLog,
    hardware: Hardware,
    *,
    train_steps: int,
    val_check_interval: int,
    checkpoint_every: int,
    keep: int,
    weights_every: int,
    gradient_clip: float,
    clip_by: str = "norm",
    accumulate: int,
    deadline: float | None = None,
    sanity_steps: int = 0,
    callbacks: list[Callback],
) -> pl.Trainer:
    """The trainer of one run.

    Args:
        folder: the run folder.
        log: its metrics.csv.
        hardware: where to compute.
        train_steps: optimiser steps in all.
        val_check_interval: optimiser steps between validations.
        checkpoint_every: optimiser steps between checkpoints.
        keep: how many ``step-*.ckpt`` to keep beside ``last.ckpt``.
        weights_every: optimiser steps between kept weights (v0, v1, ..).
        gradient_clip: largest norm of the gradient, or largest of its elements; 0 does not clip.
        clip_by: ``norm`` or ``value``: which of both.
        accumulate: micro-steps per optimiser step.
        deadline: when the run stops, resumably, on the clock ``time.monotonic``; None for no limit.
        sanity_steps: validation batches tried before training starts.
        callbacks: further callbacks, run before the checkpoint.
    """
    checkpoints = folder / "checkpoints"
    saver = ModelCheckpoint(
        dirpath=checkpoints,
        filename="step-{step:07d}",
        auto_insert_metric_name=False,
        every_n_train_steps=checkpoint_every,
        monitor="step",
        mode="max",
        save_top_k=keep,
        save_last=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,  # last.ckpt is replaced, also where an earlier part of the run wrote it
    )
    saver.CHECKPOINT_NAME_LAST = LAST.removesuffix(".ckpt")
    quieten_lightning()
    return pl.Trainer(
        default_root_dir=folder,
        logger=log,
        callbacks=[
            FiniteGuard(checkpoint_every, weights_every),
            StepProgress(),
            KeepWeights(folder / "model", weights_every),
            *callbacks,
            LossPicture(folder / "loss.png", log),
            saver,
            CleanStop(checkpoints / LAST, deadline),
        ],
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=hardware.resolved_strategy(),
        precision=hardware.precision,  # type: ignore[arg-type]
        deterministic=hardware.deterministic,
        max_steps=train_steps,
        max_epochs=-1,
        val_check_interval=val_check_interval * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=sanity_steps,
        gradient_clip_val=gradient_clip or None,
        gradient_clip_algorithm=clip_by,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        plugins=[AtomicCheckpointIO()],
    )
