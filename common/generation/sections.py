"""Flags of generate.py beside those that tell how samples are drawn: which weights, which inputs, where data lies."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from common.cluster.place import Place
from common.config.flags import SHARE, Checked, Range, at_least, path, place, ranges, several
from common.refusal import Refusal

INPUTS = 8  # of a task, if nothing is said
MOST_PROCESSES = 1024  # of one machine


class Shard(NamedTuple):
    """The share of one of several who draw one set of samples: every ``of``-th block, from ``number`` on."""

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> "Shard":
        """The share that a text names, e.g. ``0/8``.

        Raises:
            argparse.ArgumentTypeError: if it names none.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if found is None or int(found[1]) >= int(found[2]):
            raise argparse.ArgumentTypeError(f"must be K/N with K from 0 to N - 1, as 0/8 to 7/8, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class Opening(Checked):
    """Which weights samples are drawn from.

    Attributes:
        run_id: id or folder name of the run, or latest (required, unless --pretrained is given)
        pretrained: model of the papers' authors that is fetched and sampled from (default: none)
        version: version of the weights: final, v0, v1, .., or step-0000225 for a checkpoint (default: final, else the
            newest; the newest checkpoint of a run that was stopped before it kept any)
        use_ema: use averaged weights (default: True if the run kept some)
        ema_decay: which average to use, if the run kept several (default: its first)
        output_dir: folder that holds the runs
        plugin: your own module (name or .py file) that adds to the registers; see docs/extending.md (default: none)
    """

    run_id: Annotated[str | None, place] = None
    pretrained: str | None = None
    version: str | None = None
    use_ema: bool | None = None
    ema_decay: Annotated[float | None, SHARE] = None
    output_dir: Path = Path("runs")
    plugin: Annotated[tuple[str, ...], several(place)] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained is None and self.run_id is None:
            raise Refusal("is required: the id or folder name of a run, or latest", "run_id")
        for name in ("run_id", "version"):
            if self.pretrained is not None and getattr(self, name) is not None:
                raise Refusal(
                    f"and --{name} exclude each other: it has its own {name}; leave --{name} out", "pretrained"
                )
        if self.ema_decay is not None and self.use_ema is False:
            raise Refusal("and --use_ema False exclude each other; leave one of them out", "ema_decay")


@dataclass(frozen=True)
class Compared(Checked):
    """Real samples: the inputs of a task, and those by which the times of a tuned run are chosen.

    Attributes:
        data_dir: where the run's data lies now, of which a --task takes its inputs and which --grid measured compares
            samples of a tuned run with (default: where the run found it)
    """

    data_dir: Path | None = None


@dataclass(frozen=True)
class InputConfig(Checked):
    """What a task (--task) is done on. What the inputs hold tells sets of samples apart, not where they come from.

    Attributes:
        n_inputs: number of inputs, --n_samples completions are drawn of each (default: 8, or as many as --inputs names,
            or a file holds); held-out samples of the run's data set, the first ones of every class in turn
        inputs: which held-out samples, by their place, e.g. 0-7
        input: clean samples of your own, which are degraded first: a file or folder of images or sounds, which are
            brought to the form of the run's data, or an array (.npy) in its units, (N, H, W, C) or (N, L, C)
        observation: measurements as they are, not degraded any more: .npy or .npz with what the task observes, in the
            units of the data, channels last, NaN where a mask hides; or one .png or .wav
    """

    n_inputs: Annotated[int | None, at_least(1)] = None
    inputs: Annotated[tuple[int, ...] | None, ranges] = None
    input: Annotated[Path | np.ndarray | None, path] = None
    observation: Annotated[Path | np.ndarray | None, path] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input is not None and self.observation is not None:
            raise Refusal("and --input exclude each other: it is not degraded any more; leave one out", "observation")
        for name in ("input", "observation"):
            if self.inputs is not None and getattr(self, name) is not None:
                raise Refusal(f"and --{name} exclude each other; leave one of them out", "inputs")
        if self.inputs is not None and self.n_inputs not in (None, len(self.inputs)):
            raise Refusal(
                f"{self.n_inputs} contradicts --inputs, which names {len(self.inputs)}; leave it out", "n_inputs"
            )

    @property
    def first(self) -> str:
        """The first of its flags that was given; empty if none was."""
        given = (f for f in ("n_inputs", "inputs", "input", "observation") if getattr(self, f) is not None)
        return next(given, "")

    @property
    def is_of_data(self) -> bool:
        """Whether inputs are samples of the run's data set."""
        return self.input is None and self.observation is None


@dataclass(frozen=True)
class Sharing(Checked):
    """Who draws. Samples, and what is kept beside them, do not depend on it.

    Attributes:
        devices: processes of this machine that draw, each a block of --batch_size samples at a time; they take turns
            among the GPUs, and on a CPU they share the cores
        shard: draw every N-th block alone, from block K on, e.g. 2/8 in the third of eight jobs at the same time; the
            last one that ends puts the set together, as the same command without it does at any time (default: all
            blocks; under torchrun and srun the share of each process)
        dry_run: draw nothing: say how many evaluations, how long and how much disk it takes, and where samples would go
    """

    devices: Annotated[int, Range(1, MOST_PROCESSES, whole=True)] = 1
    shard: Annotated[Shard | None, Shard.read] = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard and self.devices > 1:
            raise Refusal("and --devices exclude each other: a share is drawn by one process; leave one out", "shard")

    def share(self, here: Place) -> Shard | None:
        """The share of this process; None if it draws, or hands out, all blocks.

        Args:
            here: which of several processes this is.

        Raises:
            Refusal: if several processes would draw the same.
        """
        if not here.from_outside or here.count == 1:
            return self.shard
        if self.shard:
            raise Refusal(
                f"and the {here.count} processes that {here.launcher} has started exclude each other: all would draw "
                "the same; leave it out, or start one process",
                "shard",
            )
        if self.devices > 1:
            raise Refusal(
                f"and the {here.count} processes that {here.launcher} has started exclude each other: each draws its "
                "share already; leave it out",
                "devices",
            )
        return Shard(here.rank, here.count)
