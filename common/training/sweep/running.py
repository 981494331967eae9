"""A sweep from its order to its table: members that are not finished, some at a time, until all are or one stops it."""

import shlex
import sys
import time
from collections import deque
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import stopping
from common.cluster.place import Place, started_together
from common.cores import cores
from common.files import locked, owner_of, refuse_links, remove_leftovers
from common.progress import SELDOM, bar, tell
from common.refusal import Refusal
from common.training import fitting
from common.training.session import PROGRAM, is_first_process, say
from common.training.sweep.checking import check_members
from common.training.sweep.children import STOPPED, Child, gpus, share
from common.training.sweep.keeping import check_same, log_of, note
from common.training.sweep.order import SweepMember, SweepOrder, shown
from common.training.sweep.results import write_results
from common.training.sweep.slurm import write_script

OFTEN = 0.1  # seconds between two looks at the members that run
GLANCE = 0.5  # and between two states that are shown on a screen
PATIENCE = 60.0  # seconds that tasks of a job array wait for each other to write the table
ANSWER = "stopping: every training finishes its step and writes a checkpoint"


def sweep(order: SweepOrder, program: Path) -> int:
    """Do what a command line with --sweep asks for; returns the exit code.

    Args:
        order: what that is.
        program: train.py, which members are started with.

    Returns:
        0 if all was done or time was up, 130 if it was stopped by a signal, 1 if a member failed.

    Raises:
        Refusal: for whatever a user can mend.
        KeyboardInterrupt: if it was stopped at once.
    """
    stopping.begin_work()
    if order.asked.sweep_member is None:
        check_alone(started_together())
    check_same(order)
    if order.asked.sweep_slurm is not None:
        check_members(order, [member for member in order.members if not member.folder.is_ours])
        for line in write_script(order, order.asked.sweep_slurm):
            say(line)
        return 0
    if order.command.dry_run:
        return try_first(order)
    if order.asked.sweep_member is not None:
        return train_one(order, order.members[order.asked.sweep_member])
    with locked(order.folder, PROGRAM):
        check_same(order)  # another process may have begun it meanwhile
        refuse_links(order.folder, order.folder, inside=True)
        remove_leftovers(order.folder)
        return Sweep(order, program).run()


def check_alone(here: Place) -> None:
    """Refuse to be one of several processes, which would all do the same; members start processes of their own.

    Raises:
        Refusal: in the first one.
        SystemExit: in the others, which have nothing to add.
    """
    if here.count == 1:
        return
    if not here.is_first:
        raise SystemExit(2)
    raise Refusal(
        f"starts its trainings by itself, and {here.launcher} has started {here.count} processes: start one, with "
        "--devices and --sweep_jobs; or let --sweep_slurm write a job array",
        "sweep",
    )


def try_first(order: SweepOrder) -> int:
    """List the members, and say what the first one takes; nothing is written."""
    check_members(order, order.members)
    for member in order.members:
        say(f"member    {member.id}: {shown(order.axes, member.values)}")
    say(f"first     {order.members[0].id}; the others may take more or less")
    first = order.members[0].order
    code = fitting.train(replace(first, command=replace(first.command, dry_run=True)))
    at_once = min(order.asked.sweep_jobs, len(order.members))
    say(f"sweep     {len(order.members)} trainings, {at_once} at once: so many times the time and the disk of one, "
        f"and {at_once} times its memory")  # fmt: skip
    return code


def train_one(order: SweepOrder, member: SweepMember) -> int:
    """Train one member in this process, as a task of a job array; then the table says how far all are."""
    if is_first_process():
        if not member.folder.is_ours:
            check_members(order, [member])
        with locked(order.folder, PROGRAM, wait=PATIENCE):
            check_same(order)
            note(order)
    say(f"member    {member.id}: {shown(order.axes, member.values)}")
    command = replace(member.order.command, max_time=order.command.max_time)
    code = fitting.train(replace(member.order, command=command))
    with locked(order.folder, PROGRAM, wait=PATIENCE) if is_first_process() else nullcontext():
        if is_first_process():
            write_results(order, {})
    return code


