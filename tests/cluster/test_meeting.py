"""Processes meet, compare and end together: threads in the place of processes, a store on 127.0.0.1."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from common.cluster import alike, meeting, watch
from common.cluster.alike import Alike, absent, difference
from common.cluster.meeting import Meeting
from common.cluster.network import GLOO_INTERFACE, choose_interface, interface_of, own_address
from common.cluster.peers import Ended, Peer, status
from common.cluster.place import LIGHTNING, SRUN, TORCHRUN, Place
from common.cluster.store import address, briefly
from common.refusal import Refusal
from common.stopping import LOST
from tests.cluster.joined import free_port


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name, value in {"beat": 0.05, "limit": 1.0, "grace": 0.1, "linger": 0.1}.items():
        monkeypatch.setattr(watch.Watch, name, value)
    for module in (meeting, alike):
        monkeypatch.setattr(module, "AGAIN", 0.01)
    monkeypatch.setattr(alike, "SEEN", 0.2)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))


def all_at_once(*works: Any) -> list[Any]:
    """What each gives, or the error it raises."""
    found: list[Any] = [None] * len(works)

    def run(number: int) -> None:
        try:
            found[number] = works[number]()
        except (Refusal, Ended) as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return found


def meetings(count: int, *facts: dict[str, str], folder: Path | None = None, seconds: float = 5.0) -> list[Meeting]:
    """One of every process, each with its facts, or all with the only ones."""
    groups = [Alike(facts[rank % len(facts)], "mend it") for rank in range(count)] if facts else []
    return [
        Meeting(Place(rank, count, rank, count, TORCHRUN), groups[rank : rank + 1], folder, seconds, str)
        for rank in range(count)
    ]


def opened(all_of_them: list[Meeting]) -> list[Any]:
    return all_at_once(*(lambda one=one: one.open(one.here) for one in all_of_them))


def test_processes_meet_agree_and_end(tmp_path):
    """No thread is left, and no file."""
    before = threading.active_count()
    three = meetings(3, {"--lr": "1"}, folder=tmp_path / "runs")
    assert opened(three) == [None] * 3
    assert not (tmp_path / "runs").exists()
    assert [[peer.rank for peer in one.peers] for one in three] == [[0, 1, 2]] * 3
    assert [one.far for one in three] == [""] * 3
    assert all_at_once(*(lambda one=one: one.agree(Alike({"data": "a"}, "")) for one in three)) == [None] * 3
    for number, one in enumerate(three):
        one.follow(tmp_path, lambda number=number: 10 + number, "go on")
    end = time.monotonic() + 5
    while three[0].watch.last(2).get("step") != 12 and time.monotonic() < end:
        time.sleep(0.02)
    assert three[0].watch.last(2)["step"] == 12
    assert [one.watch.verdict() for one in three] == [None] * 3
    all_at_once(*(lambda one=one: one.end(0) for one in three))
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.02)
    assert threading.active_count() == before


def test_what_is_not_alike_is_told_once():
    """The first process raises what a user reads; the others end without a word."""
    found = opened(meetings(2, {"--lr": "1", "--seed": "0"}, {"--lr": "2"}))
    assert isinstance(found[0], Refusal)
    assert str(found[0]).startswith("--lr is 1 for rank 0 on ")
    assert str(found[0]).endswith(": mend it")
    assert isinstance(found[1], Ended)
    assert (found[1].verdict.code, found[1].verdict.aloud) == (2, False)


def test_what_becomes_known_later_is_compared_later():
    two = meetings(2)
    assert opened(two) == [None, None]
    found = all_at_once(*(lambda one=one: one.agree(Alike({"data": str(one.here.rank)}, "mend")) for one in two))
    assert isinstance(found[0], Refusal)
    assert "data is 0 for rank 0 on" in str(found[0])
    assert isinstance(found[1], Ended)
    all_at_once(*(lambda one=one: one.end(2, "x") for one in two))


def test_before_they_meet_what_is_known_is_kept_for_the_meeting():
    two = meetings(2)
    for one in two:
        one.agree(Alike({"data": str(one.here.rank)}, "mend"))
    assert "data is 0" in str(opened(two)[0])


def test_a_process_that_refuses_is_told_by_the_first(monkeypatch):
    """The other one hangs in a library: its judging thread ends it."""
    two = meetings(2)
    said: list[str] = []
    ended: list[int] = []
    two[0]._speak = said.append
    monkeypatch.setattr(os, "_exit", ended.append)
    assert opened(two) == [None, None]
    assert two[1].end(2, "--data_dir is not there") is True
    end = time.monotonic() + 5
    while not ended and time.monotonic() < end:
        time.sleep(0.02)
    two[0].watch.end()
    assert ended[0] == 2
    assert said[0].startswith("rank 1 on ")
    assert said[0].endswith(": --data_dir is not there")


def test_a_process_without_a_sign_of_life_is_lost(monkeypatch):
    monkeypatch.setattr(os, "_exit", lambda code: time.sleep(0.1))
    two = meetings(2)
    assert opened(two) == [None, None]
    two[0].follow(Path(), lambda: 5, "go on")
    two[1].follow(Path(), lambda: 7, "go on")
    time.sleep(0.2)
    monkeypatch.setattr(watch, "look_at", lambda folder: time.sleep(3) if "hangs" in str(folder) else None)
    two[1].watch.folder = Path("hangs")
    found = two[0].watch.verdict(4)
    assert found.code == LOST
    assert found.aloud
    assert "at step 7, has given no sign of life for 1 s; go on" in found.line
    own = two[1].watch.verdict(4)
    assert "the file system of hangs has not answered for 1 s" in own.line
    blamed = two[0].blame(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert blamed.verdict == found
    for one in two:
        one.watch.end()


def test_who_is_missing_is_named():
    found = opened(meetings(3, seconds=0.5)[:2])
    assert isinstance(found[0], Refusal)
    assert "rank 2 has not come within 0.5 s (--join_timeout); there are rank 0 on" in str(found[0])
    assert isinstance(found[1], Ended)
    there = {rank: {"peer": {"host": "a"}} for rank in range(9)}
    assert "there are rank 0 on a, 1 on a, 2 on a, 3 on a and 5 more" in absent([9], there, 1)


def test_who_comes_when_all_are_there_is_refused_alone():
    """The same command once more, while a training of days runs: that one must not hear of it."""
    two = meetings(2)
    assert opened(two) == [None, None]
    (late,) = opened([meetings(2)[1]])
    assert isinstance(late, Ended)
    assert (late.verdict.code, late.verdict.aloud) == (2, True)
    assert "is there twice" in late.verdict.line
    assert [one.watch.verdict(0.3) for one in two] == [None, None]
    all_at_once(*(lambda one=one: one.end(0) for one in two))


def test_a_folder_that_is_not_shared(tmp_path):
    two = meetings(2)
    two[0]._folder, two[1]._folder = tmp_path / "one", tmp_path / "two"
    assert "does not see the folder" in str(opened(two)[0])
    assert not list(tmp_path.iterdir())


def test_where_they_meet():
    assert str(address(Place(launcher=TORCHRUN), {"MASTER_ADDR": "a", "MASTER_PORT": "5"})) == "a:5"
    kept = {"MASTER_ADDR": "a", "MASTER_PORT": "5", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert address(Place(launcher=TORCHRUN), kept).is_kept
    slurm = {"SLURM_NODELIST": "node[3-5],x", "SLURM_JOB_ID": "120034"}
    assert str(address(Place(launcher=SRUN), slurm)) == "node3:15034"
    for wrong, told in (({}, "MASTER_ADDR is not set"), ({"MASTER_ADDR": "a", "MASTER_PORT": "99999"}, "MASTER_PORT")):
        with pytest.raises(Refusal, match=told):
            address(Place(launcher=LIGHTNING), wrong)


def test_differences_name_what_only_one_has():
    peer = vars(Peer(0, "a", "", 1, "", "", ""))
    own, other = {"peer": peer, "facts": [{}]}, {"peer": {**peer, "rank": 3}, "facts": [{"--lr": "1"}]}
    assert (
        difference([Alike({}, "mend")], own, other) == "--lr is not given for rank 0 on a and 1 for rank 3 on a: mend"
    )


def test_a_process_is_known_to_be_gone():
    own = status(os.getpid())
    if own is None:
        pytest.skip("nothing tells on this system")
    here = Peer(0, "a", "", os.getpid(), own[1], "", "")
    assert not here.is_gone
    assert Peer(0, "a", "", os.getpid(), "1", "", "").is_gone  # another process has its number now
    child = os.fork()
    if child == 0:
        os._exit(0)
    started = status(child)
    end = time.monotonic() + 5
    while not (gone := Peer(0, "a", "", child, started[1], "", "").is_gone) and time.monotonic() < end:
        time.sleep(0.01)
    os.waitpid(child, 0)
    assert gone


def test_the_interface_that_leads_to_another_machine():
    assert own_address("127.0.0.1", 80) == "127.0.0.1"
    assert own_address("no-such-host.invalid", 80) == ""
    if not (found := interface_of("127.0.0.1")):
        pytest.skip("the system does not tell")
    environment: dict[str, str] = {}
    assert choose_interface("127.0.0.1", 80, environment) == environment[GLOO_INTERFACE] == found
    assert choose_interface("127.0.0.1", 80, {GLOO_INTERFACE: "own"}) == "own"
    assert interface_of("192.0.2.77") == ""


def test_what_takes_too_long_is_left_alone():
    assert briefly(lambda: None, 1)
    assert not briefly(lambda: time.sleep(1), 0.05)
