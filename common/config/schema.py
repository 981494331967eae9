"""What a run is: frozen dataclasses whose fields are the flags of train.py, and classes chosen with their arguments.

Defaults are the published ones of GFDM (arXiv 2310.17638). A field marked :data:`FREE` may differ between the parts of
a run that is stopped and resumed; everything else is part of what is being trained.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from common.config.flags import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Checked,
    Mark,
    Range,
    at_least,
    duration,
    flag_name,
    height_by_width,
    marked,
    place,
    project_name,
    rising,
    run_name,
    several,
)
from common.data import BUILT_IN
from common.data.axes import checked
from common.data.levels import Levels
from common.data.sound_form import HIGHEST_RATE
from common.data.spec import DataSpec
from common.meta import MetaLearned
from common.refusal import Refusal, require
from common.sides import Sides

FREE = Mark("may change when a run is resumed")
OF_SAMPLES = Mark("says what samples of one data set are or allow, which means nothing to another one")
PICTURE_SCALE = Range(1, 32, whole=True)
MOST_AVERAGES = 16  # each is a network in memory
SAMPLE_RATE = Range(1, HIGHEST_RATE, whole=True)
WORKERS = Range(0, 1024, whole=True)


def order_of_axes(text: str) -> str:
    """An order of axes, e.g. NCHW.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    try:
        return checked(text)
    except Refusal as error:
        raise argparse.ArgumentTypeError(error.problem) from error


def check_picture_scale(scale: int | None, spec: DataSpec) -> None:
    """Refuse to magnify what is no image."""
    if scale is not None and not spec.is_image:
        raise Refusal(
            f"{scale} magnifies images; samples of this run are {spec.kind}s, so leave it out", "picture_scale"
        )


@dataclass(frozen=True)
class Chosen:
    """A class of a register with all its arguments, as config.json keeps them.

    Attributes:
        name: its name in the register, e.g. ``fvp``.
        path: where it is defined, ``module:Class``.
        arguments: arguments of its constructor by name, plain values.
    """

    name: str
    path: str
    arguments: dict[str, Any]


DENOISE = Chosen("denoise", "common.training.denoising:Denoising", {})  # what networks are trained towards by default


@dataclass(frozen=True)
class DataConfig(Checked):
    """What is learned from.

    Attributes:
        data_name: data set; the default comes with the program
        data_dir: where the data is: a folder with data sets in torchvision's layout, a folder of files, or a file
            (default: $DATA_ROOT, else ./data)
        download: fetch the data set if it is missing
        channels: channels of the images or sounds (default: those of the data, 3 for colour pictures in files, 1 for
            recordings in files)
        image_size: height and width of the images, as in 48x32, or one number for squares; others are cropped in
            their middle and resized (default: that of the data, or the published one)
        center_crop: sides of the central part that is cut out before resizing, as a share of the largest one of the
            shape of --image_size, or of the largest square without it (default: 1, or the published one)
        sample_rate: points per second of recordings in files, which are resampled (default: the rate that most have)
        length: points of functions and sounds, which are cut or padded (default: that of the data)
        axes: order of axes of --data_name arrays, as NCHW, HWCN or NCL: N samples, C channels, H and W the sides of
            images, L the points of functions (default: the one that fits, if it is the only one)
        levels: levels of images in files that are black and white, as in 0,4095 (if black is below zero:
            --levels=-1000,3000) (default: all levels of 8 or 16 bits)
        num_classes: number of classes, checked against the data (default: that of the data)
        class_order: how the classes of a folder are numbered: natural, 2 before 10, or text, as torchvision's
            ImageFolder does
        conditioning: give the network class labels, if the data has some
        flip: mirror training images left to right at random
        val_samples: number of held-out samples that validation uses
        num_workers: processes that read data (default: usable cores, at most 8; 0 for sets held on the device)
    """

    data_name: str = BUILT_IN
    data_dir: Annotated[Path | None, FREE] = None
    download: Annotated[bool, FREE] = False
    channels: Annotated[int | None, at_least(1), OF_SAMPLES] = None
    image_size: Annotated[int | tuple[int, int] | None, height_by_width, OF_SAMPLES] = None
    center_crop: Annotated[float | None, Range(0, 1, open_low=True), OF_SAMPLES] = None
    sample_rate: Annotated[int | None, SAMPLE_RATE, OF_SAMPLES] = None
    length: Annotated[int | None, at_least(1), OF_SAMPLES] = None
    axes: Annotated[str | None, order_of_axes, OF_SAMPLES] = None
    levels: Annotated[tuple[float, float] | None, rising, OF_SAMPLES] = None
    num_classes: Annotated[int | None, at_least(1), OF_SAMPLES] = None
    class_order: Annotated[str, ("natural", "text"), OF_SAMPLES] = "natural"
    conditioning: Annotated[bool, OF_SAMPLES] = True
    flip: Annotated[bool, OF_SAMPLES] = False
    val_samples: Annotated[int, at_least(1), FREE] = 1000
    num_workers: Annotated[int | None, WORKERS, FREE] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None:  # config.json has lists
            sides = Sides.of(self.image_size)
            require(min(sides) >= 1, "image_size", "at least 1", sides)
            object.__setattr__(self, "image_size", sides.short)
        if self.levels is not None:
            object.__setattr__(self, "levels", tuple(Levels.of(self.levels)))


