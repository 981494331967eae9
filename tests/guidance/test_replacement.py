"""Replacement: the published numbers of every task, and for each published mistake that ours is right."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.dynamics import CLD, VP
from common.guidance import Replacement
from common.guidance.operators import Blur, Grey, LowPass, Mask, Operator
from common.samplers import Posterior, PredictorCorrector, sample
from fdp.dynamics import HeatSubVP

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "conditional.npz")
BATCH, CHANNELS, SIDE = 2, 3, 16
STEP, ITERATIONS = (1 - 1e-3) / 5, 4
HEAT = HeatSubVP((SIDE, SIDE), x_norm=16, energy_norm=1.0, beta_max=5.0)
MATRIX = torch.from_numpy(GOLDEN["colorization/matrix"])


def images(recorded: np.ndarray) -> Tensor:
    """(B, G, C) as recorded to (B, C, side, side)."""
    return torch.from_numpy(recorded).mT.reshape(BATCH, -1, SIDE, SIDE)


def distance(got: Tensor, recorded: np.ndarray) -> float:
    """Largest difference to the entries that were recorded of a field (B, C, side, side)."""
    flat = got.reshape(BATCH, got.shape[1], -1).mT.reshape(-1)
    return float((flat[::7] - torch.from_numpy(recorded)).abs().max())


IMAGE = images(GOLDEN["image"])
KNOWN = images(GOLDEN["inpainting/mask"].astype(float))
NUMBERS = np.arange(BATCH * CHANNELS * SIDE**2)
NOISE = images((math.sqrt(2) * np.sin(0.7 * NUMBERS + 0.01 * NUMBERS**2)).reshape(BATCH, -1, CHANNELS))


def shrink(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    return 0.9 * v


def turned(x: Tensor, matrix: Tensor) -> Tensor:
    """Every colour, a row, times a matrix."""
    return torch.einsum("bchw,cd->bdhw", x, matrix)


class PublishedGrey(Operator):
    """The first of the published colours, which is not their grey, and the published way back, to their digits."""

    paper_early = True

    def shape_of(self, shape):
        return (1, *shape[1:])

    def forward(self, x):
        return turned(x, MATRIX)[:, :1]

    def adjoint(self, y):
        return turned(y, MATRIX.T[:1])

    def inverse(self, y):
        return turned(y, MATRIX.inverse()[:1])


def published(
    operator: Operator, y: Tensor, start: Tensor, noise: Tensor, *, factor: float, stochastic: bool
) -> tuple[list[Tensor], Tensor]:
    """The published loop: states after every iteration, and the last with the mean of the known part."""
    solver = PredictorCorrector(snr=0.06, factor=factor, stochastic=stochastic, paper=True)
    method = Replacement(shrink, HEAT, operator, y, paper=True)
    posterior, states = Posterior(HEAT, method, None), [start.unsqueeze(1)]
    times = 1 - STEP * torch.arange(ITERATIONS + 1, dtype=torch.float64)
    solver.prepare(HEAT, times)
    fields = NOISE.unsqueeze(1).expand(-1, solver.draws(1), -1, -1, -1)
    before = states
    for i in range(ITERATIONS):
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        before = []

        def impose(z, time, step=(t, s), seen=before):
            seen.append(z)
            return method.impose(z, time, noise.unsqueeze(1), step)

        states.append(solver.imposed(HEAT, posterior, states[-1], t, s, fields, impose))
    mean = method.impose(before[-1], s, torch.zeros_like(states[-1]), (t, s))
    return [state[:, 0] for state in states[1:]], mean[:, 0]


def prior() -> Tensor:
    return HEAT.prior.sample((BATCH, CHANNELS, SIDE, SIDE), NOISE.unsqueeze(1))[:, 0]


def agrees(states: list[Tensor], task: str) -> bool:
    recorded = GOLDEN[f"{task}/history"]
    return len(states) == len(recorded) == ITERATIONS and all(
        distance(state, row) < 1e-9 for state, row in zip(states, recorded, strict=True)
    )


# -- published numbers -------------------------------------------------------------------------------------------------


def test_inpainting_as_published():
    mask = Mask(KNOWN, per_sample=True)
    states, mean = published(mask, mask(IMAGE), prior(), NOISE, factor=2.0, stochastic=False)
    assert agrees(states, "inpainting")
    assert distance(mean, GOLDEN["inpainting/x_mean"]) < 1e-9
    method = Replacement(shrink, HEAT, mask, mask(IMAGE), paper=True)
    assert distance(method.finish(0.9 * mean), GOLDEN["inpainting/x"]) < 1e-9


def test_deblurring_as_published():
    disc = LowPass(3, (SIDE, SIDE))
    assert distance(disc(IMAGE), GOLDEN["deblurring/known_image"]) < 1e-9
    states, mean = published(disc, disc(IMAGE), prior(), NOISE, factor=1.0, stochastic=True)
    assert agrees(states, "deblurring")
    assert distance(mean, GOLDEN["deblurring/x_mean"]) < 1e-9
    # theirs ends with the known part of the state, which has noise: see below
    assert distance(0.9 * mean + disc(states[-1] - 0.9 * mean), GOLDEN["deblurring/x"]) < 1e-9


def test_colouring_as_published():
    grey = Grey()(IMAGE)
    assert distance(grey, GOLDEN["colorization/gray"]) < 1e-9
    colours = PublishedGrey()
    # their noise is that of the turned colours
    noise = turned(NOISE, MATRIX.inverse())
    # a grey value is taken for one of each colour
    start = grey.expand(-1, 3, -1, -1)
    states, mean = published(colours, colours(start), start, noise, factor=2.0, stochastic=False)
    assert agrees(states, "colorization")
    assert distance(states[-1], GOLDEN["colorization/x"]) < 1e-9
    assert distance(0.9 * mean, GOLDEN["colorization/reconstructed"]) < 1e-9


# -- what ours does otherwise ------------------------------------------------------------------------------------------


def test_colouring_starts_from_noise_and_keeps_the_brightness():
    grey = Grey()(IMAGE)
    # theirs: of no iteration what is left is the clean grey image
    assert distance(grey.expand(-1, 3, -1, -1), GOLDEN["colorization_N1/x"]) < 1e-9
    assert distance(0.9 * grey.expand(-1, 3, -1, -1), GOLDEN["colorization_N1/reconstructed"]) < 1e-9
    seen = []

    def watched(v, t, labels=None):
        seen.append(v)
        return 0.9 * v

    method = Replacement(watched, HEAT, Grey(), grey)
    found = sample(HEAT, method, IMAGE.shape, solver="em", steps=2, seeds=[1, 2], observation=method)
    plain = sample(HEAT, watched, IMAGE.shape, solver="em", steps=2, seeds=[1, 2])
    assert torch.equal(seen[0], seen[2])  # both start from the prior of their seeds
    assert torch.allclose(Grey()(found.x).double(), grey, atol=1e-5)
    assert not torch.allclose(Grey()(plain.x).double(), grey, atol=0.1)


def test_what_is_unknown_keeps_the_mean_of_the_predictor():
    mask = Mask(KNOWN, per_sample=True)
    states, mean = published(mask, mask(IMAGE), prior(), NOISE, factor=1.0, stochastic=True)
    unknown = KNOWN.expand_as(mean) == 0
    assert torch.equal(mean[unknown], states[-1][unknown])  # theirs has the last noise, on the SDE too
    method = Replacement(shrink, HEAT, mask, mask(IMAGE))
    solver, times = PredictorCorrector(snr=0.06, factor=1.0), torch.tensor([0.3, 0.1], dtype=torch.float64)
    solver.prepare(HEAT, times)
    z, t, s = states[0].unsqueeze(1), times[:1], times[1:]
    quiet = solver.step(HEAT, Posterior(HEAT, shrink, None), z, t, s, None)
    solver.prepare(HEAT, times)
    ours = solver.imposed(
        HEAT, Posterior(HEAT, method, None), z, t, s, None,
        lambda z, time: method.impose(z, time, torch.zeros_like(z), (t, s)),
    )  # fmt: skip
    assert torch.allclose(ours[:, 0][unknown], quiet[:, 0][unknown], atol=1e-12)


def test_known_values_are_of_the_time_of_the_state():
    mask, vp = Mask(torch.ones(4, 4)), VP()
    noise = torch.randn(500, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, s = (torch.tensor([time], dtype=torch.float64) for time in (0.5, 0.2))
    y = torch.zeros(500, 1, 4, 4, dtype=torch.float64)
    for paper, time in ((False, t), (True, s)):
        method = Replacement(shrink, vp, mask, y, paper=paper)
        found = method.impose(torch.zeros_like(noise), t, noise, (t, s))  # as after a corrector
        assert torch.allclose(found.squeeze(1), vp.moments(time).std * noise.squeeze(1))


def test_deblurring_ends_with_the_given_image():
    disc = LowPass(3, (SIDE, SIDE))
    known = disc(IMAGE)
    theirs = torch.from_numpy(GOLDEN["deblurring/x"])
    given = known.reshape(BATCH, CHANNELS, -1).mT.reshape(-1)[::7]
    assert float((theirs - given).abs().max()) > 1  # noise of the state, in what was known
    method = Replacement(shrink, HEAT, disc, known)
    found = sample(HEAT, method, IMAGE.shape, solver=PredictorCorrector(snr=0.06), steps=3, seeds=[1, 2],
                   observation=method, denoise_last=True)  # fmt: skip
    assert torch.allclose(disc(found.x).double(), known, atol=1e-4)


def test_holes_are_no_zeros():
    """Modes decay at rates of their own, so values in holes have a part in the known values of a noisy state."""
    image = 1 + IMAGE
    mask, t = Mask(KNOWN, per_sample=True), torch.tensor([0.6], dtype=torch.float64)
    quiet = torch.zeros(BATCH, 1, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    wanted = mask(HEAT.sample_state(image, t, quiet)[:, 0])
    errors = {}
    for paper in (False, True):
        method = Replacement(lambda v, t, labels=None: image, HEAT, mask, mask(image), paper=paper)
        method(image, t)
        errors[paper] = float((mask(method.impose(quiet, t, quiet, (t, t))[:, 0]) - wanted).abs().max())
    assert errors[False] < 1e-12
    assert errors[True] > 0.05


def test_all_components_of_a_state_are_replaced():
    dynamics, mask, shape = CLD(), Mask((torch.arange(8) < 3).double()), (2, 1, 8)
    x0, z = torch.randn(*shape, dtype=torch.float64), torch.randn(2, 2, 1, 8, dtype=torch.float64)
    noise, t = torch.randn_like(z), torch.tensor([0.4], dtype=torch.float64)
    method = Replacement(shrink, dynamics, mask, mask(x0))
    found, wanted = method.impose(z, t, noise, (t, t)), dynamics.sample_state(x0, t, noise)
    assert torch.allclose(found[..., :3], wanted[..., :3])
    assert torch.equal(found[..., 3:], z[..., 3:])


def test_an_operator_without_a_closed_inverse_is_imposed_too():
    blur, x0 = Blur(0.6, (8, 8)), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    method = Replacement(shrink, VP(), blur, blur(x0))
    assert torch.allclose(blur(method.finish(torch.zeros_like(x0))), blur(x0), atol=1e-4)
    noisy = Replacement(shrink, VP(), blur, blur(x0), noise_std=0.1)
    assert torch.equal(noisy.finish(x0 + 1), x0 + 1)  # noise of an observation is not put into the result
