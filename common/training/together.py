"""What the processes of one training must have in common, and how they come to have it."""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from common.cluster.alike import Alike
from common.cluster.meeting import Meeting
from common.cluster.place import SRUN, TORCHRUN, Place, place
from common.config.build import check_device
from common.config.parser import complain, mendable, redacted
from common.config.resolve import section
from common.config.schema import Hardware
from common.data.source import DataSet, Split
from common.files.writing import host_name
from common.refusal import Refusal
from common.training.resume import TrainOrder
from common.training.session import PROGRAM, number_by_node
from common.training.trainer import check_rank, device_count

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "gfdm", "fdp")
LIBRARIES = ("torch", "lightning", "numpy")
OF_ONE_MACHINE = frozenset({"--data_dir"})  # data may lie elsewhere on another one, and is compared itself
LOOKED_AT = 3  # samples of each part


def meeting_of(order: TrainOrder) -> Meeting:
    """The meeting of all processes with this command line.

    Raises:
        Refusal: if the launcher's variables cannot be.
    """
    hardware: Hardware = section(Hardware, {**order.of_preset, **order.given})  # a run's own are not known yet
    here = place(nodes=hardware.num_nodes)
    number_by_node(hardware.num_nodes)
    if here.launcher == TORCHRUN and "MASTER_ADDR" not in os.environ:
        check_rank(hardware, check_device(hardware.device))  # a number was left in the shell
    is_one_command = not here.from_outside and hardware.num_nodes == 1
    alike = () if is_one_command else (flags(order.words), versions())
    folder = None if order.command.only_looks else order.output_dir
    return Meeting(here, alike, folder, hardware.join_timeout, partial(complain, PROGRAM), mended)


def mended(error: Exception) -> str | None:
    """What a user can mend, in a line; None for a bug."""
    if isinstance(error, Refusal):
        return error.line({str(error.argument): str(error.argument)})
    return mendable(error)


def flags(words: Sequence[str]) -> Alike:
    """The flags of a command line, and what stands behind each; secrets are left out."""
    found: dict[str, str] = {}
    name = "what stands before the flags"
    for word in redacted(words):
        if match := re.fullmatch(r"(--[^=]+)=(.*)", word, re.DOTALL):
            name = match[1]
            found[name] = match[2]
        elif word.startswith("--"):
            name = word
            found[name] = ""
        else:
            found[name] = f"{found.get(name, '')} {word}".strip()
    found = {name: value or "given" for name, value in found.items() if name not in OF_ONE_MACHINE}
    return Alike(found, "start all processes with one command line")


def versions() -> Alike:
    """The versions of what computes; the program's own is a check sum of its files."""
    found = {f"the version of {name}": metadata.version(name) for name in LIBRARIES}
    found["the version of Python"] = platform.python_version()
    found["the check sum of the program"] = program()
    return Alike(found, "let all machines use the same clone and the same environment")


def program() -> str:
    """A check sum of the program's files, in eight digits."""
    files = [*ROOT.glob("*.py"), *(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))]
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(file.relative_to(ROOT).as_posix().encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:8]


def data(dataset: DataSet) -> Alike:
    """What a data set is, without reading all of it: numbers, shapes, labels, and a few samples."""
    found = {}
    for name, part in (("the training data", dataset.train), ("the held-out data", dataset.held_out)):
        shape = " x ".join(map(str, part.images.shape[1:]))
        found[f"{name} ({shape}, {str(part.images.dtype).removeprefix('torch.')})"] = (
            f"{len(part.labels):,} samples with check sum {content(part)}"
        )
    return Alike(found, "let --data_dir name the same data on all machines")


def content(part: Split) -> str:
    """A check sum of all labels and a few samples, in eight digits."""
    total = hashlib.sha256(part.labels.numpy().tobytes())
    if len(part.labels):
        total.update(part.read(LOOKED_AT)[0].contiguous().numpy().tobytes())
    return total.hexdigest()[:8]


def shared(device: torch.device, dataset: DataSet) -> tuple[Alike, Alike]:
    """What processes compute with, and from."""
    where = Alike({"the device": device.type}, "start all processes where the same devices are, or give --device")
    return where, data(dataset)


def check_count(here: Place, hardware: Hardware, found: torch.device) -> None:
    """Refuse a number of processes that the flags do not say, or that the machine has no devices for.

    Raises:
        Refusal: naming the flag.
    """
    devices = device_count(hardware, found)
    if here.count != devices * hardware.num_nodes:
        raise Refusal(
            f"{devices} times --num_nodes {hardware.num_nodes} is not {here.count}, the number of processes that "
            f"{here.launcher} has started: give --devices and --num_nodes as it has them",
            "devices",
        )
    if here.launcher == SRUN and here.local_count != devices:
        raise Refusal(
            f"{devices}: {host_name()} has {here.local_count} of the {here.count} tasks; every machine must have "
            "--devices of them (--ntasks-per-node), and --num_nodes is the number of machines",
            "devices",
        )
    there = torch.cuda.device_count() if found.type == "cuda" else sys.maxsize
    if here.local_rank >= there:
        raise Refusal(
            f"{devices}: a process is number {here.local_rank} of its machine, which has {there} GPUs to be seen; "
            "start one process for each ($CUDA_VISIBLE_DEVICES)",
            "devices",
        )
