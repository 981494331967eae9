"""The benchmark of the meta-learned INR runs, small, and shows that recomputing saves memory."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_prints_own_and_recorded_figures() -> None:
    command = [sys.executable, "benchmarks/bench_inr.py", "--repeats=1", "--batch=4", "--width=64"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # the bar is for the published size
    lines = done.stdout.splitlines()
    rows = {line.split()[0]: [float(value) for value in line.split()[1:7]] for line in lines[2:5]}
    assert list(rows) == ["published", "plain", "checkpointing"]
    assert rows["published"] == pytest.approx([8.012 / 4, 1, 1.917 / 4, 1, 3470, 1], rel=1e-3)  # 4 of 16 samples
    for name in ("plain", "checkpointing"):
        assert all(value > 0 for value in rows[name])
        ratios = [own / recorded for own, recorded in zip(rows[name], rows["published"], strict=True)]
        assert ratios[::2] == pytest.approx(rows[name][1::2], abs=0.006)
    # 3 steps x 8 layers keep five tensors of 4 x 64 x 1024 each, 120 MB; of one step they are 40
    assert rows["checkpointing"][4] < rows["plain"][4] - 50
    assert lines[5].startswith("bar 0.3 of the published times and 5120 MB: ")
