"""The real data that samples of a run are compared with."""

from dataclasses import replace
from pathlib import Path

from common.config.build import load_data
from common.config.schema import RunConfig
from common.data.source import DataSet
from common.refusal import Refusal


def real_data(name: str, config: RunConfig, data_dir: Path | None = None) -> tuple[DataSet, list[str]]:
    """The data that a run has learned from; nothing is downloaded.

    Args:
        name: what messages call the run.
        config: what it is.
        data_dir: where the data lies now; None takes the place where the run found it.

    Returns:
        The data, and what a user should know: whence it is read, and that it is not as it was.

    Raises:
        Refusal: if it is missing, or has other classes.
    """
    data, remarks = config.data, list[str]()
    if data.data_dir and not data_dir:
        remarks.append(f"data is read from {data.data_dir}, as config.json says")
    dataset = load_data(replace(data, data_dir=data_dir or data.data_dir, download=False))
    if not dataset.spec.names_classes_like(config.sample):
        raise Refusal(
            f"does not hold what {name} was trained on: {config.sample.other_classes(dataset.spec)}", "data_dir"
        )
    if config.sample.samples not in (None, dataset.spec.samples):
        remarks.append(
            f"there are {dataset.spec.samples:,} samples to learn from, {name} had {config.sample.samples:,}: it may "
            "have learned from what is held out now"
        )
    return dataset, remarks


def data_like(name: str, config: RunConfig, data_dir: Path | None = None) -> tuple[DataSet, list[str]]:
    """:func:`real_data`, for uses that need samples of just the run's shape.

    Raises:
        Refusal: if it is missing, or has other classes or samples of another shape.
    """
    dataset, remarks = real_data(name, config, data_dir)
    if dataset.spec.shape != config.sample.shape:
        raise Refusal(
            f"leads to samples of shape {dataset.spec.shape}, but those of {name} are {config.sample.shape}; point it "
            "at the data that the run has learned from",
            "data_dir",
        )
    return dataset, remarks
