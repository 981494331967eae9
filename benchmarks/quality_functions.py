"""How well a small network learns functions of one variable: damped sines in a range of their own.

Data: 3,000 series of 200 points, 20 + 5 a exp(-d u) sin(2 pi f u + phase) for u in [0, 1], a in [0.8, 1], d in
[2.5, 3.5], f in [3, 5] (class 0) or [9, 13] (class 1). The programs train and sample by their command lines, with what
they take for such an array by default. Figures are those of the samples beside those of as many fresh real series:

- energy (mean square about 20) of the last quarter over that of the first; right within a factor of 1.5;
- energy of every octave of the spectrum under a Hann window; right within 20 % where it is at least 1 % of all;
- smallest and largest value; right within 10 % of the real range;
- how many samples have the class that was asked for, by logistic regression on the spectrum; right from 90 % on.

usage (from the project's root): python -m benchmarks.quality_functions [--preset NAME] [--steps N] [--seed N]
    [--n_samples N] [--more FLAGS] [--folder DIR]
"""

import argparse
import contextlib
import io
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

import generate
import train

Array = NDArray[np.float64]
COUNT, LENGTH, CENTRE, AMPLITUDE = 3000, 200, 20.0, 5.0
FREQUENCIES = ((3.0, 5.0), (9.0, 13.0))
FRESH = 1  # seed of the real series that samples are compared with
COUNTED = 0.01  # share of the energy from which an octave counts


def damped_sines(count: int, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """Series (count, LENGTH) and their labels (count,), which alternate."""
    rng = np.random.default_rng(seed)
    u, labels = np.linspace(0, 1, LENGTH), np.arange(count) % 2
    low, high = np.array(FREQUENCIES)[labels].T
    frequency, phase = rng.uniform(low, high), rng.uniform(0, 2 * np.pi, count)
    envelope = rng.uniform(0.8, 1, (count, 1)) * np.exp(-rng.uniform(2.5, 3.5, (count, 1)) * u)
    waves = np.sin(2 * np.pi * frequency[:, None] * u + phase[:, None])
    return CENTRE + AMPLITUDE * envelope * waves, labels


def decay(x: Array) -> float:
    """Energy of the last quarter over that of the first."""
    quarter = LENGTH // 4
    energy = ((x - CENTRE) ** 2).mean(0)
    return float(energy[-quarter:].mean() / energy[:quarter].mean())


def spectrum(x: Array) -> Array:
    """Energy (N, LENGTH / 2 + 1) at every number of cycles, under a Hann window."""
    return np.abs(np.fft.rfft((x - CENTRE) * np.hanning(LENGTH))) ** 2


def octaves(x: Array) -> dict[str, float]:
    """Mean energy of cycles [1, 2), [2, 4), .., relative to nothing."""
    mean = spectrum(x).mean(0)
    edges = [2**i for i in range(LENGTH.bit_length()) if 2**i <= LENGTH // 2]
    return {f"{low}-{2 * low}": float(mean[low : 2 * low].sum()) for low in edges}


def shares(x: Array) -> Array:
    """Root of the share of the energy at every number of cycles (N, LENGTH / 2 + 1)."""
    energy = spectrum(x)
    return np.sqrt(energy / energy.sum(1, keepdims=True))


def agreement(x: Array, labels: NDArray[np.int64]) -> float:
    """Share of series that have the class that was asked for."""
    real, of_real = damped_sines(COUNT, 0)
    classifier = LogisticRegression(max_iter=1000).fit(shares(real), of_real)
    return float((classifier.predict(shares(x)) == labels).mean())


@dataclass(frozen=True)
class Row:
    """A figure of samples beside that of real series.

    Attributes:
        name: what it is.
        measured: that of samples.
        real: that of fresh real series.
        right: whether it is as it should be; None if it is not judged.
    """

    name: str
    measured: float
    real: float
    right: bool | None

    def __str__(self) -> str:
        verdict = {True: "right", False: "WRONG", None: "not judged"}[self.right]
        return f"{self.name:28s} {self.measured:12.4g} {self.real:12.4g} {self.measured / self.real:9.3f}   {verdict}"


def compare(x: Array, labels: NDArray[np.int64]) -> list[Row]:
    """Figures of samples (N, LENGTH) with the labels (N,) that were asked for."""
    real, of_real = damped_sines(len(x), FRESH)
    rows = []
    measured, wanted = decay(x), decay(real)
    rows.append(Row("last quarter / first", measured, wanted, 1 / 1.5 <= measured / wanted <= 1.5))
    energies, total = octaves(real), spectrum(real).mean(0)[1:].sum()
    for name, energy in octaves(x).items():
        counts = energies[name] >= COUNTED * total
        right = abs(energy / energies[name] - 1) <= 0.2 if counts else None
        rows.append(Row(f"octave of {name} cycles", energy, energies[name], right))
    span = real.max() - real.min()
    for name, got, want in (("smallest value", x.min(), real.min()), ("largest value", x.max(), real.max())):
        rows.append(Row(name, float(got), float(want), bool(abs(got - want) <= 0.1 * span)))
    share = agreement(x, labels)
    rows.append(Row("class as asked for", share, agreement(real, of_real), share >= 0.9))
    return rows


def run(program: str, command: str, log: io.StringIO) -> str:
    """Run a program in this process; returns the time it took, in words."""
    begin, used = time.perf_counter(), time.process_time()
    main = {"train.py": train.main, "generate.py": generate.main}[program]
    with contextlib.redirect_stdout(log):
        code = main(shlex.split(command))
    if code:
        sys.exit(f"{program} {command}: exit code {code}\n{log.getvalue()}")
    return f"{time.perf_counter() - begin:.0f} s ({time.process_time() - used:.0f} s of processors)"


def main() -> None:
    """Train, sample, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="preset (default: what follows the data)")
    parser.add_argument("--steps", type=int, help="training steps (default: those of the preset)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and training (default 0)")
    parser.add_argument("--n_samples", type=int, default=1000, help="number of samples (default 1000)")
    parser.add_argument("--more", default="", help="further flags of train.py")
    parser.add_argument("--folder", type=Path, help="where data and run are kept (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        x, y = damped_sines(COUNT, options.seed)
        np.savez(folder / "sines.npz", x=x, y=y)
        given = {"preset": options.preset, "train_steps": options.steps}
        flags = [f"--{name} {value}" for name, value in given.items() if value is not None]
        where = f"--output_dir {shlex.quote(str(folder))}"
        command = f"--data_name arrays --data_dir {shlex.quote(str(folder / 'sines.npz'))} --wb_id sines {where}"
        log = io.StringIO()
        trained = run("train.py", " ".join([command, f"--seed {options.seed}", *flags, options.more]), log)
        print(log.getvalue())
        drawn = run("generate.py", f"--run_id sines {where} --n_samples {options.n_samples}", log)
        (found,) = folder.glob("sines_*/generated_data/*/*/data")
        samples = np.concatenate([np.load(file) for file in sorted(found.glob("*.npy"))])[..., 0].astype(np.float64)
        labels = np.concatenate([np.load(file) for file in sorted((found.parent / "label").glob("*.npy"))])
    rows = compare(samples, labels)
    print(f"trained in {trained}, drew {len(samples)} samples by {found.parent.name} in {drawn}")
    print(f"{'':28s} {'samples':>12s} {'real':>12s} {'ratio':>9s}")
    print("\n".join(map(str, rows)))
    wrong = [row.name for row in rows if row.right is False]
    print("verdict: " + (f"wrong in {', '.join(wrong)}" if wrong else "all right"))


if __name__ == "__main__":
    main()
