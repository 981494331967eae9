"""A stand-in for SLURM on this machine: ``sbatch``, ``srun``, ``scontrol`` and ``scancel``, as far as job scripts need.

What it does follows sbatch(1), srun(1), scancel(1), slurm.conf(5) and the source of 26.11:

- a warning (``--signal=B:USR1@90``) goes to the script alone, without ``B:`` to the tasks alone;
- at the limit and with scancel TERM goes to all processes of script and tasks, KILL after ``KillWait``;
- srun passes signals on to all processes of its tasks; if one ends with an error, all get CONT, TERM and, ``KillWait``
  later, KILL (``--kill-on-bad-exit``); its code is 128 + the highest signal that ended a task, else the highest code;
- a job that is requeued, cancelled or not, starts its script from the beginning, under the same number.

The programs ``srun`` and ``scontrol`` are this file, started as a script; they learn of their job by variables.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KILL_WAIT = 20.0  # seconds; slurm.conf(5) has 30
OURS = "STAND_IN_JOB"  # the folder in which the programs note what they do
NODE = "localhost"


def send(group: int, number: int) -> None:
    """Signal all processes of a group, which may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def groups(folder: Path) -> list[int]:
    """Process groups of the tasks that were started in a job."""
    return [int(path.name) for path in (folder / "tasks").iterdir()]


# -- srun and scontrol -------------------------------------------------------------------------------------------------


def srun(words: list[str]) -> int:
    """Start the tasks of the job, and end as srun would."""
    first = next(i for i, word in enumerate(words) if not word.startswith("-"))
    command, kills = words[first:], "--kill-on-bad-exit=1" in words[:first]
    folder, count = Path(os.environ[OURS]), int(os.environ["SLURM_NTASKS"])
    if shutil.which(command[0]) is None:
        print(f"slurmstepd: error: execve(): {command[0]}: No such file or directory", file=sys.stderr)
        return 2
    tasks: list[subprocess.Popen[bytes]] = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGCONT):
        signal.signal(number, lambda number, frame: [send(task.pid, number) for task in tasks] and None)
    for rank in map(str, range(count)):
        ranks = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0", "SLURM_STEP_ID": "0"}
        task = subprocess.Popen(
            command,
            env={**os.environ, **ranks, "SLURM_STEPID": "0", "SLURM_STEP_NUM_TASKS": str(count)},
            start_new_session=True,
            preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGQUIT)] and None,
        )
        tasks.append(task)
        (folder / "tasks" / str(task.pid)).write_text(rank)
    told, killed = None, False
    while None in [task.poll() for task in tasks]:
        time.sleep(0.02)
        if kills and told is None and any(task.returncode for task in tasks):
            told = time.monotonic()
            for task in tasks:
                send(task.pid, signal.SIGCONT)
                send(task.pid, signal.SIGTERM)
        if told is not None and not killed and time.monotonic() - told > KILL_WAIT:
            killed = True
            for task in tasks:
                send(task.pid, signal.SIGKILL)
    codes = [task.returncode for task in tasks]
    (folder / "codes").write_text(json.dumps(codes))
    return 128 - min(codes) if min(codes) < 0 else max(codes)


def scontrol(words: list[str]) -> int:
    """``requeue JOB`` and ``show hostnames LIST``."""
    if words[:2] == ["show", "hostnames"]:
        print(words[2].replace(",", "\n"))
        return 0
    assert words[0] == "requeue", words
    folder = Path(os.environ[OURS])
    if (folder / "no-requeue").exists():
        print("scontrol: Requested operation is presently disabled", file=sys.stderr)
        return 1
    (folder / "requeued").write_text(words[1])
    return 0


# -- sbatch ------------------------------------------------------------------------------------------------------------


def options_of(script: str) -> dict[str, str]:
    """Options of the ``#SBATCH`` lines of a script, up to the first command; without what follows a #."""
    found = {}
    for line in script.splitlines():
        if line and not line.startswith("#"):
            break
        if line.startswith("#SBATCH"):
            for word in shlex.split(line.removeprefix("#SBATCH"), comments=True):
                name, _, value = word.removeprefix("--").partition("=")
                found[name] = value
    return found


