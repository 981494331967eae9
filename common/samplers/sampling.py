"""The sampling loop, written once for every dynamics, network and solver."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.denoiser import Denoiser, Imposes, X0Denoiser
from common.dynamics import Fourier, LinearDynamics
from common.refusal import Refusal
from common.samplers.adams import AdamsBashforth2, AdamsBashforth3
from common.samplers.adaptive import AdaptiveHeun, BogackiShampine3, DormandPrince5, DormandPrince8
from common.samplers.base import Posterior, Solver
from common.samplers.euler import Euler, EulerMaruyama
from common.samplers.exponential import Exponential1, Exponential2, Exponential3
from common.samplers.exponential_sde import ExponentialSDE1, ExponentialSDE2
from common.samplers.grids import Grid
from common.samplers.heun import Heun
from common.samplers.noise import NoiseSource, fresh_seeds
from common.samplers.predictor_corrector import PredictorCorrector
from common.samplers.renoise import Renoise

Callback = Callable[[int, float, Tensor, Tensor], None]

SOLVERS: dict[str, type[Solver]] = {
    "ab2": AdamsBashforth2,
    "ab3": AdamsBashforth3,
    "adaptive_heun": AdaptiveHeun,
    "bosh3": BogackiShampine3,
    "dopri5": DormandPrince5,
    "dopri8": DormandPrince8,
    "em": EulerMaruyama,
    "euler": Euler,
    "exp1": Exponential1,
    "exp2": Exponential2,
    "exp3": Exponential3,
    "exp-sde": ExponentialSDE1,
    "exp-sde2": ExponentialSDE2,
    "heun": Heun,
    "pc": PredictorCorrector,
    "renoise": Renoise,
}
MODES = {"sde": "em", "ode": "euler"}  # published names of samplers (GFDM): what --mode chooses


def path_of(solver: type[Solver], dynamics: LinearDynamics) -> LinearDynamics:
    """What a solver runs on: its scalar path if it wants that one and the noise level is monotone, else all of it."""
    return dynamics.scalar_path() if solver.path == "scalar" and dynamics.is_monotone else dynamics


def default_solver(
    dynamics: LinearDynamics, *, published: bool = False, consistent: bool = False, conditional: bool = False
) -> str:
    """Name of the best solver measured (benchmarks/few_evaluations.py); the published one for weights of that code.

    A consistent network, whose every answer is a sample, is asked once or twice. Otherwise Adams-Bashforth along the
    angle needs a hundredth of the evaluations, but a noise level that never falls. Two slopes are better than three
    where modes have noise levels of their own, and where an observation is put in, which makes paths less smooth
    (benchmarks/conditional_models.py).
    """
    if consistent:
        return "renoise"
    if published or not dynamics.is_monotone:
        return MODES["sde"]
    return "ab2" if dynamics.basis.modes or conditional else "ab3"


def quick_solver(dynamics: LinearDynamics, *, consistent: bool = False) -> str:
    """Name of the best solver of few evaluations, for samples that a training shows.

    Where the noise level falls in time that is order 1 on the whole state: Euler-Maruyama diverges in few steps.
    """
    return default_solver(dynamics, consistent=consistent) if consistent or dynamics.is_monotone else "exp1"


@dataclass(frozen=True)
class SampleResult:
    """What :func:`sample` returns.

    Attributes:
        x: data component at t_end (B, C, *S), or the denoised state if that was asked for.
        z: whole state at t_end (B, A, C, *S).
        nfe: number of denoiser calls.
    """

    x: Tensor
    z: Tensor
    nfe: int


def ending(dynamics: LinearDynamics, t_end: float | None) -> float:
    """The time at which sampling ends: the given one, or that of the dynamics.

    Raises:
        Refusal: unless it lies in [dynamics.t_min, T).
    """
    if t_end is None:
        return max(dynamics.default_t_end, dynamics.t_min)
    if not dynamics.t_min <= t_end < dynamics.horizon:
        raise Refusal(f"must lie in [{dynamics.t_min}, {dynamics.horizon}), got {t_end}", "t_end")
    return t_end


@torch.no_grad()
def sample(
    dynamics: LinearDynamics,
    denoiser: X0Denoiser,
    shape: tuple[int, ...],
    *,
    solver: str | Solver,
    steps: int,
    seeds: Sequence[int] | None = None,
    init: Tensor | None = None,
    labels: Tensor | None = None,
    grid: Grid | None = None,
    t_end: float | None = None,
    denoise_last: bool = False,
    any_process: bool = False,
    callback: Callback | None = None,
    observation: Imposes | None = None,
) -> SampleResult:
    """Draw samples by reversing a dynamics; memory does not grow with the number of steps.

    Args:
        dynamics: what is reversed: a dynamics, or its ``scalar_path()``.
        denoiser: any callable (v, t, labels) to x0_hat.
        shape: data shape (B, C, *S).
        solver: a name of ``SOLVERS`` or a :class:`Solver`.
        steps: number of solver steps, at least 1; an adaptive solver makes as many of its own within each as it needs,
            so that 1 is best.
        seeds: one integer in [0, 2^32) per sample; different ones, from torch's global generator, where None. Of
            several calls without seeds two samples may be the same: name the seeds, e.g. ``range(100, 200)``.
        init: start state (B, A, C, *S) instead of a draw from the prior.
        labels: classes (B,) int64, or None.
        grid: time grid; the solver's own choice where None.
        t_end: time at which sampling ends, in [dynamics.t_min, T); None takes that of the dynamics.
        denoise_last: return as x what the denoiser makes of the state at t_end (one more call), instead of its data
            component, which still has the noise of t_end.
        any_process: accept a denoiser that says it is for another process.
        callback: called with (step, time, z, data component) after every step, those of its own of an adaptive solver.
        observation: a method that acts on states (``common.guidance.Replacement``), asked after every step and at the
            end; the noise that it takes is of the seeds.

    Returns:
        A :class:`SampleResult`.

    Raises:
        ValueError: for arguments out of range or a solver that does not apply.
    """
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise Refusal(f"must be one of {', '.join(SOLVERS)}, got {solver!r}", "solver")
        solver = SOLVERS[solver]()
    if not any_process:
        refuse_other_process(dynamics, denoiser)
    t_end = ending(dynamics, t_end)
    if steps < 1:
        raise Refusal(f"must be at least 1, got {steps}", "steps")
    if seeds is None:
        seeds = fresh_seeds(shape[0])
    if len(seeds) != shape[0]:
        raise ValueError(f"seeds must hold one integer per sample ({shape[0]}), got {len(seeds)}")
    if isinstance(dynamics.basis, Fourier) and tuple(shape[2:]) != dynamics.basis.shape:
        raise ValueError(
            f"shape must end in {dynamics.basis.shape}, the grid of the dynamics' modes, got {tuple(shape)}"
        )
    if labels is not None and tuple(labels.shape) != (shape[0],):
        raise ValueError(f"labels must have shape ({shape[0]},), got {tuple(labels.shape)}")
    state = (shape[0], dynamics.num_components, *shape[1:])
    if init is not None and tuple(init.shape) != state:
        raise ValueError(f"init must have shape {state}, got {tuple(init.shape)}")
    solver.check(dynamics)
    if observation is not None:
        check_imposed(solver)

    device = dynamics.device if init is None else init.device
    dtype = torch.get_default_dtype() if init is None else init.dtype
    draws = solver.draws(dynamics.num_components)
    if observation is not None:
        draws = draws * solver.stochastic + solver.imposes * dynamics.num_components
    source = NoiseSource(seeds, tuple(shape[1:]), device, dtype, draws)
    z = dynamics.prior.sample(tuple(shape), source.start(dynamics.num_components)) if init is None else init
    times = (grid or solver.default_grid(dynamics))(dynamics, t_end, steps)
    solver.prepare(dynamics, times)
    posterior, passed = Posterior(dynamics, denoiser, labels), itertools.count()

    def reached(time: float, state: Tensor) -> None:
        if callback is not None:
            callback(next(passed), time, state, state[:, 0])

    imposed = () if observation is None else (observation,)  # solvers of others may not know of observations
    z = solver.run(dynamics, posterior, z, times, source, reached, *imposed)
    x = posterior(z, times[-1:]) if denoise_last else z[:, 0]
    if observation is not None:
        x = observation.finish(x)
    return SampleResult(x=x, z=z, nfe=posterior.calls)


def check_imposed(solver: Solver) -> None:
    """Raise a Refusal for a solver between whose steps no state can be replaced."""
    name = type(solver).__name__
    if solver.renoises:
        raise Refusal(f"acts on states of a path, and {name} takes every answer for a sample; take another", "method")
    if type(solver).run is not Solver.run:
        raise Refusal(f"acts on states after every step, and {name} makes steps of its own; take another", "method")


def refuse_other_process(dynamics: LinearDynamics, denoiser: object) -> None:
    """Raise a Refusal for a denoiser that is for another process; a plain function is not asked.

    Wrappers are followed by their attribute ``denoiser``, up to one that says by an attribute ``process`` what it is
    for, as ``common.guidance.Matched`` does. Processes are the same if a network sees the same law.
    """
    while (process := served_by(denoiser)) is None:
        denoiser = getattr(denoiser, "denoiser", None)
        if denoiser is None:
            return
    if not dynamics.shows_the_law_of(process):
        raise Refusal(
            f"of {process} cannot reverse {dynamics}: it is for another law of noise. Sample from its own dynamics, "
            "match noise levels (common.guidance.Matched), or know better (any_process=True)",
            "denoiser",
        )


def served_by(denoiser: object) -> LinearDynamics | None:
    """The process that a denoiser is for, as far as it says so itself."""
    process = denoiser.dynamics if isinstance(denoiser, Denoiser) else getattr(denoiser, "process", None)
    return process if isinstance(process, LinearDynamics) else None
