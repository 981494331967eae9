"""Flags of a sweep, and how its values are written; nothing here takes long to import."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.config.flags import MANY, Checked, at_least, flags_of, path

FLAG = "sweep"


@dataclass(frozen=True)
class Axis:
    """A flag and its values, one of each member.

    Attributes:
        flag: its name.
        values: as they are written on a command line.
    """

    flag: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        separator = ";" if any("," in value for value in self.values) else ","
        return f"{self.flag}={separator.join(self.values)}{separator * (len(self.values) == 1 and separator == ';')}"


def axes(text: str) -> tuple[Axis, ...]:
    """The axis of a word ``hurst=0.7,0.9``; if there is a semicolon, that separates, and values may have commas.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    name, equals, rest = text.partition("=")
    name = name.strip().removeprefix("--")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form flag=value,value, as in hurst=0.7,0.9")
    values = tuple(part.strip() for part in (rest.removesuffix(";").split(";") if ";" in rest else rest.split(",")))
    if not all(values):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty value")
    return (Axis(name, values),)


@dataclass(frozen=True)
class Sweeping(Checked):
    """Several trainings at one command.

    Attributes:
        sweep: train once with each of several values of a flag, hurst=0.7,0.9; given again (or as several words) for
            other flags, with every combination; values that have commas themselves are separated by semicolons, in
            quotes: "channel_mult=1,2;1,2,2"; --wb_id is the id of the sweep, and the same command goes on with it
            (default: none)
        sweep_jobs: trainings of a sweep that run at once
        sweep_metric: figure of metrics.csv that the table and the picture of a sweep compare: val/loss, train/loss, or
            one of --eval_every, as in eval/sw
        sweep_member: train only this member of a sweep, counted from 0, in this process: the line of a job array
            (default: all)
        sweep_slurm: write a job script for SLURM that trains every member of a sweep, and train nothing (default: none)
    """

    sweep: Annotated[tuple[Axis, ...], axes, MANY] = ()
    sweep_jobs: Annotated[int, at_least(1)] = 1
    sweep_metric: str = "val/loss"
    sweep_member: Annotated[int | None, at_least(0)] = None
    sweep_slurm: Annotated[Path | None, path] = None


def asks_for_a_sweep(words: Sequence[str]) -> bool:
    """Whether a command line has one of the flags of a sweep, and does not ask for help or the version."""
    names = names_in(words)
    helps = {"-h", "--help", "--version"}.intersection(words)
    return not helps and any(flag.name in names for flag in flags_of(Sweeping))


def names_in(words: Sequence[str]) -> list[str]:
    """Names of the flags on a command line."""
    return [word[2:].partition("=")[0] for word in words if word.startswith("--")]
