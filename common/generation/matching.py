"""Another process than the run's own: what --match_noise samples under, noise levels matched."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from common.config.flags import written
from common.config.plugins import build, class_of, class_path, resolve_class
from common.config.resolve import Member, filled, plain
from common.config.schema import Chosen
from common.dynamics import LinearDynamics, Prior
from common.dynamics.prior import LITTLE_NOISE
from common.guidance import Matched, NotReached
from common.refusal import Refusal
from common.runs import Run

DYNAMICS = "dynamics"  # the flag that names a process
NUM_AUG, MOST_NUM_AUG = "num_aug", 4  # processes that are tried for a message


def member_of(name: str, kind: type) -> Member:
    """A process and its flags, the same as in train.py."""
    return Member(name, kind, DYNAMICS)


@dataclass(frozen=True)
class Matching:
    """What a command line with --match_noise says of the process to sample under.

    Attributes:
        given: every flag that was given, with its value.
        processes: the register of processes.
    """

    given: Mapping[str, Any]
    processes: Mapping[str, type[LinearDynamics]]

    @property
    def flags(self) -> frozenset[str]:
        """Names of the flags that are about that process, whichever it is."""
        return frozenset(flag.name for one in self.processes.items() for flag in member_of(*one).flags) | {DYNAMICS}

    def process(self, run: Run) -> Chosen:
        """The process to sample a run under, with all its arguments.

        Raises:
            Refusal: for a flag that this process does not have, or arguments that fit no process.
        """
        own = run.config.dynamics
        name = self.given.get(DYNAMICS, own.name)
        member = member_of(name, self.processes[name] if DYNAMICS in self.given else class_of(own))
        idle = self.flags & self.given.keys() - {DYNAMICS} - {flag.name for flag in member.flags}
        if idle:
            raise Refusal(f"has no effect on --{DYNAMICS} {name}; leave it out", min(idle))
        return process_for(run, member, member.given(self.given))

    def advice(self, run: Run) -> str:
        """Which processes a run could be sampled under instead, as words of a command line."""
        found = []
        for name, kind in self.processes.items():
            member, counts = member_of(name, kind), range(1, MOST_NUM_AUG + 1)
            if NUM_AUG not in member.arguments:
                found += [name] if fits(run, member, {}) else []
            elif some := [str(count) for count in counts if fits(run, member, {NUM_AUG: count})]:
                found.append(f"{name} (--{NUM_AUG} {', '.join(some)})")
        return f"; --{DYNAMICS} {', '.join(found)} would fit" if found else ""


def fits(run: Run, member: Member, given: Mapping[str, Any]) -> bool:
    """Whether a run could be sampled under a process that is not its own.

    Args:
        run: the run.
        member: the class.
        given: arguments of its constructor.
    """
    try:
        dynamics = open_process(run, process_for(run, member, given))
        Matched(run.denoiser, dynamics, t_min=trained_from(run))
    except Refusal:
        return False
    return True


def process_for(run: Run, member: Member, given: Mapping[str, Any]) -> Chosen:
    """A process for the samples of a run; arguments that are not given are the run's if the class is the same.

    Args:
        run: the run.
        member: the class.
        given: arguments of its constructor.
    """
    own, grid, kind = run.config.dynamics, run.data.grid, cast(type[LinearDynamics], member.kind)
    defaults = member.choose({})
    known = own.arguments if class_path(member.kind) == own.path else {}
    of_data = plain({"shape": grid, **kind.defaults_for(grid)})
    return filled(replace(defaults, arguments={**defaults.arguments, **known, **given}), member.kind, of_data)


def trained_from(run: Run) -> float:
    """The smallest time that a run was trained at."""
    return run.config.recipe.t_min


def open_process(run: Run, process: Chosen) -> LinearDynamics:
    """The process to sample a run under; it starts from the data's mean and variance if the run's own one does.

    Raises:
        Refusal: if it cannot be made, or is no other one than that of the run.
    """
    dynamics: LinearDynamics = build(process, LinearDynamics)
    if not (dynamics.basis.modes or run.dynamics.basis.modes):
        dynamics.prior = Prior(dynamics, run.dynamics.prior.mean, run.dynamics.prior.variance)
        dynamics.node_density = run.dynamics.node_density  # over noise levels, which are the same
    dynamics.data_std, dynamics.decision_level = run.dynamics.data_std, run.dynamics.decision_level
    if dynamics.shows_the_law_of(run.dynamics):
        raise Refusal(
            f"there is nothing to match: {run.folder.name} was trained under {run.dynamics}; name another process by "
            f"--{DYNAMICS} or flags of it, or leave --match_noise out"
        )
    return dynamics


def match(run: Run, dynamics: LinearDynamics, t_end: float | None, matching: Matching | None) -> Matched:
    """The denoiser of a run under another process.

    Args:
        run: the run.
        dynamics: that process.
        t_end: time at which sampling ends.
        matching: what the command line says; processes that would fit are told from its register.

    Raises:
        Refusal: if noise levels cannot be matched.
    """
    try:
        return Matched(run.denoiser, dynamics, t_end=t_end, t_min=trained_from(run))
    except NotReached as refusal:
        raise Refusal(f"{refusal}{matching.advice(run) if matching else ''}") from refusal


def told(run: Run, matched: Matched) -> str:
    """What a program says of it."""
    low, high = matched.levels
    return f"{run.dynamics} -> matched to {matched.process}, noise levels {low:.3g} to {high:.4g}"


def notes(matched: Matched) -> tuple[str, ...]:
    """What a user should know: that much of the data is left where sampling begins."""
    level = matched.levels.high
    if level >= LITTLE_NOISE:
        return ()
    # mean and variance do not mend it: pixels that belong together start apart
    return (
        f"the noise level at T is only {level:.3g}: data is still seen there, so samples start from the wrong law; "
        f"{matched.process.more_noise}",
    )


def label_of(process: Chosen) -> str:
    """A short name of a process for a folder, e.g. fvp-H0.7_K3; other arguments are not in it."""
    kind: type[LinearDynamics] = class_of(process)
    label = kind.run_label.format_map({**process.arguments, "dynamics": process.name, "model": ""}).strip("_")
    return process.name if label == process.name else f"{process.name}-{label}"


def words_for(stored: Any) -> list[str]:
    """Flags of generate.py for a process that an identity of samples names; none if it is not known here.

    Args:
        stored: fields of a :class:`Chosen`, or anything: an identity may be anybody's.
    """
    try:
        process = Chosen(**stored)
        flags, arguments = member_of(process.name, resolve_class(process.path, LinearDynamics)).flags, process.arguments
        given = {flag.name: arguments[flag.argument] for flag in flags if arguments.get(flag.argument) is not None}
    except (TypeError, AttributeError, Refusal):
        return []
    words = {DYNAMICS: process.name, **given}
    return ["--match_noise=True", *(f"--{name}={written(value)}" for name, value in words.items())]
