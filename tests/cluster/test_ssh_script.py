"""The script that starts one training on several machines by ssh: what it runs there, and how all end together."""

import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.joined import free_port
from tests.test_imports import ROOT

STAND_IN = Path(__file__).with_name("ssh")
WAITS = "trap 'echo told; exit 1' TERM INT; touch begun.$STAND_IN_HOST; while :; do sleep 0.03; done"

GPU = '[ "$1" = -c ] && { [ ! -e "no-gpu.$STAND_IN_HOST" ]; exit; }'  # asked before torchrun is to count them


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts the script in a folder with a blank in its name, `python` being some lines of bash."""
    folder = tmp_path / "it's a folder"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "ssh").symlink_to(STAND_IN)
    for name in ("scripts", "train.py"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)

    def start(behaviour: str, *words: str, port: int | None = None) -> subprocess.Popen[str]:
        python = folder / "bin" / "python"
        python.write_text(f'#!/bin/bash\nprintf "%q " "$@" > "words.$STAND_IN_HOST"\n{GPU}\n{behaviour}\n')
        python.chmod(0o755)
        return subprocess.Popen(
            ["scripts/ssh/train.sh", *words],
            env={"PATH": f"{folder}/bin:/usr/bin:/bin", "MASTER_PORT": str(port or free_port())},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def words(host: str) -> list[str]:
    return shlex.split(Path(f"words.{host}").read_text())


def test_every_host_runs_its_part(started):
    flags = ["--preset", "digits", "--wb_id", "two", "--data_dir", "a 'b' $HOME `c`", "--devices", "2"]
    port = free_port()
    process = started('echo "from $PWD"; printf "no end"', "me@one", "two", "--", *flags, port=port)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0, out
    here = Path.cwd()
    assert sorted(out.splitlines()) == [f"{h}: {t}" for h in ("me@one", "two") for t in (f"from {here}", "no end")]
    for host, keeps in (("me@one", 1), ("two", 0)):
        assert words(host) == [
            *shlex.split("-m torch.distributed.run --nnodes 2 --nproc-per-node 2 --max-restarts 3 --rdzv-backend c10d"),
            *shlex.split(f"--rdzv-endpoint one:{port} --rdzv-id two --rdzv-conf is_host={keeps}"),
            *shlex.split(f"--local-addr {host[-3:]} train.py"),
            *flags,
            *shlex.split("--num_nodes 2 --resume auto"),
        ]
    started("", "one", "--", "--wb_id", "x").wait(20)
    assert "--nproc-per-node gpu" in " ".join(words("one"))


def test_an_error_on_one_host_ends_all(started):
    process = started(f"[ $STAND_IN_HOST = two ] && exit 3; {WAITS}", "one", "two", "three", "--", "--wb_id", "x")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "train.sh: two ended with 3; the others are told to stop" in out
    assert ("one: told" in out, "three: told" in out) == (True, True)


def test_ctrl_c_stops_all_and_a_second_one_does_not_wait(started):
    for behaviour, signals in ((WAITS, 1), ("trap '' TERM; touch begun.$STAND_IN_HOST; sleep 5", 2)):
        process = started(behaviour, "one", "two", "--", "--wb_id", "x")
        until = time.monotonic() + 20
        while len(list(Path().glob("begun.*"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        for number in range(signals):
            time.sleep(1.2 * number)
            os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 130, out
        assert out.count("told") == (2 if signals == 1 else 0)
        assert "train.sh: stopped; the same command goes on" in out
        for path in Path().glob("begun.*"):
            path.unlink()


def test_what_it_refuses(started):
    for line, said in {
        "": "usage: scripts/ssh/train.sh HOST",
        "one two": "usage: ",
        "-- --wb_id x": "usage: ",
        "one -- --preset digits": "--wb_id is needed",
    }.items():
        process = started("", *line.split())
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 2
        assert said in out
        assert out.count("\n") == 1
    Path("train.py").unlink()
    out, _ = started("", "one", "--", "--wb_id", "x").communicate(timeout=20)
    assert out == f"train.sh: error: there is no train.py in {Path.cwd()}: give this in the folder of the clone\n"


@pytest.mark.parametrize("where", ["one", "two"])
def test_what_train_py_refuses_ends_all_at_once_and_is_said_last(started, where):
    """torchrun would start it again three times, and say more of itself than of the cause."""
    said = "train.py: error: --devices 4 times --num_nodes 2 is not 2"
    refused = f"[ $STAND_IN_HOST = {where} ] && echo '{said}' && echo 'E] failed (exitcode: 2) local_rank: 0'; {WAITS}"
    process = started(refused, "one", "two", "--", "--wb_id", "x", "--devices", "1")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 2, out
    assert out.count("told") == 2
    assert out.splitlines()[-1] == "train.sh: error: --devices 4 times --num_nodes 2 is not 2"


def test_a_lost_process_is_left_to_torchrun(started):
    """It is told as an error, too, but the next attempt goes on."""
    behaviour = "echo 'train.py: error: rank 1 is lost'; echo 'E] failed (exitcode: 75) local_rank: 0'; echo again"
    process = started(behaviour, "one", "two", "--", "--wb_id", "x", "--devices", "1")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0, out
    assert out.count("again\n") == 2


def test_a_host_without_a_gpu_is_named(started):
    Path("no-gpu.two").touch()
    process = started(WAITS, "one", "two", "--", "--wb_id", "x")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 2, out
    assert "two: train.sh: error: this host has no GPU: give --devices N, a number of processes\n" in out
    assert out.splitlines()[-1] == "train.sh: error: this host has no GPU: give --devices N, a number of processes"


def test_a_port_that_is_taken_is_told_before_torchrun_fails_by_it(started):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = started(WAITS, "one", "two", "--", "--wb_id", "x", "--devices", "1", port=port)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 2, out
    told = f"error: port {port} of this host is taken: MASTER_PORT=N before the command takes another"
    assert f"one: train.sh: {told}\n" in out
    assert f"two: train.sh: {told}\n" not in out
    assert out.splitlines()[-1] == f"train.sh: {told}"
