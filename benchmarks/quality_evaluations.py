"""Quality against evaluations of the network: figures of all sets of samples of a run that evaluate.py has judged.

One line per set: solver, grid, evaluations, number of samples and the figures, with intervals where they have one.
--out draws the first figure over the evaluations. Draw and judge the sets first, e.g.

    python generate.py --run_id digits-heat-demo --n_samples 2000 --nfe 7
    python evaluate.py --run_id digits-heat-demo --samples ab2-7-ema --metrics agreement,nearest,sw,kid

usage: python benchmarks/quality_evaluations.py --run_id ID [--figures sw agreement nearest kid] [--runs_dir runs]
    [--version final] [--out FILE.png]
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.config.parser import reporting
from common.files import read_json
from common.media.figures import new_figure, save_figure
from common.refusal import Refusal
from common.runs import find
from common.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "quality_evaluations"
FIGURES = ("sw", "agreement", "nearest", "kid")


class Judged(NamedTuple):
    """A set of samples and its figures.

    Attributes:
        how: solver and grid.
        evaluations: of the network, per sample.
        figures: as evaluate.py wrote them.
    """

    how: str
    evaluations: int
    figures: Mapping[str, Any]

    def told(self, name: str) -> str:
        """A figure with its interval, if it has one."""
        value, low, high = (self.figures.get(name + end) for end in ("", "_low", "_high"))
        if value is None:
            return "-"
        return f"{value:.4g}" if low is None or high is None else f"{value:.4g} ({low:.4g} to {high:.4g})"


def judged(folder: Path) -> list[Judged]:
    """The judged sets of a version of the weights, by solver and evaluations."""
    found = []
    for path in sorted(folder.glob("*/metrics.json")):
        figures = read_json(path)
        about = figures["about"]["samples"]
        settings = about["settings"]
        how = " on ".join(filter(None, (settings["solver"], settings.get("grid"))))
        if about.get("evaluations"):
            found.append(Judged(how, int(about["evaluations"]), figures))
    return sorted(found, key=lambda one: (one.how, one.evaluations, one.figures["samples"]))


def plot(sets: Sequence[Judged], name: str) -> "Figure":
    """A figure over the evaluations, a line for each solver and grid, with intervals; dotted: other real samples."""
    drawing = new_figure(figsize=(7, 4.5))
    panel = drawing.subplots()
    lines: defaultdict[str, list[Judged]] = defaultdict(list)
    for one in sets:
        if one.figures.get(name) is not None:
            lines[one.how].append(one)
    for how, points in lines.items():
        values = [one.figures[name] for one in points]
        low, high = (
            [abs(one.figures.get(name + end, value) - value) for one, value in zip(points, values, strict=True)]
            for end in ("_low", "_high")
        )
        counts = [one.evaluations for one in points]
        panel.errorbar(counts, values, [low, high], fmt="o-", markersize=4, linewidth=1, capsize=3, label=how)
    real = next((one.figures[name + "_real"] for one in sets if one.figures.get(name + "_real") is not None), None)
    if real is not None:
        panel.axhline(real, color="black", linewidth=1, linestyle=":", label="other real samples")
    panel.set(xlabel="evaluations of the network", ylabel=name, xscale="log")
    counts = sorted({one.evaluations for one in sets})
    panel.set_xticks(counts, list(map(str, counts)))
    panel.minorticks_off()
    panel.legend(fontsize=8)
    return drawing


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_id", required=True, help="the run")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="folder that holds it (default runs)")
    parser.add_argument("--version", default="final", help="version of the weights (default final)")
    parser.add_argument("--figures", nargs="+", default=FIGURES, help=f"figures (default {' '.join(FIGURES)})")
    parser.add_argument("--out", type=Path, help="picture of the first figure (default: none)")
    given = parser.parse_args(argv)
    with reporting(f"{NAME}.py", lambda: {name: name for name in vars(given)}):
        sets = judged(find(given.run_id, given.runs_dir).generated(given.version))
        if not sets:
            raise Refusal(f"{given.run_id} has no samples that evaluate.py has judged", "run_id")
        lines = [["evaluations", "solver", "samples", *given.figures]]
        for one in sets:
            figures = [one.told(name) for name in given.figures]
            lines.append([str(one.evaluations), one.how, str(one.figures["samples"]), *figures])
        print("\n".join(table(lines)))
        if given.out:
            save_figure(given.out, plot(sets, given.figures[0]))
            print(given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
