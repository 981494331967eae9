"""Processes of one training on this machine, numbered as torchrun numbers them, with what goes wrong in some of them.

:class:`Starter` has imported everything before it starts one, by a fork, which takes no seconds. What is to go wrong is
named (:data:`FAULTS`), so that it can be said in a line of JSON.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TORCH_CPP_LOG_LEVEL": "ERROR"}
QUICK = {"beat": 0.3, "limit": 8.0, "grace": 1.0, "linger": 2.0}  # of the watch
ASIDE = 3600.0  # seconds by which a clock is off
GRID = 14.0  # seconds that a grid takes: longer than the limit


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def quick() -> None:
    """Limits of the watch that a test can wait for."""
    from common.cluster.watch import Watch

    for name, value in QUICK.items():
        setattr(Watch, name, value)


def clock_off() -> None:
    """The clock of this process alone."""
    right = time.time
    time.time = lambda: right() + ASIDE


def old_version() -> None:
    """Another version of a library."""
    from common.training import together

    right = together.metadata.version
    together.metadata.version = lambda name: "0.1" if name == "torch" else right(name)  # type: ignore[assignment]


def gpus(count: int) -> None:
    """So many GPUs, as far as one looks at them."""
    import torch

    from common.training import fitting

    torch.cuda.device_count = lambda: count
    fitting.check_device = lambda name: torch.device("cuda")


def refuses_later() -> None:
    """Something that a user can mend, in the third step."""
    from common.refusal import Refusal
    from common.training.module import DiffusionModule

    def refuse(module: DiffusionModule, *_: Any) -> None:
        raise Refusal("its scratch disk is full; clear it up")

    before_step(3, refuse)


def bug() -> None:
    """An error of ours, in the third step."""

    def fail(module: Any, *_: Any) -> None:
        raise ValueError("too many values to unpack")

    before_step(3, fail)


def before_step(number: int, act: Callable[..., None]) -> None:
    """Do something before a step of the training."""
    from common.training.module import DiffusionModule

    right = DiffusionModule.training_step

    def step(module: DiffusionModule, *rest: Any) -> Any:
        if module.trainer.global_step == number - 1:
            act(module, *rest)
        return right(module, *rest)

    DiffusionModule.training_step = step  # type: ignore[method-assign]


def killed() -> None:
    """SIGKILL in the third step."""
    before_step(3, lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def halted() -> None:
    """SIGSTOP in the third step."""
    before_step(3, lambda *_: os.kill(os.getpid(), signal.SIGSTOP))


def hung_files() -> None:
    """A file system that answers no more from the third step on."""
    from common.cluster import watch

    def hang(folder: Path) -> None:
        time.sleep(1000)

    def begin(*_: Any) -> None:
        watch.look_at = hang
        time.sleep(1000)  # whoever writes there hangs, too

    before_step(3, begin)


def long_grid() -> None:
    """A grid that takes longer than the limit: half of it waiting, half of it computing."""
    from common.training.callbacks import SampleGrid

    right = SampleGrid.on_validation_end

    def draw(grid: SampleGrid, *rest: Any) -> None:
        right(grid, *rest)
        seconds = float(os.environ.get("GRID", GRID))
        time.sleep(seconds / 2)
        end = time.monotonic() + seconds / 2
        while time.monotonic() < end:
            sum(range(10000))

    SampleGrid.on_validation_end = draw  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "quick": quick,
    "clock off": clock_off,
    "old version": old_version,
    "one gpu": lambda: gpus(1),
    "two gpus": lambda: gpus(2),
    "refuses later": refuses_later,
    "bug": bug,
    "killed": killed,
    "halted": halted,
    "hung files": hung_files,
    "long grid": long_grid,
}


# -- processes ---------------------------------------------------------------------------------------------------------


@dataclass
class Process:
    """A process to start.

    Attributes:
        words: behind ``train.py``.
        folder: its working folder; what it says goes into ``said-RANK.txt`` there.
        rank: its number.
        port: where all meet.
        count: how many there are.
        faults: what goes wrong.
        environment: further variables; None takes one away.
    """

    words: Sequence[object]
    folder: Path
    rank: int
    port: int
    count: int = 2
    faults: Sequence[str] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    number: int = 0

    @property
    def said(self) -> Path:
        """What it has said."""
        return self.folder / f"said-{self.rank}{'-again' if self.number else ''}.txt"

    def order(self) -> str:
        """For the server."""
        numbered = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": self.count, "MASTER_PORT": self.port}
        numbered |= {"LOCAL_WORLD_SIZE": self.count, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
        variables = {name: str(value) for name, value in numbered.items()} | dict(self.environment)
        return json.dumps(
            [str(self.folder), str(self.said), variables, list(self.faults), [str(word) for word in self.words]]
        )


def begin(folder: str, said: str, variables: Mapping[str, str | None], faults: Sequence[str], words: list[str]) -> int:
    """Be one of them, after the fork."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    import train
    from common import stopping

    os.setsid()
    os.chdir(folder)
    log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    rank_zero_only.rank = int(variables["RANK"] or variables.get("SLURM_PROCID") or 0)
    for name in faults:
        FAULTS[name]()
    stopping.take()
    try:
        return train.main(words)
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped; nothing was lost'}", file=sys.stderr)
        return stopping.exit_code()


def serve() -> None:
    """Start a process for every line of the input, and tell its number; for a number, tell its exit code (or none)."""
    import torch

    import train
    from common.training import fitting

    assert train
    assert fitting
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            done, state = os.waitpid(order, os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(state) if done else None), flush=True)
            continue
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = begin(*order)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)


class Starter:
    """A process that starts others as :func:`serve` does."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **ALONE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._alive: set[int] = set()

    def _ask(self, order: str) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, process: Process) -> int:
        """Start one; its number on this machine."""
        number = int(self._ask(process.order()))
        self._alive.add(number)
        return number

    def code(self, number: int, seconds: float) -> int | None:
        """Wait for the end of one; its exit code, None if it has not ended by then."""
        end = time.monotonic() + seconds
        while (found := self._ask(json.dumps(number))) is None and time.monotonic() < end:
            time.sleep(0.1)
        if found is not None:
            self._alive.discard(number)
        return found

    def kill(self, number: int) -> None:
        """End one that does not."""
        os.kill(number, signal.SIGKILL)
        self.code(number, 5)

    def close(self) -> None:
        """End all."""
        for number in list(self._alive):
            self.kill(number)
        self._process.communicate()


if __name__ == "__main__":
    serve()
