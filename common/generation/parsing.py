"""Command lines that draw samples: which flags there are follows from solver, wrapper, task and --match_noise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from common.config.flags import INTEGER, REAL, Flag, flags_of
from common.config.parser import Groups, make_parser, parse, peek, read_words, wants_all_help
from common.config.resolve import Member
from common.generation.config import SampleConfig, all_members, members_of
from common.generation.matching import DYNAMICS, member_of
from common.guidance import GUIDANCE, METHODS
from common.guidance.tasks import TASKS
from common.samplers import SOLVERS

PROCESS = "process to sample under, with --match_noise; else as in the run, or as its class has it"
GENERATE_HELP = """Draw samples from a trained run, or complete some of which only part is known (--task). Flags of
solvers, wrappers and tasks are shown for those that are named; --help all shows every flag."""
CLAIMED = "accepted as published; checked against the run"
OR_OTHER = f"{CLAIMED}; with --match_noise, of the process to sample under"
NOT_LOGGED = Flag("wb_key", str, None, "accepted as published; nothing is logged here")
OFF = ("false", "0", "no")  # as values of switches are read


class MakesGroups(Protocol):
    """Gives the flags of a program."""

    def __call__(self, members: Iterable[Member] = ..., *, processes: Mapping[str, type] | None = None) -> Groups:
        """Flags by title.

        Args:
            members: solvers, wrappers, tasks and methods whose flags are among them.
            processes: processes whose flags are among them; None has none.
        """


def claim_flags(processes: Mapping[str, type]) -> tuple[Flag, ...]:
    """Flags by which published command lines repeat what a run knows.

    Args:
        processes: the register of processes.
    """
    return (
        Flag("data_name", str, None, CLAIMED),
        Flag("dynamics", str, None, OR_OTHER, processes),
        Flag("hurst", REAL, None, OR_OTHER),
        Flag("num_aug", INTEGER, None, OR_OTHER),
    )


def process_flags(processes: Mapping[str, type] | None) -> tuple[Flag, ...]:
    """Flags that name a process and its arguments; what is not given is as in the run."""
    if processes is None:
        return ()
    chooses = Flag(DYNAMICS, str, None, "forward process", processes)
    own = (flag for one in processes.items() for flag in member_of(*one).flags)
    return chooses, *(replace(flag, default=None, help=flag.help.partition(" (default")[0]) for flag in own)


def parse_drawing(
    program: str, text: str, groups: MakesGroups, processes: Mapping[str, type], argv: Sequence[str] | None
) -> tuple[dict[str, Any], *tuple[Member, ...]]:
    """The flags that were given to a program that draws samples, and the classes it names.

    Args:
        program: its name.
        text: what it does.
        groups: gives its flags.
        processes: the register of processes, whose flags are there with --match_noise.
        argv: the command line.

    Raises:
        Refusal: for a wrong one.
    """
    words = read_words(program, argv)
    seen, every = peek(words, flags_of(SampleConfig)), wants_all_help(words)
    chosen = members_of(seen)
    members = all_members() if every else [member for member in chosen if member.name]
    matching = every or seen.get("match_noise", OFF[0]).lower() not in OFF
    found = groups(members, processes=processes if matching else None)
    parser = make_parser(program, "--run_id ID [flags]", text, found)
    registers: tuple[Mapping[str, type], ...] = (SOLVERS, GUIDANCE, TASKS, METHODS)
    return parse(parser, words, zip(chosen, registers, strict=True)), *chosen
