"""From a command line of generate.py to what samples are drawn with: the run, its prior, its denoiser with wrappers."""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.config.build import check_device
from common.config.flags import flag_name
from common.config.plugins import class_of
from common.config.schema import RunConfig
from common.config.stored import CONFIG, to_json
from common.denoiser import Clipped
from common.dynamics import LinearDynamics, Prior
from common.generation.blocks import Job
from common.generation.conditional import open_condition
from common.generation.config import OBSERVED, GenerateOrder, SampleConfig
from common.generation.finer import Finer
from common.generation.matching import Matching, match, notes, open_process, told
from common.generation.measuring import measure_on
from common.generation.sections import InputConfig, Opening
from common.generation.tuned import notes_on
from common.guidance import GUIDANCE, Matched
from common.refusal import Refusal
from common.runs import Run, RunFolder, SampleFolder, find, load_folder
from common.runs.pretrained import PRETRAINED, fetch
from common.runs.versions import nature
from common.samplers import GRIDS, MEASURED, OF_RUN, SOLVERS, path_of
from common.samplers.angle import AngleSolver


def open_run(opening: Opening, describe: Callable[[RunFolder], RunConfig], describing: tuple[str, ...]) -> Run:
    """The run of --run_id or --pretrained.

    Args:
        opening: which weights.
        describe: gives the configuration of a folder of the published code.
        describing: flags that were given and that only such a folder takes.

    Raises:
        Refusal: if it cannot be found, fetched or read.
    """
    version = opening.version
    if opening.pretrained:
        folder, version = fetch(opening.pretrained, opening.output_dir), PRETRAINED[opening.pretrained].version
    else:
        folder = find(str(opening.run_id), opening.output_dir)
    if describing and not folder.is_released:
        raise Refusal(f"is for folders of the published code; {folder.name} has its own {CONFIG}", describing[0])
    return load_folder(
        folder,
        version,
        averaged=opening.use_ema,
        decay=opening.ema_decay,
        config=describe(folder) if folder.is_released else None,
    )


def check_claims(run: Run, claims: dict[str, Any]) -> None:
    """Published command lines repeat what the run knows: it must agree.

    Raises:
        Refusal: naming the flag that does not.
    """
    known = run.config.flags(class_of)
    for flag, value in claims.items():
        if known.get(flag) != value:
            raise Refusal(f"{value} contradicts the run {run.folder.name}, which has {known.get(flag)}", flag)


def open_job(
    order: GenerateOrder,
    device: torch.device | None = None,
    *,
    measures: bool = True,
    density: Sequence[Sequence[float]] | None = None,
) -> tuple[Run, Job]:
    """The run, and what a block of its samples is made with.

    Args:
        order: the command line.
        device: where to compute; None takes the first one of the kind that the order names.
        measures: whether a grid may be measured, and kept with the run.
        density: a grid that was measured a moment ago, by another process.

    Raises:
        Refusal: for whatever does not fit together, or a grid that is not measured and must not be.
    """
    device = device or check_device(order.sample.device)
    run = open_run(order.opening, order.describe, order.describing)
    check_claims(run, dict(order.claims))
    sample = order.sample
    if density is not None:
        run.dynamics.node_density = (tuple(density[0]), tuple(density[1]))
    if sample.grid == MEASURED and run.dynamics.node_density is None and not measures:
        raise Refusal(
            f"measured: the grid of {run.folder.name} is not measured yet; draw one sample first (--n_samples 1), "
            "which measures it and keeps it with the run",
            "grid",
        )
    if order.matching:
        sample = replace(sample, process=order.matching.process(run))
    return run, job_of(run, sample, device, order.matching, order.compared.data_dir, order.inputs)


