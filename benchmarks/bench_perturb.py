"""Share of a training step that the dynamics costs: perturb and the table look-up, for K = 0 and K = 5.

usage: python benchmarks/bench_perturb.py [--batch 32] [--repeats 5]      (CPU, or CUDA where there is one)

The step is that of preset gfdm-mnist (forward, backward, clipping, Adam, average); the bar is 1 % of it.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.timing import median_seconds
from common.backbones import UNet
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics
from common.training.ema import NetworkAverage
from gfdm.dynamics import FVP
from gfdm.presets import PRESETS

BAR = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = PRESETS["gfdm-mnist"]
    torch.manual_seed(0)
    network = UNet(
        image_size=28,
        in_channels=1,
        model_channels=preset["model_channels"],
        out_channels=1,
        num_res_blocks=preset["num_res_blocks"],
        attention_resolutions=preset["attn_resolutions"],
        dropout=preset["dropout"],
        channel_mult=preset["channel_mult"],
        num_classes=10,
    ).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    average = NetworkAverage(network, decay=0.9999, every=10)
    x0 = torch.rand(options.batch, 1, 28, 28, device=device) * 2 - 1
    noise = torch.randn_like(x0)
    labels = torch.arange(options.batch, device=device) % 10
    t = torch.rand(options.batch, device=device, dtype=torch.float64)
    count = [0]

    def step(denoiser: Denoiser) -> None:
        count[0] += 1
        denoiser.error(x0, t, noise, labels).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(network, count[0])

    def look_up(dynamics: LinearDynamics) -> None:
        law = dynamics.moments(t)
        _ = law.scale, law.std

    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"preset gfdm-mnist, batch {options.batch}, {name}, torch {torch.__version__}, median of {options.repeats}")
    print(f"{'K':>2} {'step ms':>9} {'perturb ms':>11} {'share':>8} {'look-up ms':>11} {'share':>8}")
    worst = 0.0
    for num_aug in (0, 5):
        dynamics = FVP(0.9, num_aug).to(device)
        whole = median_seconds(lambda d=dynamics: step(Denoiser(network, d)), options.repeats, device)
        perturb = median_seconds(lambda d=dynamics: d.perturb(x0, t, noise), 20 * options.repeats, device)
        table = median_seconds(lambda d=dynamics: look_up(d), 20 * options.repeats, device)
        worst = max(worst, perturb / whole, table / whole)
        print(
            f"{num_aug:>2} {whole * 1e3:>9.1f} {perturb * 1e3:>11.3f} {perturb / whole:>8.3%}"
            f" {table * 1e3:>11.3f} {table / whole:>8.3%}"
        )
    print(f"worst share {worst:.3%}, bar {BAR:.0%}: {'met' if worst <= BAR else 'missed'}")
    return 0 if worst <= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
