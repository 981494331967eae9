"""Two machines over gloo, and torchrun's restarts: whoever starts, kills, cuts or restarts, weights are the same bits.

The machines are namespaces (``two_nodes.py``). ``pytest -s`` shows what was said, and after how many seconds.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.stopping import LOST
from tests.cluster.driven import WAITS
from tests.cluster.two_nodes import PORT, ROOT, Network, Started, cannot, two_nodes
from tests.training import tiny

pytestmark = pytest.mark.slow

FLAGS = {
    **tiny.FLAGS,
    "train_steps": 20,
    "batch_size": 8,
    "dropout": 0.1,
    "label_dropout": 0.2,
    "ema_every": 2,
    "log_every": 1,
    "val_check_interval": 10,
    "checkpoint_every": 5,
    "device": "cpu",
    "resume": "auto",
}
LONG = {"train_steps": 100, "val_check_interval": 100, "checkpoint_every": 20}  # 20 s with pauses
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
DRIVEN = str(ROOT / "tests/cluster/driven.py")
LIMIT = 6.0  # seconds without a sign of life, where a test does not wait for the real 45


def words(name: str, wishes: dict[str, object] | None = None, **flags: object) -> list[str]:
    """A training that is driven, of two processes unless flags say else."""
    return [DRIVEN, json.dumps(wishes or {}), *tiny.command(**FLAGS | {"wb_id": name} | flags)]


def here(folder: Path, *program: str) -> Started:
    """Start a program on this machine."""
    return Started(["env", "--chdir", str(folder), *program], {})


def folder_of(folder: Path, name: str) -> Path:
    return folder / "runs" / f"{name}_digits_H0.9_K2"


def show(began: float, *programs: Started) -> None:
    """What was said and when, for the record."""
    for number, program in enumerate(programs):
        for at, line in program.lines:
            if "in step" not in line and line.strip():
                print(f"{number} {at - began:7.1f} s  {line}")
        print(f"{number} {program.ended - began:7.1f} s  ended with exit code {program.code()}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of all machines, in which runs/ is."""
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """Two processes of one machine, never disturbed."""
    done = here(folder, sys.executable, *words("whole", devices=2))
    assert done.code() == 0, done.text
    return folder_of(folder, "whole")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two machines."""
    if reason := cannot():
        pytest.skip(reason)
    with two_nodes() as found:
        yield found


class Commands:
    """Commands of both machines.

    Args:
        network: the machines.
        folder: working folder.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder = network, folder
        self.first = network.nodes[0].address

    def static(self, number: int, *training: str) -> Started:
        """torchrun with fixed numbers of nodes."""
        node = ("--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1")
        meeting = ("--master-addr", self.first, "--master-port", PORT)
        return self._start(number, *TORCHRUN, *node, *meeting, *training, "--devices", "1", "--num_nodes", "2")

    def c10d(self, number: int, *training: str) -> Started:
        """torchrun that finds the others. These names of hosts lead nowhere, so it needs to be told what it is.

        It forgets a dead node after 15 s, here after 3 s: before the watch of the other node, as with 45 s there.
        """
        node = ("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-id", training[-1])
        meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{self.first}:29400")
        own = (
            "--rdzv-conf",
            f"is_host={number == 0},keep_alive_interval=1",
            "--local-addr",
            self.network.nodes[number].address,
        )
        # else a torchrun that comes again waits for an address that the other one has told before (torch 2.15)
        environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        devices = ("--devices", "1", "--num_nodes", "2")
        return self._start(number, *TORCHRUN, *node, *meeting, *own, *training, *devices, **environment)

    def own(self, number: int, *training: str) -> Started:
        """train.py itself."""
        environment = {"MASTER_ADDR": self.first, "MASTER_PORT": PORT, "NODE_RANK": str(number)}
        devices = ("--devices", "1", "--num_nodes", "2")
        return self._start(number, sys.executable, *training, *devices, **environment)

    def _start(self, number: int, *program: str, **environment: str) -> Started:
        return self.network.nodes[number].start(*program, folder=self.folder, **environment)


@pytest.fixture
def commands(network: Network, folder: Path) -> Iterator[Commands]:
    """How to start processes; those that are left are killed in the end."""
    yield Commands(network, folder)
    for node in network.nodes:
        node.kill()


