"""Whether two commits compute the same: ``python scripts/compare_commits.py BASE_CHECKOUT NEW_CHECKOUT``.

For a refactoring. Both checkouts (``git worktree add DIR COMMIT``) run the same command lines of train.py and
generate.py, tiny ones: every dynamics with every network on the built-in digits, functions, and a run resumed from a
checkpoint, also one that the base wrote. Then weights and samples are compared: bit for bit where the dynamics works on
pixels, to 1e-6 of the largest value under heat dynamics, whose Fourier transforms may sum in another order. Exit code
1 where they differ by more. Everything is on one thread of the CPU; about five minutes for each checkout.

What the comparison does not cover: pictures, log lines, config.json (its format may change), and any flag not below.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

FOURIER_TOLERANCE = 1e-6  # of the largest value
REFUSED = 2  # exit code for a command line that the program refuses
TIMEOUT = 600.0  # seconds for the command lines of one case

TRAIN = (
    "--train_steps 8 --batch_size 8 --lr 0.01 --val_samples 8 --val_check_interval 1000 --log_every 2 "
    "--log_model_every_n 5 --checkpoint_every 3 --use_ema True --ema_every 2 --seed 5 --device cpu"
)
NETWORKS = {
    "unet": "--model_name unet --model_channels 8 --channel_mult 2,2 --num_res_blocks 1 --attn_resolutions 2 "
    "--dropout 0.1",
    "uvit": "--model_name uvit --patch_size 4 --embed_dim 16 --depth 3 --num_heads 2",
    "inr": "--model_name inr --width 16 --depth 2 --inner_steps 1",
}
DYNAMICS = ("fvp", "fve", "vp", "ve", "subvp", "cld", "heat")
GENERATE = "--version final --seeds 3,1,4,15 --batch_size 3 --t_end 0.001 --device cpu"
# many steps where few leave the range of the data: there images are clipped, and clipped samples are alike
SAMPLERS = {
    "em": "--solver em --steps 60 --grid uniform --clip_x0 False --denoise_last False",
    "euler": "--solver euler --steps 60 --grid uniform --clip_x0 False --denoise_last False",
    "exp1": "--solver exp1 --steps 6 --grid log_time --clip_x0 True --denoise_last False",
    "exp2": "--solver exp2 --steps 6 --grid log_time --clip_x0 False --denoise_last False",
    "pc": "--solver pc --mode sde --predictor euler --corrector langevin --snr 0.16 --factor 1 --steps 40 "
    "--grid uniform --clip_x0 False --denoise_last True",
}
FURTHER_SAMPLERS = {
    "pc reverse": "--solver pc --mode sde --predictor reverse_diffusion --corrector langevin --snr 0.1 --steps 40 "
    "--grid uniform --clip_x0 True --denoise_last False",
    "pc ode": "--solver pc --mode ode --predictor semianalytic --corrector none --factor 0.5 --steps 40 "
    "--grid uniform --clip_x0 False --denoise_last False",
    "plain weights": "--use_ema False --labels 3,7 --solver exp2 --steps 6 --grid log_sigma --clip_x0 True "
    "--denoise_last True",
}

# Runs command lines in one process (importing torch and Lightning takes seconds) as if each was a program of its own,
# and notes the exit codes and the arrays that are new after each.
DRIVER = """
import json, runpy, sys, traceback
from pathlib import Path

