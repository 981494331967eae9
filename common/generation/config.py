"""How samples are drawn: the flags of generate.py, and what tells one set of samples from another."""

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Annotated, Any, NamedTuple

from common.config.flags import (
    MOST,
    NOT_NEGATIVE,
    Checked,
    Mark,
    Range,
    as_ranges,
    at_least,
    integers,
    marked,
    ranges,
    words,
)  # fmt: skip
from common.config.resolve import Member, section
from common.config.schema import PICTURE_SCALE, Chosen, RunConfig, check_picture_scale
from common.data.spec import DataSpec
from common.dynamics import LinearDynamics
from common.generation.matching import Matching, label_of
from common.generation.sections import Compared, InputConfig, Opening, Sharing
from common.guidance import GUIDANCE, METHODS
from common.guidance.tasks import TASKS
from common.refusal import Refusal
from common.runs import RunFolder
from common.samplers import GRIDS, MEASURED, MODES, OF_RUN, SOLVERS, Grid, check_seeds, default_solver, ending, path_of
from common.seeding import SEEDS
from common.sides import written as sizes

SAMPLES, COMPLETIONS = 100, 16  # of an input
RUNTIME = Mark("is not what tells samples apart")
OF_MODE = "stochastic"  # the argument of a solver that --mode gives
OF_PROCESS = "process"  # the field that --match_noise gives
OBSERVED = "observed"  # what an identity says of the inputs of a task
OF_PROGRAM = frozenset({"dynamics", "data_name", "hurst", "num_aug", "plugin", "wb_key"})  # flags of every command line
GIVEN_TO_WRAPPERS = frozenset({"denoiser", "dynamics", "spec", "run"})  # arguments that no flag gives
GIVEN_TO_METHODS = frozenset({"denoiser", "dynamics", "operator", "y", "noise_std"})


