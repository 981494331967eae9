"""Training speed of preset gfdm-cifar10 on one CUDA device, by precision, memory layout and compilation.

usage: python benchmarks/gpu_training.py [--minutes 8] [--batches 128,512] [--variants NAME,NAME] [--out DIR]
       python benchmarks/gpu_training.py --dry_run      (any machine: a tiny network on the CPU, no figures)

A variant is a precision (fp32 with TF32 off everywhere, tf32, bf16) with what is added to it, e.g.
bf16+compile+channels_last. Each runs in a process of its own, so neither compiled code nor memory leaks into the next,
and one that fails is a line of the table. Two loops are timed: train.py's Lightning loop, without validation and
checkpoints, and the bare step (draws, forward, backward, clipping, Adam, schedule, average) in a plain Python loop.
The data are random bytes. Tables go to DIR (default: $OUT or ./benchmark_results) after every variant, so a run that is
cut short keeps what it has measured.
"""

import argparse
import gc
import json
import math
import multiprocessing
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import args
from common.backbones import UNet
from common.config.plugins import build, resolve_class
from common.config.resolve import fit_to_data
from common.config.schema import Recipe, RunConfig
from common.config.stored import to_json
from common.data import DataSet, DataSpec, Split
from common.data.module import DataModule
from common.runs import RunFolder
from common.training.build import build_data, build_module
from common.training.csv_log import CsvLog
from common.training.ema import NetworkAverage
from common.training.module import DiffusionModule
from common.training.session import set_tf32
from common.training.trainer import make_trainer

PRESET, SEED, CLASSES = "gfdm-cifar10", 0, 10
# tf32+channels_last is what train.py does by default
DEFAULT = "fp32,tf32,tf32+channels_last,bf16,bf16+channels_last,bf16+compile,bf16+compile+channels_last"
PRECISIONS = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed"}
ADDITIONS = {"channels_last", "compile"}
NOT_RUN = "not run: time budget"
DRY = "dry run, no figure"
LONGEST = 180  # seconds that one process may take, so that one that hangs does not use up the budget
NEVER = 10**9  # steps between things that are not measured: checkpoints, validations, kept weights


@dataclass(frozen=True)
class Scale:
    """How large a measurement is.

    Attributes:
        shape: shape (C, H, W) of an image.
        images: images of the random data set.
        network: flags that replace the preset's.
        batches: batch sizes.
        warm_up: steps before anything is timed.
        windows: timed windows; figures are their median.
        seconds: length of a window, at least one step.
        matrix: side of the square matrices whose product gives the device's rates.
        backend: what compiles.
    """

    shape: tuple[int, int, int]
    images: int
    network: dict[str, Any]
    batches: str
    warm_up: int
    windows: int
    seconds: float
    matrix: int
    backend: str


FULL = Scale((3, 32, 32), 50_000, {}, "128,512", warm_up=10, windows=5, seconds=1.0, matrix=8192, backend="inductor")
TINY = Scale(
    (3, 8, 8),
    64,
    {"model_channels": 8, "num_res_blocks": 1, "attn_resolutions": (1,), "channel_mult": (1,)},
    "2",
    warm_up=1,
    windows=2,
    seconds=0.0,
    matrix=128,
    backend="aot_eager",  # traces forward and backward as inductor would have it, but spares minutes of C++ compiling
)


@dataclass(frozen=True)
class Variant:
    """What a name such as bf16+compile says."""

    name: str

    def __post_init__(self) -> None:
        precision, *additions = self.name.split("+")
        if precision not in PRECISIONS or not set(additions) <= ADDITIONS:
            raise argparse.ArgumentTypeError(
                f"{self.name!r} must be one of {', '.join(PRECISIONS)}, then any of +{', +'.join(sorted(ADDITIONS))}"
            )

    @property
    def precision(self) -> str:
        """Precision in Lightning's words."""
        return PRECISIONS[self.name.split("+")[0]]

    def has(self, word: str) -> bool:
        """Whether a word is part of the name."""
        return word in self.name.split("+")


