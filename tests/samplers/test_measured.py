"""Densities of nodes, and the grid that is measured: against quadrature, exact denoisers and the grids by hand."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from common.refusal import Refusal
from common.runs import RunFolder
from common.runs.time_grid import read_time_grid, write_time_grid
from common.samplers import GRIDS, sample
from common.samplers.grids import Density, around, decisive, for_few
from common.samplers.measured import EVALUATIONS, FOLLOWED, _log_error, measure
from tests.dynamics.members import build, data_shape
from tests.oracles import GaussianDenoiser, Mixture, MixtureDenoiser


@pytest.mark.parametrize("name", ["fvp-0.9-2-path", "ve", "flow", "heat-8"])
def test_nodes_have_the_density_they_were_given(name):
    dynamics, steps = build(name), 12
    grid = Density((-4.0, -1.0, 0.5, 2.0), (0.2, 1.0, 3.0, 0.5))
    times = grid(dynamics, 1e-3, steps)
    x = (times.log() if dynamics.basis.modes else dynamics.log_sigma(times)).flip(0).numpy()
    points = [knot for knot in grid.nodes if x[0] < knot < x[-1]]

    def share(low: float, high: float) -> float:
        inside = [knot for knot in points if low < knot < high]
        return quad(lambda at: np.interp(at, grid.nodes, grid.values), low, high, points=inside or None)[0]

    found = [share(low, high) for low, high in pairwise(x)]
    assert found == pytest.approx([share(x[0], x[-1]) / steps] * steps, rel=2e-3)


def test_bumps_lie_where_they_should():
    bump = around(2.0, 0.24, 1.45)
    assert bump.nodes[int(np.argmax(bump.values))] == pytest.approx(math.log(2.0))
    dynamics = build("fvp-0.9-2-path")
    dynamics.decision_level = dynamics.data_std = 0.7
    assert for_few(dynamics) is decisive
    times = decisive(dynamics, 1e-3, 10)
    assert torch.equal(times, around(0.7, 0.24, 1.45)(dynamics, 1e-3, 10))
    dynamics.decision_level = None
    assert torch.equal(decisive(dynamics, 1e-3, 10), times)  # the deviation stands in
    assert for_few(dynamics) is GRIDS["data"]
    assert for_few(build("heat-8")) is GRIDS["rho3"]


MIXTURE = Mixture()


@pytest.mark.parametrize("name", ["fvp-0.9-2-path", "fve-0.9-2-path", "edm"])
def test_a_measured_grid_needs_no_hand(name):
    # no more than a third of the error on equal steps in log sigma, and near that of the grid laid by hand
    dynamics = build(name)
    denoiser, shape = MixtureDenoiser(dynamics, MIXTURE), (FOLLOWED, 1, 6, 6)
    steps: list[int] = []
    grid = measure(dynamics, denoiser, shape, seeds=range(10**6, 10**6 + FOLLOWED), on_step=lambda: steps.append(1))
    assert len(steps) <= EVALUATIONS

    def end(steps: int, grid) -> torch.Tensor:
        return sample(dynamics, denoiser, shape, solver="ab3", steps=steps, seeds=range(FOLLOWED), grid=grid).x

    limit = end(400, grid)
    for evaluations in (7, 10):
        found, equal, by_hand = (
            float((end(evaluations, one) - limit).square().mean().sqrt())
            for one in (grid, GRIDS["log_sigma"], GRIDS["data"])
        )
        assert found < equal / 3
        assert found < 1.5 * by_hand


def test_modes_are_measured_together():
    # by the curvature of all modes at once; equal steps in t^(1/3) are the grid by hand
    dynamics, shape = build("heat-8"), (FOLLOWED, 1, *data_shape("heat-8"))

    def denoiser(v: torch.Tensor, t: torch.Tensor, labels: object) -> torch.Tensor:
        law, basis = dynamics.moments(t), dynamics.basis  # two patterns, which every mode tells apart
        weight = (law.scale / law.std).square()
        pattern = torch.sin(torch.arange(v.shape[-1], dtype=v.dtype))
        score = (basis.synthesis(weight.to(v.dtype).unsqueeze(1) * basis.analysis(pattern)) * v).sum(-1, keepdim=True)
        return torch.tanh(score / law.scale.mean()) * pattern

    grid = measure(dynamics, denoiser, shape, seeds=range(10**6, 10**6 + FOLLOWED))

    def end(steps: int, grid) -> torch.Tensor:
        return sample(dynamics, denoiser, shape, solver="ab2", steps=steps, seeds=range(FOLLOWED), grid=grid).x

    limit = end(400, grid)
    found, equal = (float((end(10, one) - limit).square().mean().sqrt()) for one in (grid, GRIDS["log_time"]))
    assert found < equal


def test_straight_paths_give_a_grid_too():
    # Gaussian data of the deviation that the angle takes: V is 0
    dynamics = build("vp")
    grid = measure(dynamics, lambda v, t, labels: 0 * v, (2, 1, 4), seeds=range(2))
    assert all(map(math.isfinite, grid.values))
    assert (grid(dynamics, 1e-3, 7).diff() < 0).all()
    exact = measure(dynamics, GaussianDenoiser(dynamics), (2, 1, 4), seeds=range(2))
    assert all(map(math.isfinite, exact.values))


def test_a_grid_on_which_samples_are_lost_is_not_chosen():
    # the first of those that are tried is better than a number that is none only if one looks
    errors = iter([math.nan, 0.5, 0.25])
    grids = [around(centre, 0.3, 1.0) for centre in (0.1, 1.0, 2.0)]
    found = min(grids, key=lambda grid: _log_error(torch.full((1, 1), next(errors)), torch.zeros(1, 1)))
    assert found == grids[2]


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(Refusal, match="component"):
        measure(build("cld"), lambda v, t, labels: v, (1, 1, 4), seeds=[0])
    with pytest.raises(Refusal, match="grid measured: samples of this network are not finite"):
        measure(build("vp"), lambda v, t, labels: v / 0, (1, 1, 4), seeds=[0])
    with pytest.raises(Refusal, match="grid measured belongs to a trained run"):
        GRIDS["measured"](build("vp"), 1e-3, 7)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"nodes": [0, 1]},
        {"nodes": [0.0, 1.0], "density": [1.0]},
        {"nodes": [1.0, 0.0], "density": [1.0, 1.0]},
        {"nodes": [0.0, 1.0], "density": [1.0, 0.0]},
        {"nodes": [0.0, math.nan], "density": [1.0, 1.0]},
        {"nodes": [0.0, True], "density": [1.0, 1.0]},
        {"nodes": ["0", "1"], "density": [1.0, 1.0]},
        {"nodes": [0.0, 10**400], "density": [1.0, 1.0]},
        {"nodes": list(range(20_000)), "density": [1.0] * 20_000},
    ],
)
def test_a_file_that_is_no_grid_is_refused(content, tmp_path):
    folder = RunFolder(tmp_path)
    folder.time_grid.write_text(json.dumps(content))
    with pytest.raises(Refusal, match=r"grid\.json holds no density of times"):
        read_time_grid(folder)


def test_a_grid_is_kept_as_it_was_measured(tmp_path):
    folder, found = RunFolder(tmp_path), ((-1.5, 0.25, 3.0), (0.1, 2.0, 0.7))
    assert read_time_grid(folder) is None
    write_time_grid(folder, found, "model-final.pth")
    assert read_time_grid(folder) == found
    folder.time_grid.write_text(folder.time_grid.read_text().replace("0.25", "0.35"))
    with pytest.raises(Refusal, match="remove it and do without"):
        read_time_grid(folder)
