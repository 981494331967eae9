"""What one process does for all before the first step: fetching data, and figures about it that take long."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.cluster.meeting import Meeting
from common.cluster.place import LIGHTNING
from common.config.build import load_data
from common.config.schema import DataConfig, RunConfig
from common.config.stored import read_config
from common.data.source import DataSet
from common.progress import tell
from common.runs import RunFolder, read_prior
from common.training.build import with_statistics

SOON = 5.0  # seconds of waiting that nobody asks about


def fetched(config: DataConfig, meeting: Meeting) -> DataSet:
    """The data set; what is missing is fetched by the first process of each machine, and then found by the others.

    Processes that Lightning starts begin when the first one has done that.

    Args:
        config: what it is.
        meeting: where all processes have met, if they were started from outside.

    Raises:
        Refusal: if it is missing (with how to get it) or contradicts a flag.
    """
    here = meeting.here
    if not (config.download and here.from_outside):
        return load_data(config)
    if here.is_first_here:
        dataset = load_data(config)
        meeting.agree()
        return dataset
    with told(f"wait      rank {here.rank - here.local_rank} fetches the data", here.local_rank == 1):
        meeting.agree()
    return load_data(replace(config, download=False))


@contextmanager
def told(line: str, aloud: bool) -> Iterator[None]:
    """Say what is waited for, if that takes long.

    Args:
        line: what is said.
        aloud: whether it is this process that says it.
    """
    timer = threading.Timer(SOON, tell, [line])
    timer.daemon = True
    if aloud:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def with_shared_statistics(
    config: RunConfig, dataset: DataSet, folder: RunFolder, meeting: Meeting
) -> tuple[RunConfig, dict[str, Tensor] | None]:
    """As :func:`common.training.build.with_statistics`, by the first process: it reads thousands of samples.

    The others are given them, or find them in the run folder if they were started after it was written.

    Args:
        config: what the run is.
        dataset: what to learn from.
        folder: the run folder.
        meeting: where processes have met that were started from outside.
    """
    if meeting.here.launcher == LIGHTNING and not meeting.here.is_first and folder.config.is_file():
        stored = read_config(folder.path)
        config = replace(config, data_std=stored.data_std, prior_values=stored.prior_values)
        return config, read_prior(folder, config)

    def make() -> dict[str, Any]:
        known, functions = with_statistics(config, dataset, folder.prior.name)
        plain = None if functions is None else {name: value.tolist() for name, value in functions.items()}
        return {"data_std": known.data_std, "prior_values": dict(known.prior_values), "functions": plain}

    made = meeting.from_first(make)
    functions = made.pop("functions")
    tensors = functions and {name: torch.tensor(value, dtype=torch.float64) for name, value in functions.items()}
    return replace(config, **made), tensors
