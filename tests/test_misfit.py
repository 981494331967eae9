"""How far completions are from what was observed: by hand on arrays on disk."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from common.data.spec import DataSpec
from common.files import write_array
from common.generation.misfit import told_misfit
from common.guidance.operators import Downsample, Mask, Operator
from common.runs import SampleFolder

IMAGE, FUNCTION = DataSpec("image", (1, 4, 4)), DataSpec("function", (1, 8), (-2.0, 2.0))
INPUTS, COMPLETIONS = 3, 2


@dataclass
class Known:
    """What is observed of inputs, without what draws their completions."""

    operator: Operator
    y: torch.Tensor
    completions: int = COMPLETIONS


def drawn(folder, spec: DataSpec, operator: Operator, added: np.ndarray | float) -> Known:
    """Completions that are their truths, in the units of the data, and something more; what is observed of the truths."""
    truth = np.random.default_rng(0).uniform(0.3, 0.6, (INPUTS, *spec.grid, spec.channels)).astype(np.float32)
    rows = np.repeat(truth, COMPLETIONS, 0) + np.float32(1) * added
    write_array(SampleFolder(folder).block(0), rows.astype(np.float32))
    return Known(operator, operator(spec.to_network(torch.from_numpy(truth).movedim(-1, 1))))


@pytest.mark.parametrize(("spec", "error"), [(IMAGE, 0.1), (FUNCTION, 0.5)], ids=["image", "function"])
def test_known_values_alone_count_in_the_units_of_the_data(tmp_path, spec, error):
    each = torch.zeros(INPUTS, 1, *spec.grid)
    each[..., :2] = 1  # each input has a mask of its own
    each[1, ..., 2] = 1
    off = np.full((*spec.grid, 1), error, np.float32)
    off[..., 3:, :] = 7 * error  # where nothing is known
    lines = told_misfit(tmp_path, spec, drawn(tmp_path, spec, Mask(each, per_sample=True), off), 0.0)
    assert lines[0] == f"observed  missed by {error:g} (root mean square over what is known; noise 0)"
    assert "more evaluations" in lines[1]


def test_observations_on_another_grid_are_compared_there(tmp_path):
    checks = np.indices((4, 4)).sum(0)[..., None] % 2 * 0.2 - 0.1  # its means over 2 x 2 pixels are 0
    (line,) = told_misfit(tmp_path, IMAGE, drawn(tmp_path, IMAGE, Downsample(2), checks), 0.0)
    assert float(line.split()[3]) < 1e-6


def test_what_noise_explains_needs_no_remedy(tmp_path):
    condition = drawn(tmp_path, IMAGE, Mask(torch.ones(4, 4)), 0.1)
    assert len(told_misfit(tmp_path, IMAGE, condition, 0.05)) == 1
    assert len(told_misfit(tmp_path, IMAGE, condition, 0.01)) == 2


def test_divergence_is_told_and_another_grid_is_not_compared(tmp_path):
    condition = drawn(tmp_path, FUNCTION, Mask(torch.ones(8)), 300.0)
    assert "sampling has diverged" in told_misfit(tmp_path, FUNCTION, condition, 0.0)[1]
    assert told_misfit(tmp_path, DataSpec("function", (1, 16), (-2.0, 2.0)), condition, 0.0) == []
