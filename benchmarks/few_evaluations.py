"""How far few evaluations of the network end from the converged solution of the same seeds.

Every deterministic solver on every time grid that applies, at some numbers of evaluations; the figure is the root mean
square distance per pixel to what the default solver gives in 400 evaluations on its default grid. x0_hat is clipped as
generate.py does, in both. A solver has no figure where no number of steps takes just as many evaluations. Left out are
stochastic solvers, adaptive ones, and those that run on the whole state of several components, which starts elsewhere
from the same seed.

One table per run is printed, the best at 7 first. Marked are the default, and the former one: exp2, uniform in log
sigma, or in log t under heat dynamics. Then follows what the one gains over the other. --out keeps all figures
(few_evaluations.csv) and a plot (few_evaluations.png). With --peer the samplers of azula 0.11 stand beside them, with
the same network, noise levels, start, clipping and end, on their own uniform times and on grids of ours:

    python -m pip install --target DIR --no-deps azula==0.11.1
    PYTHONPATH=DIR python benchmarks/few_evaluations.py --peer

usage: python benchmarks/few_evaluations.py [--run_id digits-demo digits-heat-demo mnist-demo] [--n_samples 100]
    [--counts 4 5 7 10 15 20] [--solvers NAME ..] [--grids NAME ..] [--peer] [--runs_dir runs] [--out FOLDER]
    [--device auto] [--threads N]
"""

import argparse
import csv
import importlib.util
import io
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch
from torch import Tensor, nn

from common.config.build import check_device
from common.config.parser import reporting
from common.denoiser import Clipped, X0Denoiser
from common.dynamics import LinearDynamics
from common.files import atomic_write
from common.media.figures import few_ticks, new_figure, save_figure
from common.progress import bar
from common.refusal import Refusal
from common.runs import Run, load
from common.samplers import (
    GRIDS,
    MEASURED,
    SOLVERS,
    Grid,
    NoiseSource,
    Posterior,
    default_solver,
    ending,
    path_of,
    sample,
)
from common.samplers.measured import FOLLOWED, measure
from common.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
NAME = "few_evaluations"
RUNS = ("digits-demo", "digits-heat-demo", "mnist-demo")
FIRST_SEED = 2**31  # of the samples that a grid is measured on
COUNTS = (4, 5, 7, 10, 15, 20)
CONVERGED = 400  # evaluations
SORTED_BY = 7
BARS = ((7, 7, 0.25), (7, 20, 1.1), (10, 10, 0.2))  # the default at so many over the former at so many: at most that
FORMER, PEER = "exp2", "azula"
HINT = "needs azula: python -m pip install --target DIR --no-deps azula==0.11.1, then this command after PYTHONPATH=DIR"


class Counted(nn.Module):
    """A denoiser that says every call.

    Args:
        denoiser: (v, t, labels) to x0_hat.
        on_call: called after each.
    """

    def __init__(self, denoiser: nn.Module, on_call: Callable[[], object]) -> None:
        super().__init__()
        self.denoiser, self._on_call = denoiser, on_call

    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        found: Tensor = self.denoiser(v, t, labels)
        self._on_call()
        return found


