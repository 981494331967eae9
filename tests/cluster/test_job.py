"""The limit of a SLURM job, as --max_time job takes it."""

import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import args
from common.cluster.job import MARGIN, OfJob, seconds_left
from common.refusal import Refusal


@pytest.fixture
def programs(tmp_path):
    """Stand-ins for programs of SLURM; gives the environment of a job in which they are the only ones."""

    def write(**texts: str) -> dict[str, str]:
        for name, text in texts.items():
            path = tmp_path / name
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        return {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_TIME_FORMAT": "relative"}

    return write


def shown(end: str) -> str:
    """What scontrol prints of a job, as far as it matters."""
    return f"echo 'JobId=7 JobName=x StartTime=2026-01-01T00:00:00 EndTime={end} Deadline=N/A'"


def test_slurm_tells_it_in_the_environment():
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 3600)}
    assert seconds_left(job) == pytest.approx(3600, abs=5)
    assert OfJob().seconds(job) == pytest.approx(3600 - MARGIN, abs=5)


def test_else_scontrol_does_in_local_time(programs):
    end = (datetime.now() + timedelta(hours=2)).isoformat(timespec="seconds")
    asked = f'[ "$*" = "show job 7" ] && [ $SLURM_TIME_FORMAT = standard ] && {shown(end)}'
    assert seconds_left(programs(scontrol=asked)) == pytest.approx(7200, abs=5)


@pytest.mark.parametrize("scontrol", ["exit 1", "echo nonsense", shown("tomorrow")])
@pytest.mark.parametrize(
    ("left", "seconds"), [("1-02:03:04", 93784), ("2:03:04", 7384), ("3:04", 184), ("UNLIMITED", None)]
)
def test_else_squeue(programs, scontrol, left, seconds):
    assert seconds_left(programs(scontrol=scontrol, squeue=f"echo ' {left}'")) == seconds


def test_a_job_without_a_limit(programs):
    assert OfJob().seconds(programs(scontrol=shown("Unknown"))) is None


def test_nobody_tells(programs):
    with pytest.raises(Refusal) as found:
        seconds_left(programs(scontrol="echo slurm_load_jobs error: Invalid job id >&2; exit 1", squeue="echo INVALID"))
    assert found.value.argument == "max_time"
    assert "job 7" in str(found.value)
    assert "Invalid job id" in str(found.value)
    assert "\n" not in str(found.value)


def test_the_flag_is_refused_outside_of_a_job(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    order = args.parse_train(["--max_time", "job", "--output_dir", str(tmp_path)])
    assert order is not None
    with pytest.raises(Refusal, match=r"max_time.*SLURM_JOB_ID"):
        order.command.seconds()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + MARGIN + 50)))
    assert order.command.seconds() == pytest.approx(50, abs=5)
    assert not list(Path(tmp_path).iterdir())
