"""What happens around training: log lines, the progress bar, sample grids, kept weights, the loss picture."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from torch import Tensor

from common.data.spec import DataSpec
from common.denoiser import Clipped
from common.files import save
from common.media.figures import loss_figure, save_figure
from common.media.layout import Labelled
from common.media.pictures import save_samples
from common.metrics.compared import is_of_samples
from common.progress import bar
from common.runs import RunFolder
from common.runs.real import read_real
from common.runs.versions import PLAIN, average_kinds
from common.samplers import SOLVERS, path_of, sample
from common.training.checkpoints import Stopped
from common.training.csv_log import CsvLog
from common.training.loggers import log_picture
from common.training.module import EVALUATION, LOSS, VALIDATION, DiffusionModule

GRID_STEPS, GRID_SAMPLES, GRID_SOUNDS = 7, 50, 8  # of the grids; sounds are long
GRID_COLUMNS = 10  # of samples without classes


class StepProgress(ProgressBar):
    """One bar over optimiser steps with loss, images per second and time left; sparse lines without a screen."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Any = None

    def disable(self) -> None:
        """Show nothing (processes other than the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the run stands."""
        self._bar = bar(
            trainer.max_steps,
            "training",
            "step",
            initial=trainer.global_step,
            lasting=True,
            silent=not self._enabled,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance; the figures are those of the last log line, so that no step waits for the device."""
        if self._bar is None or trainer.global_step == self._bar.n:
            return
        latest = getattr(pl_module, "latest", {})
        averaged = isinstance(pl_module, DiffusionModule) and pl_module.is_averaged
        figures = {
            name: f"{latest[key]:.{digits}g}"
            for name, key, digits in (
                ("loss", LOSS, 4),
                ("val (avg)" if averaged else "val", VALIDATION, 4),
                ("images/s", "train/images_per_s", 3),
            )
            if key in latest
        }
        self._bar.set_postfix(figures, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that a message stands on a line of its own."""
        self._close()


def grid_steps(solver: str) -> int:
    """Steps in which a solver draws the samples of a grid: few, or fewer if it needs no more."""
    return min(GRID_STEPS, SOLVERS[solver].default_steps)


def draw(
    module: DiffusionModule, spec: DataSpec, solver: str, steps: int, count: int, at_once: int
) -> tuple[Tensor, Tensor | None]:
    """Samples of a run's best weights from the seeds 0, 1, .., of its classes in turn; no random state is touched.

    Args:
        module: what is trained.
        spec: what a sample is.
        solver: name of a solver.
        steps: of the solver.
        count: how many samples.
        at_once: samples drawn together.

    Returns:
        Samples (N, C, *S) on the network's scale, and their classes (N,) int64 or None, on the device.
    """
    denoiser = module.best_denoiser()
    was_training = denoiser.backbone.training
    denoiser.backbone.eval()
    labels = spec.labels_for(range(count))
    labels = None if labels is None else labels.to(module.device)
    parts = [
        sample(
            path_of(SOLVERS[solver], module.dynamics),
            Clipped(denoiser) if spec.is_image else denoiser,
            (len(seeds), *spec.shape),
            solver=solver,
            steps=steps,
            seeds=seeds.tolist(),
            labels=None if labels is None else labels[seeds],
        ).x
        for seeds in torch.arange(count).split(at_once)
    ]
    denoiser.backbone.train(was_training)
    return torch.cat(parts), labels


class SampleGrid(Callback):
    """After each validation: samples from the same seeds by the run's best weights, as a picture.

    Args:
        folder: the run's folder, in which real samples may lie, too; a row of them is shown.
        spec: what a sample is; samples ask for its classes in turn.
        solver: name of a solver.
        at_once: samples drawn together, no more than a training step holds; None draws all together.
        scale: whole number by which images are magnified; None makes small ones visible.
    """

    def __init__(
        self, folder: RunFolder, spec: DataSpec, solver: str, at_once: int | None = None, scale: int | None = None
    ) -> None:
        self.folder, self.spec, self.solver, self.scale = folder, spec, solver, scale
        self.count = GRID_SAMPLES if spec.sample_rate is None else GRID_SOUNDS
        self.at_once = at_once or self.count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw and write the grid (first process only; the samples do not depend on it)."""
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(pl_module, DiffusionModule):
            return
        x, labels = draw(pl_module, self.spec, self.solver, grid_steps(self.solver), self.count, self.at_once)
        picture = self.folder.samples / f"step-{trainer.global_step:07d}.png"
        save_samples(
            picture,
            Labelled(self.spec.pictured(self.spec.from_network(x)), self.spec.names_of(labels)),
            read_real(self.folder.real, self.spec),
            columns=GRID_COLUMNS if labels is None else None,
            sample_rate=self.spec.sample_rate,
            scale=self.scale,
        )
        log_picture(trainer.loggers, "samples", picture, trainer.global_step)


class LogLines(Callback):
    """The log line of a step, before anything is kept of it. Runs first of all callbacks.

    Before weights are kept it stops the run if a loss so far was not finite.

    Args:
        kept_every: optimiser steps between kept weights.
    """

    def __init__(self, kept_every: int) -> None:
        self.kept_every = kept_every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the line if it is due."""
        if isinstance(pl_module, DiffusionModule):
            step = trainer.global_step
            if step >= trainer.max_steps or step % self.kept_every == 0:
                pl_module.require_finite()
            pl_module.log_line(batch)


def write_weights(folder: RunFolder, module: DiffusionModule, version: str) -> None:
    """Write the network's state dict and those of its averages into a run's ``model`` folder, and their check sums.

    Of several averages the first is ``ema_model``, a further one of decay 0.999 ``ema0.999_model``.
    """
    networks = [module.network, *(average.get_submodule("module") for average in module.averages)]
    kinds = [PLAIN, *average_kinds(module.recipe.averages)]
    files = [folder.weights(kind, version) for kind in kinds]
    with folder.manifest.renewing(*files):
        for path, network in zip(files, networks, strict=True):
            save(path, network.state_dict())


class KeepWeights(Callback):
    """Plain state dicts ``model-v0.pth``, ``ema_model-v0.pth``, .. every n steps, and ``-final`` at the end.

    Args:
        folder: the run's folder.
        every: optimiser steps between versions.
    """

    def __init__(self, folder: RunFolder, every: int) -> None:
        self.folder, self.every = folder, every

    def _write(self, pl_module: pl.LightningModule, version: str) -> None:
        if isinstance(pl_module, DiffusionModule) and pl_module.trainer.is_global_zero:
            write_weights(self.folder, pl_module, version)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a version when it is due, once per optimiser step."""
        step, accumulation = trainer.global_step, trainer.accumulate_grad_batches
        if step and step % self.every == 0 and (batch.micro_step + 1) % accumulation == 0:
            self._write(pl_module, f"v{step // self.every - 1}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the final weights of a run that reached its last step."""
        if trainer.global_step >= trainer.max_steps:
            self._write(pl_module, "final")


def draw_losses(path: Path, rows: list[dict[str, float]], module: DiffusionModule) -> None:
    """Write the loss curve, the loss by noise level and, if samples were judged, the first figure about them.

    Args:
        path: the picture.
        rows: the run's log lines.
        module: what is trained.
    """
    judged = next((name for row in rows for name in row if name.startswith(EVALUATION) and is_of_samples(name)), None)
    save_figure(path, loss_figure(rows, module.loss_by_level(), module.is_averaged, judged))


class LossPicture(Callback):
    """``loss.png``: redrawn after each validation, at the end, and when a run is stopped.

    Args:
        path: the file.
        lines: the run's log lines.
    """

    def __init__(self, path: Path, lines: CsvLog) -> None:
        self.path, self.lines = path, lines  # not "log": Lightning sets that name on callbacks

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, DiffusionModule) and not trainer.sanity_checking:
            draw_losses(self.path, self.lines.rows, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Redraw."""
        self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last state."""
        self._draw(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Draw the last state of a run that was stopped and can go on."""
        if isinstance(exception, Stopped):
            self._draw(trainer, pl_module)