class Members(NamedTuple):
    """The classes that a command line chooses, each with its flags; one without a name was not chosen."""

    solver: Member
    guidance: Member
    task: Member
    method: Member

    def given(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Arguments of each that flags with a value give."""
        return {kind: member.given(values) for kind, member in self._asdict().items()}


@dataclass(frozen=True)
class SampleConfig(Checked):
    """How samples are drawn. Every field tells one set of samples from another, except those marked ``RUNTIME``.

    Attributes:
        n_samples: number of samples, of every input if there is a --task (default: 100, of every input 16, or as many
            as --seeds names)
        seeds: seeds below 2^32, one per sample, e.g. 0-63,100; every input has the same (default: 0 to n_samples - 1)
        labels: classes by name or number, repeated in turn, e.g. 3,3,7 or cat,dog, for the inputs in turn if there is a
            --task (default: all that were learned; those of the inputs)
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
        task: complete samples of which only part is known: what is observed of every input (--task NAME --help shows
            its flags)
        method: how an observation is put in: by the exact covariance of the data given the noisy state, by one number
            in its place (isotropic), or by replacing what is known after every step, as published (default: exact)
        noise_std: deviation of the noise of measurements, in the units of the data; it is added to inputs that are
            degraded (default: that of the task, mostly 0)
        noise_seed: seed of that noise
        target_shape: another grid to give samples on, e.g. 128,128 or 16000: the last evaluation is on it, for runs
            that predict x0 with a coordinate network or a UViT (default: that of the run)
        batch_size: samples computed together; another number is kept as another set, which differs by rounding alone
        trajectory: also draw how the first samples come out of the noise (trajectory.png, .gif)
        picture_scale: whole number by which images in pictures are magnified (default: what makes small ones visible;
            1 above 32 x 32)
        device: where to compute
        solver_arguments: arguments of the solver.
        guidance_arguments: arguments of the wrapper.
        task_arguments: arguments of the task.
        method_arguments: arguments of the method.
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
    task: Annotated[str | None, TASKS] = None
    method: Annotated[str | None, METHODS] = None
    noise_std: Annotated[float | None, NOT_NEGATIVE] = None
    noise_seed: Annotated[int, Range(0, SEEDS - 1, whole=True)] = 0
    target_shape: Annotated[tuple[int, ...] | None, integers] = None
    batch_size: Annotated[int, at_least(1)] = 100
    trajectory: Annotated[bool, RUNTIME] = False
    picture_scale: Annotated[int | None, PICTURE_SCALE, RUNTIME] = None
    device: Annotated[str, ("auto", "cpu", "cuda")] = "auto"
    solver_arguments: Mapping[str, Any] = field(default_factory=dict)
    guidance_arguments: Mapping[str, Any] = field(default_factory=dict)
    task_arguments: Mapping[str, Any] = field(default_factory=dict)
    method_arguments: Mapping[str, Any] = field(default_factory=dict)
    process: Chosen | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver is not None and self.mode is not None and OF_MODE not in solver_member(self.solver).arguments:
            names = ", ".join(f"--mode {mode} is --solver {solver}" for mode, solver in MODES.items())
            raise Refusal(f"and --solver exclude each other: {names}", "mode")
        if self.steps is not None and self.nfe is not None:
            raise Refusal("and --steps exclude each other; leave one of them out", "nfe")
        of_task = {"method": self.method, "noise_std": self.noise_std, "noise_seed": self.noise_seed or None}
        for name, value in of_task.items():
            if self.task is None and value is not None:
                raise Refusal("has no effect without --task; add that, or leave it out", name)
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
                evaluations that no number of steps takes, an answer at the end of a solver that gives it anyway, or a
                solver that does not go with a method.
        """
        own = default_solver(dynamics, published=published, consistent=consistent, conditional=self.task is not None)
        solver = self.solver or (MODES[self.mode] if self.mode else own)
        kind, arguments = SOLVERS[solver], dict(self.solver_arguments)
        check_picture_scale(self.picture_scale, spec)
        if OF_MODE in solver_member(solver).arguments:
            arguments[OF_MODE] = self.mode != "ode"
        if kind.adaptive:  # its tolerance tells samples apart where others have their steps
            arguments = defaults_of(solver_member(solver)) | arguments
        seeds = self.seeds or tuple(range(self.n_samples or (COMPLETIONS if self.task else SAMPLES)))
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
            **self._conditioned(solver, spec),
        )

    def _conditioned(self, solver: str, spec: DataSpec) -> dict[str, Any]:
        """The fields of a task, with every default filled in; none without one."""
        if self.task is None:
            return {}
        method = self.method or next(iter(METHODS))
        if METHODS[method].imposes and SOLVERS[solver].adaptive:
            raise Refusal(
                f"{method} acts after every step, and {solver} chooses its own, of which it takes back some; take "
                "another --solver, or another method",
                "method",
            )
        low, high = spec.value_range
        own = TASKS[self.task].noise_std * (high - low) / 2
        return {
            "method": method,
            "noise_std": own if self.noise_std is None else self.noise_std,
            "task_arguments": defaults_of(task_member(self.task)) | dict(self.task_arguments),
            "method_arguments": defaults_of(method_member(method)) | dict(self.method_arguments),
        }

    def with_arguments(self, members: Members, given: Mapping[str, Mapping[str, Any]]) -> "SampleConfig":
        """The same with arguments of solver, wrapper, task and method.

        Args:
            members: these; the wrapper is taken if it was named, or one of its arguments is not at its default.
            given: arguments that were given, of each.

        Raises:
            Refusal: for arguments without effect on the solver.
        """
        solver, wrapper = members.solver, members.guidance
        of_solver, of_wrapper, of_task, of_method = (dict(given.get(kind, {})) for kind in Members._fields)
        if solver.name:
            of_all = {"steps": self.steps, "nfe": self.nfe, "grid": self.grid}
            SOLVERS[solver.name].refuse_idle(of_all | of_solver)
        plain = {flag.argument: flag.default for flag in wrapper.flags}
        wanted = self.guidance is not None or any(value != plain.get(name) for name, value in of_wrapper.items())
        return replace(
            self,
            guidance=wrapper.name if wanted else None,
            solver_arguments=of_solver,
            guidance_arguments=of_wrapper if wanted else {},
            task_arguments=of_task,
            method_arguments=of_method,
        )

    @property
    def folder_name(self) -> str:
        """``{mode}{steps}`` for the published samplers, ``{solver}-{steps}`` for others; a tolerance if adaptive.

        The process follows if noise levels are matched, then another grid; task and method come first.
        """
        name = str(self.solver)
        modes = {solver: mode for mode, solver in MODES.items()}
        name = modes.get(name, f"{name}-") + SOLVERS[name](**self.solver_arguments).extent(self.steps)
        parts = [self.task, self.method, name, label_of(self.process) if self.process else None]
        parts += [f"to{sizes(self.target_shape)}"] if self.target_shape else []
        return "-".join(part for part in parts if part)

    def identity(self, made_from: Mapping[str, Any]) -> dict[str, Any]:
        """What tells these samples from others: every field that differs from its default, but those of runtime.

        Seeds are written as ranges, so that the file they stand in can be read.

        Args:
            made_from: what the network is made from: the SHA-256 of its weights, ..; and what it is given
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
        compared: where real samples lie.
        inputs: what a task is done on.
        sharing: who draws.
    """

    opening: Opening
    sample: SampleConfig
    claims: Mapping[str, Any]
    describe: Callable[[RunFolder], RunConfig]
    describing: tuple[str, ...]
    matching: Matching | None = None
    compared: Compared = field(default_factory=Compared)
    inputs: InputConfig = field(default_factory=InputConfig)
    sharing: Sharing = field(default_factory=Sharing)

    def drawn_by(self, values: Mapping[str, Any]) -> "GenerateOrder":
        """The same with what flags that were given say of who draws."""
        return replace(self, sharing=section(Sharing, values))

    def check(self) -> None:
        """Refuse to be told where data lies that is not read, and pictures of a block that another one may draw.

        Raises:
            Refusal: naming the flag.
        """
        of_task = self.sample.task is not None and self.inputs.is_of_data
        if self.compared.data_dir and self.sample.grid != MEASURED and not of_task:
            raise Refusal(
                f"has no effect without --grid {MEASURED}, or a --task on held-out samples; leave it out", "data_dir"
            )
        if self.sample.trajectory and self.sharing.shard:
            raise Refusal(
                "and --shard exclude each other: the first block may be another one's; draw it afterwards, by the same "
                "command without --shard",
                "trajectory",
            )


DRAWN_BY = (SampleConfig, InputConfig, Compared)  # whose fields are flags about drawing, whatever is chosen


def taken_names() -> frozenset[str]:
    """Names of flags that are there whichever solver or wrapper is chosen, so that an argument of theirs gets none."""
    return OF_PROGRAM | {f.name for kind in (Opening, Sharing, *DRAWN_BY) for f in fields(kind)}


def solver_member(name: str) -> Member:
    """A solver and its flags."""
    return Member(name, SOLVERS[name], "solver", skip=taken_names() | {OF_MODE})


def guidance_member(name: str) -> Member:
    """A denoiser wrapper and its flags."""
    return Member(name, GUIDANCE[name], "guidance", skip=taken_names() | GIVEN_TO_WRAPPERS)


def task_member(name: str) -> Member:
    """A task and its flags."""
    return Member(name, TASKS[name], "task", skip=taken_names())


def method_member(name: str) -> Member:
    """A conditional method and its flags."""
    return Member(name, METHODS[name], "method", skip=taken_names() | GIVEN_TO_METHODS)


def defaults_of(member: Member) -> dict[str, Any]:
    """Defaults of its flags, as far as they are plain values."""
    return {flag.argument: flag.default for flag in member.flags if flag.default is not None}


def member_of_register(register: Mapping[str, type], of: Callable[[str], Member], name: str) -> Member:
    """A member by its name; the first one, without its name, for one that is not known."""
    return of(name) if name in register else replace(of(next(iter(register))), name="")


def members_of(seen: Mapping[str, str]) -> Members:
    """The classes that a command line names: the solver by --solver or --mode; a wrapper if none, the first one.

    A task has a method, the first one if none is named.
    """
    first = {"guidance": next(iter(GUIDANCE)), **({"method": next(iter(METHODS))} if "task" in seen else {})}
    named = {"solver": MODES.get(seen.get("mode", ""), ""), **first, **seen}
    found = (
        member_of_register(SOLVERS, solver_member, named["solver"]),
        member_of_register(GUIDANCE, guidance_member, named["guidance"]),
        member_of_register(TASKS, task_member, named.get("task", "")),
        member_of_register(METHODS, method_member, named.get("method", "")),
    )
    return Members(*found)


def all_members() -> list[Member]:
    """All solvers, wrappers, tasks and methods."""
    found = map(solver_member, SOLVERS), map(guidance_member, GUIDANCE), map(task_member, TASKS)
    return [*itertools.chain(*found), *map(method_member, METHODS)]


def sample_config(values: Mapping[str, Any], *members: Member) -> SampleConfig:
    """How samples are drawn.

    Args:
        values: flags that were given.
        members: the classes whose flags are known, as :func:`members_of` gives them.

    Raises:
        Refusal: for arguments of the solver without effect.
    """
    config: SampleConfig = section(SampleConfig, values)
    chosen = Members(*members)
    return config.with_arguments(chosen, chosen.given(values))
