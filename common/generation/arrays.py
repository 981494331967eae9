"""Samples as arrays, for a notebook or a script of one's own: what generate.py and evaluate.py do, from Python."""

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from common.config.build import check_device
from common.config.schema import check_picture_scale
from common.dynamics import LinearDynamics
from common.generation.blocks import Job, read_samples
from common.generation.config import SampleConfig
from common.generation.drawing import generate as write_blocks
from common.generation.drawing import missing
from common.generation.from_python import (
    by_argument,
    chosen_inputs,
    configured,
    folder_of,
    listed,
    of_python,
    other_process,
)
from common.generation.opening import job_of
from common.generation.pictures import pictured, pictured_count, real_beside, show
from common.generation.sets import claimed, findings
from common.media.pictures import png_of_samples
from common.metrics import DEFAULTS, Evidence, Metric
from common.metrics import evaluate as figures_of
from common.metrics.config import CACHE, WantedMetric
from common.metrics.drawn import Drawn
from common.metrics.extraction import Extractor
from common.metrics.features import AUTO, Wanted
from common.metrics.reference import real_data
from common.progress import bar
from common.refusal import Refusal
from common.runs import Run
from common.runs.real import read_real

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


@dataclass(frozen=True, eq=False)
class Samples:
    """Drawn samples.

    Attributes:
        x: (N, *S, C) float32 in the units of the data, images in [0, 1]: what generate.py writes.
        labels: (N,) int64, the classes that were asked for; None if the run knows none.
        run: what drew them.
        evaluations: network evaluations per sample, the most of any block; 0 if all were there.
        folder: where they are written; None if they are not.
        truth: the inputs of a task (N, *S, C), in the units of the data; None without, or if they are not known.
        observation: what was observed of them, channels last; None without a task.
    """

    x: np.ndarray = field(repr=False)
    labels: np.ndarray | None = field(repr=False)
    run: Run = field(repr=False)
    evaluations: int
    folder: Path | None = None
    truth: np.ndarray | None = field(default=None, repr=False)
    observation: np.ndarray | None = field(default=None, repr=False)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The name of the class of each; None if the run knows none."""
        return None if self.labels is None else self.run.data.names_of(torch.from_numpy(self.labels))

    def picture(self, picture_scale: int | None = None) -> "Picture":
        """The first of them beside real ones, as in ``grid.png``; a notebook shows it.

        Args:
            picture_scale: whole number by which images are magnified; None makes small ones visible.

        Raises:
            Refusal: for a magnification of what is no image, or real samples that are damaged.
        """
        from PIL import Image  # here: it takes a while to import

        spec, count = self.run.data, pictured_count(self.run.data)
        with by_argument():
            check_picture_scale(configured({"picture_scale": picture_scale}).picture_scale, spec)
        drawn = pictured(self.x[:count], None if self.labels is None else self.labels[:count], spec)
        real = read_real(self.run.folder.real, spec) if self.x.shape[1:-1] == spec.grid else None
        shown = png_of_samples(drawn, real, sample_rate=spec.sample_rate, scale=picture_scale)
        return Image.open(io.BytesIO(shown))


def generate(
    run: Run,
    n_samples: int | None = None,
    *,
    seeds: Iterable[int] | None = None,
    labels: int | str | Iterable[int | str] | None = None,
    task: str | None = None,
    task_arguments: Mapping[str, Any] | None = None,
    method: str | None = None,
    method_arguments: Mapping[str, Any] | None = None,
    noise_std: float | None = None,
    noise_seed: int = 0,
    n_inputs: int | None = None,
    inputs: Iterable[int] | None = None,
    input: str | Path | np.ndarray | None = None,
    observation: str | Path | np.ndarray | None = None,
    mode: str | None = None,
    solver: str | None = None,
    solver_arguments: Mapping[str, Any] | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    grid: str | None = None,
    t_end: float | None = None,
    denoise_last: bool | None = None,
    prior: str | None = None,
    clip_x0: bool | None = None,
    guidance: str | None = None,
    guidance_arguments: Mapping[str, Any] | None = None,
    dynamics: type[LinearDynamics] | None = None,
    dynamics_arguments: Mapping[str, Any] | None = None,
    target_shape: Iterable[int] | None = None,
    batch_size: int = SampleConfig.batch_size,
    device: str = "auto",
    data_dir: str | Path | None = None,
    save: bool = False,
    progress: bool = True,
) -> Samples:
    """Draw samples: bit for bit those that generate.py writes with the same settings on the same machine.

    A setting that is None takes the default of generate.py (:class:`~common.generation.config.SampleConfig`). What
    generate.py would note is a warning. The run stays on its device and keeps its prior.

    Args:
        run: as :func:`common.runs.load` gives it.
        n_samples: number of samples, of every input if there is a task; 100, of every input 16, or as many as there are
            seeds.
        seeds: whole numbers below 2^32, one per sample; 0 to n_samples - 1.
        labels: classes by name or number, repeated in turn; all that were learned.
        task: a name of ``common.guidance.tasks.TASKS``: complete inputs of which only part is known, input by input.
        task_arguments: arguments of its constructor, by name, e.g. ``{"mask": "half:left"}``.
        method: a name of ``common.guidance.METHODS``.
        method_arguments: arguments of its constructor, by name, e.g. ``{"iterations": 4}``.
        noise_std: deviation of the noise of measurements, in the units of the data.
        noise_seed: seed of that noise.
        n_inputs: number of inputs; 8, or as many as are given.
        inputs: which held-out samples of the run's data set, by their place.
        input: clean samples of your own, which are degraded first: a file, a folder, or an array (N, *S, C).
        observation: measurements as they are: a file, or an array of what the task observes, channels last.
        mode: ``sde`` or ``ode``, the published samplers.
        solver: a name of ``common.samplers.SOLVERS``.
        solver_arguments: arguments of its constructor, by name.
        steps: solver steps.
        nfe: network evaluations per sample, in place of steps.
        grid: a name of ``common.samplers.GRIDS``.
        t_end: time at which sampling ends.
        denoise_last: give x0_hat at t_end instead of the state there.
        prior: start of sampling, ``zero`` or ``data``.
        clip_x0: clip x0_hat to [-1, 1].
        guidance: a name of ``common.guidance.GUIDANCE``; ``classifier_free`` if only its arguments are given.
        guidance_arguments: arguments of its constructor, by name, e.g. ``{"scale": 2}``.
        dynamics: class of another process to sample under, noise levels matched, e.g. ``FVE``; with arguments alone it
            is the class of the run's own process.
        dynamics_arguments: arguments of its constructor, by name, e.g. ``{"hurst": 0.7}``; others are those of the run
            if the class is the same.
        target_shape: another grid to give samples on, that of the last evaluation alone.
        batch_size: samples computed together; another number changes the rounding.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_dir: where the data of the run lies now, should inputs be taken from it, or the grid of a tuned run be
            measured; None takes the place where the run found it.
        save: also write what generate.py writes, into the same folder; what lies there already is not drawn again.
        progress: show a bar, where somebody looks.

    Raises:
        Refusal: for whatever does not fit, naming the argument.
    """
    values = {
        "n_samples": n_samples,
        "seeds": None if seeds is None else listed("seeds", seeds),
        "labels": None if labels is None else listed("labels", [labels] if isinstance(labels, int | str) else labels),
        "task": task,
        "method": method,
        "noise_std": noise_std,
        "noise_seed": noise_seed,
        "mode": mode,
        "solver": solver,
        "steps": steps,
        "nfe": nfe,
        "grid": grid,
        "t_end": t_end,
        "denoise_last": denoise_last,
        "prior": prior,
        "clip_x0": clip_x0,
        "guidance": guidance,
        "target_shape": None if target_shape is None else listed("target_shape", target_shape),
        "batch_size": batch_size,
        "device": device,
    }
    with by_argument(), kept_as_it_is(run):
        arguments = {
            "solver": solver_arguments,
            "guidance": guidance_arguments,
            "task": task_arguments,
            "method": method_arguments,
        }
        config, own = configured(values, arguments), chosen_inputs(n_inputs, inputs, input, observation)
        if dynamics is not None or dynamics_arguments:
            config = replace(config, process=other_process(run, dynamics, dynamics_arguments or {}))
        job = job_of(run, config, check_device(config.device), data_dir=folder_of(data_dir), inputs=own)
        samples, remarks = written(run, job, progress) if save else (drawn(run, job, progress), [])
    finite = np.isfinite(samples.x.reshape(len(samples.x), -1)).all(1)
    if not finite.all():
        remarks.append(f"{(~finite).sum()} of {len(finite)} samples have NaN or infinite values")
    for remark in (*job.remarks, *remarks):
        warnings.warn(of_python(remark), stacklevel=2)
    return samples


def evaluate(
    samples: Samples,
    metrics: Sequence[str | Metric] | None = None,
    *,
    features: str = AUTO,
    data_dir: str | Path | None = None,
    weights_dir: str | Path = "weights",
) -> dict[str, float | None]:
    """Figures about samples, which are also printed: what evaluate.py says of them.

    Args:
        samples: as :func:`generate` gave them.
        metrics: names of ``common.metrics.METRICS``, as ``fid`` or ``fid@inception``, or metrics with arguments of
            one's own; None takes those of evaluate.py.
        features: a name of ``common.metrics.features.FEATURES``, or ``auto``.
        data_dir: where the data lies now; None takes the place where the run found it.
        weights_dir: folder for files of weights of features.

    Returns:
        Figures by name; None for one that is undefined.

    Raises:
        Refusal: if a metric or the data is not there, or the data is not that of the run.
    """
    run = samples.run
    for metric in metrics or ():
        if isinstance(metric, str):
            WantedMetric.read(metric).check()
    with by_argument():
        dataset, remarks = real_data(run.folder.name, run.config, folder_of(data_dir))
        for remark in remarks:
            warnings.warn(remark, stacklevel=2)
        chosen = [WantedMetric.read(one).metric({}) if isinstance(one, str) else one for one in metrics or DEFAULTS]
        drawn = Drawn.of(samples.x, samples.labels, dataset.spec, str(samples.folder or run.folder.path))
        wanted = Wanted(dataset, Path(weights_dir).expanduser(), run.folder.path.parent / CACHE)
        return figures_of(Evidence(drawn, dataset, Extractor(wanted, features)), chosen)


# -- drawing -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def kept_as_it_is(run: Run) -> Iterator[None]:
    """Put the run's prior and device back at the end."""
    prior, device = run.dynamics.prior, run.dynamics.device
    try:
        yield
    finally:
        run.dynamics.prior = prior
        run.denoiser.to(device)
        run.dynamics.to(device)