@dataclass(frozen=True)
class ModelConfig(Checked):
    """What the network predicts, and where sampling starts.

    Attributes:
        prediction: what the network predicts (default: auto, which is what suits the dynamics: eps, or x0 if the data
            vanishes at T)
        prior: start of sampling: zero is N(0, S(T)) as published; data adds the data's mean and variance or, for a
            dynamics with modes, its mean function and spectrum (default: what suits the dynamics)
    """

    prediction: str = "auto"
    prior: str | None = None


@dataclass(frozen=True)
class Recipe(Checked):
    """How a network is trained.

    Attributes:
        train_steps: optimiser steps
        batch_size: samples per device and micro-step; with --global_batch its share of those
        global_batch: samples of an optimiser step over all devices and micro-steps, which stay those of the run on any
            number of devices that divides them (default: what --batch_size makes of them)
        accumulate_grad_batches: micro-steps per optimiser step
        lr: peak learning rate
        optimizer: optimiser; adam was published for GFDM, adamw and adabelief for FDP
        weight_decay: weight decay of the optimiser
        lr_schedule: course of the learning rate; onecycle was published for GFDM, warmup_cosine for FDP
        warmup_steps: steps in which the learning rate rises from 0 to --lr, with --lr_schedule warmup_cosine
        decay_steps: step at which --lr_end is reached, with --lr_schedule warmup_cosine; 0 is the last step
        lr_end: last learning rate, with --lr_schedule warmup_cosine
        clip_grad: largest norm or element of the gradient; 0 does not clip
        clip_by: what --clip_grad limits; value (every element) was published for FDP
        t_min: smallest training time (published: 1e-5, for FDP 1e-3)
        time_warmup: steps in which the range of training times grows to 63 % of it; 0 has all times from the start
        time_sampling: law of the training times; uniform was published (default: what suits the dynamics)
        loss_weight: what error is learned from: own is that of the network's output, as published; the others are
            that of x0_hat, whatever the network predicts: x0 in the metric of the dynamics (b/r under heat, else 1),
            min_snr and edm with every mode weighed by its noise level and no metric; x0 and edm are what own is for
            those predictions
        loss_reduction: how the squared error is reduced over the grid; under sum the loss grows with the grid
        label_dropout: share of the labels that is left out in training, for guidance in generation
        use_ema: keep an exponential moving average of the weights, and sample from it
        ema_decay: decay of the average; several, e.g. 0.9999,0.999, keep one average each and use the first one
            (default: that of the dynamics, 0.9999 or 0.999)
        ema_every: optimiser steps between updates of the average
        init_from: run (id or folder name) or file of weights to start from (default: fresh weights)
        seed: seed of initial weights, times, noise, order and dropout, below 2^32
        log_every: optimiser steps between log lines
    """

    train_steps: Annotated[int, at_least(2)] = 1000000
    batch_size: Annotated[int, at_least(1)] = 128
    global_batch: Annotated[int | None, at_least(1)] = None
    accumulate_grad_batches: Annotated[int, at_least(1)] = 1
    lr: Annotated[float, POSITIVE] = 2e-4
    optimizer: str = "adam"
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    lr_schedule: str = "onecycle"
    warmup_steps: Annotated[int, at_least(0)] = 0
    decay_steps: Annotated[int, at_least(0)] = 0
    lr_end: Annotated[float, NOT_NEGATIVE] = 0.0
    clip_grad: Annotated[float, NOT_NEGATIVE] = 1.0
    clip_by: Annotated[str, ("norm", "value")] = "norm"
    t_min: Annotated[float, Range(1e-6, 1, open_high=True)] = 1e-5
    time_warmup: Annotated[int, at_least(0)] = 0
    time_sampling: str | None = None
    loss_weight: str = "own"
    loss_reduction: str = "mean"
    label_dropout: Annotated[float, SHARE] = 0.0
    use_ema: bool = True
    ema_decay: Annotated[tuple[float, ...] | None, several(SHARE)] = None
    ema_every: Annotated[int, at_least(1)] = 10
    init_from: Annotated[str | None, place, FREE] = None
    seed: Annotated[int, at_least(0)] = 0
    log_every: Annotated[int, at_least(1)] = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        decays = self.ema_decay or ()
        are_some = len(decays) <= MOST_AVERAGES and all(decay in SHARE for decay in decays)
        require(are_some, "ema_decay", f"numbers in [0, 1), at most {MOST_AVERAGES}", decays)
        if self.lr_end > self.lr:
            raise Refusal(f"{self.lr_end:g} must not be above --lr {self.lr:g}", "lr_end")
        if self.lr_schedule == "warmup_cosine" and self.warmup_steps >= (self.decay_steps or self.train_steps):
            raise Refusal(
                f"{self.warmup_steps} must be below --decay_steps or, without it, --train_steps", "warmup_steps"
            )

    @property
    def averages(self) -> tuple[float, ...]:
        """Largest decay of each average; the first one is used for sampling. Empty trains without."""
        return (self.ema_decay or ()) if self.use_ema else ()