@pytest.mark.parametrize("way", ["static", "c10d", "own"])
def test_two_nodes_make_the_weights_of_one_machine(way: str, commands: Commands, whole: Path, folder: Path) -> None:
    """Also where a node's name is that of its loopback interface, which gloo would take."""
    started = [getattr(commands, way)(number, *words(way)) for number in range(2)]
    assert [program.code() for program in started] == [0, 0], "\n".join(program.text for program in started)
    assert "in step 19" in started[0].text
    assert "in step" not in started[1].text, "two processes took themselves for the first one"
    assert tiny.difference(whole, folder_of(folder, way)) == 0
    assert tiny.lines(whole) == tiny.lines(folder_of(folder, way))


def test_killed_node_that_is_started_again(commands: Commands, whole: Path, folder: Path) -> None:
    wishes = {"waits": [0, 1, 7], "limit": LIMIT}
    first, second = (commands.own(number, *words("killed", wishes)) for number in range(2))
    second.wait_for(WAITS)
    began = time.monotonic()
    commands.network.nodes[1].kill()
    assert first.code(LIMIT + 30) == LOST
    show(began, first, second)
    assert first.text.count("rank 1 on node-1, at step ") == 1
    assert "goes on" in first.text
    assert "Traceback" not in first.text
    again = [commands.own(number, *words("killed")) for number in range(2)]
    assert [program.code() for program in again] == [0, 0], again[0].text
    assert "goes on at step 5" in again[0].text
    assert tiny.difference(whole, folder_of(folder, "killed")) == 0


def test_torchrun_starts_again_on_both_nodes(commands: Commands, whole: Path, folder: Path) -> None:
    """First a process kills itself, which leaves its torchrun, then all of its node is killed and started again."""
    wishes = {"kills": [[1, 7]], "waits": [1, 1, 12], "limit": LIMIT}
    first, second = (commands.c10d(number, *words("again", wishes)) for number in range(2))
    second.wait_for(WAITS)
    commands.network.nodes[1].kill()
    third = commands.c10d(1, *words("again"))
    assert [first.code(), third.code()] == [0, 0], first.text + third.text
    assert "goes on at step 5" in first.text
    assert "goes on at step 10" in first.text
    assert tiny.difference(whole, folder_of(folder, "again")) == 0


def test_torchrun_starts_again_on_one_machine(whole: Path, folder: Path) -> None:
    wishes = {"kills": [[1, 7], [0, 12]]}
    torchrun = (*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", "2")
    done = here(folder, *torchrun, *words("restarts", wishes, devices=2))
    assert done.code() == 0, done.text
    assert [line for _, line in done.lines if "goes on at step" in line][-1].count("step 10") == 1
    assert tiny.difference(whole, folder_of(folder, "restarts")) == 0


@pytest.mark.timeout(600)
def test_cut_link(commands: Commands, folder: Path) -> None:
    """With real limits, so it takes minutes: 30 s are survived; longer, and both have ended within 60 s, and go on."""
    alone = here(folder, sys.executable, *words("uncut", devices=2, **LONG))
    assert alone.code() == 0, alone.text
    pair = [commands.own(number, *words("cut", {"pause": 0.2}, **LONG)) for number in range(2)]
    pair[0].wait_for("in step 20")
    began = time.monotonic()
    commands.network.cut()
    time.sleep(30)
    commands.network.mend()
    reached = pair[0].text.count("in step")
    pair[0].wait_for(f"in step {reached + 1}")
    print(f"cut for 30 s: goes on {time.monotonic() - began:.1f} s after the cut")
    pair[0].wait_for("in step 60")
    began = time.monotonic()
    commands.network.cut()
    assert [program.code() for program in pair] == [LOST, LOST]
    show(began, *pair)
    assert "rank 1 on node-1, at step " in pair[0].text
    assert "rank 0 on node-0, at step " in pair[1].text
    assert max(program.ended for program in pair) < began + 60
    commands.network.mend()  # later would be the same: nobody is left
    again = [commands.own(number, *words("cut", **LONG)) for number in range(2)]
    assert [program.code() for program in again] == [0, 0], again[0].text
    assert "goes on at step" in again[0].text
    assert tiny.difference(folder_of(folder, "uncut"), folder_of(folder, "cut")) == 0
