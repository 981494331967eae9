"""What surrounds a run: which process speaks, its id, its secrets, its environment, the accelerator's settings."""

import os
import platform
import secrets
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from common.cluster.place import Place, place
from common.config.parser import complain as print_error
from common.config.parser import without_secret
from common.files import atomic_write
from common.refusal import Refusal
from common.training.loggers import KEY_VARIABLE

PROGRAM = "train.py"
NODE = "NODE_RANK"  # Lightning's name for the number of a machine
RUN_ID_VARIABLE = "DIFFUSION_RUN_ID"  # how the processes of one run agree on a random id


def is_first_process() -> bool:
    """Whether this process speaks and writes for the run; the others (DDP) only compute."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only  # here: it takes long to import

    return getattr(rank_zero_only, "rank", None) in (None, 0)


def number_by_node(nodes: int) -> None:
    """Let the process that somebody starts on a further machine, with $NODE_RANK, know that it is not the first one.

    Lightning knows that only of processes that it, torchrun or srun has started, and of this one when it has a trainer.

    Args:
        nodes: number of machines; where there is one, the variable was left over.
    """
    node = os.environ.get(NODE, "0")
    if nodes > 1 and place(nodes=nodes) == Place() and node.isdecimal() and int(node):
        from lightning.pytorch.utilities.rank_zero import rank_zero_only  # here: as above

        rank_zero_only.rank = int(node)  # type: ignore[attr-defined]


def say(line: str) -> None:
    """Print from the first process, at once."""
    if is_first_process():
        print(line, flush=True)


def complain(message: str) -> None:
    """Print an error from the first process."""
    if is_first_process():
        print_error(PROGRAM, message)


def hide_key(key: str | None) -> None:
    """Move --wb_key from the command line (which W&B notes) into the environment (which nothing writes down)."""
    if key is not None:
        os.environ[KEY_VARIABLE] = key
        sys.argv[:] = without_secret(sys.argv)


def fresh_id(output_dir: Path) -> str:
    """Six random digits; processes that Lightning starts from the first one take over its id.

    Args:
        output_dir: folder of runs, none of which has that id yet.

    Raises:
        Refusal: if processes are started from outside, which cannot agree on one.
    """
    if is_first_process():
        while any(output_dir.glob(f"{(drawn := secrets.randbelow(900000) + 100000)}_*")):
            pass
        os.environ[RUN_ID_VARIABLE] = str(drawn)
    if RUN_ID_VARIABLE not in os.environ:
        raise Refusal("is needed if torchrun or srun starts the processes, which must agree on it", "wb_id")
    return os.environ[RUN_ID_VARIABLE]


def set_tf32(device: torch.device, allowed: bool) -> None:
    """Let CUDA multiply and convolve float32 in TF32, or not; a CPU stays exact."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed


def note_environment(path: Path, command: Sequence[str]) -> None:
    """Add command line and versions to environment.txt, below those of earlier parts of the run."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    packages = sorted(f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions())
    earlier = path.read_bytes() if path.exists() else b""
    lines = [
        f"# {shlex.join(command)}",
        f"# Python {platform.python_version()} on {platform.platform()}, {device}",
        *packages,
        "",
    ]
    atomic_write(path, earlier + "\n".join(lines).encode("utf-8", "surrogateescape"))
