"""The conditional side of a set of samples: inputs, what is observed of them, and the method that puts it in."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.config.tuned import tuned_from
from common.data.spec import DataSpec
from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.files import write_array, write_json
from common.generation.config import SampleConfig
from common.generation.inputs import Inputs, check_values, clean_inputs, levels_of, measured
from common.generation.sections import InputConfig
from common.guidance import METHODS, Conditioned
from common.guidance.operators import Mask, Operator
from common.guidance.tasks import TASKS
from common.labels import NULL_LABEL
from common.refusal import Refusal
from common.runs import Run, SampleFolder
from common.seeding import mix


@dataclass(frozen=True)
class Condition:
    """What samples are given: N inputs, of which part is observed.

    Samples are counted input by input, and every input has the same seeds: sample i completes input i // completions.

    Attributes:
        operator: A, of all N inputs.
        y: observations (N, *observed) on the network's scale.
        method: makes a denoiser that knows some of them.
        completions: how many are drawn of every input.
        labels: classes (N,) int64 to ask for, the null label where none is known; None without labels.
        truth: the inputs (N, *S, C) float32 in the units of the data; None where they are not known.
        observation: what is observed of them, channels last, float32 in the units of the data.
        picture: the same on a grid that can be looked at, (N, *S', C or 1) float32, NaN where nothing is known.
        names: where each input came from.
        flags: by which a command line names them again.
        remarks: what a user should know of them.
    """

    operator: Operator
    y: Tensor
    method: Callable[..., Conditioned]
    completions: int
    labels: Tensor | None
    truth: np.ndarray | None
    observation: np.ndarray
    picture: np.ndarray
    names: Sequence[str]
    flags: Mapping[str, Any]
    remarks: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """N."""
        return len(self.y)

    @property
    def mask(self) -> np.ndarray | None:
        """1 where values are known, (N, *S, 1 or C) uint8, if the task is to fill in others."""
        if not isinstance(self.operator, Mask):
            return None
        each = self.operator.mask if self.operator.per_sample else self.operator.mask.unsqueeze(0)
        return channels_last(each.expand(self.count, *each.shape[1:]).cpu()).astype(np.uint8)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the inputs from others: how many, and the SHA-256 of what is known of them before any arithmetic.

        That is the truth where there is one, else the observation; the labels; and what operators hold.
        """
        known = {"observation": self.observation} if self.truth is None else {"truth": self.truth}
        known |= {} if self.labels is None else {"labels": self.labels.numpy()}
        known |= {name: buffer.cpu().numpy() for name, buffer in sorted(self.operator.named_buffers())}
        digest = hashlib.sha256()
        for name, array in known.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return {"inputs": self.count, "sha256": digest.hexdigest()}

    def inputs_of(self, indices: Sequence[int]) -> list[int]:
        """Inputs that samples complete."""
        return [i // self.completions for i in indices]

    def around(self, denoiser: X0Denoiser, dynamics: LinearDynamics, indices: Sequence[int]) -> Conditioned:
        """A denoiser of some samples that knows what is observed of their inputs.

        Args:
            denoiser: not clipped.
            dynamics: what is reversed.
            indices: the samples of a block.
        """
        rows = self.inputs_of(indices)
        return self.method(denoiser, dynamics, self.operator.rows(rows), self.y[rows]).to(self.y.device)

    def to(self, device: torch.device) -> None:
        """Move it to where samples are drawn."""
        self.operator.to(device)
        object.__setattr__(self, "y", self.y.to(device))

    def writers(self, place: SampleFolder) -> dict[Path, Callable[[Path], None]]:
        """The files of a set that say what it is done on, and what writes each."""
        arrays = {place.truth: self.truth, place.observation: self.observation, place.mask: self.mask}
        found: dict[Path, Callable[[Path], None]] = {
            path: partial(write_array, array=array) for path, array in arrays.items() if array is not None
        }
        labels = [None] * self.count if self.labels is None else self.labels.tolist()
        inputs = [
            {"from": name, "label": None if label == NULL_LABEL else label}
            for name, label in zip(self.names, labels, strict=True)
        ]
        words = {name: str(value) for name, value in self.flags.items()}
        return {**found, place.inputs: partial(write_json, content={"flags": words, "inputs": inputs})}


def open_condition(
    run: Run, config: SampleConfig, inputs: InputConfig, device: torch.device, data_dir: Path | None = None
) -> Condition | None:
    """The condition of samples; None without a task.

    Args:
        run: what draws them.
        config: how they are drawn, every default filled in.
        inputs: what the task is done on.
        device: where to compute.
        data_dir: where the data of the run lies now; None takes the place where the run found it.

    Raises:
        Refusal: for inputs that cannot be read or do not fit, or a run whose answers no method can use.
    """
    if config.task is None or config.method is None:
        if inputs.first:
            raise Refusal("has no effect without --task; add that, or leave it out", inputs.first)
        return None
    if run.is_consistent:
        raise Refusal(
            f"{config.task}: {run.folder.name} was tuned to answer with samples, and a task needs means of many: "
            f"complete with the run that it was tuned from, {tuned_from(run.config)}",
            "task",
        )
    spec, task = run.data, TASKS[config.task](**config.task_arguments)
    scale = (spec.value_range[1] - spec.value_range[0]) / 2  # of the data, a unit of the network's scale
    noise_std = (config.noise_std or 0.0) / scale
    if inputs.observation is None:
        found = clean_inputs(inputs, run, data_dir)
        operator = task.operator(spec, len(found.truth))
        operator.shape_of(spec.shape)
        y = operator(found.truth)
        if noise_std:
            y = y + noise_std * within(operator, noise_like(y, config.noise_seed))
        observed = scale * y + offset(operator, spec, y)
    else:
        observed, operator, name = measured(inputs.observation, inputs.n_inputs, task, spec, levels_of(run.config.data))
        y = within(operator, (observed - offset(operator, spec, observed)) / scale)
        check_values(y, spec, noise_std, name, "observation")
        flags = {"observation": Path(name).absolute()} if isinstance(inputs.observation, Path) else {}
        nothing = torch.empty(len(y), 0)  # in the place of a truth, which is not known
        found = Inputs.unlabelled(nothing, [f"row {i} of {name}" for i in range(len(y))], flags=flags)
    condition = Condition(
        operator,
        y,
        partial(METHODS[config.method], noise_std=noise_std, **config.method_arguments),
        len(config.seeds or ()),
        labels_of(found, run, config),
        None if inputs.observation is not None else channels_last(spec.in_units(found.truth)),
        channels_last(observed),
        channels_last(spec.in_units(operator.picture(y))),
        found.names,
        found.flags,
        found.remarks,
    )
    condition.to(device)
    return condition


def channels_last(x: Tensor) -> np.ndarray:
    """(N, C, ..) as (N, .., C) on the CPU."""
    return np.ascontiguousarray(x.movedim(1, -1).cpu().numpy())


def offset(operator: Operator, spec: DataSpec, y: Tensor) -> Tensor:
    """What an operator makes of the middle of the range of the data, (N, *observed): data are it plus a linear part."""
    middle = torch.full((len(y), *spec.shape), sum(spec.value_range) / 2)
    found: Tensor = operator(middle)
    return found


def within(operator: Operator, y: Tensor) -> Tensor:
    """Observations without what no sample could give, such as values where a mask hides."""
    found: Tensor = operator(operator.adjoint(y)) if operator.projector else y
    return found


def noise_like(y: Tensor, seed: int) -> Tensor:
    """White noise for observations (N, *observed): that of input i depends on i and the seed alone."""
    rows = (torch.randn(y.shape[1:], generator=torch.Generator().manual_seed(mix(seed, i))) for i in range(len(y)))
    return torch.stack(list(rows))


def labels_of(inputs: Inputs, run: Run, config: SampleConfig) -> Tensor | None:
    """The classes to ask for: those that were named, in turn; else those of the inputs.

    Raises:
        Refusal: if the class of an input is not known to a network that needs one.
    """
    spec = run.data
    if spec.num_classes is None or config.labels:
        return spec.labels_for(range(len(inputs.names)), config.labels)
    unknown = (inputs.labels == NULL_LABEL).nonzero().flatten().tolist()
    if unknown and not run.config.recipe.label_dropout:
        raise Refusal(
            f"is needed: the class of {inputs.names[unknown[0]]} is not known, and {run.folder.name} was trained "
            "without --label_dropout",
            "labels",
        )
    return inputs.labels
