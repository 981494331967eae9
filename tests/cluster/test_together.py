"""Processes of one training: wrong set-ups are refused in a line by all, and a lost process ends the others."""

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.stopping import LOST
from tests.cluster.joined import Process, Starter, free_port
from tests.training import tiny

SHORT = {**tiny.FLAGS, "batch_size": 8, "dropout": 0, "device": "cpu", "devices": 2, "wb_id": "x", "log_every": 1}
MINUTE = 60.0
ALONE_HERE = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}  # on its machine


@pytest.fixture(scope="module")
def starter():
    found = Starter()
    yield found
    found.close()


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Two files of 64 small images that differ in one value."""
    folder = tmp_path_factory.mktemp("arrays")
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    np.save(folder / "one.npy", images)
    images[0, 0, 0, 0] ^= 255
    np.save(folder / "other.npy", images)
    return folder


def words(**flags: object) -> list[str]:
    return tiny.command(**{**SHORT, "train_steps": 6, **flags})


def pair(folder: Path, first: list[str], second: list[str] | None = None, **both: Any) -> list[Process]:
    """Two processes in one folder."""
    port = free_port()
    return [Process(first, folder, 0, port, **both), Process(second or first, folder, 1, port, **both)]


# -- wrong set-ups -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """A set-up that cannot be.

    Attributes:
        made: the processes, in a folder of their own.
        told: parts of what is said, by whoever says it.
        speakers: how many processes say something: each that finds nobody, else the first one alone.
    """

    made: Callable[[Path, Path], list[Process]]
    told: tuple[str, ...]
    speakers: int = 1


def with_flags(**flags: object) -> Callable[[Path, Path], list[Process]]:
    return lambda folder, _: pair(folder, words(), words(**flags))


def second(faults: list[str], **flags: object) -> Callable[[Path, Path], list[Process]]:
    """Something goes wrong in the second process."""

    def made(folder: Path, _: Path) -> list[Process]:
        found = pair(folder, words(**flags))
        found[1].faults = faults
        return found

    return made


def variables(first: dict[str, str], other: dict[str, str] | None = None, **flags: object) -> Any:
    def made(folder: Path, _: Path) -> list[Process]:
        found = pair(folder, words(**{"join_timeout": "12s", **flags}))
        found[0].environment, found[1].environment = first, first if other is None else other
        return found

    return made


def one_missing(folder: Path, _: Path) -> list[Process]:
    return pair(folder, words(join_timeout="4s"))[:1]


def numbered_twice(folder: Path, _: Path) -> list[Process]:
    port = free_port()
    found = [Process(words(join_timeout="20s"), folder, rank, port, count=3) for rank in (0, 1, 1)]
    found[2].number = 1
    return found


def apart(folder: Path, _: Path) -> list[Process]:
    """Working folders that are not shared."""
    found = pair(folder, words())
    found[1].folder = folder / "other"
    found[1].folder.mkdir()
    return found


def other_data(folder: Path, arrays: Path) -> list[Process]:
    flags = [words(data_name="arrays", data_dir=arrays / f"{name}.npy") for name in ("one", "other")]
    return pair(folder, *flags)


def no_data(folder: Path, arrays: Path) -> list[Process]:
    there = words(data_name="arrays", data_dir=arrays / "one.npy")
    return pair(folder, there, words(data_name="arrays", data_dir=arrays / "none.npy"))


def plugin_missing(folder: Path, _: Path) -> list[Process]:
    (folder / "own.py").write_text("")
    found = pair(folder, words(plugin="own.py", join_timeout="12s"))
    found[1].folder = folder / "other"
    found[1].folder.mkdir()
    return found


WRONG = {
    "unequal flags": Wrong(with_flags(lr=0.1), ("--lr is not given for rank 0 on", "and 0.1 for rank 1 on")),
    "unequal seeds": Wrong(with_flags(seed=3), ("--seed is not given for rank 0", "and 3 for rank 1")),
    "unequal presets": Wrong(with_flags(preset="digits"), ("--preset is not given for rank 0", "digits for rank 1")),
    "one missing": Wrong(one_missing, ("rank 1 has not come within 4 s (--join_timeout)", "there are rank 0 on")),
    "numbered twice": Wrong(numbered_twice, ("rank 1 on", "is there twice", "$RANK")),
    "other versions": Wrong(second(["old version"]), ("the version of torch is", "and 0.1 for rank 1")),
    "other data": Wrong(other_data, ("the training data", "samples with check sum", "--data_dir")),
    "no data": Wrong(no_data, ("rank 1 on", "none.npy")),
    "clock off": Wrong(second(["clock off"]), ("the clock of rank 1 on", "ahead of that of rank 0", "NTP")),
    "folders apart": Wrong(apart, ("rank 1 on", "does not see the folder runs of rank 0", "--output_dir")),
    "nobody there": Wrong(
        variables({"MASTER_ADDR": "192.0.2.1"}), ("192.0.2.1", "$MASTER_ADDR", "first process"), speakers=2
    ),
    "no such host": Wrong(variables({"MASTER_ADDR": "no-such-host.invalid"}), ("no-such-host.invalid",), speakers=2),
    "no port": Wrong(variables({"MASTER_PORT": "x"}), ("$MASTER_PORT is 'x', where the number of",), speakers=2),
    "no number": Wrong(variables({"WORLD_SIZE": "two"}), ("$WORLD_SIZE is 'two', where the launcher",), speakers=2),
    "other counts": Wrong(variables({}, {"WORLD_SIZE": "3"}), ("rank 0 is one of 2 processes and rank 1 on", "of 3")),
    "beyond": Wrong(variables({}, {"RANK": "2", "WORLD_SIZE": "3"}), ("is numbered 2, and there are 2", "$WORLD_SIZE")),
    "more than asked for": Wrong(variables({}, devices=1), ("--devices 1 times --num_nodes 1 is not 2",)),
    "fewer than asked for": Wrong(variables({}, devices=4), ("--devices 4 times --num_nodes 1 is not 2",)),
    "more than GPUs": Wrong(
        lambda folder, _: pair(folder, words(), faults=["one gpu"]), ("is number 1 of its machine, which has 1 GPU",)
    ),
    "another device": Wrong(second(["two gpus"]), ("the device is cpu for rank 0 on", "and cuda for rank 1 on")),
    "refuses later": Wrong(second(["quick", "refuses later"]), ("rank 1 on", "its scratch disk is full; clear it up")),
    "no plugin": Wrong(plugin_missing, ("rank 1 has not come within 12 s",), speakers=2),
}


@pytest.mark.slow
def test_wrong_set_ups_are_refused_by_all_in_one_line(starter, tmp_path, arrays):
    """All at once: what a set-up waits for costs nothing."""
    begun, made = time.monotonic(), {}
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        port_taken = Wrong(
            lambda folder, _: [Process(words(join_timeout="12s"), folder, rank, port) for rank in range(2)],
            (f"port {port} ($MASTER_PORT) of", "is taken by another program"),
            speakers=2,
        )
        cases = {**WRONG, "port taken": port_taken}
        for name, wrong in cases.items():
            folder = tmp_path / name.replace(" ", "-")
            folder.mkdir()
            made[name] = [(process, starter.start(process)) for process in wrong.made(folder, arrays)]
        found, flaws = {}, []
        for name, wrong in cases.items():
            codes = [starter.code(number, begun + MINUTE - time.monotonic()) for _, number in made[name]]
            said = [process.said.read_text() for process, _ in made[name]]
            errors = [line for text in said for line in text.splitlines() if "error: " in line]
            found[name] = (codes, errors)
            everything = "\n".join(said)
            if (
                codes != [2] * len(codes)
                or len(errors) != wrong.speakers
                or not any(all(part in line for part in wrong.told) for line in errors)
                or "Traceback" in everything
            ):
                flaws.append(f"== {name}: {codes}, told {wrong.told}\n{everything}")
    assert not flaws, "\n".join(flaws)


# -- right ones --------------------------------------------------------------------------------------------------------


def of_srun(folder: Path) -> list[Process]:
    """Two tasks of two machines; nothing was said of tasks per machine, and the job is called as salloc calls it."""
    found = pair(folder, words(devices=1, num_nodes=2, train_steps=2))
    for process in found:
        rank = str(process.rank)
        process.environment = {"RANK": None, "LOCAL_RANK": None, "WORLD_SIZE": None, "TORCHELASTIC_RUN_ID": None}
        process.environment |= {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_PROCID": rank, "SLURM_NODEID": rank}
        process.environment |= {"SLURM_LOCALID": "0", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x"}
    return found


@pytest.mark.slow
def test_machines_with_one_process_each(starter, tmp_path):
    """A dry run lets all of them take a step, as srun or torchrun starts them."""
    made = {}
    for name, processes in {
        "srun": of_srun(tmp_path / "srun"),
        "dry run": pair(tmp_path / "dry run", [*words(devices=1, num_nodes=2), "--dry_run"], environment=ALONE_HERE),
    }.items():
        (tmp_path / name).mkdir()
        made[name] = [(process, starter.start(process)) for process in processes]
    for name, started in made.items():
        codes = [starter.code(number, MINUTE) for _, number in started]
        assert codes == [0, 0], name + "\n".join(process.said.read_text() for process, _ in started)
    assert "2 processes have taken a step together" in made["dry run"][0][0].said.read_text()


# -- death -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """What goes wrong in the third step.

    Attributes:
        faults: what, by rank.
        codes: exit codes; None where the process cannot end by itself.
        told: parts of the line.
        speaker: the rank that says it.
        other: what the other one says, if it knows more.
    """

    faults: tuple[tuple[str, ...], tuple[str, ...]]
    codes: tuple[int | None, int | None]
    told: tuple[str, ...]
    speaker: int = 0
    other: str = ""


AGAIN = "the same command with --resume x_digits_H0.9_K2 goes on"
DEATHS = {
    "second killed": Death(((), ("killed",)), (LOST, -9), ("rank 1 on", "at step ", "without a word (killed?)", AGAIN)),
    "first killed": Death((("killed",), ()), (-9, LOST), ("rank 0 on", "at step ", "without a word", AGAIN), 1),
    "second stopped": Death(
        ((), ("halted",)), (LOST, None), ("rank 1 on", "at step ", "no sign of life for 8 s", AGAIN)
    ),
    "first stopped": Death((("halted",), ()), (None, LOST), ("rank 0 on", "at step ", "for 8 s", AGAIN), 1),
    "files hung": Death(
        ((), ("hung files",)),
        (LOST, LOST),
        ("rank 1 on", "at step ", "no sign of life for 8 s", AGAIN),
        other="the file system of runs/x_digits_H0.9_K2 has not answered for 8 s",
    ),
    "a bug": Death(((), ("bug",)), (1, 1), ("rank 1 on", "ValueError: too many values to unpack")),
}


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_a_slow_one_does_not(starter, tmp_path):
    """All at once, as above; the step that a line names is the last that was heard of."""
    made, flaws = {}, []
    for name, death in DEATHS.items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        processes = pair(folder, words(train_steps=100000))
        for process, faults in zip(processes, death.faults, strict=True):
            process.faults = ("quick", *faults)
        made[name] = [(process, starter.start(process)) for process in processes]
    trained = {}
    for name, faults in (("plain", ()), ("slow", ("long grid",))):
        folder = tmp_path / name
        folder.mkdir()
        processes = pair(folder, words(val_check_interval=4, checkpoint_every=6), faults=("quick", *faults))
        trained[name] = folder, [(process, starter.start(process)) for process in processes]
    begun = time.monotonic()
    for name, death in DEATHS.items():
        codes = tuple(
            starter.code(number, begun + MINUTE - time.monotonic()) if code is not None else None
            for (_, number), code in zip(made[name], death.codes, strict=True)
        )
        said = [process.said.read_text() for process, _ in made[name]]
        errors = [line for line in said[death.speaker].splitlines() if "error: " in line]
        others = [line for line in said[1 - death.speaker].splitlines() if "error: " in line]
        wrong = len(others) != bool(death.other) or death.other not in "".join(others)
        if codes != death.codes or len(errors) != 1 or wrong or not all(part in errors[0] for part in death.told):
            flaws.append(f"== {name}: {codes}, told {death.told}\n" + "\n".join(said))
    for name, (_, started) in trained.items():
        codes = [starter.code(number, begun + MINUTE - time.monotonic()) for _, number in started]
        if codes != [0, 0]:
            flaws.append(f"== {name}: {codes}\n" + "\n".join(process.said.read_text() for process, _ in started))
    assert not flaws, "\n".join(flaws)
    plain, slow = (tiny.weights(folder / "runs" / "x_digits_H0.9_K2") for folder, _ in trained.values())
    assert plain.keys() == slow.keys()
    assert all(torch.equal(plain[file][key], slow[file][key]) for file in plain for key in plain[file])


@pytest.mark.slow
def test_a_signal_during_the_meeting(starter, tmp_path):
    """The first process waits for the second one, which never comes."""
    (process, _) = pair(tmp_path, words(join_timeout="40s"))
    number = starter.start(process)
    end = time.monotonic() + 20
    while not list((tmp_path / "runs").glob(".meeting-*")) and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(number, signal.SIGTERM)
    assert starter.code(number, 10) == 130
    assert process.said.read_text().split("\n") == ["", "stopped; nothing was lost", ""]
    assert not (tmp_path / "runs").exists()
