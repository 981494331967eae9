"""Does a metric tell better checkpoints from worse ones, by a thousand samples of each?

usage: python benchmarks/judge.py --run_id ID --versions v0,v1,v2 --features lenet [--output_dir runs] [--data_dir DIR]

Every version of the weights needs samples (generate.py --version V --n_samples 10000). The order of two versions is
that which all their samples give, if the intervals of 95 % of the judging metric (sw, on which the verdict of
evaluate.py rests) do not overlap; other pairs are left out, and named. Then a thousand of each are drawn a hundred
times without replacement; it is counted how often each pair comes in that order, and how often all do, by each
metric. With --same_seeds --in_turn 10 a draw is what two evaluations of a thousand samples are: the same seeds, classes
in turn.
"""

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch

from common.config.stored import read_config
from common.generation.blocks import kept_samples
from common.metrics import METRICS, Compared, Evidence
from common.metrics.config import CACHE
from common.metrics.drawn import Drawn
from common.metrics.extraction import Extractor
from common.metrics.features import Wanted
from common.metrics.real import Points
from common.metrics.reference import real_data
from common.metrics.verdict import figure_in
from common.runs import find

JUDGE, NAMES = "sw", ("sw", "kid", "fid")


def features_of(given: argparse.Namespace) -> dict[str, Points]:
    """Features of the samples of every version, and of real data."""
    run = find(given.run_id, given.output_dir)
    data, _ = real_data(run.name, read_config(run.path), given.data_dir)
    extractor = Extractor(Wanted(data, given.weights_dir, given.output_dir / CACHE), given.features)
    found = {}
    for version in given.versions.split(","):
        folder = next(path for path in run.sample_sets() if path.parent.name == f"model-{version}")
        kept = kept_samples(folder)
        drawn = Drawn.in_files(kept.files, None, data.spec, str(folder), kept.shape[0])
        found[version] = Evidence(drawn, data, extractor, beside=folder).points()
        print(f"{version:<12} {len(drawn):,} samples in {folder}", flush=True)
    print(f"features     {extractor.features().account}")
    return found


def chosen(points: dict[str, Points], count: int, generator: torch.Generator, in_turn: int) -> torch.Tensor:
    """Rows of some of the samples, by lot: whole groups of ``in_turn`` consecutive ones."""
    groups = min(len(found.drawn) for found in points.values()) // in_turn
    first = torch.randperm(groups, generator=generator)[: count // in_turn] * in_turn
    return (first.unsqueeze(1) + torch.arange(in_turn)).flatten()


def main() -> None:
    """Print what all samples say, and how often a thousand of them say the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_id", required=True, help="the run")
    parser.add_argument("--versions", required=True, help="versions of its weights, separated by commas")
    parser.add_argument("--features", default="auto", help="as in evaluate.py")
    parser.add_argument("--weights_dir", type=Path, default=Path("weights"), help="as in evaluate.py")
    parser.add_argument("--output_dir", type=Path, default=Path("runs"), help="folder that holds the runs")
    parser.add_argument("--data_dir", type=Path, help="where the data lies")
    parser.add_argument("--count", type=int, default=1000, help="samples of a draw")
    parser.add_argument("--draws", type=int, default=100, help="how often they are drawn")
    parser.add_argument(
        "--in_turn", type=int, default=1, help="draw groups of so many consecutive samples: of all classes"
    )
    parser.add_argument("--same_seeds", action="store_true", help="of every version the samples of the same seeds")
    given = parser.parse_args()
    metrics = {name: metric for name in NAMES if isinstance(metric := METRICS[name](), Compared)}
    points = features_of(given)
    whole = {
        name: {version: metric.of_points(found) for version, found in points.items()}
        for name, metric in metrics.items()
    }
    print("\nversion     " + "".join(f"{name:<32}" for name in NAMES))
    for version in points:
        print(f"{version:<12}" + "".join(f"{figure_in(whole[name][version], name)!s:<32}" for name in NAMES))
    pairs = []
    for one, other in itertools.combinations(points, 2):
        figures = [figure_in(whole[JUDGE][version], JUDGE) for version in (one, other)]
        assert figures[0] is not None
        assert figures[1] is not None
        if figures[0].high < figures[1].low or figures[1].high < figures[0].low:
            pairs.append((one, other))
        else:
            print(f"left out    {one}, {other}: their intervals overlap")
    right, all_right = {(name, pair): 0 for name in NAMES for pair in pairs}, dict.fromkeys(NAMES, 0)
    for draw in range(given.draws):
        generator = torch.Generator().manual_seed(draw)
        figures_of = {}
        rows = chosen(points, given.count, generator, given.in_turn)
        for version, found in points.items():
            rows = rows if given.same_seeds else chosen(points, given.count, generator, given.in_turn)
            for name, metric in metrics.items():
                figures_of[name, version] = metric.figures(found.drawn[rows], found.real)[name]
        for name in NAMES:
            agreed = [
                (figures_of[name, one] < figures_of[name, other]) == (whole[name][one][name] < whole[name][other][name])
                for one, other in pairs
            ]
            all_right[name] += all(agreed)
            for pair, is_right in zip(pairs, agreed, strict=True):
                right[name, pair] += is_right
    print(
        f"\nof {given.draws} draws of {given.count:,} samples each, right:\npair              "
        + "".join(f"{n:>8}" for n in NAMES)
    )
    for one, other in pairs:
        print(f"{one + ', ' + other:<18}" + "".join(f"{right[name, (one, other)]:>8}" for name in NAMES))
    print(f"{'all ' + str(len(pairs)) + ' pairs':<18}" + "".join(f"{all_right[name]:>8}" for name in NAMES))


if __name__ == "__main__":
    main()