@dataclass(frozen=True)
class Keeping(Checked):
    """What a run is called, and what is kept of it.

    Attributes:
        wb_id: id of the run (default: six random digits)
        name: word added to the folder's name (default: none)
        output_dir: folder that holds the runs
        val_check_interval: optimiser steps between validations, each with a sample grid
        num_sanity_val_steps: validation batches that are tried before training starts
        log_model_every_n: optimiser steps between kept weights (model-v0.pth, ..)
        eval_every: optimiser steps between evaluations, one more after the last step: samples are drawn as for the
            sample grids and judged as evaluate.py judges them; figures go to metrics.csv, and the weights that are best
            by the first of --eval_metrics that can tell are kept as version best (0: never)
        eval_metrics: metrics of --eval_every, as --metrics of evaluate.py takes them
        eval_samples: samples that are drawn for --eval_every, always from the same seeds
        eval_features: features that --eval_metrics compare, as --features of evaluate.py takes them
        weights_dir: folder for files of weights of --eval_features
        checkpoint_every: optimiser steps between checkpoints
        keep: number of checkpoints kept beside last.ckpt
        logger: where figures go besides metrics.csv; csv adds nothing
        wb_project: project at Weights & Biases (default: $WANDB_PROJECT, else diffusion)
        picture_scale: whole number by which images in sample grids are magnified (default: what makes small ones
            visible; 1 above 32 x 32)
    """

    wb_id: Annotated[str | None, run_name, FREE] = None
    name: Annotated[str | None, run_name] = None
    output_dir: Annotated[Path, FREE] = Path("runs")
    val_check_interval: Annotated[int, at_least(1), FREE] = 10000
    num_sanity_val_steps: Annotated[int, at_least(0), FREE] = 0
    log_model_every_n: Annotated[int, at_least(1), FREE] = 100000
    eval_every: Annotated[int, at_least(0), FREE] = 0
    eval_metrics: Annotated[tuple[str, ...], several(str), FREE] = ("sw", "kid")
    eval_samples: Annotated[int, at_least(1), FREE] = 256
    eval_features: Annotated[str, FREE] = "auto"
    weights_dir: Annotated[Path, FREE] = Path("weights")
    checkpoint_every: Annotated[int, at_least(1), FREE] = 1000
    keep: Annotated[int, at_least(1), FREE] = 2
    logger: Annotated[str, FREE] = "csv"
    wb_project: Annotated[str | None, project_name, FREE] = None
    picture_scale: Annotated[int | None, PICTURE_SCALE, FREE] = None


