"""Which trainings a sweep is made of: values, their product, names, and everything that is refused before the first.

A member is an ordinary command line of train.py: what was typed, the swept flags, an id of its own, ``--resume auto``.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.config.flags import flags_of, written
from common.config.parser import LIKE_FLAG, make_parser, meant, read_words
from common.config.resolve import section
from common.config.schema import FREE_FLAGS, Keeping, RunConfig
from common.refusal import Refusal, require
from common.runs import RunFolder
from common.runs.folder import FINAL
from common.runs.versions import PLAIN, average_kinds
from common.training.module import EVALUATION, LOSS, VALIDATION
from common.training.resume import Command, TrainOrder
from common.training.session import PROGRAM
from common.training.starting import AUTO
from common.training.sweep.flags import FLAG, Axis, Sweeping, names_in

MOST = 1000  # members
LONGEST = 150  # letters of an id: names of folders have at most 255, and data and process follow
LONGEST_VALUE = 40  # letters of a value in an id; what is longer is cut, and numbered if two are alike then
# what may differ between two starts of a sweep, since its members stay what they are
MAY_CHANGE = FREE_FLAGS - {"init_from", "val_samples"} - {flag for flag in FREE_FLAGS if flag.startswith("eval_")}
MEANINGFUL = frozenset({"init_from", "data_dir", "preset"})  # may be swept, although a run may change or not keep them
Parse = Callable[[Sequence[str]], TrainOrder | None]


@dataclass(frozen=True)
class SweepMember:
    """One training of a sweep.

    Attributes:
        id: id of its run, with the swept flags in it.
        values: its value of every axis, as a command line has it.
        words: its command line.
        order: what that asks for.
    """

    id: str
    values: tuple[str, ...]
    words: tuple[str, ...]
    order: TrainOrder

    @property
    def config(self) -> RunConfig:
        """The run that it is, before its data is known."""
        assert self.order.config is not None  # no --resume names another one
        return self.order.config

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.config.recipe.train_steps

    @property
    def folder(self) -> RunFolder:
        """The folder of its run."""
        return RunFolder(self.order.output_dir / self.config.folder_name)

    @property
    def is_finished(self) -> bool:
        """Whether its run has all of its final weights, and notes them; one that was cut short since is made again."""
        folder = self.folder
        kinds = (PLAIN, *average_kinds(self.config.recipe.averages))
        check = folder.manifest.checker(thoroughly=False)
        try:
            check(folder.config)
            return all(check(folder.weights(kind, FINAL)) for kind in kinds)
        except Refusal:  # missing or damaged: its training says which, and mends what it can
            return False


@dataclass(frozen=True)
class SweepOrder:
    """A command line with --sweep.

    Attributes:
        id: what it is called: ``--wb_id``, or what follows from what it is.
        axes: the swept flags, values as programs write them.
        fixed: what else its members are, flags with their values.
        members: its trainings, the values of the last axis changing fastest.
        asked: flags of the sweep itself.
        command: what else was asked of it.
        output_dir: folder that holds the runs.
        words: what all members have of the command line.
        known: names of arguments to flags of train.py, for messages.
    """

    id: str
    axes: tuple[Axis, ...]
    fixed: Mapping[str, str]
    members: tuple[SweepMember, ...]
    asked: Sweeping
    command: Command
    output_dir: Path
    words: tuple[str, ...]
    known: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """What is kept of the sweep as a whole; runs lie beside it."""
        return self.output_dir / self.id

    @property
    def again(self) -> list[str]:
        """Words that go on with it."""
        own = [f"--sweep={axis}" for axis in self.axes]
        for flag in flags_of(Sweeping):
            if flag.name in ("sweep_jobs", "sweep_metric") and getattr(self.asked, flag.argument) != flag.default:
                own.append(f"--{flag.name}={getattr(self.asked, flag.argument)}")
        return [*self.words, *own, f"--wb_id={self.id}"]


def parted(words: Sequence[str], names: Iterable[str]) -> tuple[list[str], list[str]]:
    """A command line in two: some flags with their values, and all others."""
    wanted, own, rest, into = set(names), list[str](), list[str](), list[str]()
    for word in words:
        if word.startswith("--"):
            into = own if word[2:].partition("=")[0] in wanted else rest
        (into if into is own else rest).append(word)
    return own, rest


def ordered(argv: Sequence[str] | None, parse: Parse, known: Mapping[str, str]) -> SweepOrder:
    """What a command line with --sweep asks for.

    Args:
        argv: its words; None takes those of this process.
        parse: reads the command line of a single training, and refuses what cannot be.
        known: names of arguments to flags of train.py.

    Raises:
        Refusal: for a flag that cannot be swept or is given twice, a value that is wrong, and for whatever is wrong
            with one of the members.
    """
    own, rest = parted(read_words(PROGRAM, argv), [flag.name for flag in flags_of(Sweeping)])
    asked: Sweeping = section(Sweeping, read(own, Sweeping))
    mine = [flag.name for flag in flags_of(Command) if flag.name not in ("preset", "plugin")]
    of_sweep, words = parted(rest, [*mine, "wb_id"])
    found = read(of_sweep, Command, Keeping)
    command: Command = section(Command, found)
    check_command(asked, command)
    check_axes(asked.sweep, names_in(rest), known)
    members = [member_of(asked.sweep, values, words, parse, known) for values in product(asked.sweep)]
    swept = canonical(asked.sweep, [member.values for member in members])
    fixed = fixed_flags(members[0].order, swept)
    wb_id = found.get("wb_id") or own_id(swept, fixed)
    named = with_ids(members, swept, wb_id)
    check_metric(asked.sweep_metric, [member.config for member in named])
    output_dir = named[0].order.output_dir
    if asked.sweep_member is not None and asked.sweep_member >= len(named):
        raise Refusal(
            f"{asked.sweep_member} is beyond the last of {len(named)} members, {len(named) - 1}", "sweep_member"
        )
    return SweepOrder(wb_id, swept, fixed, named, asked, command, output_dir, tuple(words), known)


def read(words: Sequence[str], *kinds: type) -> dict[str, Any]:
    """Values of the flags of some classes, the only ones on a command line."""
    flags = {flag.name: flag for kind in kinds for flag in flags_of(kind)}
    return dict(vars(make_parser(PROGRAM, "[flags]", "", {FLAG: tuple(flags.values())}).parse_args(list(words))))


def check_command(asked: Sweeping, command: Command) -> None:
    """Refuse what a sweep cannot be asked for.

    Raises:
        Refusal: naming it.
    """
    for flag in flags_of(Sweeping):
        if not asked.sweep and getattr(asked, flag.argument) != flag.default:
            raise Refusal("has no effect without --sweep FLAG=VALUE,VALUE", flag.name)
    require(bool(asked.sweep), FLAG, "given with a value, as in hurst=0.7,0.9", "")
    for name in ("check_data", "list_presets", "show_preset"):
        if getattr(command, name):
            raise Refusal("and --sweep exclude each other; leave one of them out", name)
    if command.wb_key is not None:
        raise Refusal("and --sweep exclude each other: keep the key in .env (WANDB_API_KEY=..)", "wb_key")
    if command.resume not in (None, AUTO):
        raise Refusal(
            f"{command.resume} and --sweep exclude each other: the same command goes on with a sweep", "resume"
        )
    for one, other in itertools.combinations(("sweep_member", "sweep_slurm"), 2):
        if getattr(asked, one) is not None and getattr(asked, other) is not None:
            raise Refusal(f"and --{other} exclude each other; leave one of them out", one)


def check_axes(swept: Sequence[Axis], given: Sequence[str], known: Mapping[str, str]) -> None:
    """Refuse flags that cannot be swept, and too many members.

    Args:
        swept: the axes.
        given: names of the other flags on the command line.
        known: names of arguments to flags.

    Raises:
        Refusal: naming the flag.
    """
    flags = set(known.values())
    apart = {flag.name for kind in (Command, Sweeping) for flag in flags_of(kind)} | FREE_FLAGS | {"name"}
    for i, axis in enumerate(swept):
        if axis.flag not in flags:
            near = meant(f"--{axis.flag}", [f"--{flag}" for flag in flags], LIKE_FLAG)
            raise Refusal(f"{axis.flag}: train.py has no such flag{near}", FLAG)
        if axis.flag in apart - MEANINGFUL:
            raise Refusal(f"{axis.flag}: cannot be swept, since it says nothing of what is learned", FLAG)
        if axis.flag in [other.flag for other in swept[:i]]:
            raise Refusal(f"{axis.flag}: is swept twice; name all values at once: {axis.flag}=..,..", FLAG)
        if axis.flag in given:
            raise Refusal("is given, and swept too; leave one of them out", axis.flag)
        if twice := next((value for value in axis.values if axis.values.count(value) > 1), None):
            raise Refusal(f"{axis.flag}: names {twice} twice", FLAG)
    if (count := math.prod(len(axis.values) for axis in swept)) > MOST:
        raise Refusal(f"makes {count:,} trainings, more than {MOST:,}; take fewer values", FLAG)


def product(swept: Sequence[Axis]) -> Iterable[tuple[str, ...]]:
    """Every combination of values, those of the last axis changing fastest."""
    return itertools.product(*(axis.values for axis in swept))


def shown(swept: Sequence[Axis], values: Sequence[str]) -> str:
    """The values of a member in words, ``hurst=0.7 lr=1e-05``."""
    return " ".join(f"{axis.flag}={value}" for axis, value in zip(swept, values, strict=True))


def member_of(
    swept: Sequence[Axis], values: tuple[str, ...], words: Sequence[str], parse: Parse, known: Mapping[str, str]
) -> SweepMember:
    """A member that has no id yet, its values as programs write them.

    Raises:
        Refusal: for whatever is wrong with its command line, saying which member it is.
    """
    own = [*words, *(f"--{axis.flag}={value}" for axis, value in zip(swept, values, strict=True))]
    try:
        order = parse(own)
    except Refusal as error:
        if says_without(words, parse) == str(error):
            raise
        raise Refusal(f"{shown(swept, values)}: {error.line(known)}", FLAG) from error
    assert order is not None  # no flag is left that would only print
    pairs = zip(swept, values, strict=True)
    plain = (written(order.given[axis.flag]) if is_plain(order, axis.flag) else value for axis, value in pairs)
    return SweepMember("", tuple(plain), tuple(own), order)


def says_without(words: Sequence[str], parse: Parse) -> str:
    """What is wrong with a command line without the swept flags; empty if nothing is."""
    try:
        parse(words)
    except Refusal as error:
        return str(error)
    return ""


def is_plain(order: TrainOrder, flag: str) -> bool:
    """Whether a given value of a flag is a number, a word or several, and not values by name."""
    return flag in order.given and not isinstance(order.given[flag], Mapping)


def canonical(swept: Sequence[Axis], found: Sequence[Sequence[str]]) -> tuple[Axis, ...]:
    """The axes with values as programs write them, 1e-05 for 0.00001.

    Raises:
        Refusal: if two values of one are the same then.
    """
    own = []
    for i, axis in enumerate(swept):
        values = tuple(dict.fromkeys(values[i] for values in found))
        if len(values) < len(axis.values):
            raise Refusal(f"{axis.flag}: {','.join(axis.values)} names a value twice", FLAG)
        own.append(Axis(axis.flag, values))
    return tuple(own)


def fixed_flags(order: TrainOrder, swept: Sequence[Axis]) -> dict[str, str]:
    """What members of a sweep have in common, as far as it says what they learn."""
    names = {axis.flag for axis in swept} | MAY_CHANGE
    found = {name: written(value) for name, value in order.given.items() if name not in names}
    preset = order.command.preset
    return {"preset": preset, **found} if preset is not None and "preset" not in names else found


def own_id(swept: Sequence[Axis], fixed: Mapping[str, str]) -> str:
    """An id that the same command has again."""
    text = json.dumps([[[axis.flag, axis.values] for axis in swept], sorted(fixed.items())])
    return f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def in_name(flag: str, value: str) -> str:
    """A flag with its value as a part of an id: letters, digits, points and dashes."""
    if not re.match(r"\d", value):
        value = f"-{value}"
    value = re.sub(r"[^A-Za-z0-9.-]+", "-", value.replace("+", ""))  # not 1e-30 for 1e+30
    return flag.replace("_", "-") + value[-LONGEST_VALUE:].rstrip("-.")


def with_ids(members: Sequence[SweepMember], swept: Sequence[Axis], wb_id: str) -> tuple[SweepMember, ...]:
    """The members under ids that say what is swept.

    Raises:
        Refusal: if they are too long for names of folders.
    """
    named, taken = [], set[str]()
    for member in members:
        parts = [in_name(axis.flag, value) for axis, value in zip(swept, member.values, strict=True)]
        base = "-".join([wb_id, *parts])
        name = next(one for i in itertools.count(1) if (one := base if i == 1 else f"{base}-{i}") not in taken)
        taken.add(name)
        if len(name) > LONGEST:
            raise Refusal(
                f"leads to names of {len(name)} letters, more than {LONGEST}; sweep fewer flags at once", FLAG
            )
        words = (*member.words, f"--wb_id={name}", f"--resume={AUTO}")
        command = replace(member.order.command, resume=AUTO)
        config = member.config.named(name, member.order.output_dir)
        order = replace(member.order, command=command, config=config, words=words)
        named.append(replace(member, id=name, words=words, order=order))
    return tuple(named)


def check_metric(name: str, configs: Sequence[RunConfig]) -> None:
    """Refuse a figure that no member can have.

    Raises:
        Refusal: naming it.
    """
    judged = name.startswith(EVALUATION)
    if not judged and name not in (LOSS, VALIDATION):
        raise Refusal(f"{name}: there are {VALIDATION}, {LOSS} and, with --eval_every, {EVALUATION}..", "sweep_metric")
    if judged and not all(config.keeping.eval_every for config in configs):
        raise Refusal(f"{name} needs --eval_every, in every member", "sweep_metric")
