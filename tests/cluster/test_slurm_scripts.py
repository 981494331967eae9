"""The job scripts for SLURM, their programs replaced by a few lines of bash: what they run, and when they run again."""

import re
import shlex
import subprocess
import time

import pytest

from tests.cluster.slurm import Job, options_of, sbatch
from tests.marks import later
from tests.test_imports import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("s*/*.s*"))
BATCH = [path for path in SCRIPTS if path.suffix == ".sbatch"]
WAITS = "trap 'exit 130' USR1 TERM INT; touch begun.$SLURM_PROCID; while :; do sleep 0.03; done"
PROGRESS = 'mkdir -p "runs/faces_x/checkpoints"; echo "$RANDOM$RANDOM" >> "runs/faces_x/checkpoints/last.ckpt"'
FINAL = 'mkdir -p "runs/faces_x/model"; touch "runs/faces_x/model/model-final.pth"'


def text_of(name: str) -> str:
    return (ROOT / "scripts" / "slurm" / name).read_text()


@pytest.fixture
def job(tmp_path):
    """Makes a job whose `python` is some lines of bash."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "scripts").symlink_to(ROOT / "scripts")

    def make(script: str, behaviour: str, **more: object) -> Job:
        program = folder / "bin" / "python"
        program.parent.mkdir()
        lines = 'printf "%q " "$@" > "words.$SLURM_PROCID"; echo "$MASTER_ADDR $MASTER_PORT" > place'
        program.write_text(f"#!/bin/bash\n{lines}\n{behaviour}\n")
        program.chmod(0o755)
        plain = {"HOME": str(tmp_path / "a home"), "PATH": f"{program.parent}:/usr/bin:/bin"}
        return Job(text_of(script) if script.endswith(".sbatch") else script, folder, plain, **more)

    return make


def words(job: Job, rank: int = 0) -> list[str]:
    return shlex.split((job.folder / f"words.{rank}").read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_them_and_they_evaluate_nothing(path):
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert not re.search(r"\beval\b", path.read_text())


@pytest.mark.parametrize("path", BATCH, ids=lambda path: path.name)
def test_three_lines_are_edited(path):
    lines = path.read_text().splitlines()
    edited = [line for line in lines if line.endswith("  # edit")]
    assert [line.split("=")[0].split("--")[0] for line in edited] == ["#SBATCH ", "ID", "FLAGS"]
    options = options_of(path.read_text())
    assert {"time", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "requeue"} <= options.keys()
    assert (options["signal"], options["open-mode"]) == ("B:USR1@90", "append")
    code = "\n".join(line for line in lines if not line.startswith("#"))
    assert not re.search(r"(?<!_)\bsrun\b", code)  # job.sh has the only one, and it ends all tasks with the first
    assert "srun --kill-on-bad-exit=1 python" in text_of("job.sh")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (("FLAGS=(--preset", 'FLAGS="--preset'), "error: FLAGS is to be a bash array: FLAGS=(--flag value)"),
        (("ID=faces", "ID="), "error: ID is to be the id of a run: ID=faces"),
    ],
)
def test_lines_that_are_edited_wrongly(job, edit, told):
    script = text_of("train.sbatch").replace(*edit)
    if "array" in told:
        script = script.replace('"$HOME/faces" --image_size 64)', '$HOME/faces --image_size 64"')
    one = job(script, "exit 0")
    sbatch(one, within=20)
    assert one.codes == [2]
    assert told in one.log
    assert not (one.folder / "words.0").exists()


@pytest.mark.parametrize("name", [path.name for path in BATCH])
def test_a_job_that_is_sent_in_another_folder(job, name):
    one = job(name, "exit 0")
    (one.folder / "scripts").unlink()
    sbatch(one, within=20)
    assert one.codes == [2]
    assert f"job       error: send it in the folder of the clone, not in {one.folder}\n" in one.log


def test_a_training_in_three_jobs(job):
    """Time was up (exit code 0), the limit came near (a signal), finished."""
    behaviour = f"case ${{SLURM_RESTART_COUNT:-0}} in 0) {PROGRESS};; 1) {PROGRESS}; {WAITS};; 2) {FINAL};; esac"
    one = job("train.sbatch", behaviour, tasks=2)
    one.warn = lambda restarts: restarts == 1 and all((one.folder / f"begun.{rank}").exists() for rank in range(2))
    sbatch(one, within=20)
    assert one.codes == [0, 130, 0]
    assert one.task_codes == [[0, 0], [130, 130], [0, 0]]
    home = one.environment["HOME"]
    assert words(one, 1) == [
        *shlex.split("train.py --max_time job --preset gfdm-cifar10 --data_name folder --data_dir"),
        f"{home}/faces",
        *shlex.split("--image_size 64 --wb_id faces --resume auto --devices 2 --num_nodes 1"),
    ]
    assert (one.folder / "place").read_text() == "localhost 19711\n"  # 15000 + the last four digits, as Lightning does
    assert "the limit of the job is near" in one.log
    starts = [f"job       4711, start {i}: 2 x train.py on localhost for faces" for i in (1, 2, 3)]
    assert [line for line in one.log.splitlines() if ", start " in line] == starts
    assert not list(one.folder.rglob("*.idle"))


@pytest.mark.parametrize("code", [1, later(2), later(127)])
def test_what_another_job_would_not_mend(job, code):
    one = job("train.sbatch", f"exit {code}")
    sbatch(one, within=20)
    assert one.codes == [code]
    assert f"exit code {code}, which another job would not mend" in one.log


@pytest.mark.parametrize(("end", "times", "code"), [later("kill -9 $$", 4, 137), ("exit 75", 1, 130)])
def test_a_lost_task_is_tried_again_while_there_is_progress(job, end, times, code):
    """Of 75 and 130, that of the task which got the signal that followed, srun tells the larger one."""
    lost = f"[ $SLURM_PROCID = 1 ] && {{ sleep 0.05; {end}; }}; {WAITS}"
    one = job("train.sbatch", f"if [ ${{SLURM_RESTART_COUNT:-0}} -lt {times} ]; then {PROGRESS}; {lost}; fi; {FINAL}")
    one.tasks = 2
    sbatch(one, within=20)
    assert one.codes == [code] * times + [0]


@pytest.mark.parametrize("code", [0, later(130)])
def test_jobs_that_bring_nothing_new_come_to_an_end(job, code):
    """srun tells 130 where a task was refused with 2 and the other one ended by the signal that followed."""
    behaviour = f"exit {code}" if code != 130 else f"[ $SLURM_PROCID = 0 ] || exit 2; {WAITS}"
    one = job("train.sbatch", behaviour, tasks=2 if code == 130 else 1)
    sbatch(one, within=20)
    assert one.codes == [code] * 3 + [code or 1]
    assert "nothing new in 3 jobs" in one.log
    assert not list(one.folder.rglob("*.idle"))


def test_what_is_counted_lies_in_the_folder_of_runs(job):
    """A job that is killed while it waits leaves that; in the clone it would be in the way."""
    script = text_of("train.sbatch").replace("FLAGS=(", 'FLAGS=(--output_dir "my runs" ')
    seen: list[str] = []
    one = job(script, "exit ${SLURM_RESTART_COUNT:-0}")
    one.events = lambda one: seen.extend(str(path.relative_to(one.folder)) for path in one.folder.rglob("*.idle"))
    sbatch(one, within=20)
    assert (one.codes, set(seen)) == ([0, 1], {"my runs/.train-4711.idle"})


def test_scancel_is_meant(job):
    def cancel(one: Job) -> None:
        if not cancelled and len(list(one.folder.glob("begun.*"))) == 2:
            cancelled.append(True)
            one.end()

    cancelled: list[bool] = []

    one = job("train.sbatch", f"{PROGRESS}; {WAITS}", tasks=2, events=cancel)
    sbatch(one, within=20)
    assert (one.codes, one.restarts) == ([130], 0)
    assert "ended from outside" in one.log


@pytest.mark.parametrize(("left", "restarts"), [(-1.0, 1), (60.0, 0)])
def test_tasks_that_do_not_stop_in_time_go_on_in_another_job_unless_it_is_cancelled(job, left, restarts):
    """KILL at the limit comes after TERM; before the limit TERM is somebody's."""
    slow = "trap '' USR1; trap 'exit 130' TERM; touch begun.0; while :; do sleep 0.03; done"
    one = job("train.sbatch", f"[ ${{SLURM_RESTART_COUNT:-0}} = 1 ] && {{ {FINAL}; exit 0; }}; {slow}")
    one.limit = lambda restarts: left
    one.warn = lambda restarts: not restarts and (one.folder / "begun.0").exists()
    ended: list[bool] = []

    def end(one: Job) -> None:
        if one.is_warned and not ended:
            ended.append(True)
            time.sleep(0.1)  # bash has heard the first signal
            one.end()

    one.events = end
    sbatch(one, within=20)
    assert one.codes == [130, 0][: restarts + 1]


