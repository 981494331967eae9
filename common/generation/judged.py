"""Samples of a run for evaluate.py: those that lie there, or those that are drawn now."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.config.schema import RunConfig
from common.config.stored import read_config
from common.files import refuse_links, remove_leftovers
from common.generation.arrays import write_set
from common.generation.blocks import kept_samples
from common.generation.config import GenerateOrder, evaluations_of
from common.generation.opening import drawn_from, open_job
from common.generation.sets import check_labels, check_set
from common.metrics import Metric
from common.metrics.config import EvaluateConfig
from common.metrics.drawn import Drawn
from common.metrics.foreign import of_files
from common.metrics.judged import Judged
from common.metrics.reference import real_data
from common.refusal import Refusal
from common.runs import RunFolder, SampleFolder, find


@dataclass(frozen=True)
class EvaluateOrder:
    """A command line of evaluate.py.

    Attributes:
        config: which samples, and which figures.
        metrics: these.
        n_samples: how many samples, the first ones; None takes all.
        drawing: how samples are drawn; None judges those that lie there.
        device: where features are computed.
        describe: what a run of the published code is, from its folder and the shape of its samples.
    """

    config: EvaluateConfig
    metrics: list[Metric]
    n_samples: int | None
    drawing: GenerateOrder | None
    device: str
    describe: Callable[[RunFolder, Mapping[str, object]], RunConfig]


def judged_by(order: EvaluateOrder) -> Judged:
    """The samples and real data that a command line names.

    Raises:
        Refusal: if they are not there, damaged, or do not belong together.
    """
    config = order.config
    if config.run_id is not None:
        judged = of_run(order)
    else:
        assert config.reference is not None  # EvaluateConfig looks at it
        samples = config.samples and Path(config.samples)
        figures = config.output_dir / f"metrics-{(samples or config.reference).stem}.json"
        judged = of_files(samples or None, config.reference, config.image_size, order.n_samples, figures)
    return replace(judged, figures=config.save_figures or judged.figures)


def of_run(order: EvaluateOrder) -> Judged:
    """Samples of a run: those that lie there, or those that are drawn now.

    Raises:
        Refusal: if there are none, or they are damaged, or the real data is not there.
    """
    config, count = order.config, order.n_samples
    run = find(str(config.run_id), config.output_dir)
    folder, remarks = draw(order.drawing) if order.drawing else config.samples_folder(run)
    refuse_links(run.path, folder)  # beside the samples the figures are written
    remove_leftovers(folder)
    remarks += check_set(folder)
    place, kept = SampleFolder(folder), kept_samples(folder)
    there = kept.shape[0]
    if count is not None and count > there:
        raise Refusal(f"{count}: there are {there} in {folder}; leave --samples out to draw the others", "n_samples")
    if run.is_released:  # its folder may not say of what shape its data is
        trained = order.describe(run, {"channels": kept.shape[-1], "image_size": kept.shape[1:-1]})
    else:
        trained = read_config(run.path)
    check_labels(folder, kept.labels, trained.sample.num_classes)
    data, of_data = real_data(run.name, trained, config.data_dir)
    labels = None if kept.labels is None else torch.from_numpy(kept.labels)
    return Judged(
        Drawn.in_files(kept.files, labels, data.spec, str(folder), count or there),
        data,
        place.figures,
        beside=folder,
        remarks=[*remarks, *of_data],
        lines=[
            *([f"images    {data.treatment}"] if data.is_image else []),
            *drawn_from(folder, () if run.is_released else trained.recipe.averages),
        ],
        origin={
            "run": run.name,
            "version": place.version,
            "settings": place.kept(),
            "evaluations": evaluations_of(place.kept() or {}),
            "data": trained.data.data_name,
        },
        grid=place.grid,
    )


def draw(order: GenerateOrder) -> tuple[Path, list[str]]:
    """Draw the samples of an order, and their pictures, as generate.py does; their folder, and what to know of it."""
    run, job = open_job(order)
    folder, _, remarks = write_set(run, job, progress=True)
    return folder, [*run.remarks, *remarks, *job.remarks]