# -- what is measured --------------------------------------------------------------------------------------------------


def random_data(scale: Scale) -> DataSet:
    """As many random images as the real set has."""
    generator = torch.Generator().manual_seed(SEED)

    def split(count: int) -> Split:
        images = torch.randint(256, (count, *scale.shape), dtype=torch.uint8, generator=generator)
        return Split(images, torch.arange(count) % CLASSES)

    return DataSet(train=split(scale.images), held_out=split(1), num_classes=CLASSES)


def config_of(scale: Scale, batch: int, precision: str = "32-true") -> RunConfig:
    """The run of the preset at a batch size."""
    flags = {"preset": PRESET, "batch_size": batch, "seed": SEED, "precision": precision, **scale.network}
    order = args.parse_train([word for name, value in flags.items() for word in (f"--{name}", text_of(value))])
    if order is None or order.config is None:
        raise RuntimeError("these flags describe no run")
    classes = tuple(map(str, range(CLASSES)))
    config = order.config
    spec = DataSpec("image", scale.shape, classes=classes)
    kinds = (resolve_class(chosen.path, object) for chosen in (config.dynamics, config.network))
    config = fit_to_data(config, spec, *kinds)
    return replace(
        config,
        keeping=replace(
            config.keeping, val_check_interval=NEVER, checkpoint_every=NEVER, log_model_every_n=NEVER, keep=1
        ),
    )


def text_of(value: object) -> str:
    """A value as it is written on a command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def now(device: torch.device) -> float:
    """Seconds, read when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# -- timing ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Seconds of the first step, and seconds per step of every window."""

    first: float
    windows: list[float]

    @property
    def median(self) -> float:
        """Median of the windows."""
        return statistics.median(self.windows)


def clock(scale: Scale, device: torch.device) -> Generator[None, None, Timing]:
    """Started before the first step, resumed after each; ends with the timing of whatever loop drives it."""

    def seconds_per_step(steps: int) -> Generator[None, None, float]:
        start = now(device)
        for _ in range(steps):
            yield
        return (now(device) - start) / steps

    first = yield from seconds_per_step(1)
    yield from seconds_per_step(scale.warm_up)
    guess = yield from seconds_per_step(math.ceil(scale.warm_up / 3))
    steps = max(1, round(scale.seconds / guess))
    windows = []
    for _ in range(scale.windows):
        windows.append((yield from seconds_per_step(steps)))
    return Timing(first, windows)


def tick(running: Generator[None, None, Timing]) -> Timing | None:
    """Tell the clock of a step; its timing once it has seen enough."""
    try:
        next(running)
    except StopIteration as end:
        timing: Timing = end.value
        return timing
    return None


def timed(step: Callable[[], object], scale: Scale, device: torch.device) -> Timing:
    """Time a plain loop over a step."""
    running = clock(scale, device)
    timing = tick(running)
    while timing is None:
        step()
        timing = tick(running)
    return timing


class ClockCallback(Callback):
    """Times Lightning's loop from within and ends it."""

    def __init__(self, scale: Scale, device: torch.device) -> None:
        self.clock = clock(scale, device)
        self.timing: Timing | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        tick(self.clock)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.timing = tick(self.clock)
        trainer.should_stop = self.timing is not None


# -- the loops ---------------------------------------------------------------------------------------------------------


