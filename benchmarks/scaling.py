"""Training and generating by several processes: how much faster, and what is lost to the exchange of gradients.

usage: python benchmarks/scaling.py [--processes 1,2] [--out DIR]
       python benchmarks/scaling.py --dry_run                      (2 steps and 4 samples of tiny networks on the CPU)

On a machine with GPUs a process has a GPU, and they talk by NCCL; on a CPU a process has one thread and one core to
itself (where there are enough), and they talk by gloo. The batch of a process is always the same.

- images/s: train.py's Lightning loop on random images, without validation and checkpoints, all processes together.
- without exchange: the same processes in the same loop, which leave gradients where they are (what DDP's ``no_sync``
  does), in windows that alternate with the others; each still waits for the slowest one at the end of a window. So
  "lost to exchange" is 1 - images/s over images/s without exchange: the time of the collectives that the backward pass
  does not hide, and of waiting for one another in every step.
- of ideal: images/s over N times those of one process, which ran in the same repeat on one core of its own (or one
  GPU). What this loses beyond the exchange is lost to shared memory, cache and clock of the machine.
- samples/s: ``generate.py --devices N`` on a run of the first network, from its first wave of blocks to its last block,
  so without the start of the program.

Repeats go through all rows in turn. Figures are medians over repeats and windows; ratios are made within a repeat.
"""

import argparse
import json
import os
import platform
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import distributed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import args
from common.config.plugins import resolve_class
from common.config.resolve import fit_to_data
from common.config.schema import RunConfig
from common.data import DataSet, DataSpec, Split
from common.runs import RunFolder
from common.training.build import build_data, build_module
from common.training.csv_log import CsvLog
from common.training.session import set_tf32
from common.training.trainer import make_trainer

ROOT = Path(args.__file__).resolve().parent
CLASSES, SEED, NEVER = 10, 0, 10**9
DRY = "dry run, no figure"
LONGEST = 120.0  # seconds that the processes of one row may take in a repeat
PLAIN = "ddp"
# what DDP is asked for, by the name of its row
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "static graph": {"static_graph": True},
    "bf16 gradients": {"gradient_compression": "bf16"},
}


@dataclass(frozen=True)
class Trained:
    """A network that is trained.

    Attributes:
        name: what the table calls it.
        preset: where its flags are from.
        shape: shape (C, H, W) of an image.
        flags: what replaces flags of the preset.
    """

    name: str
    preset: str
    shape: tuple[int, int, int]
    flags: dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large a measurement is.

    Attributes:
        networks: what is trained.
        warm_up: steps before anything is timed.
        windows: timed windows of each kind in a repeat.
        seconds: length of a window, at least two steps.
        repeats: how often all rows are gone through.
        block: samples of a block that is generated.
        blocks: blocks for every process.
        evaluations: evaluations of the network per sample.
    """

    networks: tuple[Trained, ...]
    warm_up: int = 3
    windows: int = 3
    seconds: float = 1.0
    repeats: int = 3
    block: int = 64
    blocks: int = 4
    evaluations: int = 10


CUT = {"model_channels": 48, "num_res_blocks": 1, "batch_size": 8}
ON_CPU = Scale(
    (
        Trained("digits", "digits", (1, 8, 8), {}),
        Trained("gfdm-cifar10, cut to 48 channels and 1 block", "gfdm-cifar10", (3, 32, 32), CUT),
    )
)
ON_GPUS = Scale(
    (
        Trained("gfdm-cifar10", "gfdm-cifar10", (3, 32, 32), {}),
        Trained("gfdm-mnist", "gfdm-mnist", (1, 28, 28), {"batch_size": 64}),
    ),
    warm_up=20,
    seconds=2.0,
    block=256,
    blocks=8,
    evaluations=20,
)
TINY = {"model_channels": 8, "num_res_blocks": 1, "attn_resolutions": "1", "channel_mult": "1", "batch_size": 2}
SHORT = Scale(
    (Trained("digits, tiny", "digits", (1, 8, 8), TINY),),
    warm_up=1,
    windows=1,
    seconds=0.0,
    repeats=1,
    block=2,
    blocks=1,
    evaluations=2,
)


# -- training ----------------------------------------------------------------------------------------------------------


def random_data(shape: tuple[int, int, int]) -> DataSet:
    """Random bytes; their number is of no importance."""
    images = torch.randint(256, (4096, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED))
    labels = torch.arange(len(images)) % CLASSES
    return DataSet(Split(images, labels), Split(images[:CLASSES], labels[:CLASSES]), num_classes=CLASSES)


def words_of(**flags: object) -> list[str]:
    """Flags as they are written on a command line."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def config_of(trained: Trained, processes: int, variant: str) -> RunConfig:
    """The run of a row."""
    flags = {"preset": trained.preset, "seed": SEED, "devices": processes, **trained.flags, **VARIANTS[variant]}
    order = args.parse_train(words_of(**flags))
    if order is None or order.config is None:
        raise RuntimeError("these flags describe no run")
    config = order.config
    spec = DataSpec("image", trained.shape, classes=tuple(map(str, range(CLASSES))))
    kinds = (resolve_class(chosen.path, object) for chosen in (config.dynamics, config.network))
    config = fit_to_data(config, spec, *kinds)
    rarely = replace(config.keeping, val_check_interval=NEVER, checkpoint_every=NEVER, log_model_every_n=NEVER)
    return replace(config, keeping=rarely)