orders, report, output = map(Path, sys.argv[1:4])
import common
assert Path(common.__file__).parents[1].resolve() == Path.cwd().resolve(), common.__file__
outcomes, known = [], set()
for program, *words in json.loads(orders.read_text()):
    sys.argv = [program, *words]
    print("$", *sys.argv, flush=True)
    try:
        runpy.run_path(str(Path.cwd() / program), run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = -1
    arrays = {str(path) for path in output.glob("*/generated_data/*/*/data/*.npy")} - known
    known |= arrays
    outcomes.append([code, sorted(arrays)])
report.write_text(json.dumps(outcomes))
"""

Order = tuple[str, list[str]]  # what it is called, and the command line


@dataclass(frozen=True)
class Case:
    """A run that both checkouts train and sample from.

    Attributes:
        name: name in the table.
        flags: further flags of train.py; later ones win.
        samplers: what it is called, and flags of generate.py.
        resume: the run is also resumed from one of its checkpoints.
    """

    name: str
    flags: str
    samplers: dict[str, str] = field(default_factory=lambda: SAMPLERS)
    resume: bool = False

    @property
    def is_fourier(self) -> bool:
        """Whether the noise is drawn in Fourier space."""
        return "--dynamics heat" in self.flags


@dataclass(frozen=True)
class Outcome:
    """What a command line left.

    Attributes:
        code: its exit code.
        files: weights or arrays, by a name that does not depend on the checkout.
    """

    code: int
    files: dict[str, Path]


def cases(functions: Path) -> list[Case]:
    """All cases.

    Args:
        functions: an array of 1-D functions to learn from.
    """
    every = {**SAMPLERS, **FURTHER_SAMPLERS}
    extras = {  # to a pair: further samplers, a resumed run
        ("fvp", "unet"): (every, True, "--flip True --label_dropout 0.2 --accumulate_grad_batches 2"),
        ("heat", "inr"): (every, True, "--learned_rates True --inner_lr 0.01"),
        ("heat", "uvit"): (every, False, "--prediction edm --loss_reduction sum"),
        ("vp", "uvit"): (SAMPLERS, False, "--time_sampling log_sigma --prior data"),
        ("fve", "unet"): (SAMPLERS, False, "--use_ema False"),
    }
    found = []
    for dynamics in DYNAMICS:
        for network, flags in NETWORKS.items():
            samplers, resume, more = extras.get((dynamics, network), (SAMPLERS, False, ""))
            words = f"--data_name digits --dynamics {dynamics} {flags} {more}"
            found.append(Case(f"{dynamics} {network}", words, samplers, resume))
    array = f"--data_name arrays --data_dir {shlex.quote(str(functions))}"
    few = {key: SAMPLERS[key] for key in ("em", "exp2", "pc")}
    return [
        *found,
        Case(
            "fvp paper unet",
            f"--data_name digits --dynamics fvp --hurst 0.3 --num_aug 3 --marginals paper --norm False "
            f"{NETWORKS['unet']} --prediction x0 --conditioning False",
            few,
        ),
        Case("functions fvp inr", f"{array} --dynamics fvp --num_aug 0 {NETWORKS['inr']} --y_input False", few),
        Case("functions heat uvit", f"{array} --dynamics heat {NETWORKS['uvit']} --position learned --prior zero", few),
    ]


def write_functions(path: Path) -> None:
    """Forty smooth functions on 32 points."""
    grid, rng = np.linspace(0, 1, 32), np.random.default_rng(0)
    size, shift = rng.uniform(0.5, 1, (40, 1)), rng.uniform(0, 1, (40, 1))
    np.save(path, (size * np.sin(2 * np.pi * (grid + shift))).astype(np.float32))


# -- running -----------------------------------------------------------------------------------------------------------


class Checkout:
    """A checkout whose programs are run.

    Args:
        title: what it is called in messages.
        folder: where it lies.
        python: the interpreter.
        work: folder for what it writes.
    """

    def __init__(self, title: str, folder: Path, python: str, work: Path) -> None:
        self.title, self.folder, self.python, self.work = title, folder.resolve(), python, work
        if not (self.folder / "train.py").is_file():
            raise SystemExit(f"compare_commits.py: error: {folder} is no checkout: it has no train.py")

    def output(self, name: str) -> Path:
        """Folder for the runs of a case."""
        return self.work / name.replace(" ", "_").replace("'", "") / "runs"

    def run(self, name: str, orders: Sequence[Order]) -> dict[str, Outcome]:
        """Run the command lines of a case in a process of their own.

        Args:
            name: the case.
            orders: its command lines; all but generate.py's are about weights.
        """
        output = self.output(name)
        output.mkdir(parents=True, exist_ok=True)
        words, report, log = (output.parent / file for file in ("orders.json", "report.json", "log.txt"))
        words.write_text(json.dumps([command for _, command in orders]))
        hidden = ("DATA_ROOT", "DIFFUSION_RUN_ID", "WANDB_API_KEY")
        environment = {
            **{key: value for key, value in os.environ.items() if key not in hidden},
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }
        command = [self.python, "-c", DRIVER, *map(str, (words, report, output))]
        with log.open("w") as file:
            try:
                subprocess.run(
                    command, cwd=self.folder, env=environment, stdout=file, stderr=file, timeout=TIMEOUT, check=False
                )
            except subprocess.TimeoutExpired:
                print(f"timed out after {TIMEOUT:g} s", file=file)
        if not report.exists():
            say(f"  {self.title}: {name} broke off:\n{tail(log)}")
            return {}
        outcomes: dict[str, Outcome] = {}
        for (what, line), (code, arrays) in zip(orders, json.loads(report.read_text()), strict=True):
            if line[0] == "generate.py":
                files = {Path(path).name: Path(path) for path in arrays}
            else:
                files = {path.name: path for path in sorted(output.glob("*/model/*.pth"))}
            outcomes[what] = Outcome(code, files)
        if any(outcome.code not in (0, REFUSED) for outcome in outcomes.values()):
            say(f"  {self.title}: {name}: exit codes {[o.code for o in outcomes.values()]}:\n{tail(log)}")
        return outcomes

    def train(self, case: Case) -> dict[str, Outcome]:
        """Train and sample."""
        flags = shlex.split(f"{TRAIN} {case.flags}")
        output = ["--output_dir", str(self.output(case.name))]
        orders: list[Order] = [("weights", ["train.py", *flags, *output, "--wb_id", "run"])]
        for what, words in case.samplers.items():
            line = ["generate.py", "--run_id", "run", *shlex.split(f"{GENERATE} {words}"), *output]
            orders.append((what, line))
        return self.run(case.name, orders)

    def resume(self, name: str, source: Path) -> dict[str, Outcome]:
        """Resume a copy of a run from the first of its checkpoints, and sample from it.

        Args:
            name: name of the case.
            source: folder that holds the run.
        """
        output = self.output(name)
        shutil.copytree(source, output, ignore=shutil.ignore_patterns("generated_data", "model", "last.ckpt"))
        checkpoints = sorted(output.glob("*/checkpoints/step-*.ckpt"))
        if not checkpoints:
            say(f"  {self.title}: {name}: there is no checkpoint to resume from")
            return {}
        sampling = shlex.split(f"{GENERATE} {SAMPLERS['exp2']}")
        return self.run(
            name,
            [
                ("weights", ["train.py", "--resume", str(checkpoints[0])]),
                ("exp2", ["generate.py", "--run_id", "run", *sampling, "--output_dir", str(output)]),
            ],
        )


def tail(path: Path, count: int = 15) -> str:
    """The last lines of a file."""
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-count:])


def say(line: str) -> None:
    """Progress, at once."""
    print(line, file=sys.stderr, flush=True)


# -- comparing ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a file of weights or samples."""
    if path.suffix == ".npy":
        return {"": np.load(path, allow_pickle=False)}
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value.numpy() for name, value in state.items()}


