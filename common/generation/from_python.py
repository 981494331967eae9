"""Arguments of a call from Python, checked as argparse checks flags, and refused by their names."""

import contextlib
import re
import reprlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from common.config.flags import hints_of
from common.config.kinds import fits
from common.config.plugins import class_of
from common.config.resolve import Member
from common.config.schema import Chosen
from common.dynamics import LinearDynamics
from common.generation.config import GIVEN_TO_METHODS, GIVEN_TO_WRAPPERS, OF_MODE, SampleConfig, members_of
from common.generation.matching import member_of, process_for
from common.generation.sections import InputConfig
from common.refusal import Refusal
from common.runs import Run

FLAG = re.compile(r"--(\w+)")
COMMAND = ".py"  # a message that has it says what to type, flags and all


def folder_of(data_dir: str | Path | None) -> Path | None:
    """A folder with ``~`` expanded."""
    return None if data_dir is None else Path(data_dir).expanduser()


def listed(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """Values of a list, range, array or tensor as plain ones.

    Raises:
        Refusal: if it is no such thing, or empty: then nothing could be meant.
    """
    try:
        found = tuple(value.item() if hasattr(value, "item") else value for value in values)
    except (TypeError, ValueError, RuntimeError):
        found = ()
    if not found:
        raise Refusal(f"must be a list of at least one, got {reprlib.repr(values)}", name)
    return found


def configured(
    values: Mapping[str, Any], arguments: Mapping[str, Mapping[str, Any] | None] | None = None
) -> SampleConfig:
    """How samples are drawn, from arguments as a command line would give them by flags.

    Args:
        values: fields of :class:`SampleConfig`.
        arguments: of ``solver``, ``guidance``, ``task`` and ``method``.

    Raises:
        Refusal: for values of another kind, or that contradict each other or have no effect.
    """
    given = plain_values(values)
    hints = typing.get_type_hints(SampleConfig)
    for f in fields(SampleConfig):
        if f.name in given and not fits(given[f.name], hints[f.name]):
            raise Refusal(f"cannot be {reprlib.repr(given[f.name])}", f.name)
    config = SampleConfig(**given)
    members = members_of({name: value for name, value in given.items() if isinstance(value, str)})
    of_others = {"solver": {OF_MODE}, "guidance": GIVEN_TO_WRAPPERS, "method": GIVEN_TO_METHODS}
    found = {}
    for kind, member in members._asdict().items():
        own = (arguments or {}).get(kind)
        if own and not member.name:
            needs = "task" if kind == "method" else kind
            raise Refusal(f"has no effect without {needs}; name it", f"{kind}_arguments")
        found[kind] = checked_arguments(member, own, of_others.get(kind, ()))
    return config.with_arguments(members, found)


def chosen_inputs(
    n_inputs: int | None,
    inputs: Iterable[int] | None,
    own: str | Path | np.ndarray | None,
    observation: str | Path | np.ndarray | None,
) -> InputConfig:
    """What a task is done on.

    Raises:
        Refusal: for values that cannot be, or that contradict each other.
    """
    if inputs is not None:
        inputs = listed("inputs", inputs)
        if not all(type(place) is int and place >= 0 for place in inputs):
            raise Refusal(f"must be whole numbers from 0 on, got {reprlib.repr(inputs)}", "inputs")
    files = (Path(one).expanduser() if isinstance(one, str | Path) else one for one in (own, observation))
    return InputConfig(n_inputs, inputs, *files)


def checked_arguments(member: Member, given: Mapping[str, Any] | None, of_others: Iterable[str]) -> dict[str, Any]:
    """Arguments of a class, unless it does not have them or they are of another kind.

    Args:
        member: the solver, the wrapper, the task or the method.
        given: arguments by name, or None.
        of_others: those of its arguments that are given otherwise.

    Raises:
        Refusal: naming the argument.
    """
    taken, hints = [name for name in member.arguments if name not in set(of_others)], hints_of(member.kind)
    found = plain_values(given or {})
    for name, value in found.items():
        if name not in taken:
            known = f"it takes {', '.join(taken)}" if taken else "it takes none"
            raise Refusal(f"{name}: {member.kind.__name__} has no such argument; {known}", f"{member.flag}_arguments")
        if not fits(value, hints.get(name, Any)):
            raise Refusal(f"{name} cannot be {reprlib.repr(value)}", f"{member.flag}_arguments")
    return found


def other_process(run: Run, kind: type[LinearDynamics] | None, given: Mapping[str, Any]) -> Chosen:
    """The process to sample a run under, as a command line would name it.

    Args:
        run: the run.
        kind: its class; None takes that of the run's own process.
        given: arguments of its constructor.

    Raises:
        Refusal: for what is no process, or an argument that it does not have or of another kind.
    """
    own = run.config.dynamics
    kind = kind or class_of(own)
    if not (isinstance(kind, type) and issubclass(kind, LinearDynamics)):
        raise Refusal(f"must be a class of processes, got {reprlib.repr(kind)}", "dynamics")
    member = member_of(own.name if kind is class_of(own) else kind.__name__.lower(), kind)
    return process_for(run, member, checked_arguments(member, given, ()))


def plain_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same with numbers of Python in place of NumPy's, which config files and messages do not know."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}


@contextlib.contextmanager
def by_argument() -> Iterator[None]:
    """Let refusals name arguments where those of a program name flags."""
    try:
        yield
    except Refusal as error:
        problem = of_python(error.problem)
        if problem == error.problem:
            raise
        raise Refusal(problem, error.argument) from None


def of_python(message: str) -> str:
    """A message with arguments in place of flags, unless it says what to type."""
    return message if COMMAND in message else FLAG.sub(r"\1", message)
