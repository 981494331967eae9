"""Flags of generate.py beside those that tell how samples are drawn: which weights, which inputs, where data lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from common.config.flags import SHARE, Checked, at_least, path, place, ranges
from common.refusal import Refusal

INPUTS = 8  # of a task, if nothing is said


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
    """

    run_id: Annotated[str | None, place] = None
    pretrained: str | None = None
    version: str | None = None
    use_ema: bool | None = None
    ema_decay: Annotated[float | None, SHARE] = None
    output_dir: Path = Path("runs")

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
