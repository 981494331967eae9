"""Whether all processes of a work are still there: each one says so every two seconds, and listens to the others.

Two threads do it. One talks: it looks whether the file system answers, says so in the store and reads what the others
say; any of that may hang. The other one only looks at clocks and never waits for anybody, so that it can always end
the process. A computation of any length, of whichever process, changes nothing: its threads go on talking.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from common.cluster.peers import Ended, Peer, Verdict
from common.cluster.place import Place
from common.cluster.store import Board, briefly
from common.stopping import LOST

STRAY = "stray"  # the entry of who has no number of his own
FILES, STORE = "files", "store"  # what the talking thread waits for


class Watch:
    """Ends this process with a line if another one is lost or has given up.

    Args:
        here: which process this is.
        peers: all of them, by rank.
        connect: finds the store, for the talking thread alone.
        room: name of this work's entries in it; ``state/RANK`` of everybody is there.
        folder: a folder of the file system that the work needs.
        speak: prints an error.

    Attributes:
        beat: seconds between two signs of life.
        patient: seconds without an answer of the store after which it is asked anew.
        limit: seconds without a sign of life after which a process counts as lost.
        grace: seconds that the main thread has to end by itself, in good order.
        linger: seconds that it then has.
        again: how the work goes on, in words.
        step: gives the number of the step in work.
        if self._talker is not None:
            self._talker.join(self.beat)  # it may hang
    """

    beat, patient, limit, grace, linger = 2.0, 5.0, 45.0, 3.0, 20.0

    def __init__(
        self,
        here: Place,
        peers: Sequence[Peer],
        connect: Callable[[], Board],
        room: str,
        folder: Path,
        speak: Callable[[str], None],
    ) -> None:
        self.here, self.peers, self.folder = here, peers, folder
        self.again = "start the same command again"
        self.step: Callable[[], int] = lambda: 0
        self.lost: frozenset[int] = frozenset()
        self.before_the_end: Callable[[], None] = lambda: None
        self._connect, self._room, self._speak = connect, room, speak
        self._names = [f"{room}/state/{name}" for name in (*range(len(peers)), STRAY)]
        self._stray = ""
        self._end, self._found, self._taken = threading.Event(), threading.Event(), threading.Event()
        self._lock = threading.Lock()
        now = time.monotonic()
        self._said = [(0, now)] * len(peers)  # the last sign of life of each: its number, and when it was heard
        self._states: list[dict[str, Any]] = [{} for _ in peers]
        self._talked, self._stage, self._asked = now, STORE, now
        self._turn = self._number = 0
        self._gone: set[int] = set()
        self._is_cut = False
        self._verdict: Verdict | None = None
        self._talker: threading.Thread | None = None
        self._judge = threading.Thread(target=self._judge_all, name="watch-judges", daemon=True)

    def begin(self) -> None:
        """Begin to watch."""
        self._begin_to_talk()
        self._judge.start()

    # -- the main thread ----------------------------------------------------------------------------------------------

    def verdict(self, wait: float = 0.0) -> Verdict | None:
        """Why this process must end, if it must; whoever gets it says it, and ends the process.

        Args:
            wait: seconds to wait for it: an error of a collective comes before its cause is known.
        """
        self._found.wait(wait)
        with self._lock:
            if self._verdict is not None:
                self._taken.set()
            return self._verdict

    def check(self) -> None:
        """For who waits for the others.

        Raises:
            Ended: if there is a reason not to.
        """
        if found := self.verdict():
            raise Ended(found)

    def patience(self) -> float:
        """Seconds after which a lost process is known to be lost."""
        return self.limit + 2 * self.beat

    def end(self) -> None:
        """Stop watching, since this process ends by itself."""
        with self._lock:
            self._end.set()
        if self._talker is not None:
            self._talker.join(self.beat)  # it may hang

    def last(self, rank: int) -> dict[str, Any]:
        """What a process has said last."""
        return self._states[rank]

    # -- the talking thread -------------------------------------------------------------------------------------------

    def _begin_to_talk(self) -> None:
        """Talk over a new connection from now on; a thread that waits for an answer of an older one says no more.

        What a cut network has swallowed is sent again after 0.2 s, then twice as long each time. After a cut of 30 s
        an old connection would be silent for another 21 s, which is too long; a new one works at once.
        """
        self._turn += 1
        self._asked = time.monotonic()
        self._talker = threading.Thread(target=self._talk, args=(self._turn,), name="watch-talks", daemon=True)
        self._talker.start()

    def _talk(self, turn: int) -> None:
        was_there = False
        try:
            board = self._connect()
            was_there = True
            while turn == self._turn and not self._end.is_set():
                self._stage = FILES
                look_at(self.folder)
                self._stage, self._asked = STORE, time.monotonic()
                self._number += 1
                own = {"beat": self._number, "step": int(self.step()), "gone": sorted(self._gone)}
                board.write(f"{self._room}/state/{self.here.rank}", own)
                states = board.read_all(self._names)
                if turn != self._turn:
                    return
                self._hear(states)
                self._look_around(board)
                self._talked = time.monotonic()
                self._end.wait(self.beat)
        except dist.DistError:
            self._is_cut = self._is_cut or (turn == self._turn and was_there)

    def _hear(self, states: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        self._stray = states[-1].get("line", "")
        for rank, state in enumerate(states[:-1]):
            if not self._is_expected(rank):
                continue  # what was sent before a cut may come after what was sent behind it
            if state["beat"] != self._said[rank][0]:
                self._said[rank] = state["beat"], now
            self._states[rank] = state
            self._gone.update(state.get("gone", ()))

    def _look_around(self, board: Board) -> None:
        """Whether processes of this machine are gone without having said why."""
        machine = self.peers[self.here.rank].machine
        near = [peer for peer in self.peers if peer.machine == machine and peer.rank != self.here.rank]
        gone = [peer.rank for peer in near if self._is_expected(peer.rank) and peer.is_gone]
        if gone:
            self._hear(board.read_all(self._names))  # it may have said it since
            self._gone.update(rank for rank in gone if self._is_expected(rank))

    def _is_expected(self, rank: int) -> bool:
        return "left" not in self._states[rank]

    # -- the judging thread -------------------------------------------------------------------------------------------

    def _judge_all(self) -> None:
        tick, before = self.beat / 4, time.monotonic()
        while not self._end.wait(tick):
            now = time.monotonic()
            if now - before > self.limit / 3:  # this process was stopped itself, and knows nothing of that time
                self._talked += now - before
                self._said = [(number, heard + now - before) for number, heard in self._said]
            before = now
            found = self._judged(now)
            if found is None:
                if self._stage == STORE and now - max(self._talked, self._asked) > self.patient:
                    self._begin_to_talk()
                continue
            with self._lock:
                if self._end.is_set():
                    return
                self._verdict = found
            self._found.set()
            self._finish(found)

    def _finish(self, verdict: Verdict) -> None:
        """Give the main thread time to end in good order; it may hang in a collective, which nothing interrupts."""
        taken = self._taken.wait(self.grace)
        if taken and self._end.wait(self.linger):
            return
        with self._lock:
            if self._end.is_set():
                return
            taken = self._taken.is_set()
            self._taken.set()
        self.before_the_end()
        if verdict.code != LOST:
            briefly(self._take_leave, self.beat)
        if verdict.aloud and not taken:
            if self.step():
                sys.stderr.write("\n")  # a bar stands in this line
            self._speak(verdict.line)
        os._exit(verdict.code)

    def _take_leave(self) -> None:
        """Let who keeps the store know that this process needs it no more."""
        self._connect().write(f"{self._room}/state/{self.here.rank}", {"beat": -1, "left": 0, "line": ""})

    def _judged(self, now: float) -> Verdict | None:
        for peer in self.peers:
            state = self._states[peer.rank]
            if peer.rank != self.here.rank and state.get("left"):
                return Verdict(f"{peer}: {state['line']}", state["left"], self.here.is_first)
        if self._stray:
            return Verdict(self._stray, 2, self.here.is_first)
        if self._is_cut:
            return self._of_the_store("ended without a word (killed?), or the network to it broke")
        if now - self._talked > self.limit:
            if self._stage == FILES:
                own = self.peers[self.here.rank]
                what = f"{own}: the file system of {self.folder} has not answered for {self.limit:g} s"
                return Verdict(f"{what}; {self.again}", LOST, True)  # nobody else knows
            return self._of_the_store(f"has not answered for {self.limit:g} s")
        gone = {rank for rank in self._gone if self._is_expected(rank) and rank != self.here.rank}
        if gone:
            return self._lost(gone, f"{self._named(gone)} ended without a word (killed?)")
        silent = {
            peer.rank
            for peer in self.peers
            if peer.rank != self.here.rank
            and self._is_expected(peer.rank)
            and self._talked - self._said[peer.rank][1] > self.limit
        }
        if silent:
            return self._lost(silent, f"{self._named(silent)} has given no sign of life for {self.limit:g} s")
        return None

    def _named(self, ranks: set[int]) -> str:
        first = min(ranks)
        more = f" (and {len(ranks) - 1} more)" if len(ranks) > 1 else ""
        step = max(self._states[first].get("step", 0), self.step())  # they go in step
        return f"{self.peers[first]}{more}, at step {step:,},"

    def _of_the_store(self, what: str) -> Verdict | None:
        """A verdict on who keeps the store: the first process, which may have ended when all was done, or torchrun."""
        if self.here.is_first:
            return self._lost(set(), f"the store of torchrun {what}")
        if not self._is_expected(0):
            return None
        return self._lost({0}, f"{self._named({0})} {what}")

    def _lost(self, ranks: set[int], what: str) -> Verdict:
        """One process of a machine says it."""
        self.lost = frozenset(ranks)
        machine = self.peers[self.here.rank].machine
        speaker = min(peer.rank for peer in self.peers if peer.machine == machine and peer.rank not in ranks)
        return Verdict(f"{what}; {self.again}", LOST, speaker == self.here.rank)


def look_at(folder: Path) -> None:
    """Ask a file system for an answer; which one does not matter, and an error is one, too."""
    for place in (folder, *folder.parents):
        try:
            os.statvfs(place)
        except OSError:
            continue
        return
