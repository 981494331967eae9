"""sample(observation=..): when it is asked, with which noise, and which solvers it does not suit."""

import pytest
import torch

from common.dynamics import VP
from common.guidance import Replacement
from common.guidance.operators import Mask
from common.refusal import Refusal
from common.samplers import SOLVERS, PredictorCorrector, Solver, path_of, sample
from common.samplers.euler import Euler
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVP

SHAPE = (3, 1, 6)
HEAT = HeatSubVP((6,), x_norm=6)


def shrink(v, t, labels=None):
    return 0.9 * v


class Watching:
    """An observation that notes what it is asked, and changes nothing but what it returns at the end."""

    def __init__(self):
        self.asked, self.noise = [], []

    def impose(self, z, t, noise, step):
        self.asked.append((float(t), *map(float, step)))
        self.noise.append(noise)
        return z

    def finish(self, x):
        return x + 100


@pytest.mark.parametrize("corrector", ["langevin", "none"])
def test_it_is_asked_after_every_part_of_a_step_with_noise_of_its_own(corrector):
    watching, states = Watching(), []
    solver = PredictorCorrector(corrector=corrector)
    found = sample(
        FVP(0.9, 2), shrink, SHAPE, solver=solver, steps=20, seeds=[5, 6, 7], observation=watching,
        callback=lambda i, t, z, x: states.append((t, z)),
    )  # fmt: skip
    parts = 2 if corrector == "langevin" else 1
    assert len(states) == 20
    assert len(watching.asked) == 19 * parts + 1
    for i, (t, start, end) in enumerate(watching.asked[:-1]):
        assert t == (start if parts == 2 and i % 2 == 0 else end)
        assert start > end
    noise = torch.stack(watching.noise)
    assert noise.shape[1:] == (3, 3, 1, 6)
    assert not noise[-1].any()
    fields = noise[:-1].flatten(0, 2).flatten(1)
    assert len(fields.unique(dim=0)) == len(fields)
    assert torch.allclose(found.x, states[-1][1][:, 0] + 100)


@pytest.mark.parametrize("name", [n for n, s in SOLVERS.items() if not s.adaptive and not s.renoises])
@pytest.mark.parametrize("dynamics", [FVP(0.9, 2), HEAT], ids=["fvp", "heat"])
def test_known_values_of_every_solver_are_the_given_ones_for_any_block(name, dynamics):
    path = path_of(SOLVERS[name], dynamics)
    mask = Mask((torch.arange(6) < 3).double())
    y = mask(torch.randn(*SHAPE, generator=torch.Generator().manual_seed(2)))

    def draw(rows):
        method, seen = Replacement(shrink, path, mask, y[rows]), []
        found = sample(
            path, method, (len(rows), *SHAPE[1:]), solver=name, steps=4, seeds=rows, observation=method,
            callback=lambda i, t, z, x: seen.append(x),
        )  # fmt: skip
        return found.x, seen

    whole, seen = draw([0, 1, 2])
    assert torch.allclose(whole[..., :3], y[..., :3], atol=1e-5)
    scale = path.moments(torch.tensor([1e-3])).scale
    if not path.basis.modes:  # the callback sees the state that was made to agree, in the last step without noise
        assert torch.allclose(seen[-1][..., :3], scale.float() * y[..., :3], atol=1e-5)
    for i in range(3):
        assert torch.allclose(draw([i])[0][0], whole[i], atol=1e-5)


def test_a_solver_of_others_is_asked_after_its_steps_and_knows_nothing_of_it():
    class Theirs(Solver):
        order = 1

        def default_grid(self, dynamics):
            return Euler().default_grid(dynamics)

        def step(self, dynamics, posterior, z, t, s, noise):
            return Euler().step(dynamics, posterior, z, t, s, noise)

    class Loops(Theirs):
        def run(self, dynamics, posterior, z, times, source, reached):
            return z

    watching = Watching()
    sample(VP(), shrink, SHAPE, solver=Theirs(), steps=3, seeds=[1, 2, 3], observation=watching)
    assert len(watching.asked) == 3
    sample(VP(), shrink, SHAPE, solver=Loops(), steps=3, seeds=[1, 2, 3])
    with pytest.raises(Refusal, match="Loops") as refused:
        sample(VP(), shrink, SHAPE, solver=Loops(), steps=3, seeds=[1, 2, 3], observation=watching)
    assert refused.value.argument == "method"


@pytest.mark.parametrize("name", [n for n, s in SOLVERS.items() if s.adaptive or s.renoises])
def test_solvers_whose_states_cannot_be_replaced_refuse(name):
    with pytest.raises(Refusal) as refused:
        sample(VP(), shrink, SHAPE, solver=name, steps=2, seeds=[1, 2, 3], observation=Watching())
    assert refused.value.argument == "method"
