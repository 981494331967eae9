"""Lightning's Trainer for a run folder."""

import logging
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from common import stopping
from common.cluster.meeting import Meeting
from common.config.schema import Hardware, RunConfig
from common.data.module import DataModule
from common.files import load_checkpoint, save
from common.refusal import Refusal
from common.runs import RunFolder
from common.training.callbacks import KeepWeights, LogLines, LossPicture, StepProgress
from common.training.checkpoints import Checkpoints
from common.training.csv_log import CsvLog
from common.training.module import DiffusionModule
from common.training.strategy import environments, strategy_of

# What Lightning and torch say that does not apply here: the loader yields indices, so workers would only cost; the
# averaged network is in evaluation mode on purpose; a run folder that is resumed is not empty, and may have been moved
# (checkpoints of before then stay beside those of --keep); buffers need no broadcast, and what shall replace that
# option of DDP is not in torch 2.6; a process without srun is told by our own note; the rest is about Lightning's code.
NOT_APPLICABLE = (
    ".*does not have many workers.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    ".*The dirpath has changed from.*",
    ".*module\\(s\\) in eval mode at the start of training.*",
    ".*`broadcast_buffers` is deprecated.*",
    ".*treespec, LeafSpec.*",
    ".*`srun` command is available on your system but is not used.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
)
# Where Lightning looks for checkpoints of its own, which it would prefer to ours under SLURM: nowhere.
NOWHERE = os.devnull
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # by which Lightning knows which process this is


def quieten_lightning() -> None:
    """Keep Lightning's warnings that concern the user; drop the others, its advertisements and reports of its start."""
    for message in NOT_APPLICABLE:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written atomically."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint to a temporary file, then rename it."""
        save(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Read it onto the CPU, check sums verified, nothing unpickled."""
        return load_checkpoint(Path(path))


def device_count(hardware: Hardware, device: torch.device) -> int:
    """Devices per node: what is asked for, else every visible GPU (one in a notebook), else the one CPU."""
    return hardware.devices or (torch.cuda.device_count() if device.type == "cuda" and not is_interactive() else 1)


def process_count(hardware: Hardware, device: torch.device) -> int:
    """Processes of a training, one a device, over all nodes."""
    return device_count(hardware, device) * hardware.num_nodes


def is_interactive() -> bool:
    """Whether somebody types into this process: a notebook or a prompt, which no further process can be made like."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def check_rank(hardware: Hardware, device: torch.device) -> None:
    """Refuse to be a process that a training of so many does not have: it would train alone and write half of a run.

    Raises:
        Refusal: naming the variables of a launcher that say which process this is; for several devices in a notebook.
    """
    if is_interactive() and (asked := process_count(hardware, device)) > 1:
        raise Refusal(
            f"leads to {asked} processes, which a notebook cannot start: train in a shell, or take 1", "devices"
        )
    count, rank = process_count(hardware, device), getattr(rank_zero_only, "rank", 0) or 0
    if rank >= count:
        found = ", ".join(name for name in RANKS if name in os.environ)
        raise Refusal(
            f"leads to {'one process' if count == 1 else f'{count} processes'}, but a launcher has numbered this one "
            f"{rank} (${found}): unset these variables if they were left in the shell, else give --devices and "
            "--num_nodes as the launcher has them",
            "devices",
        )


def make_trainer(
    folder: RunFolder,
    log: CsvLog,
    config: RunConfig,
    *,
    device: torch.device,
    deadline: float | None = None,
    callbacks: list[Callback],
    meeting: Meeting | None = None,
) -> pl.Trainer:
    """The trainer of one run.

    Args:
        folder: the run folder.
        log: its metrics.csv.
        config: what the run is.
        device: where to compute.
        deadline: when the run stops, resumably, on the clock ``time.monotonic``; None for no limit.
        callbacks: further callbacks, run before the checkpoint.
        meeting: where several processes meet; None for one of their own.
    """
    recipe, keeping, hardware = config.recipe, config.keeping, config.hardware
    devices = device_count(hardware, device)
    accumulate = recipe.accumulate_grad_batches
    quieten_lightning()
    return pl.Trainer(
        default_root_dir=NOWHERE,
        logger=log,
        callbacks=[
            LogLines(keeping.log_model_every_n),
            StepProgress(),
            LossPicture(folder.loss_picture, log),  # before the final weights: those say that all is there
            KeepWeights(folder, keeping.log_model_every_n),
            *callbacks,
            Checkpoints(folder, keeping.checkpoint_every, keeping.keep, deadline),
        ],
        accelerator=device.type,
        devices=devices,
        num_nodes=hardware.num_nodes,
        strategy=strategy_of(hardware, devices, meeting),
        precision=hardware.precision,  # type: ignore[arg-type]
        deterministic=hardware.deterministic,
        max_steps=recipe.train_steps,
        max_epochs=-1,
        val_check_interval=keeping.val_check_interval * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=keeping.num_sanity_val_steps,
        gradient_clip_val=recipe.clip_grad or None,
        gradient_clip_algorithm=recipe.clip_by,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        plugins=[AtomicCheckpointIO(), *environments(meeting)],
    )


def trial_trainer(
    config: RunConfig,
    device: torch.device,
    steps: int,
    devices: int,
    callbacks: list[Callback],
    meeting: Meeting | None = None,
) -> pl.Trainer:
    """A trainer that takes a few steps as the run would, and keeps nothing of them.

    Args:
        config: what the run is.
        device: where to compute.
        steps: optimiser steps.
        devices: number of devices of this node.
        callbacks: what watches.
        meeting: where several processes meet; those of other machines are there if all were started from outside.
    """
    quieten_lightning()
    recipe, hardware = config.recipe, config.hardware
    if meeting is None or not meeting.here.from_outside:
        hardware = replace(hardware, num_nodes=1)
    return pl.Trainer(
        default_root_dir=NOWHERE,
        barebones=True,
        callbacks=callbacks,
        accelerator=device.type,
        devices=devices,
        num_nodes=hardware.num_nodes,
        strategy=strategy_of(hardware, devices, meeting),
        precision=hardware.precision,  # type: ignore[arg-type]
        deterministic=hardware.deterministic,
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        gradient_clip_val=recipe.clip_grad or None,
        gradient_clip_algorithm=recipe.clip_by,
        accumulate_grad_batches=recipe.accumulate_grad_batches,
        use_distributed_sampler=False,
        plugins=[*environments(meeting)],
    )


def run_trainer(trainer: pl.Trainer, module: DiffusionModule, data: DataModule, checkpoint: Path | None = None) -> None:
    """Train, from a checkpoint if there is one; signals stay this program's.

    Lightning's own handlers would stop at another place than ours do, send a job back into SLURM's queue, and wait for
    other processes in a handler.

    Raises:
        KeyboardInterrupt: if it was stopped at once.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    with stopping.kept():
        try:
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as end:
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            raise KeyboardInterrupt from None  # Lightning would end the program without a word
