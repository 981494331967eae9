"""Processes of one work meet before they begin, make sure that they are alike, and end together."""

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any, NoReturn

import torch.distributed as dist

from common.cluster.alike import SEEN, Alike, absent, compare, difference, early, nonces, sees_token, token_in
from common.cluster.giving import awaited, given
from common.cluster.network import own_address
from common.cluster.peers import Ended, Peer, Verdict, machine, status
from common.cluster.place import LIGHTNING, Place
from common.cluster.store import AGAIN, Address, Board, address, again, briefly, reach, serve
from common.cluster.watch import STRAY, Watch
from common.files.writing import host_name
from common.refusal import Refusal
from common.stopping import CODE, LOST

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

READ = 3.0  # seconds in which the others read that they are refused
BACKENDS = ("gloo", "nccl")  # by which errors of a collective are known
LEAVING = 30.0  # seconds between the ends of the processes of a work that is done


class Meeting:
    """The processes of one work, from before they have met to their end. A process that is alone meets nobody.

    Args:
        here: which process this is.
        alike: what must be the same everywhere; a wrong value is told by its name.
        folder: a folder that all must see; None if nothing is to be written.
        seconds: how long to wait for the others.
        speak: prints an error.
        mend: makes one line of an error that a user can mend; None of another one.

    Attributes:
        peers: all processes, once they have met.
        watch: whether they are all still there; None before they have met.
    """

    def __init__(
        self,
        here: Place,
        alike: Sequence[Alike] = (),
        folder: Path | None = None,
        seconds: float = 50.0,
        speak: Callable[[str], None] = print,
        mend: Callable[[Exception], str | None] = str,
    ) -> None:
        self.here, self.seconds = here, seconds
        self.peers: tuple[Peer, ...] = ()
        self.watch: Watch | None = None
        self._alike, self._folder, self._speak, self._mend = list(alike), folder, speak, mend
        self._at: Address | None = None
        self._board: Board | None = None
        self._followed: tuple[Path, Callable[[], int], str] | None = None
        self._children: tuple[Popen[bytes], ...] = ()
        self._room, self._topics, self._is_over = "", count(), False

    # -- the beginning ------------------------------------------------------------------------------------------------

    def open(self, here: Place, children: Sequence["Popen[bytes]"] = ()) -> None:
        """Meet, unless that was done.

        Args:
            here: which process this is, now that all were started.
            children: further processes, if this one has started them; they are waited for as long as they live.

        Raises:
            Refusal: if somebody is missing, or something is not alike.
            Ended: if that was told to another process, or that one has ended.
        """
        if self._board is not None or here.count == 1:
            return
        self.here, self._at = here, address(here)
        with self.limited(self.seconds + READ, f"{self._at} ($MASTER_ADDR, $MASTER_PORT) does not answer"):
            serves = here.is_first and not self._at.is_kept
            self._board = serve(self._at, self.seconds) if serves else reach(self._at, self.seconds)
        self._children = tuple(children)
        try:
            self.peers = self._preside(self._board) if here.is_first else self._attend(self._board)
        except dist.DistError as error:
            raise Refusal(f"the first process, or the network to it, was lost ({error}); start all again") from error
        self.watch = Watch(here, self.peers, self._connect, self._room, self._folder or Path(), self._speak)
        self.watch.before_the_end = self._clear_up
        if self._followed is not None:
            self.follow(*self._followed)
        self.watch.begin()

    def agree(self, *alike: Alike) -> None:
        """Make sure that something is alike everywhere; where the processes have not met yet, they compare it then.

        Raises:
            Refusal: if it is not.
            Ended: if that was told to another process, or that one has ended.
        """
        if self._board is None or self.watch is None:
            self._alike += alike
            return
        topic, board = f"{self._room}/topic-{next(self._topics)}", self._board
        own = {"peer": asdict(self.peers[self.here.rank]), "facts": [dict(group.facts) for group in alike]}
        board.write(f"{topic}/{self.here.rank}", own)
        if not self.here.is_first:
            if why := awaited(board, f"{topic}/answer", self.watch):
                raise Ended(Verdict(why, 2, False))
            return
        others = [awaited(board, f"{topic}/{rank}", self.watch) for rank in range(1, self.here.count)]
        why = next(filter(None, (difference(alike, own, other) for other in others)), "")
        board.write(f"{topic}/answer", why)
        if why:
            raise Refusal(why)

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, plain data, in all of them; where they have not met, each makes its own."""
        if self._board is None or self.watch is None:
            return make()
        board, name = self._board, f"{self._room}/topic-{next(self._topics)}"
        return given(board, name, self.watch, make if self.here.is_first else None)

    def follow(self, folder: Path, step: Callable[[], int], again: str) -> None:
        """Say what the work is that is done together.

        Args:
            folder: what must not hang.
            step: gives the number of the step in work.
            again: how the work goes on if a process is lost, in words.
        """
        self._followed = folder, step, again
        if self.watch is not None:
            self.watch.folder, self.watch.step, self.watch.again = self._followed

    def refuse(self, line: str) -> int:
        """End the work for a reason that can be mended, which is told once; returns the exit code.

        Args:
            line: the reason and the mend.
        """
        if not self.end(2, line):
            self._speak(line)
        return 2

    def blame(self, error: Exception) -> Ended | None:
        """What lies behind an error of the main thread: one of a collective comes before its cause is known.

        Args:
            error: any.
        """
        if self.watch is None:
            return None
        broken = isinstance(error, dist.DistError) or any(name in str(error).lower() for name in BACKENDS)
        verdict = self.watch.verdict(self.watch.patience() if broken else 0.0)
        if verdict is None and broken:
            reason = str(error).strip().partition("\n")[0]
            verdict = Verdict(f"{self._name()}: a connection broke ({reason}); {self.watch.again}", LOST, True)
        return None if verdict is None else Ended(verdict)

    @property
    def far(self) -> str:
        """The address of another machine of this work; empty if there is none, or it is not known."""
        if self._at is None or all(peer.machine == self.peers[0].machine for peer in self.peers):
            return ""
        own = self.peers[self.here.rank].machine
        if own != self.peers[0].machine:
            return self._at.host
        return next((peer.address for peer in self.peers if peer.machine != own), "")

    def store(self) -> "Store":
        """A store for the process group. Its entries are those of this meeting.

        torchrun keeps one store for all attempts, and gloo would find addresses of processes that have ended.
        """
        return self._connect().part(f"{self._room}/group")

    def _connect(self) -> Board:
        assert self._at is not None
        return again(self._at)

    @contextlib.contextmanager
    def limited(self, seconds: float, why: str) -> Iterator[None]:
        """End the process, with exit code 2, if something takes for ever; time-outs of libraries do not cover it all.

        Args:
            seconds: how long it may take.
            why: what is said then.
        """

        def end() -> None:
            if not self.end(2, why):
                self._speak(f"{self._name()}: {why}")
            os._exit(2)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _name(self) -> str:
        return f"rank {self.here.rank} on {host_name()}"

    def _introduction(self, at: Address) -> dict[str, Any]:
        found = status(os.getpid())
        own = Peer(
            self.here.rank,
            host_name(),
            machine(),
            os.getpid(),
            "" if found is None else found[1],
            own_address(at.host, at.port),
            secrets.token_hex(8),
        )
        facts = [dict(group.facts) for group in self._alike]
        return {"peer": asdict(own), "count": self.here.count, "facts": facts, "clock": time.time()}

    # -- the first process --------------------------------------------------------------------------------------------

    def _preside(self, board: Board) -> tuple[Peer, ...]:
        """Wait for all, compare, and tell them."""
        self._room = secrets.token_hex(8)
        came: dict[int, dict[str, Any]] = {}
        try:
            with token_in(self._folder) as token:
                assert self._at is not None
                came[0] = {**self._introduction(self._at), "token": token}
                board.write(f"{self._room}/here/0", came[0])
                board.write("current", self._room)
                self._receive(board, came)
                compare(self._alike, came, self._folder)
        except BaseException as error:
            found = error.verdict if isinstance(error, Ended) else Verdict(f"{error or 'was stopped'}", 2, True)
            code = CODE if isinstance(error, KeyboardInterrupt) else found.code
            self._dismiss(board, {"refused": found.line, "code": code, "came": nonces(came)}, came.keys())
            raise
        for rank in (*range(self.here.count), STRAY):
            board.write(f"{self._room}/state/{rank}", {"beat": 0, "step": 0})
        peers = [came[rank]["peer"] for rank in range(self.here.count)]
        board.write(f"{self._room}/answer", {"peers": peers})
        return tuple(Peer(**peer) for peer in peers)

    def _receive(self, board: Board, came: dict[int, dict[str, Any]]) -> None:
        end = time.monotonic() + self.seconds
        while missing := [rank for rank in range(self.here.count) if rank not in came]:
            for rank in missing:
                if (entry := board.read(f"{self._room}/here/{rank}")) is not None:
                    entry["late"] = entry["clock"] - time.time()
                    came[rank] = entry
            if stray := board.read(f"{self._room}/state/{STRAY}"):
                raise Refusal(stray["line"])
            for number, child in enumerate(self._children, 1):
                if number not in came and child.poll() is not None:
                    raise Ended(early(number, child.returncode))
            late = [rank for rank in missing if rank not in came and rank > len(self._children)]
            if late and time.monotonic() > end:  # own children are seen to live
                raise Refusal(absent(late, came, self.seconds))
            time.sleep(AGAIN)

    def _dismiss(self, board: Board, answer: Mapping[str, Any], came: Collection[int]) -> None:
        """Tell the others, and let them read it: the entries end with this process."""

        def tell() -> None:
            board.write(f"{self._room}/answer", answer)
            end = time.monotonic() + READ
            while time.monotonic() < end and not all(
                board.read(f"{self._room}/has_read/{rank}") for rank in came if rank
            ):
                time.sleep(AGAIN)

        briefly(tell, READ + 1.0)

    # -- the others ---------------------------------------------------------------------------------------------------

    def _attend(self, board: Board) -> tuple[Peer, ...]:
        """Come to the newest meeting that the first process has called, and read its answer."""
        assert self._at is not None
        at, rank, own = self._at, self.here.rank, dict[str, Any]()
        end = time.monotonic() + self.seconds + SEEN
        while True:
            current = board.read("current")
            if current is not None and current != self._room:
                self._room, end = current, time.monotonic() + self.seconds + SEEN
                first = board.read(f"{current}/here/0")
                sees = sees_token(self._folder, first["token"])
                own = {**self._introduction(at), "sees": sees}
                self._come(board, own, first)
            answer = board.read(f"{self._room}/answer") if self._room else None
            nonce = own["peer"]["nonce"] if own else ""
            if answer and "refused" in answer and (not at.is_kept or nonce in answer["came"]):
                board.write(f"{self._room}/has_read/{rank}", True)
                raise Ended(Verdict(answer["refused"], answer["code"], False))
            if answer and any(peer["nonce"] == nonce for peer in answer.get("peers", ())):
                return tuple(Peer(**peer) for peer in answer["peers"])
            if time.monotonic() > end and not (self.here.launcher == LIGHTNING and self._room):
                raise Refusal(f"the first process does not answer at {at}; start all again, or raise --join_timeout")
            time.sleep(AGAIN)

    def _come(self, board: Board, own: Mapping[str, Any], first: Mapping[str, Any]) -> None:
        """Introduce oneself, or tell that one has no place in this meeting."""
        rank, count = self.here.rank, first["count"]
        if self._at is not None and self._at.is_kept:  # torchrun numbers; this may be a meeting of an earlier attempt
            why = ""
        elif rank >= count:
            why = f"is numbered {rank}, and there are {count} processes"
        elif board.count(f"{self._room}/numbered/{rank}") > 1:
            there = board.read(f"{self._room}/here/{rank}")
            where = f", on {there['peer']['host']}" if there else ""
            why = f"is there twice{where}: two processes have this number"
        else:
            why = ""
        if not why:
            board.write(f"{self._room}/here/{rank}", own)
            return
        line = f"{self._name()} {why}; give each process a number of its own ($RANK), and all the same $WORLD_SIZE"
        if "peers" in (board.read(f"{self._room}/answer") or {}):  # all of them are at work, and need not hear of it
            raise Ended(Verdict(line, 2, True))
        board.write(f"{self._room}/state/{STRAY}", {"beat": 1, "left": 2, "line": line})
        raise Ended(Verdict(line, 2, False))

    # -- the end ------------------------------------------------------------------------------------------------------

    def end(self, code: int, line: str = "") -> bool:
        """Tell the others that this process ends; what happens afterwards is no concern of theirs.

        Args:
            code: its exit code.
            line: why, if that is an error.

        Returns:
            Whether the first process will say it, or has said why all end.
        """
        if self._is_over or self._board is None or self.watch is None:
            return False
        self._is_over = True
        board, room, watch = self._board, self._room, self.watch
        self.watch.end()
        told: list[bool] = []

        def tell() -> None:
            first = board.read(f"{room}/state/0")
            board.write(
                f"{room}/state/{self.here.rank}", {"beat": -1, "left": code, "line": line, "step": watch.step()}
            )
            told.append(first.get("left") != 0)  # else all was done there

        if not briefly(tell, READ):
            return False
        if self.here.is_first:
            self._see_off(board, [peer for peer in self.peers if peer.rank not in watch.lost])
            return False
        return told[0]

    def _see_off(self, board: Board, expected: Sequence[Peer]) -> None:
        """The entries end with the first process: let the others find them until they leave, too."""

        def see() -> None:
            names = [f"{self._room}/state/{peer.rank}" for peer in expected]
            end, here = time.monotonic() + LEAVING, self.peers[0].machine
            while time.monotonic() < end:
                states = zip(expected, board.read_all(names), strict=True)
                if all("left" in state or (peer.machine == here and peer.is_gone) for peer, state in states):
                    return
                time.sleep(AGAIN)

        if self._at is not None and not self._at.is_kept:
            briefly(see, LEAVING)

    def _clear_up(self) -> None:
        """A child that was stopped by a signal would stay for ever."""
        for child in self._children:
            if child.poll() is None:
                child.kill()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A part of the work whose end, if it is none as planned, is told to the others.

        Raises:
            Refusal: if it is this process that says it.
            SystemExit: if another one does, or the work was lost.
        """
        try:
            yield
        except Ended as ended:
            self._leave(ended)
        except KeyboardInterrupt:
            self.end(CODE, "was stopped")
            raise
        except SystemExit as end:
            self.end(end.code if isinstance(end.code, int) else 1, "has ended")
            raise
        except Exception as error:
            line = self._mend(error)
            if line is None:
                self.end(1, f"{type(error).__name__}: {error}")
            elif self.end(2, line):
                raise SystemExit(2) from error
            raise

    def _leave(self, ended: Ended) -> NoReturn:
        verdict = ended.verdict
        if verdict.aloud:
            self._speak(verdict.line)
        if self.watch is not None and self.watch.verdict() is verdict:
            self._is_over = True  # all know it; the watch goes on, since what ends a process group may hang
        else:
            self.end(verdict.code, verdict.line)
        self._clear_up()
        raise SystemExit(verdict.code) from ended