class Subject:
    """A run with some seeds, and its converged samples.

    Attributes:
        run: whose network it is.
        path: what is reversed, of one component.
        seeds: one per sample.
        shape: of all samples, (N, C, *S).
        labels: classes (N,) that are asked for, or None.
        t_end: time at which sampling ends.
        grids: those that can be laid, by name.
        default: names of the default solver and its grid.
        former: names of what they were.

    Args:
        run: whose network it is.
        n_samples: number of samples; their seeds are 0, 1, ..
        device: where to compute.
        on_call: called after every evaluation of the network.

    Raises:
        Refusal: if the default solver cannot be compared.
    """

    def __init__(self, run: Run, n_samples: int, device: torch.device, on_call: Callable[[], object] = int) -> None:
        self.run, self.seeds, self.shape = run, range(n_samples), (n_samples, *run.data.shape)
        labels = run.data.labels_for(self.seeds, None)
        self.labels = None if labels is None else labels.to(device)
        dynamics = run.dynamics.to(device)
        solver = default_solver(dynamics)
        if reason := unfit(solver, dynamics):
            raise Refusal(f"{run.folder.name}: its default solver {solver} {reason}", "run_id")
        self.path = path_of(SOLVERS[solver], dynamics)
        self.t_end = ending(self.path, None)
        self.grids = {name: grid for name, grid in GRIDS.items() if self._can_be_laid(grid)}
        chosen = SOLVERS[solver]().default_grid(self.path)
        self.default = solver, next(name for name, grid in self.grids.items() if grid is chosen)
        self.former = FORMER, "log_time" if dynamics.basis.modes else "log_sigma"
        self._network = Counted(run.denoiser.to(device), on_call)
        self._converged: dict[bool, Tensor] = {}

    def measure(self) -> None:
        """Measure a grid on the network, on other samples, as generate.py --grid measured does."""
        labels = self.run.data.labels_for(range(FOLLOWED), None)
        self.grids[MEASURED] = measure(
            self.path,
            self.denoiser(True),
            (FOLLOWED, *self.run.data.shape),
            seeds=range(FIRST_SEED, FIRST_SEED + FOLLOWED),
            labels=None if labels is None else labels.to(self.path.device),
        )

    def _can_be_laid(self, grid: Grid) -> bool:
        try:
            grid(self.path, self.t_end, SORTED_BY)
        except Refusal:
            return False
        return True

    def denoiser(self, clips: bool) -> X0Denoiser:
        """The network; clipped if the solver gains by it and samples are images, as in generate.py."""
        return Clipped(self._network) if clips and self.run.data.is_image else self._network

    def draw(self, solver: str, grid: str, steps: int, clips: bool) -> tuple[Tensor, int]:
        """Samples (N, C, *S), and how often the network was called."""
        found = sample(
            self.path,
            self.denoiser(clips),
            self.shape,
            solver=solver,
            steps=steps,
            seeds=self.seeds,
            labels=self.labels,
            grid=self.grids[grid],
            t_end=self.t_end,
        )
        return found.x, found.nfe

    def converged(self, clips: bool) -> Tensor:
        """What the default solver gives in ``CONVERGED`` evaluations, (N, C, *S)."""
        if clips not in self._converged:
            solver, grid = self.default
            self._converged[clips], _ = self.draw(solver, grid, SOLVERS[solver]().steps_for(CONVERGED), clips)
        return self._converged[clips]

    def distance(self, x: Tensor, clips: bool) -> float:
        """Root mean square difference per pixel from the converged samples."""
        return float((x - self.converged(clips)).double().square().mean().sqrt())


def unfit(name: str, dynamics: LinearDynamics) -> str:
    """Why a solver cannot be compared under a dynamics, in words; empty if it can."""
    solver, path = SOLVERS[name](), path_of(SOLVERS[name], dynamics)
    if solver.stochastic:
        return "draws noise"
    if solver.adaptive:
        return "chooses its own steps"
    if path.num_components > 1:
        return "runs on the whole state, which starts elsewhere from the same seed"
    try:
        solver.check(path)
    except Refusal as refusal:
        return str(refusal)
    return ""


class Row(ABC):
    """A solver on a grid, and its distance to the converged solution by the number of evaluations.

    Args:
        solver: its name.
        grid: name of the grid.
    """

    by: ClassVar[str]

    def __init__(self, solver: str, grid: str) -> None:
        self.solver, self.grid = solver, grid
        self.errors: dict[int, float] = {}

    @abstractmethod
    def steps_for(self, nfe: int) -> int | None:
        """Steps that take just so many evaluations; None if no number does."""

    @property
    @abstractmethod
    def clips(self) -> bool:
        """Whether x0_hat is clipped to the range of images."""

    @abstractmethod
    def draw(self, subject: Subject, steps: int) -> tuple[Tensor, int]:
        """Samples (N, C, *S) in so many steps, and how often the network was called."""

    def measure(self, subject: Subject, nfe: int) -> None:
        """Add the distance at so many evaluations, if they can be had.

        Raises:
            AssertionError: if the network was called more or less often.
        """
        steps = self.steps_for(nfe)
        if steps is None:
            return
        x, calls = self.draw(subject, steps)
        if calls != nfe:
            raise AssertionError(f"{self} called the network {calls} times where {nfe} were asked for")
        self.errors[nfe] = subject.distance(x, self.clips)

    def at(self, nfe: int) -> float:
        """Distance at so many evaluations; infinite if there is none, or it is no number."""
        found = self.errors.get(nfe, math.inf)
        return found if math.isfinite(found) else math.inf

    def __str__(self) -> str:
        return f"{self.by} {self.solver}, {self.grid}".lstrip()


