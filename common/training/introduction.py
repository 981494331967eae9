"""What a training says of itself before its first step."""

import torch

from common.cluster.place import SRUN, place
from common.config.schema import Recipe, RunConfig
from common.cores import cores
from common.data.source import DataSet
from common.dynamics.prior import LITTLE_NOISE
from common.training.data_told import paragraph
from common.training.module import DiffusionModule
from common.training.session import say
from common.training.trainer import device_count, process_count


def introduce(config: RunConfig, module: DiffusionModule, device: torch.device, dataset: DataSet) -> None:
    """Say what is trained, and what is made of the data."""
    recipe = config.recipe
    batch = recipe.batch_size * recipe.accumulate_grad_batches
    dynamics = module.dynamics
    level = float(dynamics.log_sigma(torch.tensor([dynamics.horizon], device=dynamics.device)).exp())
    # modes may keep some of the data at T, since sampling starts from its mean and spectrum
    shown = "" if dynamics.basis.modes else f", sigma(T) = {level:.3g}"
    say(f"dynamics  {dynamics}, {module.prediction}-prediction{shown}")
    if shown and level < LITTLE_NOISE:
        say(
            f"note      the noise level at T is only {level:.3g}: data is still seen there, so samples start from the "
            f"wrong law; {dynamics.more_noise}"
        )
    if module.objective.account:
        say(f"objective {module.objective.account}")
    say(f"network   {config.network.name}, {module.parameter_count:,} parameters, on {device}")
    for line in paragraph(dataset, config):
        say(line)
    count = process_count(config.hardware, device)
    share = "on 1 device" if count == 1 else f"on {count} devices, {batch} on each"
    say(f"training  {recipe.train_steps:,} steps of {batch * count} samples {share}")
    here, shared = device_count(config.hardware, device), cores()
    if device.type == "cpu" and here > max(1, shared) and place().launcher != SRUN:  # which binds tasks to their own
        say(f"note      --devices {here} are as many processes, which share {shared} cores: more gain nothing")
    for name, steps in (("warmup_steps", recipe.warmup_steps), ("time_warmup", recipe.time_warmup)):
        if steps >= recipe.train_steps:
            say(f"note      --{name} {steps:,} is not over when training ends; lower it, or train longer")


def question_steps(config: RunConfig) -> None:
    """Say so if functions get the published number of steps because their source did not say that it holds some."""
    steps = config.recipe.train_steps
    if config.sample.kind == "function" and steps == Recipe.train_steps:
        say(
            f"note      {steps:,} steps were made for images; give --train_steps or --preset, or let the class of "
            f"--data_name {config.data.data_name} say kind = 'function'"
        )
