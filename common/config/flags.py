"""Command lines: types of values, parsers that report in one line, and errors of building turned into such lines."""

import argparse
import ast
import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.utilities.exceptions import MisconfigurationException

LARGEST = 2**63 - 1
Groups = Mapping[str, tuple["Flag", ...]]

# -- types of values -------------------------------------------------------------------------------------------------


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


def ranges(text: str) -> tuple[int, ...]:
    """Integers and ranges separated by commas, e.g. 0-63,100."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise argparse.ArgumentTypeError(f"{part!r} is no number and no rising range like 0-63")
        if int(match[2] or match[1]) > LARGEST:
            raise argparse.ArgumentTypeError(f"{part!r} is not below 2^63")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(numbers)


def at_least(low: int) -> Callable[[str], int]:
    """Integers from ``low`` on."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
        if not low <= value <= LARGEST:
            raise argparse.ArgumentTypeError(f"must be at least {low} and below 2^63, got {value}")
        return value

    return parse


def number(
    low: float, high: float = float("inf"), *, open_low: bool = False, open_high: bool = False
) -> Callable[[str], float]:
    """Numbers of an interval."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
        inside = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
        if not inside or math.isinf(value):
            interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or high == float('inf') else ']'}"
            raise argparse.ArgumentTypeError(f"must lie in {interval}, got {text}")
        return value

    return parse


def several(parse: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Different values separated by commas, at least one."""

    def parse_all(text: str) -> tuple[Any, ...]:
        values = tuple(parse(part) for part in text.split(","))
        if len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(f"{text!r} names a value twice")
        return values

    return parse_all


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


def run_name(text: str) -> str:
    """A run id that is a plain folder name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", text) or text == "latest":
        raise argparse.ArgumentTypeError(f"{text!r}: use letters, digits, '-' and '.' (and not 'latest')")
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


# -- parsers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flag:
    """One flag: parser of its value, default, help text, choices (looked up when the parser is made)."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    choices: Collection[str] | None = None


SECRET = re.compile(r"--\w*key\w*")  # --wb_key, and what it may be mistaken for


def redacted(words: Sequence[str]) -> list[str]:
    """A command line whose secrets are not shown."""
    shown = list(words)
    for i, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if SECRET.fullmatch(name) and equals:
            shown[i] = f"{name}=***"
        elif SECRET.fullmatch(name) and i + 1 < len(words):
            shown[i + 1] = "***"
    return shown


def without_secret(words: Sequence[str]) -> list[str]:
    """A command line without flags that give secrets."""
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if not any(SECRET.fullmatch(w) for w in (before, word.partition("=")[0]))]


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without secrets."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse; the words are remembered for messages."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        words = getattr(self, "_words", [])
        for word, shown in zip(words, redacted(words), strict=True):
            if word != shown:
                message = message.replace(word.partition("=")[2] or word, "***")
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def make_parser(program: str, description: str, groups: Groups) -> OneLineParser:
    """A parser whose namespace holds only what was given."""
    parser = OneLineParser(
        prog=program, description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False
    )
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            shown = ",".join(map(str, flag.default)) if isinstance(flag.default, tuple) else flag.default
            default = "" if flag.default is None else f" (default: {shown})"
            words = "True|False" if flag.parse is boolean else flag.name.upper()
            switch: dict[str, Any] = {"nargs": "?", "const": True} if flag.parse is boolean else {}
            group.add_argument(
                f"--{flag.name}",
                type=flag.parse,
                help=(flag.help + default).replace("%", "%%"),
                choices=None if flag.choices is None else tuple(flag.choices),
                metavar=None if flag.choices else words,
                **switch,
            )
    return parser


def defaults(groups: Groups) -> dict[str, Any]:
    """Flag name to default value."""
    return {flag.name: flag.default for flags in groups.values() for flag in flags}


def read_env_file(path: Path = Path(".env")) -> None:
    """Take ``NAME=value`` lines of a .env file into the environment; what the shell has set wins."""
    if path.is_file():
        for line in path.read_text().splitlines():
            match = re.fullmatch(r"\s*(?:export\s+)?(\w+)=(.*?)\s*", line)
            if match and match[2]:
                os.environ.setdefault(match[1], match[2].strip("\"'"))


# -- messages --------------------------------------------------------------------------------------------------------


def with_flags(message: str, names: Collection[str], aliases: Mapping[str, str]) -> str:
    """One line in which names of flags are written as flags.

    Args:
        message: the text of an error.
        names: names of flags.
        aliases: names of arguments to the flags that set them.
    """
    line = " ".join(message.split())
    for argument, flag in aliases.items():
        line = re.sub(rf"(?<![\w-]){argument}(?!\w)", flag, line)
    # the first word, or that after the name of a class
    line = re.sub(r"^([A-Z]\w*: )?(\w+)", lambda m: f"{m[1] or ''}--{m[2]}" if m[2] in names else m[0], line)
    # words such as "steps" are also English: beyond the first word only names with an underscore are taken for flags
    compound = "|".join(sorted(name for name in names if "_" in name))
    return re.sub(rf"(?<![\w./-])({compound})(?![\w./])", r"--\1", line)


@contextlib.contextmanager
def user_errors(program: str, names: Collection[str], aliases: Mapping[str, str]) -> Iterator[None]:
    """Turn the errors of building (they name argument and range) into one line and exit code 2."""
    try:
        yield
    except (ValueError, MisconfigurationException) as error:
        print(f"{program}: error: {with_flags(str(error), names, aliases)}", file=sys.stderr)
        raise SystemExit(2) from error
