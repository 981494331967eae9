"""Which process of one work this is, as whoever started it has numbered it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from common.refusal import Refusal

TORCHRUN, SRUN, LIGHTNING = "torchrun", "srun", "lightning"
# srun(1): tasks of each machine; $SLURM_NTASKS_PER_NODE is what a job was asked for, and steps may have others
PER_NODE = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")


@dataclass(frozen=True)
class Place:
    """One of several processes that do one work together.

    Attributes:
        rank: its number among all of them, from 0; the first one speaks and writes.
        count: how many there are.
        local_rank: its number among those of its machine.
        local_count: how many there are on its machine.
        launcher: ``torchrun``, ``srun``, ``lightning`` (the first process has started the others), or empty: alone.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    launcher: str = ""

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether this process fetches and unpacks for its machine."""
        return self.local_rank == 0

    @property
    def from_outside(self) -> bool:
        """Whether all processes begin at once, each with the command line of all."""
        return self.launcher in (TORCHRUN, SRUN)


def started_together(environment: Mapping[str, str] = os.environ) -> Place:
    """:func:`place` among processes that torchrun or srun has started with this command line; else alone.

    Raises:
        Refusal: as there.
    """
    found = place(environment)
    return found if found.from_outside else Place()


def place(environment: Mapping[str, str] = os.environ, nodes: int = 1) -> Place:
    """The place of this process, after :func:`common.config.environment.leave_to_others`.

    Args:
        environment: variables by name.
        nodes: number of machines, if it is Lightning that starts processes, which says nothing of it.

    Raises:
        Refusal: naming a variable that is no number, or numbers that cannot be.
    """

    def number(name: str, otherwise: int | None = None) -> int:
        text = environment.get(name, "")
        if text.isdecimal():
            return int(text)
        if otherwise is None or text:
            raise Refusal(f"${name} is {text!r}, where the launcher writes a number: start it again, or unset it")
        return otherwise

    if "TORCHELASTIC_RUN_ID" in environment or {"RANK", "LOCAL_RANK"} <= environment.keys():
        local = number("LOCAL_WORLD_SIZE", 1)
        found = Place(number("RANK"), number("WORLD_SIZE"), number("LOCAL_RANK"), local, TORCHRUN)
    elif "SLURM_NTASKS" in environment and "SLURM_PROCID" in environment:
        count = number("SLURM_NTASKS")
        local = tasks_here(environment, count, number("SLURM_NNODES", 1), number("SLURM_NODEID", 0))
        found = Place(number("SLURM_PROCID"), count, number("SLURM_LOCALID", 0), local, SRUN)
    elif "LOCAL_RANK" in environment:  # Lightning's own: the first process has written them for all
        local_rank, count = number("LOCAL_RANK"), number("WORLD_SIZE", 1)
        local = max(1, count // nodes)
        found = Place(number("NODE_RANK", 0) * local + local_rank, count, local_rank, local, LIGHTNING)
    else:
        return Place()
    if not (found.rank < found.count and found.local_rank < max(found.local_count, found.count)):
        raise Refusal(
            f"this process is numbered {found.rank} of {found.count} by {found.launcher}, which cannot be: start all "
            "of them again"
        )
    return found


def tasks_here(environment: Mapping[str, str], count: int, nodes: int, node: int) -> int:
    """Tasks of a step of srun on this machine; ``2(x3),1`` are two on each of three, and one on the fourth.

    Args:
        environment: variables by name.
        count: tasks on all machines, over which they are taken to be spread evenly if nothing tells.
        nodes: number of machines.
        node: number of this one.
    """
    for name in PER_NODE:
        parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get(name, ""))
        found = [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]
        if sum(found) == count and node < len(found):
            return found[node]
    return max(1, count // max(1, nodes))