def test_a_cluster_that_takes_no_job_back_is_told(job):
    one = job("train.sbatch", "exit 0")
    one.own.mkdir(parents=True)
    (one.own / "no-requeue").touch()
    sbatch(one, within=20)
    assert one.codes == [1]
    assert "job 4711 was not taken back; the same sbatch goes on" in one.log


def test_another_output_dir_with_blanks(job):
    script = text_of("train.sbatch").replace("FLAGS=(", 'FLAGS=(--output_dir "my runs" ')
    final = 'mkdir -p "my runs/faces_x/model"; touch "my runs/faces_x/model/model-final.pth"'
    one = job(script, final)
    sbatch(one, within=20)
    assert one.codes == [0]
    assert words(one)[3:5] == ["--output_dir", "my runs"]


def test_an_array_draws_shards_and_a_lost_task_comes_back_alone(job):
    behaviour = (
        'echo "$*" >> "words of $SLURM_ARRAY_TASK_ID"; '
        "[ $SLURM_ARRAY_TASK_ID${SLURM_RESTART_COUNT:-0} = 10 ] && kill -9 $$; exit 0"
    )
    first = job("generate.sbatch", behaviour)
    jobs = [Job(first.script, first.folder, first.environment, 4711 + i, element=(i, 0, 3)) for i in range(3)]
    sbatch(*jobs, within=20)
    assert [one.codes for one in jobs] == [[0], [137, 0], [0]]
    lines = (first.folder / "words of 1").read_text().splitlines()
    assert lines == ["generate.py --n_samples 50000 --batch_size 256 --run_id faces --shard 1/3"] * 2
    again = Job(first.script, first.folder, first.environment, 4720, element=(2, 2, 1))  # sbatch --array=2
    sbatch(again, within=20)
    assert (first.folder / "words of 2").read_text().splitlines()[-1].endswith("--shard 0/1")