def job_of(
    run: Run,
    sample: SampleConfig,
    device: torch.device,
    matching: Matching | None = None,
    data_dir: Path | None = None,
    inputs: InputConfig | None = None,
) -> Job:
    """What a block of a run's samples is made with; the run's prior is the one that was asked for from then on.

    Args:
        run: the run.
        sample: how samples are drawn, before defaults are filled in.
        device: where to compute.
        matching: what a command line says of another process, from which advice is given if it cannot be.
        data_dir: where the data of the run lies now, should a grid be measured on it, or its samples be inputs.
        inputs: what a task is done on; None takes held-out samples.

    Raises:
        Refusal: for whatever does not fit together.
    """
    check_prior(run, sample.prior)
    if sample.grid == MEASURED and run.dynamics.node_density is None:
        measure_on(run, device, data_dir)  # from the run's own prior: the grid is kept for all samples of it
    choose_prior(run, sample.prior)
    dynamics = open_process(run, sample.process) if sample.process else run.dynamics
    published = run.folder.is_released and not sample.process
    consistent = run.is_consistent
    config = sample.settled(dynamics, run.data, published=published, consistent=consistent, device=device.type)
    condition = open_condition(run, config, inputs or InputConfig(), device, data_dir)
    matched = match(run, dynamics, config.t_end, matching) if sample.process else None
    denoiser = wrapped(run, config, matched).to(device)
    path = path_of(SOLVERS[str(config.solver)], dynamics.to(device))
    solver = partial(SOLVERS[str(config.solver)], **config.solver_arguments)
    solver().check(path)
    grid, said = GRIDS[config.grid] if config.grid else None, notes_on(run, config)
    said = (*(condition.remarks if condition else ()), *said)
    finer = Finer.of(matched or run.denoiser, run.data, config.target_shape) if config.target_shape else None
    spec, said = (finer.spec(run.data), (*finer.remarks, *said)) if finer else (run.data, said)
    job = Job(path, denoiser, spec, solver, grid, config, consistent, notes=said, condition=condition, finer=finer)
    if matched:
        job = replace(job, process=told(run, matched), notes=(*notes(matched), *said))
    job.check()
    return job


def check_prior(run: Run, prior: str | None) -> None:
    """Refuse to start from the data's moments, of a run that does not know them."""
    if prior == "data" and not run.dynamics.prior.variance.any():
        raise Refusal(
            f"data: {run.folder.name} was trained with --prior zero, so the mean of its data was not kept", "prior"
        )


def choose_prior(run: Run, prior: str | None) -> None:
    """Start sampling as the run does, or as published."""
    if prior == "zero":
        run.dynamics.prior = Prior(run.dynamics)


def wrapped(run: Run, config: SampleConfig, matched: Matched | None = None) -> nn.Module:
    """The run's denoiser with guidance and clipping as asked for; clipping comes last, after what is observed.

    Args:
        run: the run.
        config: how samples are drawn.
        matched: its denoiser under another process, if samples are drawn under one.

    Raises:
        Refusal: for guidance of a network that was not trained for it.
    """
    denoiser: nn.Module = matched or run.denoiser
    dynamics: LinearDynamics = matched.process if matched else run.dynamics
    if config.guidance:
        kind = GUIDANCE[config.guidance]
        if getattr(kind, "needs_null_labels", False) and not (run.data.num_classes and run.config.recipe.label_dropout):
            flags = {flag_name(kind, name): value for name, value in config.guidance_arguments.items()}
            flag, value = next(iter(flags.items()), ("guidance", config.guidance))
            raise Refusal(
                f"{value}: {run.folder.name} was trained without --label_dropout, so it knows no sample without a "
                "label",
                flag,
            )
        given = {"dynamics": dynamics, "spec": run.data, "run": run}
        taken = {name: given[name] for name in inspect.signature(kind).parameters if name in given}
        denoiser = kind(denoiser, **taken, **config.guidance_arguments)
    return Clipped(denoiser) if config.clip_x0 and not config.task else denoiser


def made_from(run: Run, job: Job) -> dict[str, Any]:
    """What samples are made from beside their settings: weights, a measured grid, the data's deviation, what is known.

    The deviation only where it has an effect: on solvers along the angle, and on grids that follow from the run.
    Classes and arguments of the network are among it if no config.json holds them.
    """
    found: dict[str, Any] = {"weights": run.source.label(run.kind), "sha256": run.source.sha256(run.kind)}
    if job.config.grid == MEASURED:
        found["density"] = hashlib.sha256(json.dumps(job.dynamics.node_density).encode()).hexdigest()
    if run.config.data_std is not None and (job.config.grid in OF_RUN or isinstance(job.solver(), AngleSolver)):
        found["data_std"] = run.config.data_std
    if job.condition:
        found[OBSERVED] = job.condition.identity
    if run.folder.is_released:
        whole = to_json(run.config)
        found |= {"dynamics": whole["dynamics"], "network": whole["network"]}
    return found


def drawn_from(folder: Path, decays: tuple[float, ...]) -> list[str]:
    """Which weights samples were drawn from, as their settings.json has it: one line, or none if it cannot be read.

    Args:
        folder: samples of a version of the weights.
        decays: decays of the averages as far as they are known, the main one first.
    """
    place = SampleFolder(folder)
    if not place.weights:
        return []
    return [f"weights   {place.version}, {nature(place.kind, decays)} ({place.weights})"]