def bare_step(
    module: DiffusionModule, recipe: Recipe, mixed: bool, scale: Scale, device: torch.device
) -> Callable[[], None]:
    """A training step as a plain loop would have it, on one batch that lies on the device."""
    network, batch = module.network, recipe.batch_size
    images = torch.rand(batch, *scale.shape, device=device) * 2 - 1
    labels = torch.arange(batch, device=device) % CLASSES
    plan: Any = module.configure_optimizers()
    optimizer, schedule = plan["optimizer"], plan["lr_scheduler"]["scheduler"]
    average = NetworkAverage(network, decay=0.9999, every=recipe.ema_every)
    done = [0]

    def step() -> None:
        done[0] += 1
        t = 1e-5 + (1 - 1e-5) * torch.rand(batch, device=device, dtype=torch.float64)
        noise = torch.randn_like(images)
        # without its cache, as Lightning has it: compiled code is tied to this setting
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed, cache_enabled=False):
            loss = module.denoiser.error(images, t, noise, labels).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_grad)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.update(network, done[0])

    return step


def lightning_loop(
    module: DiffusionModule, data: DataModule, config: RunConfig, scale: Scale, device: torch.device, folder: Path
) -> Timing:
    """Time train.py's own loop, with its progress bar, log lines and guards."""
    callback, run = ClockCallback(scale, device), RunFolder(folder)
    trainer = make_trainer(run, CsvLog(run.metrics), config, device=device, callbacks=[callback])
    trainer.limit_val_batches = 0  # Lightning would validate when the clock stops it
    trainer.fit(module, datamodule=data)
    if callback.timing is None:
        raise RuntimeError("Lightning's loop ended before its clock")
    return callback.timing


def measure(scale: Scale, device_type: str, folder: Path, name: str, batch: int) -> dict[str, Any]:
    """One variant at one batch size: what is read off the clock and the allocator."""
    variant, device = Variant(name), torch.device(device_type)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")  # nothing compiled earlier is found
    set_tf32(device, not variant.has("fp32"))
    config = config_of(scale, batch, variant.precision)
    module, data = build_module(config, None, None), build_data(config, random_data(scale))
    layout = torch.channels_last if variant.has("channels_last") else torch.contiguous_format
    for part in module.modules():  # the network and its averages
        if isinstance(part, UNet):
            part.to(memory_format=layout)
    if variant.has("compile"):
        module.network.compile(backend=scale.backend)
    module.to(device)

    bare = timed(bare_step(module, config.recipe, variant.precision == "bf16-mixed", scale, device), scale, device)
    module.zero_grad()
    gc.collect()  # optimiser and schedule refer to each other, and Adam's state would count towards the next peak
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loop = lightning_loop(module, data, config, scale, device, folder)
    return {
        "bare_first_step_s": bare.first,
        "bare_window_s_per_step": bare.windows,
        "window_s_per_step": loop.windows,
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "graphs": counters["stats"]["unique_graphs"],  # more than one: something was compiled again
        "tf32": [torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32],
    }


def probe(scale: Scale, device_type: str, folder: Path) -> dict[str, Any]:
    """The device, its rates for large dense matrix products, and the operations of the network."""
    device = torch.device(device_type)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device here; --dry_run goes without")
    rates, short = {}, replace(scale, seconds=scale.seconds / 4)
    for name, dtype in (("bf16", torch.bfloat16), ("tf32", torch.float32), ("fp32", torch.float32)):
        set_tf32(device, name == "tf32")
        # random numbers: products of zeros draw less power and run faster than any network would
        a, b = torch.randn(2, scale.matrix, scale.matrix, device=device).to(dtype)
        rates[name] = 2 * scale.matrix**3 / timed(partial(torch.matmul, a, b), short, device).median
    flop, parameters = operations(scale)
    return {
        "device": f"CPU ({DRY})" if device.type == "cpu" else torch.cuda.get_device_name(),
        "driver": driver_version() if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "matrix_flop_per_s": rates,
        "matrix_side": scale.matrix,
        "flop_per_image": flop,
        "parameters": parameters,
    }


def operations(scale: Scale) -> tuple[int, int]:
    """Floating-point operations of the network per image, forward and backward, and its number of parameters."""
    with torch.device("meta"):
        network = build(config_of(scale, 1).network, nn.Module)
        x, t, labels = torch.empty(1, *scale.shape), torch.rand(1), torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        network(x, t, labels).sum().backward()
    return counter.get_total_flops(), sum(parameter.numel() for parameter in network.parameters())