class OurRow(Row):
    """A solver of this program."""

    by = ""

    def steps_for(self, nfe: int) -> int | None:
        try:
            return SOLVERS[self.solver]().steps_for(nfe)
        except Refusal:
            return None

    @property
    def clips(self) -> bool:
        return SOLVERS[self.solver].clips

    def draw(self, subject: Subject, steps: int) -> tuple[Tensor, int]:
        return subject.draw(self.solver, self.grid, steps, self.clips)


class PeerRow(Row):
    """A sampler of azula: it starts from the same noise."""

    by = PEER
    clips = True

    def steps_for(self, nfe: int) -> int | None:
        from benchmarks.azula_samplers import steps_for

        return steps_for(self.solver, nfe)

    def draw(self, subject: Subject, steps: int) -> tuple[Tensor, int]:
        from benchmarks.azula_samplers import draw

        path, denoiser = subject.path, subject.denoiser(self.clips)
        posterior = Posterior(path, denoiser, subject.labels)
        source = NoiseSource(subject.seeds, subject.shape[1:], path.device, torch.get_default_dtype(), 1)
        start = path.prior.sample(subject.shape, source.start(1)).squeeze(1)
        times = subject.grids[self.grid](path, subject.t_end, steps)
        return draw(self.solver, path, posterior, start, times), posterior.calls


@dataclass(frozen=True)
class Result:
    """All about one run.

    Attributes:
        subject: the run.
        rows: figures.
        left_out: what has none, and why, a line each.
        former: distance of the former default at ``CONVERGED`` evaluations.
    """

    subject: Subject
    rows: list[Row]
    left_out: list[str]
    former: float

    def ours(self, names: tuple[str, str]) -> Row | None:
        """Our solver on a grid, by their names."""
        return next((row for row in self.rows if not row.by and (row.solver, row.grid) == names), None)

    def best_peer(self, grid: str, nfe: int) -> Row | None:
        """The sampler of azula that is nearest at so many evaluations on a grid."""
        rows = [row for row in self.rows if row.by and row.grid == grid and row.at(nfe) < math.inf]
        return min(rows, key=lambda row: row.at(nfe), default=None)


def rows_of(subject: Subject, solvers: Sequence[str], grids: Sequence[str], peer: bool) -> tuple[list[Row], list[str]]:
    """What can be compared, without figures yet, and what cannot, with reasons.

    Args:
        subject: the run.
        solvers: names of ours.
        grids: names for ours.
        peer: whether azula is asked for: on its own uniform times and on grids of ours.
    """
    reasons = {name: unfit(name, subject.run.dynamics) for name in solvers}
    left_out = [f"{name} {reason}" for name, reason in reasons.items() if reason]
    left_out += [f"grid {name} cannot be laid for it" for name in grids if name not in subject.grids]
    laid = [name for name in grids if name in subject.grids]
    rows: list[Row] = [OurRow(name, grid) for name in solvers if not reasons[name] for grid in laid]
    if peer and subject.path.basis.modes:
        left_out.append(f"{PEER} knows one noise level, where every mode has its own")
    elif peer:
        from benchmarks.azula_samplers import SAMPLERS

        rows += [PeerRow(name, grid) for name in SAMPLERS for grid in peer_grids(subject)]
    return rows, left_out


