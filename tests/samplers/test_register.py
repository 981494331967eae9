"""What every solver of the register declares, held against what it does; image i for seed i in any block."""

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common import runs
from common.denoiser import Clipped
from common.refusal import Refusal
from common.runs import Run
from common.samplers import SOLVERS, path_of, sample
from tests.dynamics.members import build, data_shape

RUNS = Path(__file__).resolve().parents[2] / "runs"
FIXED = [name for name, kind in SOLVERS.items() if not kind.adaptive]
MEMBERS = ["vp", "heat-5x7", "fvp-0.9-2", "fvp-0.9-2-path", "cld"]


@functools.cache
def demo(name: str) -> Run:
    """A model that comes with the project."""
    return runs.load(name, "final", output_dir=RUNS)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_declares_what_it_is(name):
    kind = SOLVERS[name]
    solver = kind()
    assert solver.order in range(1, 9)
    assert kind.path in ("augmented", "scalar")
    assert solver.evaluations >= 1
    assert kind.default_steps >= 1
    assert kind.__doc__


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("name", FIXED)
def test_evaluations_are_those_declared(name, member):
    dynamics, shape, counted = build(member), (2, 1, *data_shape(member)), []

    def denoise(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        counted.append(t)
        return torch.tanh(v)

    try:
        SOLVERS[name]().check(dynamics)
    except Refusal:
        dynamics = path_of(SOLVERS[name], dynamics)
    for steps in (1, 2, 5):
        for last in (False, True):
            counted.clear()
            solver = SOLVERS[name]()
            found = sample(dynamics, denoise, shape, solver=solver, steps=steps, seeds=[0, 1], denoise_last=last)
            declared = {"components": dynamics.num_components, "denoise_last": last}
            assert solver.calls(steps, **declared) == found.nfe == len(counted)
            assert solver.steps_for(found.nfe, **declared) == steps


@pytest.mark.parametrize("name", FIXED)
def test_any_other_number_of_evaluations_is_refused_with_the_nearest(name):
    solver = SOLVERS[name]()
    can = {solver.calls(steps, denoise_last=False) for steps in range(1, 40)}
    for nfe in range(1, 30):
        if nfe in can:
            continue
        with pytest.raises(Refusal, match=rf"^nfe {nfe}: no number of steps takes just as many; give (.*)$") as refused:
            solver.steps_for(nfe, denoise_last=False)
        near = [int(text) for text in str(refused.value).partition("give ")[2].split(" or ")]
        below, above = {n for n in can if n < nfe}, {n for n in can if n > nfe}
        assert near == [*([max(below)] if below else []), min(above)]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        *((name, "digits-demo") for name in FIXED),
        *(
            pytest.param(name, "digits-heat-demo", marks=[] if name in ("ab2", "em") else [pytest.mark.slow])
            for name in FIXED
        ),
    ],
)
def test_image_i_is_that_of_seed_i_in_blocks_of_1_7_and_64(name, model):
    """Of a trained network, at most 1e-4 apart; adaptive solvers have a bar of their own."""
    opened = demo(model)
    dynamics = path_of(SOLVERS[name], opened.dynamics)
    labels, steps = opened.data.labels_for(range(64), None), 5 if SOLVERS[name].path == "scalar" else 30

    def draw(seeds: range) -> Tensor:
        return sample(
            dynamics, Clipped(opened.denoiser), (len(seeds), *opened.data.shape), solver=name, steps=steps, seeds=seeds,
            labels=labels[list(seeds)],
        ).x  # fmt: skip

    most = draw(range(64))
    for seeds in (range(7), range(57, 64), range(0, 1), range(33, 34)):
        assert (draw(seeds) - most[list(seeds)]).abs().max() <= 1e-4
