"""The scaling benchmark: its dry run takes the whole path on the CPU; what its figures are made of."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling import COLUMNS, DRY, PLAIN, VARIANTS, Row, add, counts, table

ROOT = Path(__file__).resolve().parents[2]


def test_dry_run_fills_every_line(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/scaling.py", "--dry_run", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "scaling_dry_run.json").read_text())
    rows = [(row["processes"], row["variant"]) for row in report["training"]]
    assert rows == [(1, PLAIN), *((2, variant) for variant in VARIANTS)]
    assert [row["processes"] for row in report["drawing"]] == [1, 2]
    assert all(row["rates"][0] > 0 and not row["failure"] for row in report["training"] + report["drawing"])
    assert all((row["processes"] > 1) == bool(row["lost"]) == bool(row["of_ideal"]) for row in report["training"])
    text = (tmp_path / "scaling_dry_run.md").read_text()
    assert text == done.stdout.removesuffix("\n")
    assert text.splitlines()[0].endswith(DRY)
    assert text.count(DRY) == 1 + len(report["training"] + report["drawing"])


def test_shares_are_of_one_repeat() -> None:
    row = Row.empty("net", 2, PLAIN, 10)
    assert add(row, {True: [0.2, 0.1, 0.3], False: [0.16, 0.15, 0.17]}, one=60.0) == pytest.approx(100)
    assert row.lost == pytest.approx([0.2])
    assert row.of_ideal == pytest.approx([100 / 120])
    assert row.rates == pytest.approx([100, 200, 200 / 3])
    alone = Row.empty("net", 1, PLAIN, 10)
    assert add(alone, {True: [0.1], False: []}, one=None) == pytest.approx(100)
    assert not alone.lost
    assert not alone.of_ideal


def test_failure_is_a_remark_and_no_figure() -> None:
    row = Row.empty("net", 2, PLAIN, 10)
    assert add(row, "failed: ValueError: a | b", one=60.0) is None
    line = table(COLUMNS, [row], dry=False)[-1]
    assert line.count("|") == len(COLUMNS) + 2
    assert line.endswith("| failed: ValueError: a / b |")


def test_one_process_is_always_measured() -> None:
    assert counts("4,2") == [1, 2, 4]
    for wrong in ("0", "two", "1,,2"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be numbers"):
            counts(wrong)
