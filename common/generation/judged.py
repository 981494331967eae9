"""Samples of a run for evaluate.py: those that lie there, or those that are drawn now."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.cluster.place import started_together
from common.config.schema import RunConfig
from common.config.stored import read_config
from common.data.source import DataSet
from common.files import refuse_links, remove_leftovers
from common.generation.blocks import Job, kept_samples
from common.generation.config import OBSERVED, GenerateOrder
from common.generation.drawing import missing
from common.generation.identity import evaluations_of
from common.generation.opening import drawn_from, open_job
from common.generation.pictures import real_beside, show
from common.generation.room import check_room
from common.generation.sets import check_labels, check_set, claimed, findings
from common.generation.sharing import device_for, draw_all
from common.generation.told import told_processes
from common.labels import NULL_LABEL
from common.metrics import Metric
from common.metrics.config import EvaluateConfig
from common.metrics.drawn import Drawn
from common.metrics.extraction import Extractor
from common.metrics.features import Wanted
from common.metrics.foreign import of_files
from common.metrics.judged import TRUTHS, Judged, part_of
from common.metrics.reference import real_data
from common.metrics.statistics import check_features
from common.refusal import Refusal
from common.runs import Run, RunFolder, SampleFolder, find

Prepare = Callable[[tuple[str, ...]], None]


def draws_now(config: EvaluateConfig, given: Collection[str]) -> bool:
    """Whether samples are drawn, instead of those taken that lie there.

    Args:
        config: which samples.
        given: flags of generate.py that were given.

    Raises:
        Refusal: for such a flag beside samples that lie there.
    """
    of_run = config.samples is None and config.run_id is not None
    if not of_run and (idle := sorted(set(given) - {"n_samples", "device"})):
        raise Refusal("has no effect on samples that lie there; leave it or --samples out", idle[0])
    return of_run and bool(set(given) - {"device"})


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

    def extractor(self, data: DataSet) -> Extractor:
        """The features that the metrics compare, all of which are there.

        Args:
            data: the real data.

        Raises:
            Refusal: if some cannot be had, or are not those that a file of statistics was made with.
        """
        config = self.config
        wanted = Wanted(data, config.weights_dir, config.cache)
        place = started_together()
        extractor = Extractor(wanted, config.features, config.devices, device_for(self.device, place), place=place)
        if config.save_statistics:
            extractor.features()
        for metric in self.metrics if not config.only_statistics else ():
            metric.prepare(extractor)
        if config.reference is not None and config.knows_moments_only:
            for features in extractor.used.values():
                check_features(config.reference, features.identity)
        return extractor


def judged_by(order: EvaluateOrder, prepare: Prepare) -> Judged:
    """The samples and real data that a command line names.

    Args:
        order: the command line.
        prepare: called first, with plugins, in every other process that draws; it must be found by its name.

    Raises:
        Refusal: if they are not there, damaged, or do not belong together; if features that are wanted cannot be had.
    """
    config = order.config
    if config.run_id is not None:
        judged = of_run(order, prepare)
    else:
        assert config.reference is not None  # EvaluateConfig looks at it
        samples = Path(config.samples) if config.samples else None
        figures = config.output_dir / f"metrics-{name_of(samples or config.reference)}.json"
        judged = of_files(samples, config.reference, config.image_size, order.n_samples, figures, order.extractor)
    return replace(judged, figures=config.save_figures or judged.figures)


def name_of(path: Path) -> str:
    """What a file of figures is called after a folder, or a file without its ending."""
    path = path.resolve()
    return path.name if path.is_dir() else path.stem


def of_run(order: EvaluateOrder, prepare: Prepare) -> Judged:
    """Samples of a run: those that lie there, or those that are drawn now, after all else was made sure of.

    Args:
        order: the command line.
        prepare: as in :func:`judged_by`.

    Raises:
        Refusal: if there are none, or they are damaged, or the real data or features are not there.
    """
    config, count = order.config, order.n_samples
    run = find(str(config.run_id), config.output_dir)
    if order.drawing and started_together().count > 1:
        raise Refusal(
            f"several processes draw samples with generate.py: draw those of {run.name} with it, then judge them here, "
            "without flags of drawing"
        )
    opened = open_job(order.drawing) if order.drawing else None
    if opened is None:
        folder, remarks = config.samples_folder(run)
        remarks += looked_at(run, folder)  # damage is told before features are made, which may take a training
        trained = config_of(order, run, folder)
    else:
        trained = opened[0].config
    data, of_data = real_data(run.name, trained, config.data_dir)
    if config.per_class and trained.sample.classes is None:
        raise Refusal(f"needs classes, and {run.name} was trained without; leave it out", "per_class")
    extractor = order.extractor(data)
    if order.drawing and opened:
        folder, remarks = draw(order.drawing, *opened, prepare)
        remarks += looked_at(run, folder)
    place, kept = SampleFolder(folder), kept_samples(folder)
    there = kept.shape[0]
    if count is not None and count > there:
        raise Refusal(f"{count}: there are {there} in {folder}; leave --samples out to draw the others", "n_samples")
    observed = (place.kept() or {}).get(OBSERVED)
    check_labels(folder, kept.labels, trained.sample.num_classes, of_task=observed is not None)
    all_known = kept.labels is not None and bool((kept.labels != NULL_LABEL).all())
    labels = torch.from_numpy(kept.labels) if all_known else None
    return Judged(
        Drawn.in_files(kept.files, labels, data.spec, str(folder), count or there),
        data,
        extractor,
        file_for(place),
        beside=folder,
        remarks=[*remarks, *completions_of(observed, there), *of_data],
        lines=[
            *([f"images    {data.treatment}"] if data.is_image else []),
            *drawn_from(folder, () if run.is_released else trained.recipe.averages),
            *([f"process   {opened[1].process}"] if opened and opened[1].process else []),
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


def file_for(place: SampleFolder) -> Path:
    """``metrics.json``, or ``evaluation.json`` if generate.py has left figures of completions and truths in that."""
    return place.path / "evaluation.json" if part_of(place.figures) == TRUTHS else place.figures


def completions_of(observed: Mapping[str, Any] | None, there: int) -> list[str]:
    """What to know of figures about completions, which are not drawn on their own.

    Args:
        observed: what a set of samples says of its inputs; None without a task.
        there: how many samples it has.
    """
    if observed is None:
        return []
    return [
        f"samples are {there // observed['inputs']:,} completions of each of {observed['inputs']:,} inputs: figures "
        "below take them for independent draws, and say little of the task; those against the truth are generate.py's"
    ]


def looked_at(run: RunFolder, folder: Path) -> list[str]:
    """Make sure that a set of samples is whole, and a place to write figures to; what a user should know of it.

    Raises:
        Refusal: if it is damaged, or leads elsewhere.
    """
    refuse_links(run.path, folder)  # beside the samples the figures are written
    remove_leftovers(folder)
    remarks = check_set(folder)
    kept_samples(folder)
    return remarks


def config_of(order: EvaluateOrder, run: RunFolder, folder: Path) -> RunConfig:
    """What a run is; one of the published code does not say of what shape its data is, but its samples do.

    Raises:
        Refusal: if that cannot be read.
    """
    if not run.is_released:
        return read_config(run.path)
    shape = kept_samples(folder).shape
    return order.describe(run, {"channels": shape[-1], "image_size": shape[1:-1]})


def draw(order: GenerateOrder, run: Run, job: Job, prepare: Prepare) -> tuple[Path, list[str]]:
    """Draw samples, and their pictures, as generate.py does; their folder, and what to know of it."""
    real = real_beside(run.folder, job)
    with claimed(run, job) as claim:
        todo = missing(claim.folder, job)
        check_room(claim.folder, job, todo)
        remarks = [*claim.remarks, *findings(claim.folder, job, todo), *told_processes(job, order.sharing.devices)]
        draw_all(order, run, job, claim, todo, partial(prepare, order.opening.plugin))
        show(claim.folder, job.spec, real)
    return claim.folder, [*run.remarks, *remarks, *job.remarks]