@pytest.mark.parametrize(("numbers", "code", "shards"), [((0, 2, 4), 0, [0, 1, 2]), ((1, 3, 4), 2, [])])
def test_an_array_with_gaps(job, numbers, code, shards):
    """SLURM tells a task how many there are, the first and the last number and the step, but not the others."""
    first = job("generate.sbatch", 'echo "$*" >> "words of $SLURM_ARRAY_TASK_ID"')
    step = numbers[1] - numbers[0] if shards else 1
    of_array = f"SLURM_ARRAY_TASK_MAX={numbers[-1]} SLURM_ARRAY_TASK_STEP={step}"
    script = first.script.replace("source ", f"export {of_array}\nsource ")
    jobs = [Job(script, first.folder, first.environment, 4711 + i, element=(i, numbers[0], 3)) for i in numbers]
    sbatch(*jobs, within=20)
    assert [one.codes for one in jobs] == [[code]] * 3
    lines = [path.read_text() for path in sorted(first.folder.glob("words of *"))]
    assert [line.split()[-1] for line in lines] == [f"{i}/3" for i in shards]
    assert all(("--array=0-2 draws all that is missing" in one.log) == (not shards) for one in jobs)


def test_an_evaluation_by_all_tasks(job):
    one = job("evaluate.sbatch", "exit 0", tasks=3)
    sbatch(one, within=20)
    assert one.codes == [0]
    assert words(one, 2) == ["evaluate.py", "--run_id", "faces"]
