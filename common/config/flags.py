"""Flags from signatures: a constructor's or dataclass's hints, defaults and ``Args:`` text are the schema.

A hint says how a value is read: ``float``, ``int``, ``bool``, ``str``, ``Path``, ``Literal[..]``, a sequence of
numbers, any of these or None. ``Annotated[hint, x]`` says it more closely: x is a :class:`Range`, another reader of
texts, or a collection of names to choose from. An argument of any other kind gets no flag.
"""

import argparse
import ast
import contextlib
import inspect
import itertools
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from common.config.texts import described
from common.refusal import Refusal
from common.seeding import SEEDS
from common.sides import Sides

LARGEST = 2**63 - 1
MOST = 10**8  # numbers of a list, which stands in memory
Read = Callable[[str], Any]

# -- values from texts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """Numbers of an interval: reads one from a text, and checks one that is given.

    Attributes:
        low: smallest value.
        high: largest value; infinity itself is never among them.
        open_low: whether ``low`` is left out.
        open_high: whether ``high`` is left out.
        whole: whether the numbers are integers.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high or self.high == math.inf else value <= self.high
        return above and below and (not self.whole or value == int(value))

    def __str__(self) -> str:
        if self.whole:
            return f"be at least {self.low} and {'below 2^63' if self.high == LARGEST else f'at most {self.high}'}"
        closing = ")" if self.open_high or self.high == math.inf else "]"
        return f"lie in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{closing}"

    def __call__(self, text: str) -> float:
        """The number that a text stands for.

        Raises:
            argparse.ArgumentTypeError: if it is no number, or lies outside.
        """
        try:
            value: float = int(text) if self.whole else float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if self.whole else ''}number") from error
        if value not in self:
            raise argparse.ArgumentTypeError(f"must {self}, got {text}")
        return value


def at_least(low: int) -> Range:
    """Integers from ``low`` on."""
    return Range(low, LARGEST, whole=True)


POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1, open_high=True)
INTEGER = Range(-LARGEST, LARGEST, whole=True)
REAL = Range(-math.inf, open_low=True)


def boolean(text: str) -> bool:
    """True or False, as published command lines write it."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.lower()]


def integers(text: str) -> tuple[int, ...]:
    """Integers separated by commas, e.g. 1,2,4."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of integers separated by commas") from error


