"""Figures about samples while a network is trained, as evaluate.py gives them; the weights that are best by them."""

import contextlib
import math
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from common.config.schema import RunConfig
from common.data.source import DataSet
from common.metrics import Compared, Evidence, evaluate
from common.metrics.compared import beside_real, is_of_samples
from common.metrics.config import CACHE, WantedMetric
from common.metrics.drawn import AT_ONCE, Drawn
from common.metrics.extraction import Extractor
from common.metrics.features import AUTO, FEATURES, Wanted
from common.progress import tell
from common.refusal import Refusal
from common.runs import RunFolder
from common.runs.folder import BEST
from common.samplers import SOLVERS, quick_solver
from common.training.callbacks import draw, write_weights
from common.training.module import EVALUATION, DiffusionModule

HERE = {"metrics": "eval_metrics", "features": "eval_features"}  # what flags of evaluate.py are called here
FLAGS = (*HERE.values(), "eval_samples", "weights_dir")  # that need --eval_every


@dataclass(frozen=True)
class Best:
    """The best figure so far.

    Attributes:
        by: the figure, of how many samples and what features: only such ones can be compared.
        value: the figure.
        step: optimiser step of the weights.
    """

    by: str
    value: float
    step: int


class Judging(Callback):
    """Every few optimiser steps and after the last, samples are drawn by the solver of the grids, in the steps that
    it takes by default, and judged as evaluate.py does.

    The weights that are best by the first metric that judges, or else by the first that has a better and a worse, are
    kept as version ``best``; samples that are not all finite are never best. The first process does it, as it draws
    grids. What training goes on with is as it was: evaluation has seeds of its own, and what was best is in the
    checkpoint, which is written after it.

    Args:
        folder: the run's folder.
        config: what the run is.
        data: what it learns from.
    """

    def __init__(self, folder: RunFolder, config: RunConfig, data: DataSet) -> None:
        keeping = config.keeping
        self.folder, self.spec, self.data = folder, config.sample, data
        self.metrics = [WantedMetric.read(name).metric({}) for name in keeping.eval_metrics]
        self.every, self.count, self.at_once = keeping.eval_every, keeping.eval_samples, config.recipe.batch_size
        wanted = Wanted(data, keeping.weights_dir, keeping.output_dir / CACHE)
        self.extractor = Extractor(wanted, keeping.eval_features)
        ranking = [metric for metric in self.metrics if metric.better]
        self.judge = next((metric for metric in ranking if metric.judges), next(iter(ranking), None))
        self.best: Best | None = None
        self._known: dict[Hashable, Any] = {}  # of the real data

    # -- before the training ------------------------------------------------------------------------------------------

    def prepare(self) -> list[str]:
        """Judge real samples: what cannot be had is known before the training, and what takes a while is done.

        Returns:
            What there is to say.

        Raises:
            Refusal: for metrics that do not apply to such samples, or to so few, and features that cannot be had.
        """
        x, labels = self.data.train.read(self.count)
        parts = self.spec.to_network(x).split(AT_ONCE)
        drawn = Drawn(lambda: iter(parts), None if self.spec.num_classes is None else labels, "real samples")
        evidence = self._evidence(drawn)
        with apart(torch.device("cpu")), by_flags_of_training():
            for metric in self.metrics:
                figures = metric(evidence)
                if not any(map(math.isfinite, figures.values())):
                    raise Refusal(f"{metric.lines(figures, evidence)[0]}; leave it out", "metrics")
        lines = [f"features  {features.account}" for features in evidence.features.values()]
        kept = f"the best weights by {self.figure} are kept" if self.judge else "no metric says which weights are best"
        return [*lines, f"judging   {self.count:,} samples every {self.every:,} steps; {kept}"]

    def _evidence(self, drawn: Drawn) -> Evidence:
        return Evidence(drawn, self.data, self.extractor, is_passing=True, known=self._known)

    # -- while it lasts -----------------------------------------------------------------------------------------------

    @property
    def figure(self) -> str:
        """Name of the figure by which weights are best; empty if there is none."""
        return self.judge.names[0] + self.judge.suffix if self.judge else ""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge when it is due, once per optimiser step."""
        step = trainer.global_step
        is_whole = step and (batch.micro_step + 1) % trainer.accumulate_grad_batches == 0
        if not isinstance(pl_module, DiffusionModule) or not is_whole:
            return
        if step % self.every == 0 or step >= trainer.max_steps:
            pl_module.require_finite()
            if trainer.is_global_zero:
                with apart(pl_module.device), pl_module.off_the_clock():
                    self._judge(trainer, pl_module)

    def _judge(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        step = trainer.global_step
        solver = quick_solver(module.dynamics, consistent=module.objective.consistent)
        x, labels = draw(module, self.spec, solver, SOLVERS[solver].default_steps, self.count, self.at_once)
        samples = self.spec.from_network(x).movedim(1, -1).float().cpu().numpy()
        if not np.isfinite(samples.reshape(len(samples), -1)).all(1).any():
            tell(f"judged    step {step:,}: no sample is finite")
            return
        drawn = Drawn.of(samples, None if labels is None else labels.cpu().numpy(), self.data.spec, f"step {step:,}")
        figures = evaluate(self._evidence(drawn), self.metrics, say=lambda _: None)
        found = {name: value for name, value in figures.items() if name != "samples" and value is not None}
        for logger in trainer.loggers:
            logger.log_metrics({EVALUATION + name: value for name, value in found.items()}, step=step)
        is_best = not drawn.not_finite and self._is_best(found.get(self.figure), step)
        if is_best:
            write_weights(self.folder, module, BEST)
        told = [
            f"{name} {value:.4g}{beside_real(found, name)}" for name, value in found.items() if is_of_samples(name)
        ] or ["nothing is defined"]
        tell(f"judged    step {step:,}: {', '.join([*told, *['the best so far'] * is_best])}")

    def _is_best(self, value: float | None, step: int) -> bool:
        if self.judge is None or value is None:
            return False
        features = self.extractor.features(self.judge.features).identity if isinstance(self.judge, Compared) else ""
        by = f"{self.figure} of {self.count} samples; {features}"
        if self.best and self.best.by == by and self.judge.better * (value - self.best.value) <= 0:
            return False
        self.best = Best(by, float(value), step)
        return True

    # -- in the checkpoint --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was best so far; empty if nothing was."""
        return vars(self.best).copy() if self.best else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was best.

        Raises:
            ValueError: if the state is none of this callback: the file may be anybody's.
        """
        best = Best(**state_dict)
        if not (type(best.by) is str and type(best.step) is int and type(best.value) is float):
            raise ValueError("what it says of the best weights is of another kind")
        if not math.isfinite(best.value):
            raise ValueError("the figure of the best weights is no number")
        self.best = best


def check_judging(config: RunConfig, given: Collection[str]) -> None:
    """Refuse evaluations that could not be, as far as that can be told without data.

    Args:
        config: what the run is.
        given: flags that a user gave.

    Raises:
        Refusal: naming the flag.
    """
    keeping, steps = config.keeping, config.recipe.train_steps
    if not keeping.eval_every:
        if idle := [name for name in FLAGS if name in given]:
            raise Refusal("has no effect without --eval_every; give both, or leave it out", idle[0])
        return
    if keeping.eval_every > steps:
        raise Refusal(f"{keeping.eval_every:,} is beyond the {steps:,} steps of the training; lower it", "eval_every")
    with by_flags_of_training():
        for name in keeping.eval_metrics:
            WantedMetric.read(name).check()
    if keeping.eval_features not in (AUTO, *FEATURES):
        raise Refusal(f"{keeping.eval_features!r} is unknown; there are {AUTO}, {', '.join(FEATURES)}", "eval_features")


@contextlib.contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Put torch's random states back at the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def by_flags_of_training() -> Iterator[None]:
    """Let refusals name flags of train.py where those of evaluate.py are called otherwise."""
    try:
        yield
    except Refusal as error:
        problem = error.problem
        for there, here in HERE.items():
            problem = problem.replace(f"--{there}", f"--{here}")
        raise Refusal(problem, HERE.get(error.argument or "", error.argument)) from error
