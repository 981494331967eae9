"""The GPU benchmark: its dry run takes the whole path on the CPU, and nothing of it looks like a figure."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.gpu_training import (
    COLUMNS,
    DEFAULT,
    DRY,
    FULL,
    NOT_RUN,
    Variant,
    config_of,
    figures,
    markdown,
    operations,
)
from common.config.plugins import build

ROOT = Path(__file__).resolve().parents[2]


def dry_run(out: Path, *flags: str) -> tuple[dict[str, Any], str]:
    """Report and table of a dry run."""
    command = [sys.executable, "benchmarks/gpu_training.py", "--dry_run", "--out", str(out), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.glob("*.*")) == [
        "gpu_training.log",
        "gpu_training_dry_run.json",
        "gpu_training_dry_run.md",
    ]
    report = json.loads((out / "gpu_training_dry_run.json").read_text())
    return report, (out / "gpu_training_dry_run.md").read_text()


@pytest.mark.slow
def test_dry_run_fills_every_line(tmp_path: Path) -> None:
    report, table = dry_run(tmp_path)
    assert [row["variant"] for row in report["rows"]] == DEFAULT.split(",")
    assert {row["status"] for row in report["rows"]} == {DRY}
    assert report["found"]["device"] == f"CPU ({DRY})"
    assert table.startswith("#")
    assert DRY in table.splitlines()[0]
    lines = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(lines) == 1 + len(report["rows"])
    assert all(line.count("|") == len(COLUMNS) + 4 for line in lines)
    assert all(DRY in line for line in lines[1:])
    for row in report["rows"]:
        assert row["images_per_s"] > 0, row
        assert row["graphs"] == ("compile" in row["variant"]), f"{row['variant']}: compiled more than once, or never"


@pytest.mark.slow
def test_failed_variant_is_a_line_of_the_table(tmp_path: Path) -> None:
    report, table = dry_run(tmp_path, "--variants", "fp32,bf16+compile", "--backend", "nonsense")
    passed, failed = report["rows"]
    assert passed["status"] == DRY
    assert failed["status"].startswith("failed: ")
    assert "images_per_s" not in failed
    assert "| bf16+compile | 2 | - |" in table


def test_variants_are_named_by_their_parts() -> None:
    variant = Variant("bf16+compile")
    assert variant.precision == "bf16-mixed"
    assert variant.has("compile")
    assert not variant.has("channels_last")
    for wrong in ("fp16", "compile", "bf16+", "bf16+tf32"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be one of fp32, tf32, bf16"):
            Variant(wrong)


def test_operations_of_the_published_network() -> None:
    flop, parameters = operations(FULL)
    assert parameters == 58_692_867
    with torch.device("meta"):
        network = build(config_of(FULL, 1).network, nn.Module)
        inputs = torch.empty(1, *FULL.shape), torch.rand(1), torch.zeros(1, dtype=torch.int64)
    forward = 0

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal forward
        forward += 2 * layer.weight.numel() * output[0, 0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(*inputs)
    # backward is twice forward; linear layers and attention at 4x4 pixels are what the convolutions leave out
    assert flop == pytest.approx(3 * forward, rel=2e-3)


def test_figures() -> None:
    found = {"flop_per_image": 2e9, "matrix_flop_per_s": {"bf16": 8e12}}
    row = {"batch": 100, "window_s_per_step": [0.1, 0.09, 0.11], "bare_window_s_per_step": [0.08], "status": "measured"}
    got = figures(row, found)
    assert got == pytest.approx(
        {
            "images_per_s": 1000,
            "spread": 0.2,
            "ms_per_step": 100,
            "bare_ms_per_step": 80,
            "lightning_overhead": 0.25,
            "tflop_per_s": 2,
            "share_of_bf16": 0.25,
            "hours_per_million_steps": 1e5 / 3600,
        }
    )


def test_what_was_not_run_is_in_the_table() -> None:
    report: dict[str, Any] = dict.fromkeys(("date", "cuda", "torch", "lightning", "python", "command"), "x")
    rates = {"bf16": 1e12}
    report["found"] = dict.fromkeys(("device", "driver", "cudnn"), "x") | {
        "parameters": 1, "flop_per_image": 1, "matrix_side": 1, "matrix_flop_per_s": rates,
    }  # fmt: skip
    report |= {"dry_run": False, "scale": {"windows": 5, "seconds": 1.0, "backend": "inductor"}}
    report["rows"] = [{"variant": "fp32", "batch": 512, "status": NOT_RUN}]
    assert f"| fp32 | 512 |{' - |' * len(COLUMNS)} {NOT_RUN} |" in markdown(report)
    assert DRY not in markdown(report)
