"""Samples of a run as arrays, from Python: what generate.py draws, without writing anything."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from common.config.build import check_device
from common.generation.config import SampleConfig
from common.generation.opening import job_of
from common.runs import Run


class Samples(NamedTuple):
    """What was drawn.

    Attributes:
        x: (N, *S, C) float32 in the units of the data, images in [0, 1]: as in generate.py's arrays.
        labels: (N,) int64, the classes that were asked for; None if the run knows none.
        classes: their names (N); None likewise.
        evaluations: network evaluations per sample.
    """

    x: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    evaluations: int


def generate(
    run: Run,
    n_samples: int | None = None,
    *,
    seeds: Sequence[int] | None = None,
    labels: Sequence[int | str] | None = None,
    solver: str | None = None,
    mode: str | None = None,
    steps: int | None = None,
    grid: str | None = None,
    t_end: float | None = None,
    denoise_last: bool | None = None,
    prior: str | None = None,
    clip_x0: bool | None = None,
    guidance: str | None = None,
    batch_size: int = SampleConfig.batch_size,
    device: str = "auto",
    solver_arguments: Mapping[str, Any] | None = None,
    guidance_arguments: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Samples:
    """Draw samples; the same bits as generate.py writes for the same settings on the same device.

    Args:
        run: what :func:`common.runs.load` gives.
        n_samples: number of samples; None takes 100, or as many as there are seeds.
        seeds: one per sample, below 2^32; None takes 0, 1, ...
        labels: classes by name or number, in turn; None takes all that were learned, in turn.
        solver: name of a solver; None takes what suits the process. This and the following are flags of generate.py.
        mode: published samplers, ``sde`` or ``ode``.
        steps: solver steps; None takes those of the solver.
        grid: time grid; None takes the solver's own.
        t_end: time at which sampling ends.
        denoise_last: give x0_hat at the end instead of the state.
        prior: start of sampling, ``zero`` or ``data``; None takes that of the run.
        clip_x0: clip x0_hat to [-1, 1].
        guidance: name of a denoiser wrapper, as ``classifier_free``.
        batch_size: samples computed together.
        device: ``auto``, ``cpu`` or ``cuda``.
        solver_arguments: arguments of the solver, as ``{"snr": 0.19}`` of pc.
        guidance_arguments: arguments of the wrapper, as ``{"scale": 2.0}``.
        progress: show a bar.

    Raises:
        Refusal: a ValueError, naming the argument, for what does not fit together.
    """
    from tqdm.auto import tqdm  # a widget in a notebook

    config = SampleConfig(
        n_samples=n_samples,
        seeds=None if seeds is None else tuple(seeds),
        labels=None if labels is None else tuple(labels),
        solver=solver,
        mode=mode,
        steps=steps,
        grid=grid,
        t_end=t_end,
        denoise_last=denoise_last,
        prior=prior,
        clip_x0=clip_x0,
        guidance=guidance,
        batch_size=batch_size,
        device=device,
        solver_arguments=solver_arguments or {},
        guidance_arguments=guidance_arguments or {},
    )
    start = run.dynamics.prior
    try:
        job = job_of(run, config, check_device(device))
        drawn: list[np.ndarray] = []
        asked: list[np.ndarray] = []
        calls = 0
        with tqdm(total=job.steps * len(job.blocks), desc="sampling", unit="step", disable=not progress) as bar:
            for block in job.blocks:
                x, of_block, calls = job.draw(block, lambda *_: bar.update())
                drawn.append(x)
                asked += [] if of_block is None else [of_block]
    finally:
        run.dynamics.prior = start  # another one holds for this call
    kept = np.concatenate(asked) if asked else None
    names = None if kept is None else tuple((run.data.classes or ())[label] for label in kept.tolist())
    return Samples(np.concatenate(drawn), kept, names, calls)