def peer_grids(subject: Subject) -> list[str]:
    """Grids for azula: its own uniform times, the one at the scale of the data, and our default."""
    return list(dict.fromkeys(("uniform", "data", subject.default[1])))


def examine(run: Run, given: argparse.Namespace, device: torch.device) -> Result:
    """Measure all that a command line asks for about one run."""
    with bar(0, run.folder.name, "evaluation", lasting=True) as progress:
        subject = Subject(run, given.n_samples, device, progress.update)
        if MEASURED in given.grids and MEASURED not in subject.grids:
            subject.measure()
        rows, left_out = rows_of(subject, given.solvers, given.grids, given.peer)
        clipping = {True, *(row.clips for row in rows)}
        figures = sum(nfe for row in rows for nfe in given.counts if row.steps_for(nfe))
        progress.reset(figures + CONVERGED * (1 + len(clipping)))
        for row in rows:
            for nfe in given.counts:
                row.measure(subject, nfe)
        former = OurRow(*subject.former)
        former.measure(subject, CONVERGED)
    return Result(subject, rows, left_out, former.at(CONVERGED))


def report(result: Result, counts: Sequence[int]) -> list[str]:
    """The table of a run, the best at ``SORTED_BY`` first, and what it says of the default."""
    subject, run = result.subject, result.subject.run
    solver, grid = subject.default
    clipped = "x0_hat clipped to [-1, 1]" if run.data.is_image else "x0_hat as it is"
    lines = [
        f"{run.folder.name}: {len(subject.seeds)} samples, {clipped}; distance per pixel to {solver} on {grid} at "
        f"{CONVERGED} evaluations",
        f"there {subject.former[0]} on {subject.former[1]} is {figure(result.former)} away",
        *(f"left out: {line}" for line in result.left_out),
    ]
    marks = {subject.default: "default", subject.former: "former default"}
    cells = [["", "solver", "grid", *map(str, counts), ""]]
    for row in sorted(result.rows, key=lambda row: (row.at(SORTED_BY), [row.at(nfe) for nfe in counts])):
        mark = "" if row.by else marks.get((row.solver, row.grid), "")
        figures = [figure(row.errors[nfe]) if nfe in row.errors else "-" for nfe in counts]
        cells.append([row.by, row.solver, row.grid, *figures, mark])
    return [*lines, *table(cells), *verdicts(result), *against_peer(result, counts)]


def figure(value: float) -> str:
    """A distance as it is printed."""
    return f"{value:.4f}"


def verdicts(result: Result) -> list[str]:
    """What the default gains over the former one, beside the bars."""
    lines = []
    for nfe, former_nfe, most in BARS:
        default, former = result.ours(result.subject.default), result.ours(result.subject.former)
        found = "not measured"
        if default is not None and former is not None and nfe in default.errors and former_nfe in former.errors:
            ratio = default.at(nfe) / former.at(former_nfe)
            found = f"{ratio:.3f}, at most {most:g}: {'met' if ratio <= most else 'NOT MET'}"
        lines.append(f"default at {nfe} over former at {former_nfe}: {found}")
    return lines


def against_peer(result: Result, counts: Sequence[int]) -> list[str]:
    """The default beside the best of azula's samplers, at every number of evaluations and on each grid."""
    lines, default = [], result.ours(result.subject.default)
    for nfe in counts:
        for grid in peer_grids(result.subject):
            best = result.best_peer(grid, nfe)
            if best is not None and default is not None and nfe in default.errors:
                own, other = default.at(nfe), best.at(nfe)
                verdict = "ahead" if own < other else "BEHIND"
                lines.append(f"default at {nfe}: {figure(own)}, against {figure(other)} of {best}: {verdict}")
    return lines