class Sweep:
    """The members of a sweep on their way.

    Args:
        order: what it is.
        program: train.py.
    """

    def __init__(self, order: SweepOrder, program: Path) -> None:
        self.order, self.program = order, program
        self.waiting = deque(member for member in order.members if not member.is_finished)
        self.running: list[Child] = []
        self.failed: dict[str, str] = {}
        self.stopped: list[str] = []  # ids of members that somebody has stopped, one by one
        self.bars: dict[str, Any] = {}
        self.numbers = {member.id: i + 1 for i, member in enumerate(order.members)}
        self.told = dict.fromkeys((member.id for member in order.members), 0.0)  # when its progress was told
        self.busy: set[str] = set()  # ids of members that other processes train
        self.slots = min(order.asked.sweep_jobs, max(1, len(self.waiting)))
        limit = order.command.seconds()
        self.deadline = None if limit is None else time.monotonic() + limit
        self.on_screen = hasattr(sys.stderr, "isatty") and sys.stderr.isatty()
        self.visible = gpus() if self.slots > 1 and order.members[0].config.hardware.devices is None else []

    def run(self) -> int:
        """Train until all are finished, time is up, or a signal comes; returns the exit code."""
        order, count = self.order, len(self.order.members)
        done = count - len(self.waiting)
        say(f"sweep     {order.folder}, {count} trainings{f', {done} of them finished' if done else ''}, "
            f"{self.slots} at once")  # fmt: skip
        check_members(order, [member for member in self.waiting if not member.folder.is_ours])
        note(order)
        patience = stopping.Patience(ANSWER)
        patience.begin()
        try:
            self._work(patience)
        except KeyboardInterrupt:
            self._stop_all()
            raise KeyboardInterrupt(f"stopped at once; {self._again()}") from None
        finally:
            self._stop_all()
            patience.end()
        for line in write_results(order, self.failed):
            say(line)
        return self._code(patience.is_asked)

    def _code(self, was_stopped: bool) -> int:
        left = [member.id for member in self.order.members if not member.is_finished]
        if was_stopped or self.stopped:
            say(f"stopped; {len(self.order.members) - len(left)} of {len(self.order.members)} trainings are finished; "
                f"{self._again()}")  # fmt: skip
            return STOPPED
        if self.failed:
            return 1
        if left:
            say(f"time is up; {len(left)} of {len(self.order.members)} trainings are not finished; {self._again()}")
        return 0

    def _again(self) -> str:
        return f"go on with: python {PROGRAM} {shlex.join(self.order.again)}"

    def _work(self, patience: stopping.Patience) -> None:
        asked = False
        shown_at = 0.0
        while self.running or (self.waiting and not patience.is_asked and self._is_time()):
            if patience.is_asked and not asked:
                asked = True
                for child in self.running:
                    child.stop()
            for child in [child for child in self.running if child.process.poll() is not None]:
                self._ended(child, patience.is_asked)
            while len(self.running) < self.slots and self.waiting and not patience.is_asked and self._is_time():
                if not self._start_next():
                    break
            if time.monotonic() - shown_at >= GLANCE:
                shown_at = time.monotonic()
                self._show()
            time.sleep(OFTEN)

    def _is_time(self) -> bool:
        return self.deadline is None or self.deadline - time.monotonic() >= 1

    def _start_next(self) -> bool:
        """Start the next member that nobody else trains; returns whether there was one."""
        for _ in range(len(self.waiting)):
            member = self.waiting.popleft()
            if member.is_finished:  # by another process, meanwhile
                return True
            if owner := owner_of(member.folder.path):
                if member.id not in self.busy:
                    self.busy.add(member.id)
                    tell(f"wait      {self._name(member)}: {owner} is at it")
                self.waiting.append(member)
                continue
            slot = min(set(range(self.slots)) - {child.slot for child in self.running})
            left = None if self.deadline is None else self.deadline - time.monotonic()
            more = [] if left is None else [f"--max_time={left:.1f}s"]
            own = share(slot, self.slots, self.visible, cores())
            child = Child.start(member, self.program, log_of(self.order, member), slot, more, own)
            self.running.append(child)
            self.told[member.id] = time.monotonic()
            goes_on = f", log at step {child.begun_at:,}" if child.begun_at else ""
            tell(f"start     {self._name(member)}{goes_on}")
            if self.on_screen:
                self.bars[member.id] = bar(member.steps, member.id, "step", initial=child.begun_at)
            return True
        return False

    def _ended(self, child: Child, asked: bool) -> None:
        self.running.remove(child)
        if child.member.id in self.bars:
            self.bars.pop(child.member.id).close()
        name, code = self._name(child.member), child.process.returncode
        _, line = child.progress()
        if code == 0:
            tell(f"{'finished ' if child.member.is_finished else 'time is up'} {name}: {line}")
        elif code == STOPPED or (asked and code < 0):  # in its first tenths of a second a signal kills
            tell(f"stopped   {name}: {line}")
            if not asked:
                self.stopped.append(child.member.id)
        elif owner := owner_of(child.member.folder.path):  # it was left to somebody who came first
            self.busy.add(child.member.id)
            self.waiting.append(child.member)
            tell(f"wait      {name}: {owner} is at it")
        else:
            self.failed[child.member.id] = f"{child.reason()} (log: {child.log})"
            tell(f"failed    {name}: {self.failed[child.member.id]}")

    def _show(self) -> None:
        for child in self.running:
            step, line = child.progress()
            if child.member.id in self.bars:
                progress = self.bars[child.member.id]
                progress.set_postfix_str(line.partition(", ")[2].partition(", ")[0], refresh=False)
                progress.update(max(0, step - progress.n))
            elif time.monotonic() - self.told[child.member.id] >= SELDOM:
                self.told[child.member.id] = time.monotonic()
                tell(f"running   {self._name(child.member)}: {line}")

    def _name(self, member: SweepMember) -> str:
        return f"{self.numbers[member.id]}/{len(self.order.members)} {member.id}"

    def _stop_all(self) -> None:
        """Leave no member running: each is asked, once, and waited for."""
        for child in self.running:
            child.stop()
        for child in self.running:
            child.process.wait()
        for progress in self.bars.values():
            progress.close()
        self.bars.clear()
        self.running.clear()