def words(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def height_by_width(text: str) -> int | Sides:
    """Height and width, e.g. 48x32; a single number is a square."""
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write height x width, as in 48x32, or 32 for a square")
    sides = Sides(int(match[1]), int(match[2] or match[1]))
    if not 1 <= min(sides) <= max(sides) <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be at least 1 and below 2^63, got {text}")
    return sides.short


def rising(text: str) -> tuple[float, ...]:
    """Two numbers separated by a comma, the smaller one first."""
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if not (len(numbers) == 2 and all(map(math.isfinite, numbers)) and numbers[0] < numbers[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no two rising numbers separated by a comma, as in 0,4095")
    return numbers


def ranges(text: str) -> tuple[int, ...]:
    """Seeds: integers below 2^32 and ranges of them separated by commas, e.g. 0-63,100."""
    return tuple(itertools.chain.from_iterable(ranges_in(text)))


def ranges_in(text: str) -> list[range]:
    """The parts of what :func:`ranges` reads.

    Raises:
        argparse.ArgumentTypeError: if they are none, or too many numbers.
    """
    found: list[range] = []
    count = 0
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise argparse.ArgumentTypeError(f"{part!r} is no number and no rising range like 0-63")
        named = range(int(match[1]), int(match[2] or match[1]) + 1)
        if named.stop > SEEDS:
            raise argparse.ArgumentTypeError(f"{part!r} is not below 2^32")
        found.append(named)
        count += len(named)
        if count > MOST:
            raise argparse.ArgumentTypeError(f"{text!r} names more than {MOST} numbers")
    return found


def as_ranges(numbers: Sequence[int]) -> str:
    """The shortest text that :func:`ranges` reads as these numbers, e.g. 0-63,100."""
    runs: list[list[int]] = []  # first and last number of each
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if first < last else str(first) for first, last in runs)


def several(read: Read) -> Read:
    """Different values separated by commas, at least one."""

    def read_all(text: str) -> tuple[Any, ...]:
        values = tuple(read(part) for part in text.split(","))
        if len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(f"{text!r} names a value twice")
        return values

    return read_all


def duration(text: str) -> float:
    """Seconds, from 90s, 30m, 3.5h, 2d, or [days:]hours:minutes:seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match:
        seconds = float(match[1]) * units[match[2]]
    elif re.fullmatch(r"(\d+:)?\d+:\d\d?:\d\d?", text):
        parts = [int(part) for part in reversed(text.split(":"))]
        seconds = sum(part * unit for part, unit in zip(parts, units.values(), strict=False))
    else:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90s, 30m, 3.5h, 2d or hours:minutes:seconds")
    if seconds <= 0:
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return seconds


def at_home(text: str) -> str:
    """A path whose leading ``~`` or ``~user`` is that home folder, which a shell does not see to in ``--flag=~/x``."""
    return os.path.expanduser(text)  # noqa: PTH111  # a text: pathlib would take ./~x for ~x


def place(text: str) -> str:
    """A path, or a name that may be one, with ``~`` expanded.

    Raises:
        argparse.ArgumentTypeError: for the home of an unknown user.
    """
    if (found := at_home(text)).startswith("~"):
        raise argparse.ArgumentTypeError(f"{text!r}: that home folder is unknown; for a name with ~ write ./{text}")
    return found


def path(text: str) -> Path:
    """A path with ``~`` expanded."""
    return Path(place(text))


def run_name(text: str) -> str:
    """A run id that is a plain folder name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", text) or text == "latest":
        raise argparse.ArgumentTypeError(f"{text!r}: use letters, digits, '-' and '.' (and not 'latest')")
    return text


def project_name(text: str) -> str:
    """A name that W&B takes for a project."""
    if not re.fullmatch(r"[^/\\#?%:]{1,128}", text) or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r}: use 1 to 128 characters, and none of / \\ # ? % :")
    return text


def keyword_values(text: str) -> dict[str, Any]:
    """Plain values by name, e.g. rate=2,mass=0.5 (numbers, True, False, None; anything else is text)."""
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise argparse.ArgumentTypeError(f"{part!r} is not of the form name=value")
        try:
            values[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            values[name.strip()] = value.strip()
    return values


def written(value: Any) -> str:
    """A value as it is written on a command line."""
    several_values = isinstance(value, tuple | list) and not isinstance(value, Sides)
    return ",".join(map(str, value)) if several_values else str(value)


# -- flags from signatures -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: its name, without dashes.
        read: reader of its value.
        default: the value if it is not given; None if the default is no plain value.
        help: what it is for.
        choices: what may be chosen (looked up when the parser is made); None if anything may.
        argument: the constructor's argument or dataclass's field that it sets; by default the flag's own name.
        alone: its value if it is given without one; None if it needs one.
        many: whether its values, a tuple each, may be given as several words, and several times.
    """

    name: str
    read: Read
    default: Any
    help: str
    choices: Collection[str] | None = None
    argument: str = ""
    alone: Any = None
    many: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "argument", self.argument or self.name)
        if self.read is boolean:
            object.__setattr__(self, "alone", True)


SIMPLE: dict[Any, Read] = {bool: boolean, int: INTEGER, float: REAL, str: str, Path: path}


def one_of(words: Mapping[str, Any], text: str) -> Any:
    """The value that a word stands for; the parser refuses others."""
    return words.get(text, text)


def some_number(text: str) -> float:
    """A number, whole if it can be."""
    try:
        return int(text)
    except ValueError:
        return REAL(text)


def reader_of(hint: Any) -> tuple[Read, Collection[str] | None] | None:
    """How values of a hint are read, and what there is to choose from; None if no text can stand for them."""
    if typing.get_origin(hint) is Annotated:
        plain, *extras = typing.get_args(hint)
        read, choices = reader_of(plain) or (None, None)
        for extra in extras:
            if isinstance(extra, Collection) and not isinstance(extra, str):
                choices = extra
            elif callable(extra):
                read = extra
        return None if read is None else (read, choices)
    if typing.get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return reader_of(kinds[0]) if len(kinds) == 1 else None
    if typing.get_origin(hint) is Literal:
        words = {str(value): value for value in typing.get_args(hint)}
        return partial(one_of, words), typing.get_args(hint)
    kinds = [kind for kind in typing.get_args(hint) if kind is not Ellipsis]
    if isinstance(typing.get_origin(hint), type) and issubclass(typing.get_origin(hint), Collection):
        if kinds == [int]:
            return integers, None
        found = reader_of(kinds[0]) if len(kinds) == 1 else None
        return found and (several(found[0]), None)
    return (SIMPLE[hint], None) if isinstance(hint, type) and hint in SIMPLE else None


def flags_of(
    kind: type, *, skip: Collection[str] = (), choices: Mapping[str, Collection[str]] | None = None
) -> tuple[Flag, ...]:
    """Flags of a class: one for every argument of its constructor that a text can give.

    A class may name published flags that differ from its arguments: ``flag_names = {"normalize": "norm"}``.

    Args:
        kind: a class of a register, or a dataclass.
        skip: names of flags that it shall not have.
        choices: names to choose from, by argument, beside those in the hints.
    """
    hints = hints_of(kind)
    texts, flags = described(kind), []
    for argument, parameter in inspect.signature(kind).parameters.items():
        name = flag_name(kind, argument)
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        hint = hints.get(argument, float if type(default) is int else type(default))  # without one the default tells
        found = (some_number, None) if argument not in hints and type(default) is int else reader_of(hint)
        if found is None or name in skip or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        chosen = (choices or {}).get(argument, found[1])
        extras, text = getattr(hints.get(argument), "__metadata__", ()), texts.get(argument, "see its documentation")
        alone = next((extra.value for extra in extras if isinstance(extra, Alone)), None)
        flags.append(Flag(name, found[0], default, text, chosen, argument, alone, MANY in extras))
    return tuple(flags)


def hints_of(kind: type) -> dict[str, Any]:
    """Hints of the arguments of a class's constructor, with what ``Annotated`` adds."""
    construct: Any = kind.__init__  # type: ignore[misc]  # of a class, not of an object
    try:
        return typing.get_type_hints(construct, include_extras=True)
    except NameError:  # a name that is imported for type checkers only: what can be read without it is read
        place, found = vars(sys.modules[kind.__module__]), {}
        for name, hint in construct.__annotations__.items():
            with contextlib.suppress(NameError):
                found[name] = eval(hint, place) if isinstance(hint, str) else hint  # the module's own text
        return found


def flag_name(kind: type, argument: str) -> str:
    """The flag that sets an argument of a class."""
    names: Mapping[str, str] = getattr(kind, "flag_names", {})
    return names.get(argument, argument)


@dataclass(frozen=True)
class Alone:
    """The value of a flag that is given without one: ``Annotated[str, Alone("auto")]``.

    Attributes:
        value: that value.
    """

    value: Any


@dataclass(frozen=True)
class Mark:
    """Says something of a field of a dataclass: ``Annotated[int, FREE]``.

    Attributes:
        meaning: what it says.
    """

    meaning: str


MANY = Mark("may be given as several words, and several times")


def marked(kind: type, mark: Mark) -> frozenset[str]:
    """Names of the fields of a dataclass that have a mark."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return frozenset(name for name, hint in hints.items() if mark in getattr(hint, "__metadata__", ()))


class Checked:
    """Base of dataclasses whose ranges and choices, given by ``Annotated``, hold however an object is made."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name, None)
            for allowed in getattr(hint, "__metadata__", ()):
                if isinstance(allowed, Range) and value is not None and value not in allowed:
                    raise Refusal(f"must {allowed}, got {value}", name)
                if isinstance(allowed, Collection) and value is not None and value not in tuple(allowed):
                    raise Refusal(f"must be one of {', '.join(allowed)}, got {value!r}", name)
