"""What tuning for few evaluations gives: a table and a picture of a tuned run beside the run that it started from.

Draws sets of the same seeds with generate.py's machinery, renoised by the tuned runs and by the default solver of the
untuned one, and judges them with evaluate.py. Sets and figures that are there are used again, so that a run that was
stopped goes on; times are measured anew. --out gets quality_tuned.md and quality_tuned.png. The table has for each set

    sw, kid       distance to the training part, with its interval of 95 %
    agreement     share that a classifier reads as asked
    nearest       distance to the nearest training sample over that of held-out ones
    seconds       per 1,000 samples: median of timed draws of one block, in turn with those of the other sets

and ratios to the default solver at --reference evaluations. Of several tuned runs (seeds of one tuning) every one has a
row, then follows their mean, with the smallest and largest; the first is timed and shown.

usage: python benchmarks/quality_tuned.py --untuned RUN --tuned RUN .. [--runs_dir runs] [--n_samples 2000]
    [--tuned_counts 1 2 3 4] [--untuned_counts 5 7 10 20] [--metrics sw agreement nearest kid] [--batch_size 100]
    [--repeats 5] [--shown 20] [--data_dir DIR] [--device auto] [--threads N] --out FOLDER

A RUN is an id in --runs_dir, or a path of a run folder.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np
import torch

import evaluate
from benchmarks.quality_evaluations import Judged
from common.config.build import check_device
from common.config.parser import reporting
from common.files import atomic_write, read_json
from common.generation.arrays import write_set
from common.generation.blocks import Job, read_samples
from common.generation.config import SampleConfig
from common.generation.opening import job_of
from common.generation.pictures import pictured
from common.media.figures import TINY, new_figure, outline, png_of_figure
from common.media.grids import TEXT_GAP, block, magnified, width_of
from common.media.layout import Labelled
from common.media.pictures import png_of_picture
from common.refusal import Refusal
from common.runs import Run, SampleFolder, load
from common.samplers import default_solver

NAME = "quality_tuned"
METRICS = ("sw", "agreement", "nearest", "kid")
COMPARED = ("sw", "nearest")  # figures whose ratio to the reference says something
TUNED, UNTUNED, REFERENCE = (1, 2, 3, 4), (5, 7, 10, 20), 7
SHOWN = 20  # samples of a row of the picture


@dataclass(frozen=True)
class Drawn:
    """A set of samples that is drawn and judged.

    Attributes:
        run: what drew it.
        job: how.
        folder: where it lies.
        judged: its figures.
    """

    run: Run
    job: Job
    folder: Path
    judged: Judged

    @property
    def evaluations(self) -> int:
        """Of the network, per sample."""
        return self.judged.evaluations

    def figure(self, name: str) -> float | None:
        """A figure; None if it is undefined, or was not asked for."""
        value = self.judged.figures.get(name)
        return None if value is None else float(value)

    @property
    def label(self) -> str:
        """Solver and evaluations, for the picture."""
        return f"{self.judged.how}, {self.evaluations}"


def opened(name: str, runs_dir: Path) -> Run:
    """A run by its id, or by the path of its folder."""
    folder = Path(name)
    return load(folder.name, None, folder.parent) if folder.is_dir() else load(name, None, runs_dir)


def draw(run: Run, solver: str, count: int, given: argparse.Namespace, device: torch.device) -> Drawn:
    """A set of samples in so many evaluations, drawn and judged as far as it is not."""
    job = job_of(
        run,
        SampleConfig(n_samples=given.n_samples, solver=solver, nfe=count, batch_size=given.batch_size),
        device,
    )
    folder, calls, remarks = write_set(run, job, progress=True)
    for remark in (*job.remarks, *remarks):
        print(f"note      {remark}")
    figures = SampleFolder(folder).figures
    if calls or not has_figures(figures, given):
        judge(run, folder, given)
    return Drawn(run, job, folder, Judged(solver, count, read_json(figures)))


def has_figures(path: Path, given: argparse.Namespace) -> bool:
    """Whether a file has all figures that are asked for, of as many samples."""
    if not path.is_file():
        return False
    figures: Mapping[str, Any] = read_json(path)
    return figures.get("samples") == given.n_samples and {*given.metrics} <= figures.keys()


def judge(run: Run, folder: Path, given: argparse.Namespace) -> None:
    """What evaluate.py says of a set of samples of a run."""
    words = ["--run_id", run.folder.name, "--output_dir", str(run.folder.path.parent)]
    words += ["--version", run.version, "--samples", folder.name, "--metrics", ",".join(given.metrics)]
    words += ["--data_dir", str(given.data_dir)] if given.data_dir else []
    evaluate.main(words)


def seconds(sets: Sequence[Drawn], repeats: int) -> dict[Path, float]:
    """Seconds per 1,000 samples of every set, by folder: the median of draws of a block, after one that does not count.

    The sets take turns, so that what else the machine does meets all of them alike.
    """
    times: list[list[float]] = [[] for _ in sets]
    for repeat in range(repeats + 1 if repeats else 0):
        for one, found in zip(sets, times, strict=True):
            indices = one.job.blocks[0]
            start = time.perf_counter()
            one.job.draw(indices, lambda *_: None)  # arrays on the CPU: the device has been waited for
            if repeat:
                found.append((time.perf_counter() - start) / len(indices) * 1000)
    return {one.folder: statistics.median(found) for one, found in zip(sets, times, strict=True) if found}


def ratio(value: float | None, base: float | None) -> str:
    """A figure over that of the reference."""
    return "-" if value is None or not base else f"{value / base:.2f}"


def compared(told: str, value: float | None, name: str, base: Drawn | None) -> list[str]:
    """The cells of a figure: itself, and its ratio to the reference if that says something."""
    return [told, ratio(value, base.figure(name) if base else None)] if name in COMPARED else [told]


def row(one: Drawn, base: Drawn | None, names: Sequence[str], took: Mapping[Path, float]) -> list[str]:
    """The cells of a set; its time is among those that were taken, by folder."""
    cells = [one.run.folder.name, one.judged.how, str(one.evaluations)]
    for name in names:
        cells += compared(one.judged.told(name), one.figure(name), name, base)
    own, other = took.get(one.folder), took.get(base.folder) if base else None
    return [*cells, "-" if own is None else f"{own:.3g}", ratio(own, other)]


def mean_row(several: Sequence[Drawn], base: Drawn | None, names: Sequence[str]) -> list[str]:
    """The mean of sets of several runs, with the smallest and the largest."""
    cells = [f"mean of {len(several)}", several[0].judged.how, str(several[0].evaluations)]
    for name in names:
        values = [value for one in several if (value := one.figure(name)) is not None]
        mean = statistics.fmean(values) if len(values) == len(several) else None
        told = "-" if mean is None else f"{mean:.4g} ({min(values):.4g} to {max(values):.4g})"
        cells += compared(told, mean, name, base)
    return [*cells, "-", "-"]


def report(
    untuned: Sequence[Drawn], tuned: Sequence[Sequence[Drawn]], took: Mapping[Path, float], given: argparse.Namespace
) -> list[str]:
    """The table in Markdown.

    Args:
        untuned: sets of the untuned run, by evaluations.
        tuned: sets of every tuned run, by evaluations.
        took: seconds per 1,000 samples, by folder.
        given: the command line.
    """
    names, of = [*given.metrics], f"of {given.reference}"
    base = next((one for one in untuned if one.evaluations == given.reference), None)
    heads = ["run", "solver", "evaluations"]
    for name in names:
        heads += [name, of] if name in COMPARED else [name]
    rows = [[*heads, "seconds per 1,000", of], *(row(one, base, names, took) for one in untuned)]
    for sets in zip(*tuned, strict=True):
        rows += [row(one, base, names, took) for one in sets]
        if len(sets) > 1:
            rows.append(mean_row(sets, base, names))
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    lines.insert(1, "| " + " | ".join("---" for _ in rows[0]) + " |")
    return [*lines, "", told(given)]


def told(given: argparse.Namespace) -> str:
    """What the figures rest on, in a line."""
    return (
        f"{given.n_samples:,} samples of seeds from 0 on; intervals of 95 %, of means the smallest and the largest; "
        f"time: median of {given.repeats} draws of {min(given.batch_size, given.n_samples)} samples, torch "
        f"{torch.__version__} with {torch.get_num_threads()} threads; ratios to the default at {given.reference} "
        "evaluations"
    )


def examples(sets: Sequence[Drawn], count: int) -> bytes:
    """The first samples of every set as a picture, a file of PNG: a row each, the same seeds below each other."""
    spec = sets[0].run.data
    shown = [pictured(*first(one.folder, count), spec) for one in sets]
    heads = shown[0].classes or ()
    sides = [one.label for one in sets]
    if not spec.is_image:
        return functions(shown, sides)
    tiles = torch.cat([magnified(one.x, None) for one in shown])
    wide = any(width_of(name) > tiles.shape[-1] for name in heads)
    margin = max(map(width_of, sides)) + 2 * TEXT_GAP
    return png_of_picture(block(tiles, len(shown[0].x), () if wide else heads, sides, margin=margin))


def first(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The first samples of a folder and their labels."""
    samples, labels = read_samples(folder, count)
    return samples, labels


