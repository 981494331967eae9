"""How the samples of an optimiser step are shared out among processes, and what changes when their number does."""

from collections.abc import Collection
from dataclasses import replace

from common.config.schema import Recipe, RunConfig
from common.refusal import Refusal


def samples_of_step(recipe: Recipe, processes: int) -> int:
    """Samples of an optimiser step over all processes."""
    return recipe.batch_size * recipe.accumulate_grad_batches * processes


def known_processes(config: RunConfig) -> int | None:
    """With how many processes a run was begun; None if an earlier version did not note what cannot be told now."""
    if config.processes is not None or config.hardware.devices is None:
        return config.processes
    return config.hardware.devices * config.hardware.num_nodes


def check_same_step(config: RunConfig, wanted: int) -> None:
    """Refuse to go on with another number of samples of a step than a run has.

    Args:
        config: the run, as it is stored.
        wanted: what --global_batch says.

    Raises:
        Refusal: naming the number that it has.
    """
    recipe, processes = config.recipe, known_processes(config)
    if recipe.global_batch is not None:
        found: int | None = recipe.global_batch
    else:
        found = None if processes is None else samples_of_step(recipe, processes)
    if found is None and wanted % samples_of_step(recipe, 1):
        raise Refusal(
            f"{wanted} is no multiple of the {samples_of_step(recipe, 1)} samples of a process", "global_batch"
        )
    if found is not None and wanted != found:
        raise Refusal(f"{wanted} contradicts the run {config.folder_name}, whose steps have {found}", "global_batch")


def shared_out(config: RunConfig, processes: int, given: Collection[str]) -> RunConfig:
    """The configuration with the batch of one process: --batch_size, or its share of --global_batch.

    Args:
        config: the run; its batch is that of another number of processes, if it goes on.
        processes: how many there are now.
        given: flags that a user gave.

    Raises:
        Refusal: if the samples of a step cannot be shared out, or another batch was asked for, too.
    """
    recipe = config.recipe
    wanted, accumulated = recipe.global_batch, recipe.accumulate_grad_batches
    if wanted is None:
        return replace(config, processes=processes)
    parts = processes * accumulated
    if wanted % parts:
        below = wanted // parts * parts
        nearest = f"{below} or {below + parts}" if below else f"{parts}"
        steps = f" with --accumulate_grad_batches {accumulated}" if accumulated > 1 else ""
        raise Refusal(
            f"{wanted} cannot be shared out among {_counted(processes)}{steps}; take {nearest}", "global_batch"
        )
    own = wanted // parts
    if "batch_size" in given and recipe.batch_size != own:
        raise Refusal(
            f"{recipe.batch_size} and --global_batch {wanted} exclude each other: {own} samples fall to each of "
            f"{parts} parts of a step; leave one of them out",
            "batch_size",
        )
    return replace(config, recipe=replace(recipe, batch_size=own), processes=processes)


def check_exchange(config: RunConfig, processes: int, given: Collection[str]) -> list[str]:
    """What is to be said of the ways in which processes exchange gradients.

    Args:
        config: the run.
        processes: how many there are.
        given: flags that a user gave.

    Raises:
        Refusal: if DDP cannot do what is asked for.
    """
    if processes == 1:
        idle = [f"--{name}" for name in ("static_graph", "gradient_compression") if name in given]
        return [f"{' and '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect on one process"] if idle else []
    if config.hardware.static_graph and config.recipe.accumulate_grad_batches > 1:
        raise Refusal(
            f"and --accumulate_grad_batches {config.recipe.accumulate_grad_batches} exclude each other: micro-steps "
            "that exchange nothing are not like the others; leave one of them out",
            "static_graph",
        )
    return []


def change_of_batches(before: RunConfig, now: RunConfig) -> list[str]:
    """What a run that goes on with another number of processes has to say.

    Args:
        before: the run as it was begun.
        now: the same as :func:`shared_out` makes it.
    """
    began, count = known_processes(before), now.processes
    if began is None or count is None or began == count:
        return []
    have, had = samples_of_step(now.recipe, count), before.recipe.global_batch or samples_of_step(before.recipe, began)
    line = f"goes on with {_counted(count)} of {have // count} samples, began with {began} of {had // began}: "
    if have == had:
        return [f"{line}the same batches, sums are rounded otherwise"]
    keeps = f"; --global_batch {had} keeps those" if had % (count * now.recipe.accumulate_grad_batches) == 0 else ""
    return [f"{line}a step has {have} samples from now on, not {had}{keeps}"]


def _counted(processes: int) -> str:
    return f"{processes} process{'' if processes == 1 else 'es'}"
