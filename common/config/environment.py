"""What a shell, a notebook or a launcher has left in the environment, and meant for other processes than this one."""

import os
import sys
from collections.abc import MutableMapping

BACKEND, FILES_ONLY = "MPLBACKEND", "agg"
TORCH_SAYS = "TORCH_CPP_LOG_LEVEL"
STEP, JOB, TASK = "SLURM_STEP_ID", "SLURM_JOB_NAME", "SLURM_TASK_PID"
# by which Lightning takes a process for one of several that srun has started
OF_SRUN = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
SHELLS = frozenset({"bash", "csh", "dash", "fish", "interactive", "ksh", "sh", "tcsh", "zsh"})
LOCAL, OF_TORCHRUN = "LOCAL_RANK", ("RANK", "LOCAL_RANK")  # jsrun (LSF) has names of its own


def leave_to_others(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove what was not meant for this process, before a library reads it.

    - srun's variables are in every process of a job; only those of a step, without a terminal, were started by srun.
      ``salloc``, ``srun --pty`` and a script without srun are one process, and nobody else comes for it to wait for.
    - A rank without a local one is not torchrun's, and one that is no number is nobody's. With it this process would
      take itself for one that does not write.

    Args:
        environment: variables by name, changed in place.

    Returns:
        What a user should know.
    """
    notes = []
    left = [name for name in OF_SRUN if name in environment]
    if left and not is_step(environment):
        notes.append(f"{', '.join(left)} left out: srun has not started this process, so it is no task of a job")
    else:
        left = []
    ranks = [name for name in OF_TORCHRUN if name in environment]
    if not all(environment[name].isdecimal() for name in ranks) or (ranks and LOCAL not in ranks):
        notes.append(f"{', '.join(ranks)} left out: torchrun has not started this process")
        left += ranks
    for name in left:
        del environment[name]
    return notes


def draw_into_files(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let matplotlib draw into files in this program, whatever a notebook that started it has chosen for itself."""
    environment[BACKEND] = FILES_ONLY


def say_errors_only(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep torch from telling every lost connection, with its own stack, before the program can say what it means."""
    environment.setdefault(TORCH_SAYS, "ERROR")


def is_step(environment: MutableMapping[str, str]) -> bool:
    """Whether srun has started this process as a task of a job, and not a shell in which somebody sits.

    A job of salloc has the name of a shell, too; srun tells each task its own process number.
    """
    has_terminal = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    is_task = environment.get(JOB) not in SHELLS or environment.get(TASK) == str(os.getpid())
    return STEP in environment and is_task and not has_terminal