def driver_version() -> str | None:
    """Version of the NVIDIA driver, as nvidia-smi tells it."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip() or None


# -- one process per variant -------------------------------------------------------------------------------------------


def in_child(answer: Connection, log: Path, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    """Send back what the work returns, or the error that ended it; what it prints goes to the log."""
    with log.open("a") as file:
        print(f"== {work.__name__} {arguments[3:]}", file=file, flush=True)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            answer.send({"status": "measured", **work(*arguments)})
        except Exception as error:
            traceback.print_exc()
            first = next(iter(str(error).strip().splitlines()), "")
            answer.send({"status": f"failed: {type(error).__name__}: {first}"[:160]})


def isolated(
    start: str, log: Path, seconds: float, work: Callable[..., dict[str, Any]], scale: Scale, device: str, *job: Any
) -> dict[str, Any]:
    """Do some work in a process of its own, at most for so long."""
    if seconds <= 0:
        return {"status": NOT_RUN}
    late = {"status": f"not finished within {seconds:.0f} s"}
    context: Any = multiprocessing.get_context(start)
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        arguments = (scale, device, Path(folder), *job)
        process = context.Process(target=in_child, args=(sender, log, work, arguments))
        process.start()
        sender.close()
        try:
            result: dict[str, Any] = receiver.recv() if receiver.poll(seconds) else late
        except EOFError:
            process.join()
            result = {"status": f"failed: the process ended with exit code {process.exitcode}"}
        process.join(0 if result is late else 5)
        process.kill()
        process.join()
    return result


# -- tables ------------------------------------------------------------------------------------------------------------


def figures(row: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What follows from a measured row."""
    windows, batch = row["window_s_per_step"], row["batch"]
    step, bare = statistics.median(windows), statistics.median(row["bare_window_s_per_step"])
    rate = found["flop_per_image"] * batch / step
    return {
        "images_per_s": batch / step,
        "spread": (max(windows) - min(windows)) / step,
        "ms_per_step": step * 1e3,
        "bare_ms_per_step": bare * 1e3,
        "lightning_overhead": step / bare - 1,
        "tflop_per_s": rate / 1e12,
        "share_of_bf16": rate / found["matrix_flop_per_s"]["bf16"],
        "hours_per_million_steps": step * 1e6 / 3600,
    }


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "images/s": lambda row: f"{row['images_per_s']:,.0f}",
    "spread": lambda row: f"{row['spread']:.1%}",
    "ms/step": lambda row: f"{row['ms_per_step']:.1f}",
    "bare ms/step": lambda row: f"{row['bare_ms_per_step']:.1f}",
    "Lightning adds": lambda row: f"{row['lightning_overhead']:+.1%}",
    "peak GiB": lambda row: "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f}",
    "TFLOP/s": lambda row: f"{row['tflop_per_s']:.3g}",
    "of bf16 rate": lambda row: f"{row['share_of_bf16']:.1%}",
    "h per 1M steps": lambda row: f"{row['hours_per_million_steps']:.1f}",
    "first step s": lambda row: f"{row['bare_first_step_s']:.1f}",
}


