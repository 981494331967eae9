"""What --dry_run says of every preset, and what its training then takes: memory and time, in fresh processes.

usage: python benchmarks/presets.py --data_dir DIR [--celeba PATH] [--sounds PATH] [--train STEPS] [PRESET ..]

DIR has torchvision's MNIST and Fashion-MNIST, cifar10.npz and, for 1-D functions, functions.npz. Every preset is tried
(`train.py --dry_run`); with --train it is also trained for some steps, and estimate and measurement are compared: the
peak resident set of the process, and the time of a step between two log lines. The bar is a ratio within 25 %.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import args

ROOT = Path(args.__file__).parent
BAR = 0.25
UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "days": 86400.0, "years": 31557600.0, "MB": 1e6, "GB": 1e9}


def amount(text: str) -> float:
    """The number that a text such as ``1.2 GB`` stands for."""
    value, unit = text.split()
    return float(value.replace(",", "")) * UNITS[unit]


def run(words: list[str]) -> tuple[str, float, float]:
    """Output, peak resident bytes and seconds of a process."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 2):
        raise RuntimeError(output)
    return output, usage.ru_maxrss * 1024.0, time.perf_counter() - started


def dry(words: list[str]) -> tuple[int, float, float, float, float]:
    """Parameters, bytes, seconds a step, seconds to the end that --dry_run says, and the time it took."""
    output, _, took = run([*words, "--dry_run"])
    parameters = re.search(r"([\d,]+) parameters", output)
    memory = re.search(r"memory    about ([\d.,]+ \w+) ", output)
    times = re.search(r"time      about ([\d.,]+ \w+) a step, ([\d.,]+ \w+) to the end", output)
    if not (parameters and memory and times):
        raise RuntimeError(output)
    return int(parameters[1].replace(",", "")), amount(memory[1]), amount(times[1]), amount(times[2]), took


def trained(words: list[str], steps: int) -> tuple[float, float]:
    """Peak bytes and seconds a step of a training of so many steps; the first half does not count for time."""
    with tempfile.TemporaryDirectory() as folder:
        flags = (
            f"--train_steps {steps} --log_every {steps // 2} --val_check_interval {steps} --checkpoint_every {steps} "
            f"--output_dir {folder} --wb_id x --warmup_steps 0 --decay_steps 0"
        )
        output, memory, _ = run([*words, *flags.split()])
        (file,) = Path(folder).glob("*/metrics.csv")
        with file.open() as lines:
            rates = [float(line["train/images_per_s"]) for line in csv.DictReader(lines) if line["train/images_per_s"]]
        samples = re.search(r"steps of ([\d,]+) samples", output)
        assert samples is not None
    return memory, int(samples[1].replace(",", "")) / rates[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--celeba", help="zip or folder (default: DIR)")
    parser.add_argument("--sounds", help="npz or folder (default: DIR)")
    parser.add_argument("--train", type=int, metavar="STEPS", help="also train so many steps, an even number")
    options = parser.parse_args()
    places = {"celeba": options.celeba, "spokendigits": options.sounds, "arrays": f"{options.data_dir}/functions.npz"}
    header = f"{'preset':22} {'parameters':>11} {'memory GB':>10} {'s a step':>9} {'to the end s':>13} {'dry run s':>9}"
    print(header + (f" {'measured GB':>12} {'ratio':>6} {'s a step':>9} {'ratio':>6}" if options.train else ""))
    worst = 0.0
    for name in options.presets or args.PRESETS:
        place = places.get(str(args.PRESETS[name]["data_name"])) or options.data_dir
        words = ["--preset", name, "--data_dir", place]
        parameters, memory, step, end, took = dry(words)
        line = f"{name:22} {parameters:11,} {memory / 1e9:10.2f} {step:9.3f} {end:13.0f} {took:9.1f}"
        if options.train:
            real_memory, real_step = trained(words, options.train)
            ratios = memory / real_memory, step / real_step
            worst = max(worst, *(abs(ratio - 1) for ratio in ratios))
            line += f" {real_memory / 1e9:12.2f} {ratios[0]:6.2f} {real_step:9.3f} {ratios[1]:6.2f}"
        print(line, flush=True)
    if options.train:
        print(f"farthest from 1: {worst:.2f}, bar {BAR}: {'met' if worst <= BAR else 'missed'}")
    return 0 if worst <= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
