"""Which process of a work this is, as srun numbers its tasks."""

import os

import pytest
import torch

from common.cluster.meeting import Meeting
from common.cluster.place import SRUN, TORCHRUN, Place, place, tasks_here
from common.config.environment import is_step
from common.config.schema import Hardware
from common.generation import sharing
from common.refusal import Refusal
from common.training.strategy import environments
from common.training.sweep.running import check_alone
from common.training.together import check_count, flags

TASK = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NNODES": "2", "SLURM_NODEID": "1"}


@pytest.mark.parametrize(
    ("variables", "tasks"),
    [
        ({}, 2),  # spread evenly, as far as anybody tells
        ({"SLURM_NTASKS_PER_NODE": "8"}, 2),  # of the job; srun -n 4 -N 2 starts fewer
        ({"SLURM_TASKS_PER_NODE": "2(x2)"}, 2),
        ({"SLURM_TASKS_PER_NODE": "3,1"}, 1),
        ({"SLURM_TASKS_PER_NODE": "8(x2)", "SLURM_STEP_TASKS_PER_NODE": "1,3"}, 3),
        ({"SLURM_TASKS_PER_NODE": "nonsense"}, 2),
    ],
)
def test_tasks_of_a_machine(variables, tasks):
    found = place({**TASK, **variables})
    assert found == Place(3, 4, 1, tasks, SRUN)


def test_tasks_of_many_machines():
    text = {"SLURM_TASKS_PER_NODE": "2(x3),1,4(x2)"}
    assert [tasks_here(text, 15, 6, node) for node in range(6)] == [2, 2, 2, 1, 4, 4]


def test_every_machine_has_as_many_tasks_as_devices():
    """Lightning would say so with a traceback, in every task."""
    cpu = torch.device("cpu")
    check_count(Place(0, 4, 0, 2, SRUN), Hardware(devices=2, num_nodes=2), cpu)
    with pytest.raises(Refusal, match="has 3 of the 4 tasks; every machine") as error:
        check_count(Place(0, 4, 0, 3, SRUN), Hardware(devices=2, num_nodes=2), cpu)
    assert error.value.argument == "devices"
    check_count(Place(0, 3, 0, 2, TORCHRUN), Hardware(devices=3), cpu)  # it trains


def test_lightning_takes_what_srun_says(monkeypatch):
    """Tasks that --ntasks asked for, in a job that is called as salloc calls it."""
    for name, value in {**TASK, "SLURM_JOB_NAME": "interactive"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    (found,) = environments(Meeting(place()))
    found.validate_settings(num_devices=2, num_nodes=2)
    assert (found.world_size(), found.global_rank(), found.local_rank(), found.node_rank()) == (4, 3, 1, 1)
    assert environments(Meeting(Place(0, 2, 0, 2, TORCHRUN))) == environments(None) == []


@pytest.mark.parametrize("name", ["interactive", "bash"])
def test_a_task_in_a_job_of_salloc_is_no_shell(name):
    job = {"SLURM_STEP_ID": "0", "SLURM_JOB_NAME": name}
    assert not is_step(job)
    assert not is_step({**job, "SLURM_TASK_PID": str(os.getppid())})  # that is the shell which srun has started
    assert is_step({**job, "SLURM_TASK_PID": str(os.getpid())})


def test_a_sweep_is_one_process():
    check_alone(Place())
    with pytest.raises(Refusal, match="srun has started 2 processes"):
        check_alone(Place(0, 2, 0, 2, SRUN))
    with pytest.raises(SystemExit) as end:
        check_alone(Place(1, 2, 1, 2, SRUN))
    assert end.value.code == 2


def test_a_key_is_told_to_nobody():
    """It would lie in the store, and in the line that says how two processes differ."""
    for words in (["--wb_key", "5ecret", "--lr", "1"], ["--wb_key=5ecret", "--lr", "1"]):
        found = flags(words)
        assert "5ecret" not in str(found.facts)
        assert found.facts["--lr"] == "1"


@pytest.mark.parametrize(("here", "device"), [(Place(), "cuda"), (Place(5, 8, 1, 4, SRUN), "cuda:1")])
def test_processes_of_a_machine_take_its_gpus_in_turn(monkeypatch, here, device):
    monkeypatch.setattr(sharing, "check_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert sharing.device_for("cuda", here) == torch.device(device)
    assert sharing.device_for("cpu", here) == torch.device("cpu")
