"""How far completions are from what was observed, which needs no truth: the first thing to look at."""

import math
from pathlib import Path

import torch
from torch import Tensor

from common.data.spec import DataSpec
from common.generation.conditional import Condition, within
from common.generation.restored import by_input, channels_first

NEAR = 0.02  # of the range of the data: a miss that is seen in a picture
NOISES = 2.0  # of the noise of measurements, by which truths miss their own measurements once
BEYOND = 5.0  # on the network's scale [-1, 1], which no sample of functions or sounds reaches


def told_misfit(folder: Path, spec: DataSpec, condition: Condition, noise_std: float) -> list[str]:
    """What to say of completions and observations; nothing if completions are on another grid.

    Args:
        folder: completions of every input, whole.
        spec: what a sample of the run is.
        condition: the inputs.
        noise_std: of what is observed, in the units of the data.
    """
    scale = (spec.value_range[1] - spec.value_range[0]) / 2
    squares, values, furthest = 0.0, 0.0, 0.0
    for index, arrays in enumerate(by_input(folder, condition.completions)):
        drawn = channels_first(arrays)
        if drawn.shape[1:] != spec.shape:
            return []
        drawn = spec.to_network(drawn)
        drawn = drawn[drawn.flatten(1).isfinite().all(1)]
        if not len(drawn):
            continue
        squared, known = missed(condition, index, drawn)
        squares, values = squares + squared, values + known
        furthest = max(furthest, float(drawn.abs().max()))
    if not values:
        return []
    rms = scale * math.sqrt(squares / values)
    lines = [f"observed  missed by {rms:.3g} (root mean square over what is known; noise {noise_std:g})"]
    if furthest > BEYOND:
        low, high = spec.value_range
        lines.append(
            f"note      completions reach {scale * furthest:.3g} from the middle of the data, which lies in {low:g} .. "
            f"{high:g}: sampling has diverged; take more evaluations (--nfe), another --solver, or --method isotropic"
        )
    elif rms > NOISES * noise_std + NEAR * 2 * scale:
        lines.append(
            "note      completions should come nearer to what is observed: take more evaluations (--nfe), or another "
            "--solver"
        )
    return lines


def missed(condition: Condition, index: int, drawn: Tensor) -> tuple[float, float]:
    """Sum of squares of A x - y over completions, and of how many known values it is.

    Args:
        condition: the inputs.
        index: one of them.
        drawn: its completions (M, C, *S), on the network's scale.
    """
    y = condition.y[index : index + 1]
    operator = condition.operator.rows([index] * len(drawn))
    rest = operator(drawn.to(y)) - y
    # of a projector some of the values are none: signs drawn by lot tell how many are, of masks exactly
    signs = torch.randint(0, 2, rest.shape, generator=torch.Generator().manual_seed(0)).to(y) * 2 - 1
    return float(rest.double().square().sum()), float(within(operator, signs).double().square().sum())
