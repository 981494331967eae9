"""Experiment loggers beside metrics.csv, which is always written; each is imported when it is asked for.

A resumed run goes on in the same place: the same TensorBoard folder, the same W&B run (online if that is asked for
again: a config.json, which may be anybody's, sends nothing). Metrics of the steps past its
checkpoint are logged again, so both show them twice (W&B over ``trainer/global_step``, where the line goes back);
metrics.csv has dropped the first ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lightning.pytorch.loggers.logger import Logger

KEY_VARIABLE, MODE_VARIABLE = "WANDB_API_KEY", "WANDB_MODE"

MakeLoggers = Callable[[Path, str, dict[str, Any], str], "list[Logger]"]


@runtime_checkable
class ShowsPictures(Protocol):
    """A logger that shows pictures."""

    def show_picture(self, name: str, path: Path, step: int) -> None:
        """Show a PNG."""


@runtime_checkable
class Closes(Protocol):
    """A logger that has to be closed."""

    def close(self, exit_code: int) -> None:
        """Send what is left."""


def tensorboard(folder: Path, run_name: str, config: dict[str, Any], project: str) -> list[Logger]:
    """Event files in ``folder/tensorboard``."""
    from common.training.tensorboard_logger import tensorboard as make

    return make(folder, run_name, config, project)


def weights_and_biases(folder: Path, run_name: str, config: dict[str, Any], project: str) -> list[Logger]:
    """A W&B run, kept in ``folder/wandb``."""
    from common.training.wandb_logger import weights_and_biases as make

    return make(folder, run_name, config, project)


LOGGERS: dict[str, MakeLoggers] = {
    "csv": lambda *_: [],
    "tensorboard": tensorboard,
    "wandb": weights_and_biases,
}


def ask_before_sending(name: str) -> None:
    """Keep on disk what a logger would send, unless this command line or the environment asked for it.

    A run that goes on has its logger from its config.json, which may be somebody else's: that alone sends nothing.

    Args:
        name: one of :data:`LOGGERS`.
    """
    if name == "wandb" and MODE_VARIABLE not in os.environ:
        os.environ[MODE_VARIABLE] = "offline"
        print(
            "wandb: only config.json asks for it, so nothing is sent; --logger wandb, or $WANDB_MODE=online, sends",
            file=sys.stderr,
            flush=True,
        )


def make_loggers(name: str, folder: Path, *, run_name: str, config: dict[str, Any], project: str) -> list[Logger]:
    """The loggers of ``--logger name``; none in processes other than the first.

    Args:
        name: one of :data:`LOGGERS`.
        folder: the run folder; its name is the id of the W&B run.
        run_name: what W&B shows.
        config: the run's config.json.
        project: the project in W&B.

    Raises:
        Refusal: if a package is missing.
    """
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    if getattr(rank_zero_only, "rank", None) not in (None, 0):
        return []
    return LOGGERS[name](folder, run_name, config, project)


def log_picture(loggers: Iterable[Logger], name: str, path: Path, step: int) -> None:
    """Show a PNG in the loggers that show pictures."""
    for logger in loggers:
        if isinstance(logger, ShowsPictures):
            logger.show_picture(name, path, step)


def close_loggers(loggers: Iterable[Logger], exit_code: int = 0) -> None:
    """Write and send what is left, in bounded time; for a ``finally``, since it raises nothing.

    Args:
        loggers: those of :func:`make_loggers`.
        exit_code: of the run; W&B shows another one than 0 as a failure.
    """
    for logger in loggers:
        logger.finalize("success" if exit_code == 0 else "failed")
        if isinstance(logger, Closes):
            logger.close(exit_code)