def difference(one: Path, other: Path) -> float:
    """Largest difference of two files, relative to the largest value of its array; 0 is bit for bit.

    Infinite where names, shapes or dtypes differ.
    """
    a, b = read(one), read(other)
    if list(a) != list(b) or any(a[key].shape != b[key].shape or a[key].dtype != b[key].dtype for key in a):
        return math.inf
    largest = 0.0
    for key in a:
        if a[key].tobytes() != b[key].tobytes():
            x, y = a[key].astype(np.float64), b[key].astype(np.float64)
            change = float(np.abs(x - y).max() / max(np.abs(x).max(), np.finfo(np.float64).tiny))
            # equal numbers of other bytes (-0.0, or another NaN) are no difference in bits only
            largest = max(largest, change or np.finfo(np.float64).tiny) if math.isfinite(change) else math.inf
    return largest


def verdict(base: Outcome | None, new: Outcome | None, tolerance: float) -> tuple[str, bool]:
    """What the table says of a command line, and whether that is as it should be.

    Args:
        base: what the base left; None where it broke off.
        new: what the new code left.
        tolerance: largest relative difference; 0 is bit for bit.
    """
    if base is None or new is None:
        return "BROKE OFF", False
    if base.code != new.code:
        return f"EXIT CODES {base.code} and {new.code}", False
    if base.code == REFUSED and not base.files and not new.files:
        return "refused by both", True
    if base.files.keys() != new.files.keys():
        return f"FILES {', '.join(sorted(base.files.keys() ^ new.files.keys()))} of one only", False
    if not base.files:
        return f"NO FILES, exit code {base.code}", False
    largest = max(difference(path, new.files[name]) for name, path in base.files.items())
    if largest == 0:
        return f"bit-equal ({len(base.files)} files)", True
    fits = largest <= tolerance
    return f"{'differ' if fits else 'DIFFER'} by {largest:.1e}", fits


