"""Conditional methods of azula 0.11, the nearest library, beside ours: same network, same operator, same observation.

    python -m benchmarks.azula_guidance [--run_id digits-demo] [--output_dir runs]

azula is no requirement: importing this file needs it. Its MMPSDenoiser with conjugate gradients is our
``ExactCovariance``; the step of its PGDMSampler beyond DDIM's is x0_hat of our ``Isotropic`` for data of any size
(R = sigma^2 then). Both know white noise of one level alone, so VP and scalar paths are compared, in float64.

The Jacobian of a trained network is not symmetric, and more steps of conjugate gradients than one diverge in azula
where ours end, so the exact covariance is compared on the exact denoiser of a mixture about real images as well.
"""

import argparse

import torch
from azula.guidance.mmps import MMPSDenoiser
from azula.guidance.pgdm import PGDMSampler
from azula.linalg.covariance import DiagonalCovariance
from azula.sample import DDIMSampler
from torch import Tensor

from benchmarks.azula_samplers import Network
from common import runs
from common.config.build import load_data
from common.dynamics import VP, LinearDynamics
from common.guidance import ExactCovariance, Isotropic, Matched
from common.guidance.operators import LowPass, Mask, Operator
from common.samplers import Posterior

TIMES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.01)
SAMPLES, CENTRES, ITERATIONS, NOISE = 4, 200, 8, 0.05
WIDTH = 0.2  # deviation of a mixture's part about its centre
ANY = 1e8  # deviation of data that may be of any size


class Mixture:
    """The exact denoiser of a mixture of Gaussians about images (N, C, *S): its Jacobian is a covariance's."""

    def __init__(self, dynamics: LinearDynamics, centres: Tensor) -> None:
        self.dynamics, self._centres = dynamics, centres

    def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        law, centres = self.dynamics.moments(t), self._centres.flatten(1)
        scale, noise = law.scale.unsqueeze(1), law.std.square().unsqueeze(1)
        spread = scale.square() * WIDTH**2 + noise
        off = v.flatten(1).unsqueeze(1) - scale.unsqueeze(2) * centres
        share = (-off.square().sum(2) / (2 * spread)).softmax(1)
        nearest = share @ centres
        found = nearest + scale * WIDTH**2 / spread * (v.flatten(1) - scale * nearest)
        return found.reshape(v.shape)


def flat(operator: Operator, shape: tuple[int, ...]):
    """The operator to flat observations, as azula has them."""
    return lambda x: operator(x.reshape(-1, *shape)).flatten(1)


def exact_differences(
    dynamics: LinearDynamics, denoiser, operator: Operator, x: Tensor, noise: Tensor, iterations: int = ITERATIONS
) -> list[float]:
    """Largest difference of x0_hat over its largest entry, at every time."""
    y = operator(x + NOISE * noise.flip(0))
    found = []
    for time in TIMES:
        t = torch.full((len(x),), time, dtype=torch.float64)
        v = dynamics.perturb(x, t, noise)
        ours = ExactCovariance(denoiser, dynamics, operator, y, noise_std=NOISE, iterations=iterations)(v, t).detach()
        covariance = DiagonalCovariance(torch.full((1,), NOISE**2, dtype=torch.float64))
        network = Network(dynamics, Posterior(dynamics, denoiser, None))
        theirs = MMPSDenoiser(
            network, y.flatten(1), flat(operator, tuple(x.shape[1:])), covariance, solver="cg", iterations=iterations
        )(v, t[:1]).mean.detach()
        found.append(float((ours - theirs).abs().max() / ours.abs().max()))
    return found


def isotropic_differences(
    dynamics: LinearDynamics, denoiser, operator: Operator, x: Tensor, noise: Tensor
) -> list[float]:
    """As above, of one DDIM step from a time to half of it."""
    y, found = operator(x), []
    for time in TIMES:
        t = torch.tensor(time, dtype=torch.float64)
        v = dynamics.perturb(x, t.expand(len(x)), noise)
        ours = Isotropic(denoiser, dynamics, operator, y, data_std=ANY)(v, t.expand(len(x)))
        network, plain = Network(dynamics, Posterior(dynamics, denoiser, None)), denoiser(v, t.expand(len(x)), None)
        steps = [
            PGDMSampler(network, y, operator, operator.inverse, silent=True).step(v, t, t / 2),
            DDIMSampler(network, silent=True).step(v, t, t / 2),
        ]
        theirs = plain + (steps[0] - steps[1]) / network.schedule(t / 2)[0]
        found.append(float((ours - theirs).abs().max() / ours.abs().max()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_id", default="digits-demo")
    parser.add_argument("--output_dir", default="runs")
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    run = runs.load(args.run_id, output_dir=args.output_dir)
    images = load_data(run.config.data).held_out.images[: SAMPLES + CENTRES]
    x, centres = (torch.as_tensor(images).double() / 127.5 - 1).split([SAMPLES, CENTRES])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    denoiser, path = run.denoiser.double(), run.dynamics.scalar_path()
    vp = VP(beta_max=18.0)
    cases = {"scalar path": (path, denoiser), "VP": (vp, Matched(denoiser, vp))}
    grid = tuple(x.shape[2:])
    known = (torch.rand(grid, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    print("| method, process | denoiser | observed |", " | ".join(f"t {t:g}" for t in TIMES), "|")
    print("| --- " * (len(TIMES) + 3) + "|")
    for process, (dynamics, network) in cases.items():
        for name, operator in {"mask": Mask(known), "low-pass": LowPass(grid[0] / 4, grid)}.items():
            given = (dynamics, network, operator, x, noise)
            rows = {
                ("exact", "mixture"): exact_differences(dynamics, Mixture(dynamics, centres), operator, x, noise),
                ("exact, 1 step", "trained"): exact_differences(*given, iterations=1),
                ("exact", "trained"): exact_differences(*given),
                ("isotropic", "trained"): isotropic_differences(*given),
            }
            for (method, kind), row in rows.items():
                print(f"| {method}, {process} | {kind} | {name} |", " | ".join(f"{value:.1e}" for value in row), "|")


if __name__ == "__main__":
    main()
