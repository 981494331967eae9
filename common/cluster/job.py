"""How long the SLURM job lasts that a process belongs to, as SLURM itself tells it."""

import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from common.refusal import Refusal

JOB, END = "SLURM_JOB_ID", "SLURM_JOB_END_TIME"
MARGIN = 90.0  # seconds before the limit of a job at which work is to stop: a step, a checkpoint and an exit fit in
ANSWER = 30.0  # seconds that SLURM's controller may take to answer
FLAG = "max_time"
# sbatch(1), squeue(1): what stands for a limit that there is not
NO_LIMIT = frozenset({"unknown", "unlimited", "not_set", "infinite"})


@dataclass(frozen=True)
class OfJob:
    """A time that ends ahead of the limit of the job.

    Attributes:
        margin: seconds before that limit.
    """

    margin: float = MARGIN

    def __str__(self) -> str:
        return "job"

    def seconds(self, environment: Mapping[str, str] = os.environ) -> float | None:
        """Seconds from now on, which may be below 0; None if the job has no limit.

        Args:
            environment: variables by name, as they are in a job.

        Raises:
            Refusal: outside of a job, or if nobody tells when it ends.
        """
        left = seconds_left(environment)
        return None if left is None else left - self.margin


def seconds_left(environment: Mapping[str, str] = os.environ) -> float | None:
    """Seconds until the limit of the job; None if it has none.

    That is ``$SLURM_JOB_END_TIME`` (since SLURM 23.02), else what ``scontrol`` or ``squeue`` answers.

    Args:
        environment: variables by name, as they are in a job.

    Raises:
        Refusal: outside of a job, or if nobody tells when it ends.
    """
    if not environment.get(JOB):
        raise Refusal(f"job is the limit of a SLURM job, and ${JOB} is not set here; give a time, as in 3.8h", FLAG)
    if (end := environment.get(END, "")).isdecimal():
        return float(end) - time.time()
    job, told = environment[JOB], list[str]()
    for command, read in ((("scontrol", "show", "job", job), _of_scontrol), (_squeue(job), _of_squeue)):
        try:
            text = _answer(command, environment)
            return read(text)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            told.append(f"{command[0]}: {str(error).strip().partition(chr(10))[0]}")
    raise Refusal(f"job: when job {job} ends is not told ({'; '.join(told)}); give a time, as in 3.8h", FLAG)


def _squeue(job: str) -> tuple[str, ...]:
    return ("squeue", "--noheader", "--jobs", job, "--format", "%L")


def _answer(command: tuple[str, ...], environment: Mapping[str, str]) -> str:
    """What a program of SLURM prints.

    Raises:
        OSError: if it is not there.
        SubprocessError: if it does not answer in time.
        ValueError: with its complaint, if it fails.
    """
    plain = {**environment, "SLURM_TIME_FORMAT": "standard"}  # a site or a user may have another one
    done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=ANSWER, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ValueError(done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


def _of_scontrol(text: str) -> float | None:
    """Seconds left by ``EndTime=2026-01-31T12:00:00`` in local time, which all nodes of a cluster share."""
    found = re.search(r"(?<!\S)EndTime=(\S+)", text)
    if found is None:
        raise ValueError("no EndTime in its answer")
    if found[1].lower() in NO_LIMIT:
        return None
    return datetime.fromisoformat(found[1]).timestamp() - time.time()


def _of_squeue(text: str) -> float | None:
    """Seconds left by ``[days-][[hours:]minutes:]seconds``."""
    line = text.strip()
    if line.lower() in NO_LIMIT:
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", line)
    if found is None:
        raise ValueError(f"{line!r} is no time")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