class Windows(Callback):
    """Times Lightning's loop from within, with and without exchange of gradients, and ends it.

    Args:
        scale: how long.
        device: what has to finish before the clock is read.

    Attributes:
        seconds: of a step, in windows with exchange and in windows without; the latter are none for one process.
    """

    def __init__(self, scale: Scale, device: torch.device) -> None:
        self.scale, self.device = scale, device
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self._running: Generator[None, None, None] = iter(())  # type: ignore[assignment]

    def _now(self) -> float:
        """Seconds, read when all processes have done all they were given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if distributed.is_initialized():
            distributed.barrier()
        return time.perf_counter()

    def _window(self, steps: int) -> Generator[None, None, float]:
        began = self._now()
        for _ in range(steps):
            yield
        return (self._now() - began) / steps

    def _windows(self, trainer: Any) -> Generator[None, None, None]:
        yield from self._window(self.scale.warm_up)
        guess = torch.tensor((yield from self._window(2)))
        step = float(trainer.strategy.reduce(guess, reduce_op="mean"))  # all of them take as many steps
        steps = max(2, round(self.scale.seconds / step))
        kinds = (True, False) if trainer.world_size > 1 else (True,)
        for _ in range(self.scale.windows):
            for exchanging in kinds:
                if trainer.world_size > 1:
                    trainer.strategy.model.require_backward_grad_sync = exchanging  # as no_sync does
                self.seconds[exchanging].append((yield from self._window(steps)))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._running = self._windows(trainer)
        next(self._running)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = next(self._running, trainer) is trainer


def train(scale: Scale, trained: Trained, processes: int, variant: str, folder: Path) -> dict[bool, list[float]]:
    """Train as one of several processes, which the environment numbers; seconds per step."""
    device = torch.device("cuda" if torch.cuda.is_available() and scale is not SHORT else "cpu")
    set_tf32(device, True)
    config = config_of(trained, processes, variant)
    module, data = build_module(config, None, None), build_data(config, random_data(trained.shape))
    run, windows = RunFolder(folder), Windows(scale, device)
    trainer = make_trainer(run, CsvLog(run.metrics), config, device=device, callbacks=[windows])
    trainer.limit_val_batches = 0  # Lightning would validate when the clock stops it
    trainer.fit(module, datamodule=data)
    return windows.seconds


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def in_child(answer: Any, log: Path, rank: int, count: int, port: int, work: Callable[..., Any], job: Any) -> None:
    """What one process does: as torchrun would start it, on a core of its own; what it prints goes to the log."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if count > 1:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": port}
        os.environ.update({name: str(value) for name, value in (numbers | meeting).items()})
    cores = sorted(os.sched_getaffinity(0))
    if not torch.cuda.is_available() and count <= len(cores):
        os.sched_setaffinity(0, {cores[rank]})
    torch.set_num_threads(1)
    try:
        answer.send(work(*job))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        answer.send(f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:160])
    sys.stdout.flush()
    os._exit(0)  # nothing of the parent's is cleared up


def together(count: int, log: Path, work: Callable[..., Any], *job: object) -> Any:
    """Do some work by so many processes; the answer of the first one, or in words what went wrong."""
    # A forked process has everything imported already. It cannot have a GPU if this one has, so this one never asks.
    context, port = get_context("fork"), free_port()
    started = []
    for rank in range(count):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=in_child, args=(sender, log, rank, count, port, work, job))
        process.start()
        sender.close()
        started.append((process, receiver))
    end, found = time.monotonic() + LONGEST, []
    for process, receiver in started:
        try:
            late = f"failed: not finished within {LONGEST:.0f} s"
            found.append(receiver.recv() if receiver.poll(max(0.0, end - time.monotonic())) else late)
        except EOFError:
            process.join()
            found.append(f"failed: a process ended with exit code {process.exitcode}")
    for process, _ in started:
        process.join(5)
        process.kill()
        process.join()
    return next((answer for answer in found if isinstance(answer, str)), found[0])


