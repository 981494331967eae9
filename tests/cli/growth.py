"""Peak of memory while generate.py writes samples that cost nothing to draw: prints MB for every number of them.

``python growth.py RUNS NUMBER ..`` with a run ``large`` in RUNS: one after the other in this process, since what all
need counts once.
"""

import contextlib
import gc
import io
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

import generate
from common.generation.blocks import Job
from tests.metrics.growth import peak


def drawn(self, indices, on_step):
    """As :meth:`Job.draw`, without a network."""
    on_step(0.0, torch.zeros(len(indices), *self.shape))
    labels = self.labels(indices)
    array = np.full((len(indices), *self.spec.grid, self.spec.channels), 0.5, np.float32)
    return array, None if labels is None else labels.numpy(), 1


def main(runs: Path, counts: list[int]) -> None:
    Job.draw = drawn  # type: ignore[method-assign]
    for count in counts:
        words = ["--run_id", "large", "--output_dir", str(runs), "--n_samples", str(count), "--steps", "1"]
        with contextlib.redirect_stdout(io.StringIO()):
            assert generate.main([*words, "--batch_size", "50"]) == 0
        for folder in runs.glob("*/generated_data"):
            shutil.rmtree(folder)
        gc.collect()
        print(f"{peak():.2f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), list(map(int, sys.argv[2:])))
