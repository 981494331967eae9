"""benchmarks/few_evaluations.py: its figures are those of generate.py's samples; azula's samplers see what ours see."""

import csv
import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import few_evaluations
from benchmarks.few_evaluations import OurRow, PeerRow, Result, Row, Subject, main, unfit
from common.generation.config import SampleConfig
from common.generation.opening import job_of
from common.runs import Run, load

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@cache
def digits() -> Run:
    return load("digits-demo", "final", ROOT / "runs")


@pytest.mark.parametrize(("solver", "grid"), [("ab3", "data"), ("exp2", "log_sigma")])
def test_samples_are_those_of_generate(solver, grid):
    config = SampleConfig(n_samples=8, solver=solver, grid=grid, steps=5)
    images, _, calls = job_of(digits(), config, CPU).draw(range(8), lambda *_: None)
    x, own_calls = OurRow(solver, grid).draw(Subject(digits(), 8, CPU), 5)
    assert own_calls == calls == 5
    assert images.shape == (8, 8, 8, 1)
    assert np.abs(images[..., 0] - ((x[:, 0] + 1) / 2).clamp(0, 1).numpy()).max() < 1e-5


@pytest.mark.slow
def test_figures_are_distances_to_the_converged_samples(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(few_evaluations, "CONVERGED", 60)
    command = (
        "--run_id digits-demo --n_samples 8 --counts 5 4 --solvers exp2 ab3 --grids measured log_sigma --threads 1"
    )
    assert main([*command.split(), "--out", str(tmp_path)]) == 0
    with (tmp_path / "few_evaluations.csv").open() as file:
        rows = {(row["solver"], row["grid"], int(row["evaluations"])): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * 2 * 2
    subject = Subject(digits(), 8, CPU)
    converged, _ = OurRow("ab3", "measured").draw(subject, 60)
    for solver, grid, nfe in (("ab3", "measured", 5), ("exp2", "log_sigma", 4)):
        wanted = np.sqrt(np.square((OurRow(solver, grid).draw(subject, nfe)[0] - converged).numpy()).mean())
        assert float(rows[solver, grid, nfe]["distance"]) == pytest.approx(wanted, rel=1e-4)
    lines = capsys.readouterr().out.splitlines()
    (default,) = (line.split() for line in lines if line.endswith(" default") and "former" not in line)
    (former,) = (line.split() for line in lines if line.endswith("former default"))
    assert default[:2] == ["ab3", "measured"]
    assert former[:2] == ["exp2", "log_sigma"]
    assert float(default[3]) == pytest.approx(float(rows["ab3", "measured", 5]["distance"]), abs=6e-5)
    assert sum(line.endswith("not measured") for line in lines) == 3  # 7, 10 and 20 were not asked for
    assert (tmp_path / "few_evaluations.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_left_out():
    dynamics = digits().dynamics
    assert unfit("em", dynamics) == unfit("pc", dynamics) == "draws noise"
    assert "whole state" in unfit("euler", dynamics)
    assert unfit("dopri5", dynamics) == "chooses its own steps"
    assert not unfit("ab3", dynamics)


def result_with(*rows: Row) -> Result:
    run = SimpleNamespace(folder=SimpleNamespace(name="run"), data=digits().data)
    subject = SimpleNamespace(default=("ab3", "measured"), former=("exp2", "log_sigma"), seeds=range(8), run=run)
    return Result(subject, list(rows), [], 0.001)


def row_of(kind: type[Row], solver: str, grid: str, errors: dict[int, float]) -> Row:
    row = kind(solver, grid)
    row.errors = errors
    return row


def test_verdicts():
    default = row_of(OurRow, "ab3", "measured", {7: 0.02, 10: 0.015})
    former = row_of(OurRow, "exp2", "log_sigma", {7: 0.1, 10: 0.06, 20: 0.0125})
    broken = row_of(OurRow, "exp1", "data", {7: float("nan"), 10: 0.001})
    peers = [
        row_of(PeerRow, "vAB2", "uniform", {7: 0.03, 10: 0.016}),
        row_of(PeerRow, "vAB3", "uniform", {7: 0.04, 10: 0.014}),
        row_of(PeerRow, "Heun", "data", {10: 0.02}),
    ]
    result = result_with(former, broken, *peers, default)
    assert [line.rpartition(": ")[2] for line in few_evaluations.verdicts(result)] == ["met", "NOT MET", "NOT MET"]
    assert few_evaluations.against_peer(result, (7, 10)) == [
        "default at 7: 0.0200, against 0.0300 of azula vAB2, uniform: ahead",
        "default at 10: 0.0150, against 0.0140 of azula vAB3, uniform: BEHIND",
        "default at 10: 0.0150, against 0.0200 of azula Heun, data: ahead",
    ]
    lines = few_evaluations.report(result, (7, 10))
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["solver", "grid"])
    assert [line.replace("azula", "").split()[0] for line in lines[start + 1 : start + 7]] == [
        *("ab3", "vAB2", "vAB3", "exp2", "exp1", "Heun")  # a solver without a figure at 7 comes last
    ]
    assert lines[start + 6].split()[3] == "-"
    assert not few_evaluations.against_peer(replace(result, rows=[default, former]), (7, 10))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--peer", "--peer needs azula: python -m pip install"),
        ("--n_samples 0", "--n_samples must be at least 1, got 0"),
        ("--counts 0 5", "--counts must be at least 1, got 0"),
    ],
)
def test_refusals_are_one_line(flags, said, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "azula" else find(name))
    with pytest.raises(SystemExit) as stop:
        main(["--run_id", "digits-demo", *flags.split()])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"few_evaluations.py: error: {said}")


def test_azula_sees_what_our_solvers_see():
    pytest.importorskip("azula", reason="azula is installed for this comparison alone")
    subject = Subject(digits(), 8, CPU)
    same = (  # formulas in other words; exp2 leaves slopes out where steps grow, which they do not on log_sigma
        *(("Euler", "exp1", grid) for grid in ("uniform", "data")),
        ("DDIM", "exp1", "data"),
        ("xEAB2", "exp2", "log_sigma"),
    )
    for theirs, ours, grid in same:
        found, calls = PeerRow(theirs, grid).draw(subject, 6)
        wanted, _ = OurRow(ours, grid).draw(subject, 6)
        assert calls == 6
        assert float((found - wanted).abs().max()) < 1e-4
    assert PeerRow("Heun", "data").steps_for(7) is None
    assert PeerRow("Heun", "data").draw(subject, PeerRow("Heun", "data").steps_for(8))[1] == 8
