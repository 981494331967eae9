"""How samples are drawn: the flags of generate.py, and what tells one set of samples from another."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from common.config.flags import (
    MOST,
    SHARE,
    Checked,
    Mark,
    Range,
    as_ranges,
    at_least,
    marked,
    place,
    ranges,
    ranges_in,
    words,
    written,
)  # fmt: skip
from common.config.resolve import Member, section
from common.config.schema import PICTURE_SCALE, Chosen, RunConfig, check_picture_scale
from common.data.spec import DataSpec
from common.dynamics import LinearDynamics
from common.generation.matching import Matching, label_of, words_for
from common.guidance import GUIDANCE
from common.refusal import Refusal
from common.runs import RunFolder
from common.samplers import GRIDS, MODES, OF_RUN, SOLVERS, Grid, check_seeds, default_solver, ending, path_of

SAMPLES = 100
RUNTIME = Mark("is not what tells samples apart")
OF_MODE = "stochastic"  # the argument of a solver that --mode gives
OF_PROCESS = "process"  # the field that --match_noise gives
OF_PROGRAM = frozenset({"dynamics", "data_name", "hurst", "num_aug", "plugin", "wb_key"})  # flags of every command line
GIVEN_TO_WRAPPERS = frozenset({"denoiser", "dynamics", "spec", "run"})  # arguments that no flag gives


@dataclass(frozen=True)
class Opening(Checked):
    """Which weights samples are drawn from.

    Attributes:
        run_id: id or folder name of the run, or latest (required, unless --pretrained is given)
        pretrained: model of GFDM's authors that is fetched and sampled from (default: none)
        version: version of the weights: final, v0, v1, .., or step-0000225 for a checkpoint (default: final, else the
            newest; the newest checkpoint of a run that was stopped before it kept any)
        use_ema: use averaged weights (default: True if the run kept some)
        ema_decay: which average to use, if the run kept several (default: its first)
        output_dir: folder that holds the runs
    """

    run_id: Annotated[str | None, place] = None
    pretrained: str | None = None
    version: str | None = None
    use_ema: bool | None = None
    ema_decay: Annotated[float | None, SHARE] = None
    output_dir: Path = Path("runs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained is None and self.run_id is None:
            raise Refusal("is required: the id or folder name of a run, or latest", "run_id")
        for name in ("run_id", "version"):
            if self.pretrained is not None and getattr(self, name) is not None:
                raise Refusal(
                    f"and --{name} exclude each other: it has its own {name}; leave --{name} out", "pretrained"
                )
        if self.ema_decay is not None and self.use_ema is False:
            raise Refusal("and --use_ema False exclude each other; leave one of them out", "ema_decay")


@dataclass(frozen=True)
class SampleConfig(Checked):
    """How samples are drawn. Every field tells one set of samples from another, except those marked ``RUNTIME``.

    Attributes:
        n_samples: number of samples (default: 100, or as many as --seeds names)
        seeds: seeds below 2^32, one per sample, e.g. 0-63,100 (default: 0 to n_samples - 1)
        labels: classes by name or number, repeated in turn, e.g. 3,3,7 or cat,dog (default: all that were learned)
        mode: published samplers: sde reverses the SDE by Euler-Maruyama, ode follows the probability-flow ODE by Euler;
            a solver that can do both, like the predictor-corrector, reads it too
        solver: solver (default: Adams-Bashforth along the angle; Euler-Maruyama if the noise level falls in time, and
            for weights of the published code; renoise for runs that were tuned by --objective consistency)
        steps: solver steps (default: those of the solver, 2 to 1000; adaptive solvers choose their own, by --rtol)
        nfe: network evaluations per sample, in place of --steps
        grid: time grid; measured is measured on the network once, in less than a minute for small ones, kept with the
            run, and its default from then on (default: the solver's own)
        t_end: time at which sampling ends (default: that of the dynamics, mostly 1e-3)
        denoise_last: give x0_hat at t_end instead of the state there (default: that of the solver)
        prior: start of sampling: zero as published, or data for the data's mean and variance (default: that of the run)
        clip_x0: clip x0_hat to [-1, 1] (default: on images, if the solver gains by it)
        guidance: denoiser wrapper that steers what is drawn (default: none; classifier_free with --guidance_scale)
        match_noise: sample under another process, that of --dynamics, --hurst, --num_aug and their like, at the noise
            levels that the network was trained at (--match_noise --help shows the flags)
        batch_size: samples computed together; another number is kept as another set, which differs by rounding alone
        trajectory: also draw how the first samples come out of the noise (trajectory.png, .gif)
        picture_scale: whole number by which images in pictures are magnified (default: what makes small ones visible;
            1 above 32 x 32)
        device: where to compute
        solver_arguments: arguments of the solver.
        guidance_arguments: arguments of the wrapper.
        process: what is sampled under, if it is not the process of the run.
    """

    n_samples: Annotated[int | None, Range(1, MOST, whole=True), RUNTIME] = None
    seeds: Annotated[tuple[int, ...] | None, ranges] = None
    labels: Annotated[tuple[int | str, ...] | None, words] = None
    mode: Annotated[str | None, MODES, RUNTIME] = None
    solver: Annotated[str | None, SOLVERS] = None
    steps: Annotated[int | None, at_least(1)] = None
    nfe: Annotated[int | None, at_least(1)] = None
    grid: Annotated[str | None, GRIDS] = None
    t_end: Annotated[float | None, Range(1e-6, 1, open_high=True)] = None
    denoise_last: bool | None = None
    prior: Annotated[str | None, ("zero", "data")] = None
    clip_x0: bool | None = None
    guidance: Annotated[str | None, GUIDANCE] = None
    match_noise: Annotated[bool, RUNTIME] = False
    batch_size: Annotated[int, at_least(1)] = 100
    trajectory: Annotated[bool, RUNTIME] = False
    picture_scale: Annotated[int | None, PICTURE_SCALE, RUNTIME] = None
    device: Annotated[str, ("auto", "cpu", "cuda")] = "auto"
    solver_arguments: Mapping[str, Any] = field(default_factory=dict)
    guidance_arguments: Mapping[str, Any] = field(default_factory=dict)
    process: Chosen | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver is not None and self.mode is not None and OF_MODE not in solver_member(self.solver).arguments:
            names = ", ".join(f"--mode {mode} is --solver {solver}" for mode, solver in MODES.items())
            raise Refusal(f"and --solver exclude each other: {names}", "mode")
        if self.steps is not None and self.nfe is not None:
            raise Refusal("and --steps exclude each other; leave one of them out", "nfe")
        check_seeds(self.seeds or ())
        if self.seeds is not None and self.n_samples not in (None, len(self.seeds)):
            raise Refusal(
                f"{self.n_samples} contradicts --seeds, which names {len(self.seeds)}; leave it out", "n_samples"
            )

    def settled(
        self, dynamics: LinearDynamics, spec: DataSpec, *, published: bool, consistent: bool, device: str
    ) -> "SampleConfig":
        """The same with every default filled in.

        Args:
            dynamics: what is reversed.
            spec: what a sample is.
            published: whether the weights are the published code's, which are sampled as published.
            consistent: whether the network was tuned so that an answer is a sample.
            device: ``cpu`` or ``cuda``: they draw other noise from the same seed.

        Raises:
            Refusal: for a magnification of what is no image, an end of sampling that cannot be, a number of
                evaluations that no number of steps takes, or an answer at the end of a solver that gives it anyway.
        """
        own = default_solver(dynamics, published=published, consistent=consistent)
        solver = self.solver or (MODES[self.mode] if self.mode else own)
        kind, arguments = SOLVERS[solver], dict(self.solver_arguments)
        check_picture_scale(self.picture_scale, spec)
        if OF_MODE in solver_member(solver).arguments:
            arguments[OF_MODE] = self.mode != "ode"
        if kind.adaptive:  # its tolerance tells samples apart where others have their steps
            plain = {flag.argument: flag.default for flag in solver_member(solver).flags if flag.default is not None}
            arguments = plain | arguments
        seeds = self.seeds or tuple(range(self.n_samples or SAMPLES))
        if self.denoise_last and kind.renoises:
            raise Refusal(f"True asks {solver} once more, whose last answer is a sample; leave it out", "denoise_last")
        denoise_last = kind.denoise_last if self.denoise_last is None else self.denoise_last
        made = kind(**arguments)
        steps = self.steps or made.own_steps
        if self.nfe is not None:
            components = path_of(kind, dynamics).num_components
            steps = made.steps_for(self.nfe, components=components, denoise_last=denoise_last)
        return replace(
            self,
            mode=None,
            labels=spec.numbers_of(self.labels or ()) or None,
            n_samples=len(seeds),
            seeds=seeds,
            solver=solver,
            solver_arguments=arguments,
            steps=steps,
            nfe=None,
            grid=self.grid or (None if kind.adaptive else name_if_of_run(made.default_grid(dynamics))),
            t_end=ending(dynamics, self.t_end),
            denoise_last=denoise_last,
            clip_x0=kind.clips and spec.is_image if self.clip_x0 is None else self.clip_x0,
            device=device,
        )

    def with_arguments(
        self, solver: Member, of_solver: Mapping[str, Any], wrapper: Member, of_wrapper: Mapping[str, Any]
    ) -> "SampleConfig":
        """The same with arguments of the solver and of the wrapper.

        Args:
            solver: the solver that was named, if it has a name.
            of_solver: arguments that were given.
            wrapper: the wrapper, which is taken if it was named, or one of its arguments is not at its default.
            of_wrapper: arguments that were given.

        Raises:
            Refusal: for arguments without effect on the solver.
        """
        if solver.name:
            of_all = {"steps": self.steps, "nfe": self.nfe, "grid": self.grid}
            SOLVERS[solver.name].refuse_idle(of_all | dict(of_solver))
        plain = {flag.argument: flag.default for flag in wrapper.flags}
        wanted = self.guidance is not None or any(value != plain.get(name) for name, value in of_wrapper.items())
        return replace(
            self,
            guidance=wrapper.name if wanted else None,
            solver_arguments=dict(of_solver),
            guidance_arguments=dict(of_wrapper) if wanted else {},
        )

    @property
    def folder_name(self) -> str:
        """``{mode}{steps}`` for the published samplers, ``{solver}-{steps}`` for others; a tolerance if adaptive.

        The process follows if noise levels are matched.
        """
        name = str(self.solver)
        modes = {solver: mode for mode, solver in MODES.items()}
        name = modes.get(name, f"{name}-") + SOLVERS[name](**self.solver_arguments).extent(self.steps)
        return f"{name}-{label_of(self.process)}" if self.process else name

    def identity(self, made_from: Mapping[str, Any]) -> dict[str, Any]:
        """What tells these samples from others: every field that differs from its default, but those of runtime.

        Seeds are written as ranges, so that the file they stand in can be read.

        Args:
            made_from: what the network is made from: the SHA-256 of its weights, ..
        """
        found, of_runtime = dict(made_from), marked(type(self), RUNTIME)
        for f in fields(self):
            value = getattr(self, f.name)
            value = asdict(value) if isinstance(value, Chosen) else value
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            if f.name not in of_runtime and value != default:
                found[f.name] = value
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return with_ranges(plain)


def name_if_of_run(grid: Grid) -> str | None:
    """The name of a solver's own grid if another one may take its place on the same run; None for a fixed one."""
    return next((name for name in OF_RUN if GRIDS[name] is grid), None)


def with_ranges(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity with its seeds as ranges, e.g. 0-99; earlier versions wrote a list of them."""
    seeds = identity.get("seeds")
    if isinstance(seeds, list) and all(type(seed) is int for seed in seeds):
        return {**identity, "seeds": as_ranges(seeds)}
    return identity


def flags_for(identity: Mapping[str, Any]) -> list[str]:
    """Flags of generate.py that draw the samples of an identity, as words of a command line.

    Each is one word, ``--steps=20``: an identity may be anybody's, and none of its values becomes a flag.

    Args:
        identity: what :meth:`SampleConfig.identity` gave, here or in an earlier version.
    """
    values = {f.name: identity[f.name] for f in fields(SampleConfig) if f.name in identity}
    named = {name: str(identity.get(name)) for name in ("solver", "guidance")}
    for (name, arguments), member in zip(
        [(name, values.pop(f"{name}_arguments", None)) for name in named], members_of(named), strict=True
    ):
        if member.name != named[name] or not isinstance(arguments, Mapping):
            continue  # it has none, or it is one of a plugin, which has to be named anyway
        if OF_MODE in arguments:
            values |= {"mode": "sde" if arguments[OF_MODE] else "ode"}
        values |= {flag.name: arguments[flag.argument] for flag in member.flags if flag.argument in arguments}
    process = words_for(values.pop(OF_PROCESS, None))
    return [*(f"--{name}={written(value)}" for name, value in values.items()), *process]


def samples_of(identity: Mapping[str, Any]) -> int | None:
    """How many samples an identity names; None if it does not say."""
    try:
        return sum(map(len, ranges_in(str(identity["seeds"]))))
    except (LookupError, ValueError, argparse.ArgumentTypeError):
        return None


def evaluations_of(identity: Mapping[str, Any]) -> int | None:
    """Denoiser calls per sample that an identity names, at most; None if it does not say, or by a solver of a plugin.

    Args:
        identity: as in :func:`samples_of`; it may be anybody's.
    """
    try:
        solver = SOLVERS[str(identity["solver"])](**identity.get("solver_arguments", {}))
        return solver.calls(int(identity["steps"]), denoise_last=bool(identity.get("denoise_last")))
    except (LookupError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Compared(Checked):
    """Real samples by which the times of a tuned run are chosen.

    Attributes:
        data_dir: where the data of a tuned run lies now, which --grid measured compares with (default: where the run
            found it)
    """

    data_dir: Path | None = None


@dataclass(frozen=True)
class GenerateOrder:
    """A command line of generate.py.

    Attributes:
        opening: which weights.
        sample: how samples are drawn.
        claims: what published command lines repeat of the run, which must agree with it.
        describe: gives the configuration of a folder of the published code from the flags that were given.
        describing: flags that only such a folder takes and that were given.
        matching: what is said of another process to sample under; None samples under that of the run.
        compared: real samples by which times are chosen.
    """

    opening: Opening
    sample: SampleConfig
    claims: Mapping[str, Any]
    describe: Callable[[RunFolder], RunConfig]
    describing: tuple[str, ...]
    matching: Matching | None = None
    compared: Compared = Compared()


def taken_names() -> frozenset[str]:
    """Names of flags that are there whichever solver or wrapper is chosen, so that an argument of theirs gets none."""
    return OF_PROGRAM | {f.name for kind in (Opening, SampleConfig, Compared) for f in fields(kind)}


def solver_member(name: str) -> Member:
    """A solver and its flags."""
    return Member(name, SOLVERS[name], "solver", skip=taken_names() | {OF_MODE})


def guidance_member(name: str) -> Member:
    """A denoiser wrapper and its flags."""
    return Member(name, GUIDANCE[name], "guidance", skip=taken_names() | GIVEN_TO_WRAPPERS)


def solver_of(seen: Mapping[str, str]) -> Member:
    """The solver that a command line names, by --solver or --mode; without a name if none, or an unknown one."""
    name = seen.get("solver") or MODES.get(seen.get("mode", ""), "")
    return solver_member(name) if name in SOLVERS else replace(solver_member(next(iter(SOLVERS))), name="")


def guidance_of(seen: Mapping[str, str]) -> Member:
    """The wrapper that a command line names; the flags of the first one are known without."""
    name = seen.get("guidance", next(iter(GUIDANCE)))
    return guidance_member(name) if name in GUIDANCE else replace(guidance_member(next(iter(GUIDANCE))), name="")


def members_of(seen: Mapping[str, str]) -> tuple[Member, Member]:
    """The solver and the wrapper of a command line; without a name if it names none."""
    return solver_of(seen), guidance_of(seen)


def all_members() -> list[Member]:
    """All solvers and wrappers."""
    return [*map(solver_member, SOLVERS), *map(guidance_member, GUIDANCE)]


def sample_config(values: Mapping[str, Any], solver: Member, wrapper: Member) -> SampleConfig:
    """How samples are drawn.

    Args:
        values: flags that were given.
        solver: the solver that was named, if it has a name.
        wrapper: the wrapper whose flags are known; it is taken if it was named, or a flag of it is not at its default.

    Raises:
        Refusal: for arguments of the solver without effect.
    """
    config: SampleConfig = section(SampleConfig, values)
    return config.with_arguments(solver, solver.given(values), wrapper, wrapper.given(values))
