"""What processes write for one another to read: small entries, kept by one of them (or by torchrun)."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from common.cluster.place import SRUN, Place
from common.files.writing import host_name
from common.refusal import Refusal

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

AGENT = "TORCHELASTIC_USE_AGENT_STORE"
OF_ONE_WORK = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID")
OPERATION = timedelta(seconds=30)  # of the store itself; who must not wait so long asks it from a thread
ONCE = 5.0  # seconds in which an address answers
AGAIN = 0.1  # seconds between looks
HERE = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """Where processes meet.

    Attributes:
        host: name or address of the machine.
        port: its port.
        is_kept: whether torchrun keeps the entries; else the first process does.
        work: what keeps entries of another work apart, if both should have met at the same place.
    """

    host: str
    port: int
    is_kept: bool = False
    work: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def address(here: Place, environment: Mapping[str, str] = os.environ) -> Address:
    """Where the processes of a work meet, as their launcher says.

    Raises:
        Refusal: if it does not, or says what cannot be.
    """
    host, port = environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", "")
    if here.launcher == SRUN and not (host and port):
        from lightning.fabric.plugins.environments import SLURMEnvironment  # here: it takes long to import

        host = host or SLURMEnvironment.resolve_root_node_address(environment.get("SLURM_NODELIST", HERE))
        job = environment.get("SLURM_JOB_ID", "")[-4:]
        port = port or str(int(job) + 15000 if job.isdecimal() else 12910)  # as Lightning has it
    if not host:
        raise Refusal(
            "$MASTER_ADDR is not set, which says on which machine the first process is: set it for all, or unset $RANK "
            "and $LOCAL_RANK if they were left in the shell"
        )
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise Refusal(f"$MASTER_PORT is {port!r}, where the number of a free port belongs (1 to 65535): set it for all")
    work = "/".join(environment.get(name, "") for name in OF_ONE_WORK)
    return Address(host, int(port), environment.get(AGENT) == str(True), work)


class Board:
    """Entries by name. One thread uses one of these: an answer that does not come keeps it waiting.

    Args:
        at: where to meet.
        serves: whether this process keeps the entries.

    Raises:
        torch.distributed.DistError: as all methods do, if it cannot be reached.
    """

    def __init__(self, at: Address, serves: bool = False) -> None:
        self._prefix = f"diffusion/{at.work}"
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            HERE if serves else at.host,
            at.port,
            is_master=serves,
            wait_for_workers=False,
            timeout=OPERATION,
            multi_tenant=True,  # the process group meets at the same port
        )

    def write(self, name: str, entry: Any) -> None:
        """Write an entry, over an earlier one."""
        self._store.set(f"{self._prefix}/{name}", json.dumps(entry))

    def read(self, name: str) -> Any:
        """An entry; None if nobody has written it."""
        key = f"{self._prefix}/{name}"
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def read_all(self, names: Sequence[str]) -> list[Any]:
        """Entries that are known to be there."""
        return [json.loads(entry) for entry in self._store.multi_get([f"{self._prefix}/{name}" for name in names])]

    def part(self, name: str) -> "Store":
        """The entries below a name, as torch has them."""
        return dist.PrefixStore(f"{self._prefix}/{name}", self._store)  # type: ignore[attr-defined]

    def count(self, name: str) -> int:
        """How often this was asked for a name, this time included."""
        return int(self._store.add(f"{self._prefix}/{name}", 1))


def serve(at: Address, seconds: float) -> Board:
    """Keep the entries, in the first process.

    Args:
        at: where.
        seconds: how long it may take to find itself there.

    Raises:
        Refusal: if the port is taken, or is that of another machine.
    """
    try:
        board = Board(at, serves=True)
    except dist.DistError as error:
        raise Refusal(
            f"port {at.port} ($MASTER_PORT) of {host_name()} is taken by another program; give all processes another "
            "one"
        ) from error
    mark, found = secrets.token_hex(8), list[str]()
    board.write("server", mark)
    why = silence(at, seconds)
    if not why and not (briefly(lambda: found.append(Board(at).read("server")), seconds) and found == [mark]):
        why = "another program answers there"
    if why:
        raise Refusal(
            f"$MASTER_ADDR is {at.host}, where the first process, on {host_name()}, is not found ({why}): set it to "
            "this machine's name or address, for all processes"
        )
    return board


def reach(at: Address, seconds: float) -> Board:
    """Find who keeps the entries.

    Args:
        at: where.
        seconds: how long to try.

    Raises:
        Refusal: if nobody answers.
    """
    end, why = time.monotonic() + seconds, "nobody answers"
    boards: list[Board] = []

    def connect() -> None:
        boards.append(Board(at))

    while (left := end - time.monotonic()) > 0:
        found = silence(at, left)
        if not found:
            if briefly(connect, max(1.0, end - time.monotonic())):
                return boards[0]
            found = silence(at, 1.0) or "what answers there is another program"
        why = found
        time.sleep(AGAIN)
    raise Refusal(
        f"the first process was not found at {at} ($MASTER_ADDR, $MASTER_PORT) within {seconds:g} s ({why}): start it "
        "there, or raise --join_timeout"
    )


def again(at: Address) -> Board:
    """Find who keeps the entries over another connection; at once, or not at all.

    Raises:
        torch.distributed.DistError: if nobody answers.
    """
    if why := silence(at, ONCE):  # of which torch itself would print pages
        raise dist.DistNetworkError(why)
    return Board(at)


def silence(at: Address, seconds: float) -> str:
    """Why nobody answers at an address, in words; empty if somebody does."""
    try:
        socket.create_connection((at.host, at.port), max(0.1, min(seconds, ONCE))).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def briefly(work: Callable[[], object], seconds: float) -> bool:
    """Do what may not come to an end, in a thread of its own; whether it did in time, and the network was there."""
    done = threading.Event()

    def run() -> None:
        try:
            work()
        except dist.DistError:
            return  # the answer says so
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < end:
        thread.join(AGAIN)  # and let signals come through
    return done.is_set()