def functions(shown: Sequence[Labelled], sides: Sequence[str]) -> bytes:
    """The same of functions and sounds: a small plot each, one scale for all."""
    columns = len(shown[0].x)
    figure = new_figure(figsize=(1.1 * columns + 1, 0.8 * len(shown) + 0.3))
    plots = figure.subplots(len(shown), columns, squeeze=False, sharey=True)
    for line, one, side in zip(plots, shown, sides, strict=True):
        for plot, x in zip(line, one.x.float(), strict=True):
            plot.plot(*outline(x), linewidth=0.8)
            plot.set(xticks=[], yticks=[])
        line[0].set_ylabel(side, fontsize=TINY, rotation=0, ha="right")
    return png_of_figure(figure)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--untuned", help="the run that was tuned, drawn from by its default solver")
    found.add_argument("--tuned", nargs="+", default=[], help="runs of --objective consistency, e.g. of several seeds")
    found.add_argument("--runs_dir", type=Path, default=Path("runs"), help="folder that holds them (default runs)")
    found.add_argument("--n_samples", type=int, default=2000, help="number of samples, seeds from 0 on (default 2000)")
    found.add_argument("--tuned_counts", type=int, nargs="+", default=TUNED, help="evaluations of tuned runs")
    found.add_argument("--untuned_counts", type=int, nargs="+", default=UNTUNED, help="evaluations of the untuned run")
    found.add_argument("--reference", type=int, default=REFERENCE, help="evaluations of the default that count as 1")
    found.add_argument("--metrics", nargs="+", default=METRICS, help=f"figures (default {' '.join(METRICS)})")
    found.add_argument("--batch_size", type=int, default=SampleConfig.batch_size, help="samples computed together")
    found.add_argument("--repeats", type=int, default=5, help="timed draws of a block; 0 times nothing (default 5)")
    found.add_argument("--shown", type=int, default=SHOWN, help="samples of a row of the picture (default 20)")
    found.add_argument("--data_dir", type=Path, help="where the data lies now")
    found.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    found.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    found.add_argument("--out", type=Path, required=True, help="folder for the table and the picture")
    return found


