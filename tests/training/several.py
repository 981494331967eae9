"""Trainings of several processes, as torchrun starts them, forked from a program that has imported everything once.

``python several.py plan.json`` runs the trainings of a plan one after another and prints the exit codes of the
processes of each, a line of JSON. A plan is a list of {"processes": 3, "words": [..], "log": file}, and may say more
of a training: "kill_at" a step, "copies" for gradients that are copied before they are exchanged, "mirror" and "sums"
for where MNIST is fetched from and the check sums it has there.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torchvision.datasets import MNIST

import train
from common.training import fitting
from common.training.module import DiffusionModule
from tests.training import interrupted


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def die_at(step: int) -> None:
    """Let this process be killed at the start of an optimiser step."""
    training_step = DiffusionModule.training_step

    def killed(self, batch, batch_idx):
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return training_step(self, batch, batch_idx)

    DiffusionModule.training_step = killed  # type: ignore[method-assign]


def copy_gradients() -> None:
    """Let DDP exchange copies of gradients, as it does unless told otherwise."""
    init = DDPStrategy.__init__

    def plain(self, **settings):
        init(self, **{**settings, "gradient_as_bucket_view": False})

    DDPStrategy.__init__ = plain  # type: ignore[method-assign]


def work(rank: int, count: int, port: int, case: dict) -> int:
    """One process of a training."""
    words, kill_at = case["words"], case.get("kill_at")
    if count > 1:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {name: str(value) for name, value in numbers.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
        words = [*words, "--devices", str(count)]
    rank_zero_only.rank = rank  # as Lightning finds it when it is imported
    if kill_at is not None:
        die_at(kill_at)
    if case.get("copies"):
        copy_gradients()
    if case.get("mirror"):
        MNIST.mirrors, MNIST.resources = [case["mirror"]], [tuple(pair) for pair in case["sums"]]
    return train.main(words)


def run(case: dict) -> list[int]:
    """Exit codes of the processes of a training, -9 of one that was killed."""
    port, children = free_port(), []
    for rank in range(case["processes"]):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                log = os.open(case["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                code = work(rank, case["processes"], port, case)
                sys.stdout.flush()
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            finally:
                os._exit(code)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def main() -> None:
    """Run a plan."""
    torch.set_num_threads(1)
    interrupted.make_quick()
    assert fitting  # imported before the first fork
    for case in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps(run(case)), flush=True)


if __name__ == "__main__":
    main()
