"""What a training restores from a checkpoint, looked at before its first step: the file may be anybody's."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from common.config.schema import Recipe
from common.files import UNREADABLE
from common.refusal import Refusal
from common.runs.versions import MOST_STEPS, Checkpoint
from common.training.module import DiffusionModule
from common.training.optimizers import OPTIMIZERS

CHANGING = ("params", "lr", "betas")


class Restored(Callback):
    """Refuses a checkpoint that says something else than the state of this training.

    Lightning puts plain data of the file into optimiser, schedule and loops as it is. There is no code in it, but what
    is of another kind than before would end the training with a traceback in some later step.

    Args:
        checkpoint: the file.

    Attributes:
        done: whether all is restored, so that an error is none of the file's.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.done = False
        self._before: Any = None
        self._steps: list[Any] = []
        self._settings: list[dict[str, Any]] = []
        self._kept: dict[str, bool] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what kinds of values there are, and for how many steps the schedule was made."""
        self._before, self._steps = _kinds(_state(trainer)), _steps(trainer)
        self._settings = _settings(trainer)
        if isinstance(pl_module, DiffusionModule):
            self._kept = _kept(pl_module.recipe)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what was restored."""
        self._look(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what was restored, if nothing was tried before."""
        if not self.done:
            self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        if _steps(trainer) != self._steps:
            raise self.refusal("its learning rate was made for another number of steps than config.json has")
        stay = all(
            all(name in after and after[name] == value for name, value in before.items())
            for before, after in zip(self._settings, _settings(trainer), strict=True)
        )
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        stay &= not any(callable(getattr(type(one), name, None)) for one in schedules for name in vars(one))
        at = {schedule.last_epoch for schedule in schedules} | {trainer.global_step}
        right = stay and at == {self.checkpoint.step} and _contains(_kinds(_state(trainer)), self._before)
        states = [pair for optimizer in trainer.optimizers for pair in optimizer.state.items()]
        if not right or not all(_is_of(parameter, state, self._kept) for parameter, state in states):
            raise self.refusal("it says something else than the state of this training")
        self.done = True

    def refusal(self, why: object) -> Refusal:
        """What to say of the checkpoint."""
        path = self.checkpoint.path
        return Refusal(f"{path} cannot be gone on from ({why}); try another of {path.parent}", "resume")

    def blame(self, error: Exception) -> Refusal | None:
        """What to say of an error, if it came from restoring."""
        if self.done or not isinstance(error, UNREADABLE):
            return None
        return self.refusal(f"{type(error).__name__}: {error}")


def _state(trainer: pl.Trainer) -> Any:
    """Plain data that the file sets: settings of optimisers, and all of schedules and loops."""
    groups = [[{**group, "params": None} for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    schedules = [vars(config.scheduler) for config in trainer.lr_scheduler_configs]
    return {"groups": groups, "schedules": schedules, "loops": trainer.fit_loop.state_dict()}


def _steps(trainer: pl.Trainer) -> list[Any]:
    """How many steps every schedule has in all, if it knows."""
    return [getattr(config.scheduler, "total_steps", None) for config in trainer.lr_scheduler_configs]


def _settings(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """What stays as it is in every group of parameters: a schedule changes the learning rate and beta_1 alone."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [{name: value for name, value in group.items() if name not in CHANGING} for group in groups]


def _kinds(value: Any) -> Any:
    """A value with kinds in place of what it holds; numbers are of one kind, and texts are settings, which stay."""
    if isinstance(value, dict):
        return {key: _kinds(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_kinds(part) for part in value]
    if isinstance(value, str):
        return value
    return float if isinstance(value, int | float) and abs(value) < MOST_STEPS else type(value)


def _contains(found: Any, wanted: Any) -> bool:
    """Whether all kinds that are wanted are found; other versions of a library may keep further ones."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_contains(found.get(key), part) for key, part in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_contains, found, wanted))
    return bool(found == wanted)


def _kept(recipe: Recipe) -> dict[str, bool]:
    """What the optimiser of a recipe keeps of a parameter, by name: whether of the shape of that, or a number."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    optimizer = OPTIMIZERS[recipe.optimizer]([parameter], recipe.lr, recipe.weight_decay)
    optimizer.step()
    return {name: getattr(value, "shape", ()) == (2,) for name, value in optimizer.state[parameter].items()}


def _is_of(parameter: Tensor, state: Any, kept: dict[str, bool]) -> bool:
    """Whether an optimiser may keep this of a parameter; nothing, if it took no step with it."""
    if not isinstance(state, dict) or (state and not kept.keys() <= state.keys()):
        return False
    return all(_is_moment(parameter, state[name]) if whole else _is_count(state[name])
               for name, whole in kept.items() if state)  # fmt: skip


def _is_moment(parameter: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point()


def _is_count(value: Any) -> bool:
    if isinstance(value, Tensor) and value.shape == ():
        value = value.item()
    return isinstance(value, int | float) and 0 <= value < MOST_STEPS
