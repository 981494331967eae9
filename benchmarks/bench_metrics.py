"""Time and memory of the Frechet distance from features that are kept on disk, in fresh processes.

usage: python benchmarks/bench_metrics.py [--sizes 10000,50000] [--dim 2048]

Every size is run twice: the first process computes features (random projections of random 32x32 images) and keeps them,
the second finds them there. Of the second: seconds from the first sample to the figure, its peak resident memory, and
how much of that is more than the process had before.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch
from torch import Tensor

from common.data import DataSet, Split
from common.metrics.extraction import Extractor
from common.metrics.features import FEATURES, Features, Wanted
from common.metrics.points import Moments, frechet_to

PART = 250
STATUS = Path("/proc/self/status")


class Projections(Features):
    """Random features of images."""

    name = "projections"
    dim = 2048

    @classmethod
    def unfit(cls, wanted: Wanted) -> str:
        return ""

    def __init__(self, wanted: Wanted) -> None:
        self._onto = torch.randn(3072, self.dim, generator=torch.Generator().manual_seed(0)) / 3072**0.5

    @property
    def identity(self) -> str:
        return f"projections {self.dim}"

    def __call__(self, samples: Tensor) -> Tensor:
        return samples.flatten(1) @ self._onto


def images(count: int) -> Iterator[Tensor]:
    """Images (250, 3, 32, 32) on [-1, 1], made when they are asked for."""
    for start in range(0, count, PART):
        yield torch.rand(PART, 3, 32, 32, generator=torch.Generator().manual_seed(start)) * 2 - 1


def megabytes(field: str) -> float:
    """A field of the process's status, VmRSS now or VmHWM at most; getrusage would count the parent's peak."""
    return next(float(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field)) / 2**10


def one(count: int, folder: Path) -> str:
    """Seconds, peak and growth of this process."""
    FEATURES[Projections.name] = Projections
    one_image = Split(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    extractor = Extractor(Wanted(DataSet(one_image, one_image), folder, folder), Projections.name)
    eye = torch.eye(Projections.dim, dtype=torch.float64)
    before, started = megabytes("VmRSS"), time.perf_counter()
    points = extractor.points(None, lambda: images(count), count, "features")
    figure = frechet_to(points, Moments(torch.zeros(Projections.dim, dtype=torch.float64), eye), eye)
    took, peak = time.perf_counter() - started, megabytes("VmHWM")
    return f"{count:>8,} {Projections.dim:>6,} {took:>9.1f} {peak:>9.0f} {peak - before:>9.0f} {figure:>12.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,50000", help="numbers of samples")
    parser.add_argument("--dim", type=int, default=2048, help="numbers of a feature")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    Projections.dim = given.dim
    if given.folder:
        print(one(int(given.sizes), given.folder))
        return
    print(" samples    dim   seconds  peak MB   more MB       figure")
    with tempfile.TemporaryDirectory() as folder:
        for size in given.sizes.split(","):
            words = [sys.executable, __file__, "--sizes", size, "--dim", str(given.dim), "--folder", folder]
            for told in (False, True):
                output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                if told:
                    print(output, end="", flush=True)


if __name__ == "__main__":
    main()
