"""``--dry_run``: what a training will need, by trying a little of it; nothing is written."""

import copy
import math
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from common.cluster.meeting import Meeting
from common.config.schema import RunConfig
from common.data.module import DataModule
from common.data.source import DataSet
from common.refusal import Refusal
from common.samplers import SOLVERS, default_solver
from common.training.build import build_data
from common.training.memory import available, bytes_of
from common.training.module import DiffusionModule
from common.training.session import is_first_process, say
from common.training.trainer import device_count, run_trainer, trial_trainer
from common.training.trial import SECOND, Estimate, Trial, estimate, evaluations
from common.units import in_bytes, in_time

SAMPLES = 100  # that generate.py draws unless told otherwise
CERTAIN = 1.3  # times the free memory: estimates were within 25 % of what was measured
LARGE = 30_000  # a step takes less than so many times the memory of its samples, in all networks here


def dry_run(
    config: RunConfig,
    dataset: DataSet,
    module: DiffusionModule,
    data: DataModule,
    device: torch.device,
    meeting: Meeting,
) -> int:
    """Say what memory, time and disk a training takes; returns the exit code.

    Args:
        config: what is trained.
        dataset: what to learn from.
        module: the network with its recipe; its weights change.
        data: the batches of the run.
        device: where.
        meeting: where several processes meet.

    Raises:
        Refusal: if the training does not fit into the free memory, naming what does.
    """
    devices = device_count(config.hardware, device)
    if is_first_process():
        say("dry run   a few steps, with few samples first")
        free = available(device)
        found = estimate(config, dataset, module, device, on_trial=say_trial)
        report(found, module, data, device, free)
        if not found.fits(config.recipe.batch_size, free):
            raise Refusal(f"{config.recipe.batch_size}: {too_large(found, free)}", "batch_size")
    processes = meeting.here.count if meeting.here.from_outside else devices  # else those of this machine
    if processes > 1:
        one = replace(config, recipe=replace(config.recipe, batch_size=1))
        say(f"devices   trying {processes} of them ..")
        run_trainer(trial_trainer(one, device, 1, devices, [], meeting), module, build_data(one, dataset))
        say(f"devices   {processes} processes have taken a step together")
    if is_first_process():
        count, loss = found.largest.samples, found.largest.loss
        say(f"dry run   one batch of {in_samples(count)}, loss {loss:.4f}; nothing written")
    return 0


def say_trial(trial: Trial) -> None:
    """Give a sign of life."""
    say(f"tried     {in_samples(trial.samples)}: {in_time(trial.step_seconds)} a step")


def report(found: Estimate, module: DiffusionModule, data: DataModule, device: torch.device, free: int) -> None:
    """Print what was found."""
    config = found.config
    recipe, keeping = config.recipe, config.keeping
    batch = recipe.batch_size
    basis = "tried" if found.is_measured else f"estimated from {found.tried}"
    place = "memory" if device.type == "cpu" else "memory of the GPU"
    say(
        f"memory    about {in_bytes(found.peak_bytes(batch))} at most, with {in_samples(batch)} in a step ({basis}); "
        f"{in_bytes(free + found.base_bytes)} of {place} can be had"
    )
    validations = recipe.train_steps // keeping.val_check_interval
    judged = f", samples for {count:,} evaluations (without judging them)" if (count := evaluations(config)) else ""
    say(
        f"time      about {in_time(found.step_seconds)} a step, {in_time(found.seconds(data.val_samples))} to the end: "
        f"{recipe.train_steps:,} steps, {validations:,} validations with a sample grid{judged}"
    )
    name = default_solver(module.dynamics, consistent=module.objective.consistent)
    calls = SOLVERS[name]().calls(SOLVERS[name].default_steps)
    each = found.call_seconds(SAMPLES)
    how = f"{name}, {calls:,} evaluations of the network at {in_time(each)}"
    say(f"sampling  about {in_time(calls * each)} for {SAMPLES} samples: {how}")
    needed = disk_bytes(found, module)
    there = shutil.disk_usage(existing(keeping.output_dir)).free
    say(f"disk      about {in_bytes(needed)} under {keeping.output_dir}; {in_bytes(there)} are free")
    if needed > there:
        say("note      the disk is too small for that; raise --log_model_every_n, or give another --output_dir")


def in_samples(count: int) -> str:
    """A number of samples in words."""
    return f"{count:,} sample{'' if count == 1 else 's'}"


def require_memory(config: RunConfig, dataset: DataSet, module: DiffusionModule, device: torch.device) -> None:
    """Before a training: refuse what does not fit into memory, and say what may not; a GPU says so itself.

    The weights stay: a copy of the module is tried, and only if a step could be that large at all.

    Raises:
        Refusal: if a step needs more than the estimate can be wrong by.
    """
    free, batch = available(device), config.recipe.batch_size
    sample = 4 * math.prod(config.sample.shape)
    if device.type == "cuda" or config.hardware.compile or batch * sample * LARGE < free:
        return
    found = estimate(config, dataset, copy.deepcopy(module), device, largest=SECOND)
    if not found.fits(batch, round(free * CERTAIN)):
        raise Refusal(f"{batch}: {too_large(found, free)}", "batch_size")
    if not found.fits(batch, free):
        say(f"note      {too_large(found, free)}; the system may end the training without a word")


def too_large(found: Estimate, free: int) -> str:
    """What is wrong with a batch that does not fit, and what fits."""
    batch, accumulated = found.config.recipe.batch_size, found.config.recipe.accumulate_grad_batches
    largest = found.largest_batch(free)
    smaller, factor = f"--batch_size {largest} ", batch // max(1, largest)
    if found.config.recipe.global_batch is not None:  # it stays, so the batch must be parted without a rest
        smaller, factor = "", next(n for n in range(-(-batch // max(1, largest)), batch + 1) if batch % n == 0)
    mend = (
        f"{smaller}--accumulate_grad_batches {factor * accumulated} fits"
        if largest
        else "not even one sample fits; take a smaller network, as presets that end in -small have, or smaller images"
    )
    if found.config.network.arguments.get("checkpointing") is False:
        mend += ", or try --checkpointing True"
    need = in_bytes(found.peak_bytes(batch))
    return f"a step needs about {need}, and only {in_bytes(free + found.base_bytes)} can be had; {mend}"


def disk_bytes(found: Estimate, module: DiffusionModule) -> float:
    """Bytes of the checkpoints and weights that a whole run keeps at its end."""
    recipe, keeping = found.config.recipe, found.config.keeping
    weights, whole = bytes_of(module.network.state_dict().values()), bytes_of(module.state_dict().values())
    # gradients and the state of the optimiser stay of a step; a checkpoint has the latter
    checkpoint = whole + found.largest.kept_bytes - bytes_of(module.network.parameters())
    versions = recipe.train_steps // keeping.log_model_every_n + 1 + bool(keeping.eval_every)
    kinds = 1 + len(recipe.averages)
    return (keeping.keep + 1) * checkpoint + versions * kinds * weights


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
