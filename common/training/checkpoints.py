"""Checkpoints of a training: the last thing of their step, kept by number, and what a stop goes through."""

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from common import stopping
from common.runs import RunFolder
from common.runs.folder import STEP
from common.runs.versions import RUN
from common.training.module import DiffusionModule
from common.training.session import is_first_process

ASK_EVERY = 10  # steps between asking the other processes, e.g. whether to stop: the answer waits for the device
SAVE_EVERY = 300.0  # seconds between checkpoints at most, however slow the steps are
KNOWN_AFTER = 10.0  # seconds until the speed of a training is known
ANSWER = "stopping after this step; once more stops at once, without saving"


def anywhere(trainer: pl.Trainer, wish: bool) -> bool:
    """Whether any process wishes it."""
    return trainer.strategy.reduce_boolean_decision(wish, all=False) if trainer.world_size > 1 else wish


class Stopped(RuntimeError):
    """Training was asked to stop and has written its checkpoint.

    Attributes:
        step: the step of the checkpoint.
        planned: whether it stopped because its time was up, not by a signal.
    """

    def __init__(self, step: int, checkpoint: object, planned: bool) -> None:
        reason = "time is up, " if planned else ""
        super().__init__(f"{reason}stopped at step {step}; state kept in {checkpoint}")
        self.step, self.planned = step, planned


class Checkpoints(Checkpoint):
    """Writes ``last.ckpt`` and ``step-*.ckpt``, the whole state, once all else of a step is done and written.

    That is when it is due, at the last step, after five minutes without one, and when the run is asked to stop (by a
    signal, or because its time is up): then it raises :class:`Stopped`. A second signal stops at once, and so does a
    first one while data does not come; then the steps before are kept.

    What is removed to keep few is told from the names in the run's own folder, never from what a checkpoint says.
    (Lightning's ``ModelCheckpoint`` removes the paths that it finds in the file that is resumed.)

    Args:
        folder: the run's folder.
        every: optimiser steps between numbered checkpoints.
        keep: how many of those are kept.
        deadline: when time is up, on the clock ``time.monotonic``; None for no limit.
    """

    def __init__(self, folder: RunFolder, every: int, keep: int, deadline: float | None = None) -> None:
        self.folder, self.every, self.keep, self.deadline = folder, every, keep, deadline
        self._patience = stopping.Patience("")
        self._kept: int | None = None  # step of the newest checkpoint
        self._between = False  # no step is half done
        self._written = time.monotonic()
        self._began: tuple[float, int] | None = None  # time and step; None once it was foretold

    def lost_steps(self, trainer: pl.Trainer) -> int:
        """Steps of this training that no checkpoint holds."""
        return 0 if self._kept is None else trainer.global_step - self._kept

    # -- signals ------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over."""
        self._kept, self._written = trainer.global_step, time.monotonic()
        self._began = None if self.deadline is None else (self._written, trainer.global_step)
        self._patience = stopping.Patience(ANSWER if is_first_process() else "")
        self._patience.begin()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the signals back."""
        self._patience.end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Hand the signals back; if a stop could not wait for data, the steps before are kept first."""
        # several processes could not write it without waiting for one another
        if (
            isinstance(exception, stopping.Overdue)
            and self._between
            and trainer.world_size == 1
            and self.lost_steps(trainer)
        ):
            self._write(trainer, pl_module, numbered=False)
        self._patience.end()

    # -- the end of a step ---------------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say which run it is of."""
        checkpoint[RUN] = self.folder.begun

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that a step is in work."""
        self._between = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between optimiser steps; a step that is validated next is left to that."""
        done = batch.micro_step + 1
        validated_next = done % trainer.val_check_batch == 0
        self._between = done % trainer.accumulate_grad_batches == 0 and not validated_next
        if self._between:
            self._settle(trainer, pl_module)
            self._foretell(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After validation, its grid and its picture, which Lightning would not make up for after a resume."""
        if not trainer.sanity_checking:
            self._between = True
            self._settle(trainer, pl_module)

    def _foretell(self, trainer: pl.Trainer) -> None:
        """Say once, when the speed is known, how far a training with a deadline will come.

        What stops early has not had the small learning rates of a whole schedule: a shorter training would be better.
        """
        if self._began is None or self.deadline is None:
            return
        (began, first), now, step = self._began, time.monotonic(), trainer.global_step
        if now - began < KNOWN_AFTER or step - first < 2:
            return
        self._began = None
        reached = step + int((self.deadline - now) * (step - first) / (now - began))
        if reached < trainer.max_steps and is_first_process():
            sys.stderr.write(
                f"\nabout {reached:,} of {trainer.max_steps:,} steps fit into --max_time; --resume goes on with them, "
                f"and a training that is whole by then is a new run with --train_steps {reached}\n"
            )

    def _settle(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a checkpoint if there is a reason to, and stop if there is a reason for that."""
        step = trainer.global_step
        numbered, finished = step % self.every == 0, step >= trainer.max_steps
        may_ask = not finished and (trainer.world_size == 1 or step % ASK_EVERY == 0)
        asked = may_ask and anywhere(trainer, self._patience.is_asked)
        in_time = self.deadline is None or time.monotonic() < self.deadline
        out_of_time = may_ask and not asked and self.deadline is not None and anywhere(trainer, not in_time)
        late = may_ask and anywhere(trainer, time.monotonic() - self._written >= SAVE_EVERY)
        if not (numbered or finished or asked or out_of_time or late):
            return
        self._write(trainer, pl_module, numbered)
        if numbered and trainer.is_global_zero:
            self._remove_old(step)
        if asked or out_of_time:
            raise Stopped(step, self.folder.last_checkpoint, planned=out_of_time)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, numbered: bool) -> None:
        """Write last.ckpt, if asked for the numbered checkpoint before it: the last one is what a run goes on from."""
        if isinstance(pl_module, DiffusionModule):
            pl_module.require_finite()
        step = trainer.global_step
        if numbered:
            trainer.save_checkpoint(self.folder.checkpoints / f"step-{step:07d}.ckpt", weights_only=False)
        trainer.save_checkpoint(self.folder.last_checkpoint, weights_only=False)
        self._kept, self._written = step, time.monotonic()

    def _remove_old(self, step: int) -> None:
        """Remove numbered checkpoints up to a step but for the newest few: regular files of this run's own folder."""
        if self.folder.checkpoints.is_symlink():
            return
        matches = {path: STEP.fullmatch(path.name) for path in self.folder.checkpoints.iterdir()}
        steps = {path: int(match[1]) for path, match in matches.items() if match}
        own = [path for path, at in steps.items() if at <= step and path.is_file() and not path.is_symlink()]
        for path in sorted(own, key=steps.__getitem__)[: -self.keep]:
            path.unlink()