def drawn(run: Run, job: Job, progress: bool) -> Samples:
    """Draw all samples of a job."""
    x, calls = np.empty((len(job.seeds), *job.spec.grid, job.spec.channels), np.float32), list[int]()
    with bar(job.steps_of(job.blocks), "sampling", "step", silent=not progress) as shown:
        for block in job.blocks:
            x[block.start : block.stop], _, nfe = job.draw(block, lambda _, __: shown.update())
            calls.append(nfe)
    labels = job.labels(range(len(job.seeds)))
    return Samples(x, None if labels is None else labels.numpy(), run, max(calls), None, *known_by(job))


def written(run: Run, job: Job, progress: bool) -> tuple[Samples, list[str]]:
    """Draw what is missing of the set of samples of a job; returns all of it, and what a user should know.

    Raises:
        Refusal: if somebody else draws the same, or the network of the run is not the one that its folder has.
    """
    if not is_as_stored(run):
        raise Refusal(f"has no place for these samples: the network is not that of {run.weights} any more", "save")
    folder, calls, remarks = write_set(run, job, progress)
    return Samples(*read_samples(folder), run, calls, folder, *known_by(job)), remarks


def known_by(job: Job) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The inputs of a task, and what is observed of them."""
    return (job.condition.truth, job.condition.observation) if job.condition else (None, None)


def write_set(run: Run, job: Job, progress: bool) -> tuple[Path, int, list[str]]:
    """Draw what is missing of the set of samples of a job, and its pictures.

    Args:
        run: what draws them.
        job: what they are drawn with.
        progress: show a bar.

    Returns:
        The folder, network evaluations per sample (the most of any block; 0 if all were there), and what a user should
        know.

    Raises:
        Refusal: if somebody else draws the same.
    """
    real = real_beside(run.folder, job)
    with claimed(run, job) as claim:
        todo = missing(claim.folder, job)
        remarks = [*claim.remarks, *findings(claim.folder, job, todo)]
        with bar(job.steps_of(todo), "sampling", "step", silent=not (todo and progress)) as shown:
            calls = write_blocks(claim.folder, job, todo, on_step=lambda _, __: shown.update())
        show(claim.folder, job.spec, real)
        return claim.folder, max(calls, default=0), remarks


def is_as_stored(run: Run) -> bool:
    """Whether the network of a run still has the weights of its file."""
    own, stored = run.denoiser.backbone.state_dict(), run.source.read(run.kind)
    return all(torch.equal(own[name].cpu(), value.to(own[name].dtype)) for name, value in stored.items())
