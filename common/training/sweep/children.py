"""Members of a sweep as processes of their own: started, followed, stopped, and what became of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from common.runs import RunFolder
from common.stopping import CODE
from common.training.module import LOSS
from common.training.session import PROGRAM
from common.training.sweep.order import SweepMember
from common.units import in_time

TAIL = 4096  # bytes of a log that are read to see how far it is
GPUS, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


def gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get(GPUS)
    return (
        list(map(str, range(torch.cuda.device_count()))) if named is None else [one for one in named.split(",") if one]
    )


def share(slot: int, slots: int, visible: Sequence[str], usable: int) -> dict[str, str]:
    """Variables by which members that run at once get out of each other's way; none if there is one at a time.

    Args:
        slot: which of the places for a member it is, from 0.
        slots: how many there are.
        visible: names of GPUs; every member gets as many as all can have, at least one.
        usable: CPU cores.
    """
    if slots == 1:
        return {}
    own = {THREADS: str(max(1, usable // slots))}
    if len(visible) > 1:
        each = max(1, len(visible) // slots)
        first = slot * each % len(visible)
        own[GPUS] = ",".join(visible[first : first + each])
    return own


def newest(path: Path) -> tuple[int, float | None]:
    """Step and training loss of the last lines of a metrics.csv, which may be long and is being written."""
    if not path.is_file():
        return 0, None
    with path.open("rb") as file:
        names = file.readline().decode(errors="replace").strip().split(",")
        begin = file.tell()
        file.seek(max(begin, path.stat().st_size - TAIL))
        lines = file.read().decode(errors="replace").split("\n")[:-1]  # the last one may not be whole
    step, loss = 0, None
    for line in lines:
        cells = dict(zip(names, line.split(","), strict=False))
        try:
            step = int(cells.get("step", ""))
            loss = float(cells.get(LOSS, ""))
        except ValueError:
            continue  # the first line may be cut; a line of a validation has no training loss
    return step, loss


@dataclass
class Child:
    """A member that runs.

    Attributes:
        member: which.
        process: its process.
        log: its output.
        said: bytes of the log that are of earlier starts.
        slot: its place among those that run at once.
        begun_at: the step that its log was at when it was started.
        moved: when its log had first gone on, on the clock ``time.monotonic``, and to which step; what comes before is
            no training.
    """

    member: SweepMember
    process: subprocess.Popen[bytes]
    log: Path
    said: int
    slot: int
    begun_at: int
    moved: tuple[float, int] | None = None

    @classmethod
    def start(
        cls, member: SweepMember, program: Path, log: Path, slot: int, more: Sequence[str], own: dict[str, str]
    ) -> "Child":
        """Start a member, in the process group of this one: a kill of the group leaves nobody behind.

        Args:
            member: which.
            program: train.py.
            log: file that its output is added to.
            slot: its place among those that run at once.
            more: further words of its command line.
            own: variables of its own; those that a user has set win, but for GPUs.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**own, **os.environ, **{name: own[name] for name in own.keys() & {GPUS}}}
        with log.open("ab") as output:
            said = output.tell()
            process = subprocess.Popen(
                [sys.executable, str(program), *member.words, *more],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            return cls(member, process, log, said, slot, newest(member.folder.metrics)[0])

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    @property
    def folder(self) -> RunFolder:
        """Its run folder."""
        return self.member.folder

    def progress(self) -> tuple[int, str]:
        """Its step, and step, loss and, while it runs, the time left in words."""
        step, loss = newest(self.folder.metrics)
        line = f"step {step:,} of {self.member.steps:,}" if step else "starting"
        if loss is not None:
            line += f", loss {loss:.4g}"
        if self.moved is None and step > self.begun_at:
            self.moved = time.monotonic(), step
        elif self.moved is not None and self.moved[1] < step < self.member.steps and self.process.returncode is None:
            since, first = self.moved
            line += f", {in_time((time.monotonic() - since) / (step - first) * (self.member.steps - step))} left"
        return step, line

    def reason(self) -> str:
        """Why it has failed: the error that it told, else the last line that it wrote."""
        with self.log.open("rb") as file:
            file.seek(self.said)
            lines = [line.strip() for line in file.read().decode(errors="replace").replace("\r", "\n").split("\n")]
        told = [line.partition("error: ")[2] for line in lines if line.startswith(f"{PROGRAM}: error: ")]
        last = (told or [line for line in lines if line] or ["without a word"])[-1]
        code = self.process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}{' (for want of memory?)' * (-code == signal.SIGKILL)}; the last line was: {last}"
        return f"exit code {code}: {last}"


STOPPED = CODE  # the exit code of a member that was stopped by a signal