def figures_file(results: Sequence[Result]) -> bytes:
    """All figures as a table of comma-separated values, one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("run", "samples", "by", "solver", "grid", "evaluations", "distance"))
    for result in results:
        subject = result.subject
        for row in result.rows:
            for nfe, error in row.errors.items():
                about = (subject.run.folder.name, len(subject.seeds), row.by, row.solver, row.grid)
                writer.writerow((*about, nfe, f"{error:.6g}"))
    return text.getvalue().encode()


def plot(results: Sequence[Result]) -> "Figure":
    """Distance against evaluations, a panel per run: the default, the former one, others on their best grid."""
    drawing = new_figure(figsize=(5.5 * len(results), 4.5))
    for panel, result in zip(drawing.subplots(1, len(results), squeeze=False)[0], results, strict=True):
        default, former = result.ours(result.subject.default), result.ours(result.subject.former)
        for row in drawn(result):
            points = [(nfe, error) for nfe, error in sorted(row.errors.items()) if math.isfinite(error) and error > 0]
            if not points:
                continue
            style = {"linewidth": 2.5, "color": "black"} if row is default else {"linewidth": 1}
            label = f"{row} (default)" if row is default else f"{row} (former default)" if row is former else str(row)
            panel.plot(*zip(*points, strict=True), "s--" if row.by else "o-", markersize=3, label=label, **style)
        name = result.subject.run.folder.name
        panel.set(xlabel="evaluations of the network", ylabel="distance per pixel", xscale="log", yscale="log")
        panel.set_title(name, parse_math=False)
        counts = sorted({nfe for row in result.rows for nfe in row.errors})
        panel.set_xticks(counts, list(map(str, counts)))
        panel.minorticks_off()
        if former is not None:  # what is far worse than the former default does not set the scale
            panel.set_ylim(top=3 * max(error for error in former.errors.values()))
        few_ticks(panel.yaxis, 8)
        panel.legend(fontsize=7)
    return drawing


def drawn(result: Result) -> list[Row]:
    """Rows of the plot: the default, the former one, every other solver and the best of azula on their best grid."""
    rows = [row for names in (result.subject.default, result.subject.former) if (row := result.ours(names))]
    best: dict[tuple[str, str], Row] = {}
    for row in result.rows:
        key = (row.by, row.grid if row.by else row.solver)
        if key not in best or row.at(SORTED_BY) < best[key].at(SORTED_BY):
            best[key] = row
    return rows + [row for row in best.values() if row not in rows]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--run_id", nargs="+", default=RUNS, help=f"runs (default {' '.join(RUNS)})")
    found.add_argument("--runs_dir", type=Path, default=ROOT / "runs", help="folder that holds them (default runs)")
    found.add_argument("--n_samples", type=int, default=100, help="number of samples, seeds from 0 on (default 100)")
    found.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of evaluations")
    found.add_argument("--solvers", nargs="+", choices=SOLVERS, default=tuple(SOLVERS), help="solvers (default all)")
    found.add_argument("--grids", nargs="+", choices=GRIDS, default=tuple(GRIDS), help="time grids (default all)")
    found.add_argument("--peer", action="store_true", help="samplers of azula too")
    found.add_argument("--out", type=Path, help="folder for plot and figures (default: they are printed alone)")
    found.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    found.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    given = parser().parse_args(argv)
    with reporting(f"{NAME}.py", lambda: {name: name for name in vars(given)}):
        for name in ("n_samples", "threads"):
            if (number := getattr(given, name)) is not None and number < 1:
                raise Refusal(f"must be at least 1, got {number}", name)
        given.counts = sorted(set(given.counts))
        if given.counts[0] < 1:
            raise Refusal(f"must be at least 1, got {given.counts[0]}", "counts")
        if given.peer and importlib.util.find_spec(PEER) is None:
            raise Refusal(HINT, "peer")
        if given.threads:
            torch.set_num_threads(given.threads)
        device = check_device(given.device)
        results = list[Result]()
        for name in given.run_id:
            results.append(examine(load(name, "final", given.runs_dir), given, device))
            print("\n".join([*report(results[-1], given.counts), ""]), flush=True)
            if given.out:  # after every run: the next one may take long
                given.out.mkdir(parents=True, exist_ok=True)
                atomic_write(given.out / f"{NAME}.csv", figures_file(results))
                save_figure(given.out / f"{NAME}.png", plot(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