def check(given: argparse.Namespace) -> None:
    """Refuse what cannot be meant."""
    if not given.untuned and not given.tuned:
        raise Refusal("or --tuned is required: which runs to draw from", "untuned")
    for name in ("n_samples", "batch_size", "shown", "reference", "threads"):
        if (number := getattr(given, name)) is not None and number < 1:
            raise Refusal(f"must be at least 1, got {number}", name)
    if given.repeats < 0:
        raise Refusal(f"must be at least 0, got {given.repeats}", "repeats")
    for name in ("tuned_counts", "untuned_counts"):
        setattr(given, name, sorted(set(getattr(given, name))))


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, judge, time, and write table and picture; returns the exit code."""
    given = parser().parse_args(argv)
    with reporting(f"{NAME}.py", lambda: {name: name for name in vars(given)}):
        check(given)
        if given.threads:
            torch.set_num_threads(given.threads)
        device = check_device(given.device)
        start = opened(given.untuned, given.runs_dir) if given.untuned else None
        runs = [opened(name, given.runs_dir) for name in given.tuned]
        for run in runs:
            if not run.is_consistent:
                raise Refusal(f"{run.folder.name} is not tuned by --objective consistency", "tuned")
        untuned: list[Drawn] = []
        if start is not None:
            default = default_solver(start.dynamics)
            untuned = [draw(start, default, count, given, device) for count in given.untuned_counts]
        tuned = []
        for run in runs:
            renoise = default_solver(run.dynamics, consistent=True)
            tuned.append([draw(run, renoise, count, given, device) for count in given.tuned_counts])
        timed = [*(tuned[0] if tuned else []), *untuned]
        took = seconds(timed, given.repeats)
        lines = report(untuned, tuned, took, given)
        print("\n".join(["", *lines]))
        given.out.mkdir(parents=True, exist_ok=True)
        atomic_write(given.out / f"{NAME}.md", ("\n".join(lines) + "\n").encode())
        atomic_write(given.out / f"{NAME}.png", examples(timed, given.shown))
        print(f"\n{given.out / f'{NAME}.md'}\n{given.out / f'{NAME}.png'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