@dataclass(frozen=True)
class Hardware(Checked):
    """Where a run computes; names of strategies and precisions are Lightning's.

    Attributes:
        device: where to compute
        devices: devices per node (default: every visible GPU; 1 on a CPU)
        num_nodes: number of nodes
        join_timeout: how long several processes wait for one another to begin: 50s, 5m
        strategy: how several devices work together
        static_graph: tell DDP that every step uses the same weights in the same order, which then finds out less
        gradient_compression: in what gradients go from device to device: bf16 is half as much as they are, and rounds
            them to 8 bits
        precision: numerical precision of the network
        tf32: let CUDA multiply float32 matrices in TF32, which is faster
        compile: compile the network with torch.compile
        deterministic: give bit-identical results on CUDA too
    """

    device: Annotated[str, ("auto", "cpu", "cuda"), FREE] = "auto"
    devices: Annotated[int | None, at_least(1), FREE] = None
    num_nodes: Annotated[int, at_least(1), FREE] = 1
    join_timeout: Annotated[float, duration, FREE] = 50.0
    strategy: Annotated[str, ("auto", "ddp"), FREE] = "auto"
    static_graph: Annotated[bool, FREE] = False
    gradient_compression: Annotated[str, ("none", "bf16"), FREE] = "none"
    precision: Annotated[str, ("32-true", "bf16-mixed", "16-mixed")] = "32-true"
    tf32: Annotated[bool, FREE] = True
    compile: Annotated[bool, FREE] = False
    deterministic: Annotated[bool, FREE] = False


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "recipe": Recipe,
    "keeping": Keeping,
    "hardware": Hardware,
}
PROJECT_VARIABLE, PROJECT = "WANDB_PROJECT", "diffusion"
SAMPLE_FLAGS = marked(DataConfig, OF_SAMPLES)
FREE_FLAGS = frozenset[str]().union(*(marked(section, FREE) for section in SECTIONS.values()))


@dataclass(frozen=True)
class RunConfig:
    """A run: the classes it is made of, its data, recipe, keeping and hardware.

    Attributes:
        dynamics: the forward process.
        network: the backbone.
        adaptation: how the network adapts to every sample before it answers (``MetaLearned``); None if it does not.
        label: last part of the folder's name.
        spec: what a sample is; None until the data has been looked at.
        prior_values: mean and variance of the data that sampling starts from: numbers, or the name of the file with
            the functions.
        data_std: deviation of the data on the network's scale, root mean square over its entries; None if not known.
        objective: what the network is trained towards.
        processes: how many it was begun with, one a device; None if not known.
    """

    dynamics: Chosen
    network: Chosen
    adaptation: Chosen | None
    data: DataConfig
    model: ModelConfig
    recipe: Recipe
    keeping: Keeping
    hardware: Hardware
    label: str
    spec: DataSpec | None = None
    prior_values: Mapping[str, Any] = field(default_factory=lambda: {"mean": 0.0, "variance": 0.0})
    data_std: float | None = None
    objective: Chosen = DENOISE
    processes: int | None = None

    @property
    def sample(self) -> DataSpec:
        """What a sample is.

        Raises:
            RuntimeError: before the data has been looked at.
        """
        if self.spec is None:
            raise RuntimeError("the data of this run has not been looked at yet")
        return self.spec

    @property
    def folder_name(self) -> str:
        """``{id}[_{name}]_{data}_{label}``."""
        parts = (self.keeping.wb_id, self.keeping.name, self.data.data_name, self.label)
        return "_".join(part for part in parts if part is not None)

    def named(self, wb_id: str, output_dir: Path) -> "RunConfig":
        """The same run under an id, in a folder of runs."""
        return replace(self, keeping=replace(self.keeping, wb_id=wb_id, output_dir=output_dir))

    def flags(self, class_of: Callable[[Chosen], type]) -> dict[str, Any]:
        """Every flag of the run with its value; what the flags left to the data is what was found there.

        Args:
            class_of: gives the class of a :class:`Chosen`.
        """
        chosen_ones = {"dynamics": self.dynamics, "model_name": self.network, "objective": self.objective}
        values: dict[str, Any] = {name: one.name for name, one in chosen_ones.items()} | {"inner_steps": 0}
        for chosen in (self.objective, self.adaptation, self.network, self.dynamics):
            if chosen:
                kind = MetaLearned if chosen is self.adaptation else class_of(chosen)
                for name, value in chosen.arguments.items():
                    flag = flag_name(kind, name)  # two classes may share a switch: it is on if either has it on
                    values[flag] = bool(value or values.get(flag)) if isinstance(value, bool) else value
        for name in SECTIONS:
            section = getattr(self, name)
            values |= {f.name: getattr(section, f.name) for f in fields(section)}
        if self.spec:
            found: dict[str, Any] = {"channels": self.spec.channels, "num_classes": self.spec.num_classes}
            found["sample_rate"] = self.spec.sample_rate
            found |= (
                {"image_size": Sides.of(self.spec.grid).short} if self.spec.is_image else {"length": self.spec.grid[0]}
            )
            values |= {name: value for name, value in found.items() if values.get(name) is None}
        return values