@dataclass
class Job:
    """One job, or one task of an array.

    Attributes:
        script: text of the script.
        folder: working folder, in which sbatch was given.
        environment: variables of the shell in which sbatch was given.
        number: its number.
        tasks: number of tasks of a step.
        element: number in the array, number of its first one and how many there are.
        warn: called every tenth of a second with the number of restarts; True lets the time of the warning come.
        limit: seconds from a start to ``$SLURM_JOB_END_TIME``, by the number of restarts.
        events: called as ``warn``, with the job, to do something to it.
        log: what script and tasks said, of all starts.
        codes: exit codes of the script, one for each start.
        most: starts after which the test is wrong.
    """

    script: str
    folder: Path
    environment: Mapping[str, str]
    number: int = 4711
    tasks: int = 1
    element: tuple[int, int, int] | None = None
    warn: Callable[[int], bool] = lambda restarts: False
    limit: Callable[[int], float] = lambda restarts: 4 * 3600
    events: Callable[["Job"], None] = lambda job: None
    most: int = 8
    log: str = ""
    codes: list[int] = field(default_factory=list)
    task_codes: list[list[int]] = field(default_factory=list)
    restarts: int = 0
    is_warned: bool = False
    process: subprocess.Popen[str] | None = None

    @property
    def own(self) -> Path:
        """Where the stand-in keeps what it knows of this job."""
        return self.folder / "stand-in" / str(self.number)

    @property
    def options(self) -> dict[str, str]:
        """What the script asks for."""
        return options_of(self.script)

    def variables(self) -> dict[str, str]:
        """Variables of the job, as the script has them."""
        name = self.options["job-name"]
        found = {
            "JOB_ID": self.number, "JOB_NAME": name, "NTASKS": self.tasks, "NTASKS_PER_NODE": self.tasks, "NNODES": 1,
            "JOB_NUM_NODES": 1, "NODELIST": NODE, "JOB_NODELIST": NODE, "PROCID": 0, "LOCALID": 0, "NODEID": 0,
            "JOB_END_TIME": int(time.time() + self.limit(self.restarts)), "SUBMIT_DIR": self.folder,
        }  # fmt: skip
        if self.restarts:
            found["RESTART_COUNT"] = self.restarts
        if self.element:
            number, first, count = self.element
            found |= {"ARRAY_JOB_ID": 4711, "ARRAY_TASK_ID": number, "ARRAY_TASK_MIN": first}
            found |= {"ARRAY_TASK_MAX": first + count - 1, "ARRAY_TASK_COUNT": count, "ARRAY_TASK_STEP": 1}
        return {f"SLURM_{name}": str(value) for name, value in found.items()}

    def start(self) -> None:
        """Start the script, its log appended to that of earlier starts."""
        (self.own / "tasks").mkdir(parents=True, exist_ok=True)
        for path in (*(self.own / "tasks").iterdir(), self.own / "requeued", self.own / "codes"):
            path.unlink(missing_ok=True)
        spooled = self.own / "slurm_script"
        spooled.write_text(self.script)
        programs = self.own / "bin"
        programs.mkdir(exist_ok=True)
        for name in ("srun", "scontrol"):
            path = programs / name
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{Path(__file__).resolve()}" {name} "$@"\n')
            path.chmod(0o755)
        path = f"{programs}:{self.environment.get('PATH', os.environ['PATH'])}"
        self.is_warned = False
        with (self.own / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", spooled],
                cwd=self.folder,
                env={**self.environment, **self.variables(), OURS: str(self.own), "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )

    def end(self, number: int = signal.SIGTERM) -> None:
        """What scancel does, and SLURM at the limit; KILL after KillWait is left to the test."""
        assert self.process is not None
        for group in (*groups(self.own), self.process.pid):
            send(group, number)

    def look(self) -> bool:
        """Do what it is time for; whether the job is over for good."""
        assert self.process is not None
        if self.process.poll() is None:
            if not self.is_warned and self.warn(self.restarts):
                self.is_warned = True
                found = re.fullmatch(r"(B:)?USR1@90", self.options["signal"])
                assert found
                if found[1]:
                    os.kill(self.process.pid, signal.SIGUSR1)
                else:
                    for group in groups(self.own):
                        send(group, signal.SIGUSR1)
            self.events(self)
            return False
        self.codes.append(self.process.returncode)
        codes = self.own / "codes"
        self.task_codes.append(json.loads(codes.read_text()) if codes.exists() else [])
        self.log = (self.own / "log").read_text(errors="replace")
        requeued = self.own / "requeued"
        if not requeued.exists():
            return True
        asked = requeued.read_text()
        assert asked == (f"4711_{self.element[0]}" if self.element else str(self.number)), asked
        self.restarts += 1
        assert self.restarts < self.most, self.log
        self.start()
        return False

    def kill(self) -> None:
        """End whatever is left of it."""
        if self.process is not None:
            self.end(signal.SIGKILL)
            self.process.wait()


def sbatch(*jobs: Job, within: float = 240.0) -> None:
    """Run jobs, all at once, until none is left.

    Args:
        jobs: they.
        within: seconds.
    """
    until = time.monotonic() + within
    left = list(jobs)
    try:
        for job in jobs:
            job.start()
        while left:
            left = [job for job in left if not job.look()]
            assert time.monotonic() < until, [(job.own / "log").read_text() for job in left]
            time.sleep(0.03)
    finally:
        for job in jobs:
            job.kill()


if __name__ == "__main__":
    raise SystemExit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