def main(argv: Sequence[str] | None = None) -> int:
    """Run compare_commits.py; returns the exit code."""
    parser = argparse.ArgumentParser(description="Compare weights and samples of two checkouts.")
    parser.add_argument("base", type=Path, metavar="BASE_CHECKOUT", help="checkout of the commit that is right")
    parser.add_argument("new", type=Path, metavar="NEW_CHECKOUT", help="checkout that should compute the same")
    parser.add_argument("--python", default=sys.executable, help="interpreter for both (default: this one)")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this text in their name (default: all)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="new folder to keep runs and logs in (default: none)")
    options = parser.parse_args(argv)
    if options.work is not None and options.work.exists():
        parser.error(f"--work {options.work} exists")
    with tempfile.TemporaryDirectory(prefix="compare_commits_") as temporary:
        work = options.work.resolve() if options.work else Path(temporary)
        return compare(options.base, options.new, options.python, options.only, work)


def compare(base_folder: Path, new_folder: Path, python: str, only: str, work: Path) -> int:
    """Run both checkouts, print the table; returns the exit code.

    Args:
        base_folder: checkout of the commit that is right.
        new_folder: checkout that should compute the same.
        python: interpreter for both.
        only: text in the names of the cases.
        work: folder for runs and logs.
    """
    work.mkdir(parents=True, exist_ok=True)
    functions = work / "functions.npy"
    write_functions(functions)
    chosen = [case for case in cases(functions) if only in case.name]
    if not chosen:
        raise SystemExit(f"compare_commits.py: error: no case has {only!r} in its name")
    checkouts = [
        Checkout("base", base_folder, python, work / "base"),
        Checkout("new", new_folder, python, work / "new"),
    ]
    results: list[dict[str, dict[str, Outcome]]] = []
    fourier: dict[str, bool] = {}
    for checkout in checkouts:
        found: dict[str, dict[str, Outcome]] = {}
        started = time.monotonic()
        for number, case in enumerate(chosen, 1):
            before = time.monotonic()
            found[case.name] = checkout.train(case)
            fourier[case.name] = case.is_fourier
            if case.resume:
                for whose in checkouts:  # the base resumes its own run twice, for the sake of a plain loop
                    if whose.title == "base" or checkout.title == "new":
                        name = f"{case.name}, {whose.title}'s run resumed"
                        found[name] = checkout.resume(name, whose.output(case.name))
                        fourier[name] = case.is_fourier
            say(f"{checkout.title} {number}/{len(chosen)} {case.name} {time.monotonic() - before:.1f} s")
        say(f"{checkout.title} took {time.monotonic() - started:.0f} s")
        results.append(found)
    return table(results[0], results[1], fourier)


def table(base: dict[str, dict[str, Outcome]], new: dict[str, dict[str, Outcome]], fourier: dict[str, bool]) -> int:
    """Print what was found; returns the exit code.

    Args:
        base: outcomes of the base by case and command line.
        new: those of the new code.
        fourier: whether a case is one in Fourier space.
    """
    width = max(map(len, fourier))
    wrong = total = 0
    for name in fourier:
        # the new code's own run has no other counterpart than the base's own
        known = base.get(name, base.get(name.replace("new's", "base's"), {}))
        for what in list(known | new[name]) or ["all"]:
            text, right = verdict(known.get(what), new[name].get(what), FOURIER_TOLERANCE if fourier[name] else 0.0)
            print(f"{name:<{width}}  {what:<13}  {text}")
            total, wrong = total + 1, wrong + (not right)
    print(f"{wrong} of {total} comparisons failed" if wrong else f"all {total} comparisons hold")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