# -- generating --------------------------------------------------------------------------------------------------------


def train_shortly(words: list[str]) -> int:
    """Train by train.py itself."""
    import train as program

    return program.main(words)


def a_run(log: Path, scale: Scale, runs: Path) -> None:
    """Train the first network for two steps: how fast it draws does not depend on what it has learned.

    Raises:
        RuntimeError: if that fails.
    """
    trained = scale.networks[0]
    flags = {"preset": trained.preset, **trained.flags, "batch_size": 2, "devices": 1, "train_steps": 2}
    flags |= {"val_check_interval": NEVER, "wb_id": "scaling", "output_dir": runs, "data_name": "digits"}
    if (answer := together(1, log, train_shortly, words_of(**flags))) != 0:
        raise RuntimeError(f"{answer}; see {log}")


def drawn_by(count: int, log: Path, scale: Scale, runs: Path, repeat: int, cpu: bool) -> float:
    """Samples/s of generate.py by so many processes.

    Raises:
        RuntimeError: if it fails.
    """
    blocks = scale.blocks * count
    first_seed = repeat * blocks * scale.block
    flags = {"run_id": "scaling", "output_dir": runs, "devices": count, "batch_size": scale.block}
    flags |= {"seeds": f"{first_seed}-{first_seed + blocks * scale.block - 1}", "steps": scale.evaluations}
    before, began = set(runs.rglob("data_*.npy")), time.time()
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, str(ROOT / "generate.py"), *words_of(**flags)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **({"CUDA_VISIBLE_DEVICES": ""} if cpu else {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    if done.returncode:
        raise RuntimeError(f"generate.py ended with exit code {done.returncode}; see {log}")
    ends = sorted(path.stat().st_mtime for path in set(runs.rglob("data_*.npy")) - before)
    if len(ends) != blocks:
        raise RuntimeError(f"generate.py wrote {len(ends)} blocks, not {blocks}; see {log}")
    if scale.blocks == 1:  # no second wave: with the start of the program
        return blocks * scale.block / (ends[-1] - began)
    return (blocks - count) * scale.block / (ends[-1] - ends[count - 1])


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """Figures of one way to work.

    Attributes:
        network: what is trained or draws.
        processes: by how many.
        variant: what DDP is asked for.
        batch: images of a process in a step.
        rates: images or samples per second in every window.
        alone: the same without exchange.
        lost: share lost to exchange, of every repeat.
        of_ideal: rate over N times that of one process, of every repeat.
        failure: why there is no figure.
    """

    network: str
    processes: int
    variant: str
    batch: int
    rates: list[float]
    alone: list[float]
    lost: list[float]
    of_ideal: list[float]
    failure: str = ""

    @classmethod
    def empty(cls, network: str, processes: int, variant: str, batch: int) -> "Row":
        """Of nothing measured yet."""
        return cls(network, processes, variant, batch, [], [], [], [])


def add(row: Row, found: dict[bool, list[float]] | str, one: float | None) -> float | None:
    """Put a repeat of a training into its row.

    Args:
        row: changed in place.
        found: seconds per step with and without exchange, or what went wrong.
        one: images/s of one process in this repeat, if that is known.

    Returns:
        Images/s in this repeat.
    """
    if isinstance(found, str):
        row.failure = found
        return None
    images = row.batch * row.processes
    rate = images / statistics.median(found[True])
    row.rates += [images / seconds for seconds in found[True]]
    row.alone += [images / seconds for seconds in found[False]]
    if found[False]:
        row.lost.append(1 - rate * statistics.median(found[False]) / images)
    if one is not None:
        row.of_ideal.append(rate / (row.processes * one))
    return rate


def percent(values: Sequence[float]) -> str:
    """Their median; nothing if there are none."""
    return f"{statistics.median(values):.1%}" if values else ""


def rate(values: Sequence[float]) -> str:
    """Their median; nothing if there are none."""
    return f"{statistics.median(values):,.4g}" if values else ""


def spread(values: Sequence[float]) -> str:
    """(Largest - smallest) / median."""
    return percent([(max(values) - min(values)) / statistics.median(values)]) if values else ""


COLUMNS: dict[str, Callable[[Row], str]] = {
    "network": lambda row: row.network,
    "processes": lambda row: str(row.processes),
    "exchange": lambda row: row.variant if row.processes > 1 else "",
    "batch each": lambda row: str(row.batch),
    "images/s": lambda row: rate(row.rates),
    "spread": lambda row: spread(row.rates),
    "without exchange": lambda row: rate(row.alone),
    "lost to exchange": lambda row: percent(row.lost),
    "of ideal": lambda row: percent(row.of_ideal),
}
DRAWN: dict[str, Callable[[Row], str]] = {
    "network": COLUMNS["network"],
    "processes": COLUMNS["processes"],
    "samples/s": COLUMNS["images/s"],
    "spread": COLUMNS["spread"],
    "of ideal": COLUMNS["of ideal"],
}


def table(columns: dict[str, Callable[[Row], str]], rows: Sequence[Row], dry: bool) -> list[str]:
    """Lines of a table; its last column says what there is no figure for."""
    header = [*columns, "remark"]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for row in rows:
        remark = row.failure or (DRY if dry else "")
        lines.append(f"| {' | '.join([*(show(row) for show in columns.values()), remark.replace('|', '/')])} |")
    return lines


def markdown(report: dict[str, Any], training: Sequence[Row], drawing: Sequence[Row]) -> str:
    """Both tables with where they come from."""
    scale = report["scale"]
    lines = [
        "# Scaling" + (f": {DRY}" if report["dry_run"] else ""),
        "",
        f"- {report['date']}, {report['machine']}, torch {report['torch']}, Python {report['python']}",
        f"- `{report['command']}`, seed {SEED}, {report['seconds']:.0f} s; what the columns are stands in the script",
        f"- median of {scale['repeats']} repeats with {scale['windows']} windows of {scale['seconds']:g} s each",
        "",
        *table(COLUMNS, training, report["dry_run"]),
        "",
        f"generate.py, {scale['blocks']} blocks of {scale['block']} samples per process, {scale['evaluations']} steps:",
        "",
        *table(DRAWN, drawing, report["dry_run"]),
    ]
    return "\n".join(lines) + "\n"


def counts(text: str) -> list[int]:
    """Numbers of processes, one first: ideal is a multiple of it.

    Raises:
        argparse.ArgumentTypeError: if they are none.
    """
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers of processes, as 1,2,4")
    return sorted({1, *map(int, words)})


def main() -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=counts, default=[1, 2], help="numbers of processes (default: 1,2)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "benchmark_results"))
    parser.add_argument("--dry_run", action="store_true", help=DRY)
    options = parser.parse_args()
    gpus = 0 if options.dry_run else torch.cuda.device_count()
    scale = SHORT if options.dry_run else ON_GPUS if gpus else ON_CPU
    if gpus and max(options.processes) > gpus:
        parser.error(f"--processes {max(options.processes)}: there are {gpus} GPUs")
    options.out.mkdir(parents=True, exist_ok=True)
    stem = "scaling_dry_run" if options.dry_run else "scaling"
    log = options.out / f"{stem}.log"
    log.unlink(missing_ok=True)

    training = [
        Row.empty(trained.name, count, variant, config_of(trained, count, variant).recipe.batch_size)
        for trained in scale.networks
        for count in options.processes
        for variant in (VARIANTS if count > 1 else (PLAIN,))
    ]
    drawing = [Row.empty(scale.networks[0].name, count, "", scale.block) for count in options.processes]
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "dry_run": options.dry_run,
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(gpus),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "scale": asdict(scale),
    }
    networks = {trained.name: trained for trained in scale.networks}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        runs = Path(folder)
        a_run(log, scale, runs)
        for repeat in range(scale.repeats):
            ones: dict[str, float | None] = {}
            for row in training:
                job = (scale, networks[row.network], row.processes, row.variant)
                found = together(row.processes, log, train, *job, runs / f"training-{len(row.rates)}")
                got = add(row, found, ones.get(row.network))
                if row.processes == 1:
                    ones[row.network] = got
            one = None
            for row in drawing:
                try:
                    got = drawn_by(row.processes, log, scale, runs, repeat, cpu=not gpus)
                except RuntimeError as error:
                    row.failure = str(error)
                    continue
                row.rates.append(got)
                one = got if row.processes == 1 else one
                if row.processes > 1 and one is not None:
                    row.of_ideal.append(got / (row.processes * one))
            report |= {"seconds": time.monotonic() - began, "training": [asdict(row) for row in training]}
            report["drawing"] = [asdict(row) for row in drawing]
            (options.out / f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
            (options.out / f"{stem}.md").write_text(markdown(report, training, drawing))
            print(f"repeat {repeat + 1} of {scale.repeats}: {report['seconds']:.0f} s", file=sys.stderr, flush=True)
    print(markdown(report, training, drawing))
    return 1 if any(row.failure for row in (*training, *drawing)) else 0


def machine(gpus: int) -> str:
    """What computes, asked in another process: one that has looked at a GPU cannot fork any that uses it."""
    if not gpus:
        return f"CPU, {len(os.sched_getaffinity(0))} cores"
    code = "import torch; print(torch.cuda.get_device_name())"
    name = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return f"{gpus} x {name}"


if __name__ == "__main__":
    raise SystemExit(main())