def markdown(report: dict[str, Any]) -> str:
    """The table with where it comes from."""
    found, scale = report["found"], report["scale"]
    rates = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in found["matrix_flop_per_s"].items())
    header = ["variant", "batch", *COLUMNS, "status"]
    lines = [
        f"# Training speed, preset {PRESET}" + (f": {DRY}" if report["dry_run"] else ""),
        "",
        f"- {report['date']}, {found['device']}, driver {found['driver']}, CUDA {report['cuda']}, "
        f"cuDNN {found['cudnn']}, torch {report['torch']}, lightning {report['lightning']}, Python {report['python']}",
        f"- `{report['command']}`, seed {SEED}",
        f"- network: {found['parameters']:,} parameters, {found['flop_per_image'] / 1e9:.4g} GFLOP per image "
        "(forward and backward)",
        f"- dense matrix products of side {found['matrix_side']}, TFLOP/s: {rates}",
        "- images/s, ms/step: train.py's loop without validation and checkpoints, median of "
        f"{scale['windows']} windows of {scale['seconds']:g} s",
        "- spread: (largest - smallest) / median of the windows; bare: the same step in a plain loop",
        f"- first step s: of the bare loop, with compilation (by {scale['backend']}) from an empty cache",
        "",
        f"| {' | '.join(header)} |",
        f"|{' --- |' * len(header)}",
    ]
    for row in report["rows"]:
        cells = [show(row) if "images_per_s" in row else "-" for show in COLUMNS.values()]
        status = row["status"].replace("|", "/")
        lines.append(f"| {' | '.join([row['variant'], str(row['batch']), *cells, status])} |")
    return "\n".join(lines) + "\n"


def write(report: dict[str, Any], out: Path) -> None:
    """Replace both files."""
    stem = "gpu_training_dry_run" if report["dry_run"] else "gpu_training"
    (out / f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / f"{stem}.md").write_text(markdown(report))


def main() -> int:
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="time budget; what is past it is not run")
    parser.add_argument("--batches", help=f"batch sizes (default {FULL.batches})")
    parser.add_argument("--variants", default=DEFAULT, help="variants (default: %(default)s)")
    parser.add_argument("--backend", help=f"what compiles (default {FULL.backend}; {TINY.backend} under --dry_run)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "benchmark_results"))
    parser.add_argument("--dry_run", action="store_true", help=DRY)
    options = parser.parse_args()
    scale, device = (TINY, "cpu") if options.dry_run else (FULL, "cuda")
    scale = replace(scale, backend=options.backend or scale.backend, batches=options.batches or scale.batches)
    try:
        variants = [Variant(name).name for name in options.variants.split(",")]
        batches = [int(size) for size in scale.batches.split(",")]
    except (argparse.ArgumentTypeError, ValueError) as error:
        parser.error(str(error))
    if options.dry_run:
        torch.set_num_threads(1)  # tiny layers on several threads only wait for each other
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "gpu_training.log"
    log.unlink(missing_ok=True)

    def left() -> float:
        return begin + 60 * options.minutes - time.monotonic()

    # A forked process has everything imported already, which saves seconds per variant. It has CUDA only if nothing
    # here has touched it before; where something did, the variants start from scratch instead.
    for start in ("fork", "spawn"):
        found = isolated(start, log, min(left(), LONGEST), probe, scale, device)
        if found["status"] == "measured":
            break
    else:
        print(f"gpu_training.py: error: {found['status']}; see {log}", file=sys.stderr)
        return 2

    rows: list[dict[str, Any]] = [
        {"variant": name, "batch": batch, "status": NOT_RUN} for batch in batches for name in variants
    ]
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "dry_run": options.dry_run,
        "command": shlex.join(["python", *sys.argv]),
        "seed": SEED,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "scale": asdict(scale),
        "config": to_json(config_of(scale, batches[0])),
        "found": found,
        "rows": rows,
    }

    # Compiled ones last: they take longest, and one that the budget cuts off leaves the others in place. Otherwise what
    # is named last, by default the fastest, comes first.
    def turn(row: dict[str, Any]) -> tuple[int, bool, int]:
        name = row["variant"]
        return batches.index(row["batch"]), Variant(name).has("compile"), -variants.index(name)

    for row in sorted(rows, key=turn):
        row |= isolated(start, log, min(left(), LONGEST), measure, scale, device, row["variant"], row["batch"])
        if row["status"] == "measured":
            row |= figures(row, found)
            row["status"] = DRY if options.dry_run else row["status"]
        write(report, options.out)
        print(f"{row['variant']:>28} {row['batch']:>5}  {row['status']}", file=sys.stderr, flush=True)
    print(markdown(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
