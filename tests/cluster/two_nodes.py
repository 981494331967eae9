"""Two machines in one: network namespaces with an address, a host name and processes of their own, joined by a switch.

A node is a process that does nothing, the first one of new namespaces (net, uts, mount, pid); whatever is started on
it lives in those. They have no names, and the kernel removes them with that process, which dies with whoever made it:
so nothing is left behind after a failure or a kill, and two runs at once know nothing of each other.

The switch is a bridge in a third namespace. A cut takes a port away from it: packets vanish, while both nodes keep link
and route, as when a cable between two switches is pulled.

As Debian has it, the name of a node is that of its loopback (127.0.1.1), and no node knows the name of the other one.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORT = "29500"  # of the meeting; namespaces have ports of their own
KEEPS = "exec sleep infinity"
HOSTS = "127.0.0.1 localhost\n127.0.1.1 {}\n"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def cannot() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs Linux and root, for network namespaces"
    try:
        with two_nodes() as network:
            return "" if network.nodes[0].reaches(network.nodes[1]) else "a bridge between namespaces carries nothing"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"needs network namespaces ({error})"


class Started:
    """A program that was started, and what it has said so far.

    Attributes:
        lines: what it wrote to either stream, with seconds on the clock ``time.monotonic``.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self.began, self._ended = time.monotonic(), 0.0
        self._process = subprocess.Popen(
            words,
            env={**os.environ, **ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.lines.append((time.monotonic(), line.rstrip("\n")))
        self._process.wait()
        self._ended = time.monotonic()

    @property
    def text(self) -> str:
        """All it has said."""
        return "\n".join(line for _, line in self.lines)

    @property
    def ended(self) -> float:
        """When it ended, on the clock ``time.monotonic``."""
        return self._ended

    def wait_for(self, words: str, seconds: float = 120) -> None:
        """Wait until it says something."""
        end = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < end, f"{words!r} was not said in {seconds:g} s:\n{self.text}"
            assert self._reader.is_alive(), f"it ended before it said {words!r}:\n{self.text}"
            time.sleep(0.02)

    def code(self, seconds: float = 120) -> int:
        """Wait for its end, and for that of all that write where it writes; its exit code."""
        self._reader.join(seconds)
        assert not self._reader.is_alive(), f"no end after {seconds:g} s more:\n{self.text}"
        return self._process.wait()

    def kill(self) -> None:
        """End it by force."""
        self._process.kill()
        self._process.wait()


@dataclass
class Node:
    """A machine.

    Attributes:
        name: its host name.
        address: its address, which the other node reaches.
    """

    name: str
    address: str
    _holder: subprocess.Popen[str] = field(repr=False)
    _pid: str = field(repr=False)  # of the first process in its namespaces
    _started: list[Started] = field(default_factory=list, repr=False)

    @classmethod
    def made(cls, name: str, address: str, folder: Path) -> "Node":
        """A new one, with no link yet.

        Args:
            name: its host name.
            address: its address.
            folder: where its file of hosts is written.
        """
        hosts = folder / f"hosts-{name}"
        hosts.write_text(HOSTS.format(name))
        setup = 'set -e; hostname "$0"; mount --bind "$1" /etc/hosts; ip link set lo up; echo ready; ' + KEEPS
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--mount", "--pid", "--fork"]
        words += ["--kill-child", "--mount-proc", "sh", "-c", setup, name, str(hosts)]
        holder = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert holder.stdout
        if (said := holder.stdout.readline().strip()) != "ready":
            holder.kill()
            holder.wait()
            raise OSError(said or "unshare ended without a word")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        return cls(name, address, holder, children[0])

    @property
    def pid(self) -> str:
        """Of its first process, as this machine numbers it."""
        return self._pid

    def command(self, *words: str) -> list[str]:
        """Words that run a program on it."""
        return ["nsenter", "--target", self._pid, "--net", "--uts", "--mount", "--pid", "--", *words]

    def do(self, *words: str) -> None:
        """Run a short program on it."""
        subprocess.run(self.command(*words), check=True, capture_output=True, timeout=30)

    def start(self, *words: str, folder: Path, **environment: str) -> Started:
        """Start a program on it.

        Args:
            words: the program and its arguments.
            folder: working directory.
            environment: further variables.
        """
        # to enter a namespace of mounts is to leave the working directory
        self._started.append(Started(self.command("env", "--chdir", str(folder), *words), environment))
        return self._started[-1]

    def reaches(self, other: "Node") -> bool:
        """Whether a packet comes through to another one, which refuses it."""
        program = f"import socket; print(socket.socket().connect_ex(('{other.address}', 9)))"
        words = self.command("timeout", "2", sys.executable, "-c", program)
        return subprocess.run(words, capture_output=True, text=True).stdout == "111\n"

    def kill(self) -> None:
        """``kill -9`` of all that runs on it; the machine itself, with its addresses, stays."""
        subprocess.run(self.command("sh", "-c", "kill -9 -1"), capture_output=True, timeout=30)
        for started in self._started:
            started.kill()

    def remove(self) -> None:
        """Switch it off: all of its processes and namespaces are gone."""
        self._holder.kill()
        self._holder.wait()
        for started in self._started:
            started.kill()


@dataclass(frozen=True)
class Network:
    """Nodes at a switch.

    Attributes:
        nodes: the machines.
        switch: what joins them.
    """

    nodes: list[Node]
    switch: Node

    def cut(self) -> None:
        """Take the last node off the switch: nothing gets through any more, and nobody is told."""
        self.switch.do("ip", "link", "set", f"port{len(self.nodes) - 1}", "nomaster")

    def mend(self) -> None:
        """Join it again."""
        self.switch.do("ip", "link", "set", f"port{len(self.nodes) - 1}", "master", "bridge")


@contextlib.contextmanager
def two_nodes(count: int = 2, folder: Path | None = None) -> Iterator[Network]:
    """Nodes ``node-0``, ``node-1``, .. at 10.77.0.1, 10.77.0.2, ..; all is removed at the end.

    Args:
        count: how many.
        folder: where their files of hosts are written (default: a folder of its own).

    Raises:
        OSError: if there can be none.
        subprocess.CalledProcessError: likewise.
    """
    import tempfile

    with contextlib.ExitStack() as ends:
        folder = folder or Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="two_nodes-")))

        def made(name: str, address: str) -> Node:
            node = Node.made(name, address, folder)
            ends.callback(node.remove)
            return node

        switch = made("switch", "")
        switch.do("ip", "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        switch.do("ip", "link", "set", "bridge", "up")
        nodes = [made(f"node-{number}", f"10.77.0.{number + 1}") for number in range(count)]
        for number, node in enumerate(nodes):
            port = f"port{number}"
            ends_of_it = ("name", port, "netns", switch.pid, "type", "veth", "peer", "name", "eth0", "netns", node.pid)
            subprocess.run(["ip", "link", "add", *ends_of_it], check=True, capture_output=True)
            switch.do("ip", "link", "set", port, "master", "bridge", "up")
            node.do("ip", "addr", "add", f"{node.address}/24", "dev", "eth0")
            node.do("ip", "link", "set", "eth0", "up")
        yield Network(nodes, switch)
