"""Hard kills (SIGKILL to the whole process group) of train.py, generate.py and evaluate.py, and what they cost.

Every scenario is run once without kills: training, generation in blocks, evaluation. Then again and again one of the
three programs is started as a user starts it, from the state before it, and killed, at a random time or at a named
boundary between two changes of the disk (tests/training/killed.py), up to four times in a row; each time the next start
goes on. After every kill all files must be whole, no checkpoint may have gone back, and no log line up to it may be
lost. At the end the folder must hold what that of the run without kills holds, bit for bit: weights of every version
and average, the state of the optimiser in every checkpoint, log lines, grids, arrays, labels, settings, figures.

Results are added to a file as they come: the same command goes on where it was stopped. Exits 1 if something is lost,
different or broken.

usage: python -m benchmarks.kills [--random 200] [--aimed 60] [--seed 0] [--only digits] [--jobs 1] [--out FOLDER]
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from tests.training import killed
from tests.training.wholeness import broken, differences, files, left_over, step_of

ROOT = Path(__file__).resolve().parent.parent

PROGRAMS = ("train", "generate", "evaluate")
SHARES = (6, 3, 1)  # of the random kills
ID = "k"
IN_A_ROW = 4  # kills of one run, at most
EARLY = 0.1  # share of the random kills that fall into imports
PATIENCE = 600.0  # seconds after which a program counts as hanging
KEPT = 8  # folders of runs in which something was wrong

# steps above 100, from which on averages are no copies; step 120 is one of log line, validation, version, checkpoint
LENGTH = "--train_steps 130 --log_every 4 --val_check_interval 40 --log_model_every_n 60 --checkpoint_every 20 --keep 2"
SMALL = "--model_channels 16 --channel_mult 1,1 --num_res_blocks 1 --attn_resolutions 2 --val_samples 8"
SCENARIOS: dict[str, dict[str, str]] = {
    "digits": {
        "train": f"{SMALL} {LENGTH} --batch_size 8 --lr 4e-3 --flip True --label_dropout 0.1",
        "generate": "--n_samples 40 --batch_size 5 --steps 40",
        "evaluate": "--metrics agreement,nearest",
    },
    "averages": {  # gradient accumulation and two averages; samples of the second one, with the way out of the noise
        "train": f"{SMALL} {LENGTH} --batch_size 6 --accumulate_grad_batches 2 --lr 4e-3 --dropout 0.1 "
        "--ema_decay 0.9,0.5 --ema_every 2",
        "generate": "--n_samples 32 --batch_size 4 --steps 30 --ema_decay 0.5 --trajectory True",
        "evaluate": "--metrics agreement,nearest --ema_decay 0.5",
    },
    "folder": {  # images in files, read by processes of their own
        "train": f"{SMALL} {LENGTH} --data_name folder --data_dir {{images}} --num_workers 2 --batch_size 6 "
        "--flip True",
        "generate": "--n_samples 40 --batch_size 5 --steps 40",
        "evaluate": "--metrics agreement,nearest",
    },
    "heat": {  # functions: coordinate networks that adapt to every sample, a prior from the data
        "train": f"--preset fdp-digits-inr --width 16 --depth 2 --inner_steps 2 --val_samples 8 {LENGTH} "
        "--batch_size 4 --ema_every 2 --ema_decay 0.9",
        "generate": "--n_samples 24 --batch_size 4 --steps 12",
        "evaluate": "--metrics agreement,nearest",
    },
}


def make_images(folder: Path) -> None:
    """A folder of small pictures of two classes."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for i in range(60):
            Image.fromarray(rng.integers(0, 256, (10, 8, 3), dtype=np.uint8)).save(folder / name / f"{i:03d}.png")


# -- one program -------------------------------------------------------------------------------------------------------


RUNNING: set[int] = set()  # process groups


def kill_group(number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)


def stop(*_: object) -> None:
    """Kill what runs, and end: the same command goes on."""
    for number in RUNNING.copy():
        kill_group(number)
    os._exit(130)


@dataclass(frozen=True)
class Kill:
    """When a program is killed: at a time, or at a place for the n-th time.

    Attributes:
        early: before it would write anything; else later.
        share: of the time until then, or of that from then on.
        place: of tests/training/killed.py; empty for a random kill.
        number: at which time it comes there, from 1.
    """

    early: bool = False
    share: float = 0.0
    place: str = ""
    number: int = 1

    def __str__(self) -> str:
        if self.place:
            return f"{self.place} ({self.number})"
        return f"{self.share:.0%} of {'the imports' if self.early else 'what is to do'}"


@dataclass
class Work:
    """A folder in which one program is started and killed.

    Attributes:
        path: the folder; runs are in ``runs``.
        scenario: name of the scenario.
        program: name of the program.
    """

    path: Path
    scenario: str
    program: str

    @property
    def runs(self) -> Path:
        return self.path / killed.RUNS

    @property
    def step(self) -> int:
        """Of the newest checkpoint."""
        return max((step_of(run) for run in self.runs.glob("*")), default=0)

    def flags(self, images: Path, by_id: bool) -> list[str]:
        """The command line; a training goes on by its id alone, or by the same words as it was started with."""
        if self.program != "train":
            return [*SCENARIOS[self.scenario][self.program].split(), "--run_id", ID]
        if by_id and list(self.runs.glob("*/config.json")):
            return ["--resume", ID]
        words = SCENARIOS[self.scenario]["train"].format(images=images).split()
        return [*words, "--wb_id", ID, "--resume", "auto"]

    def start(self, flags: list[str], kill: Kill | None, seconds: float = PATIENCE, notes: bool = False) -> int:
        """Run the program until its end or a kill; the exit code, that of SIGKILL if it was killed.

        Args:
            flags: its command line.
            kill: why and where it is killed, or None.
            seconds: until it is killed, if that is not at a place.
            notes: note the places that it comes to.
        """
        aimed = notes or (kill is not None and kill.place)
        place, number = (kill.place, kill.number) if kill else ("", 1)
        wrapper = [killed.__file__, place, str(number), str(self.path / "places"), self.program]
        command = [sys.executable, *(wrapper if aimed else [str(ROOT / f"{self.program}.py")]), *flags]
        (self.path / "tmp").mkdir(parents=True, exist_ok=True)
        own = {**killed.ALONE, "TMPDIR": str(self.path / "tmp")}
        with (self.path / "log.txt").open("a") as log:
            log.write(f"\n$ {self.program} {' '.join(flags)}   # {kill}\n")
            log.flush()
            process = subprocess.Popen(
                command, cwd=self.path, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True
            )
            RUNNING.add(process.pid)
            try:
                timed = kill is not None and not kill.place
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                kill_group(process.pid)
                code = process.wait()
                return code if timed else 124
            finally:
                RUNNING.remove(process.pid)
                kill_group(process.pid)  # readers

    def last_words(self) -> str:
        """What the program said at its end."""
        lines = [line for line in (self.path / "log.txt").read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


# -- without kills -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A program of a scenario, as it is without kills.

    Attributes:
        scenario: its name.
        program: its name.
        before: the folder of runs before it, or None for none.
        after: and after it.
        seconds: that it takes.
        quiet: those that pass before it writes anything.
        places: of tests/training/killed.py, as it comes to them.
        usual: what stays in the folder of temporary files all the same.
    """

    scenario: str
    program: str
    before: Path | None
    after: Path
    seconds: float
    quiet: float
    places: list[str]
    usual: list[str]

    def time_of(self, kill: Kill, runs: Path) -> float:
        """When to kill, in seconds from the start: never later than what is still to do may take."""
        if kill.place:
            return PATIENCE
        if kill.early:
            return kill.share * self.quiet
        whole, at_first = len(files(self.after)), len(files(self.before)) if self.before else 0
        done = (len(files(runs)) - at_first) / (whole - at_first)
        return self.quiet + kill.share * (self.seconds - self.quiet) * max(0.1, 1 - done)


def reference(out: Path, scenario: str, images: Path) -> list[Stage]:
    """Run a scenario without kills, twice: the second time places are noted, and every bit must be the same."""
    base = out / "reference" / scenario
    stages: list[Stage] = []
    before: Path | None = None
    for program in PROGRAMS:
        after, kept = base / program, base / f"{program}.json"
        if not kept.exists():
            found: dict[str, Any] = {}
            for again in (False, True):
                work = prepared(out / "work" / f"reference-{scenario}", scenario, program, before)
                begun, clock = time.time(), time.monotonic()
                code = work.start(work.flags(images, False), None, notes=again)
                if code != 0:
                    raise SystemExit(f"{scenario}, {program}, without kills: exit code {code}: {work.last_words()}")
                if again:
                    found["places"] = (work.path / "places").read_text().split("\n")[:-1]
                    if wrong := differences(work.runs, after):
                        raise SystemExit(f"{scenario}, {program}: two runs without kills differ: {wrong[:5]}")
                    continue
                seconds = time.monotonic() - clock
                new = [path.stat().st_mtime for path in work.runs.rglob("*") if path.stat().st_mtime > begun]
                found |= {"seconds": seconds, "quiet": min(min(new) - begun, 0.7 * seconds)}
                found["usual"] = [path.name for path in (work.path / "tmp").iterdir()]
                shutil.rmtree(after, ignore_errors=True)
                shutil.copytree(work.runs, after)
            kept.write_text(json.dumps(found))
        stages.append(Stage(scenario, program, before, after, **json.loads(kept.read_text())))
        before = after
    return stages


def prepared(path: Path, scenario: str, program: str, before: Path | None) -> Work:
    """A fresh folder with the state before a program."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    work = Work(path, scenario, program)
    if before is not None:
        shutil.copytree(before, work.runs)
    return work


# -- with kills --------------------------------------------------------------------------------------------------------


@dataclass
class Cycle:
    """A program that is killed several times, and then let to its end.

    Attributes:
        name: ``random-12`` or ``aimed-3``.
        scenario: name of the scenario.
        program: name of the program.
        plan: the kills.
        hit: those that came before the program's end.
        found: what is lost, different or broken, in words.
        left: hidden files that are left over at the end.
        seconds: that it took.
    """

    name: str
    scenario: str
    program: str
    plan: list[str]
    hit: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0


def random_kills(rng: random.Random) -> list[Kill]:
    return [Kill(early=rng.random() < EARLY, share=rng.random()) for _ in range(rng.randint(2, IN_A_ROW))]


def random_cycles(stages: list[Stage], seed: int) -> Iterator[tuple[str, Stage, list[Kill]]]:
    for index in count():
        rng = random.Random(f"random {seed} {index}")
        program = rng.choices(PROGRAMS, SHARES)[0]
        stage = rng.choice([stage for stage in stages if stage.program == program])
        yield f"random-{index}", stage, random_kills(rng)


def aimed_cycles(stages: list[Stage], seed: int) -> Iterator[tuple[str, Stage, list[Kill]]]:
    """Every place of every program once before any is tried in a second scenario; three in a row, as they come."""
    rng, number = random.Random(f"aimed {seed}"), count()
    while True:
        where: dict[tuple[str, str], list[Stage]] = defaultdict(list)
        for stage in rng.sample(stages, len(stages)):
            for place in dict.fromkeys(stage.places):
                where[stage.program, place].append(stage)
        for turn in range(len(SCENARIOS)):
            of_stage: dict[str, list[str]] = defaultdict(list)
            by_name = {f"{stage.scenario} {stage.program}": stage for stage in stages}
            for (program, place), having in where.items():
                if turn < len(having):
                    of_stage[f"{having[turn].scenario} {program}"].append(place)
            chunks = []
            for name, places in of_stage.items():
                rng.shuffle(places)
                chunks += [(by_name[name], places[i : i + 3]) for i in range(0, len(places), 3)]
            rng.shuffle(chunks)
            for stage, places in chunks:
                places.sort(key=stage.places.index)
                counts = [stage.places.count(place) for place in places]
                times = [rng.randint(1, max(1, n // 2) if i == 0 else min(n, 2)) for i, n in enumerate(counts)]
                kills = [Kill(place=place, number=n) for place, n in zip(places, times, strict=True)]
                yield f"aimed-{next(number)}", stage, kills


def try_out(out: Path, name: str, stage: Stage, kills: list[Kill], images: Path) -> Cycle:
    """Kill a program, again and again, let it go on, and compare."""
    begun = time.monotonic()
    cycle = Cycle(name, stage.scenario, stage.program, [str(kill) for kill in kills])
    work = prepared(out / "work" / name, stage.scenario, stage.program, stage.before)
    by_id = random.Random(name).random() < 0.5
    code = -int(signal.SIGKILL)
    for kill in [*kills, None]:
        step = work.step
        seconds = stage.time_of(kill, work.runs) if kill else PATIENCE
        code = work.start(work.flags(images, by_id), kill, seconds)
        if code != -signal.SIGKILL:
            break
        cycle.hit.append(str(kill))
        cycle.found += [f"{text} (after the kill {kill})" for text in broken(work.runs, stage.after, step)]
    if code == 0:
        cycle.found += differences(work.runs, stage.after)
    else:
        cycle.found.append(f"lost: the program does not go on: exit code {code}: {work.last_words()}")
    cycle.left = left_over(work.runs)
    cycle.left += [path.name for path in (work.path / "tmp").iterdir() if path.name not in stage.usual]
    cycle.seconds = time.monotonic() - begun
    if cycle.found and len(list((out / "wrong").glob("*"))) < KEPT:
        shutil.copytree(work.path, out / "wrong" / name, dirs_exist_ok=True)
    shutil.rmtree(work.path)
    return cycle


# -- all of them -------------------------------------------------------------------------------------------------------


def version() -> str:
    """Which program is tried: a check sum of its files."""
    product = [ROOT / f"{name}.py" for name in ("args", *PROGRAMS)]
    product += [path for name in ("common", "gfdm", "fdp") for path in sorted((ROOT / name).rglob("*.py"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in product)).hexdigest()[:12]


def read_results(path: Path) -> dict[str, Cycle]:
    """Results so far; a line that was cut short is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            cycle = Cycle(**json.loads(line))
            found[cycle.name] = cycle
    return found


def table(cycles: list[Cycle]) -> str:
    """Counts by scenario and program, and what was wrong."""
    lines = [f"{'':22}{'kills':>7}{'runs':>7}{'lost':>7}{'differ':>7}{'broken':>7}{'left over':>11}{'s per kill':>12}"]
    groups: dict[str, list[Cycle]] = defaultdict(list)
    for cycle in cycles:
        groups[f"{cycle.scenario}, {cycle.program}"].append(cycle)
        groups["random" if cycle.name.startswith("random") else "aimed"].append(cycle)
        groups["all"].append(cycle)
    last = ["random", "aimed", "all"]
    for name in [*sorted(groups.keys() - set(last)), *(name for name in last if name in groups)]:
        group = groups[name]
        kills = sum(len(cycle.hit) for cycle in group)
        kinds = Counter(text.partition(":")[0] for cycle in group for text in cycle.found)
        kinds["different"] += 0
        counts = "".join(f"{kinds[kind]:7d}" for kind in ("lost", "different", "broken"))
        seconds = sum(cycle.seconds for cycle in group) / max(1, kills)
        left = sum(len(cycle.left) for cycle in group)
        lines.append(f"{name:22}{kills:7d}{len(group):7d}{counts}{left:11d}{seconds:12.1f}")
    places = {place.rpartition(" (")[0] for cycle in cycles if cycle.name.startswith("aimed") for place in cycle.hit}
    lines.append(f"places aimed at: {len(places)}")
    for cycle in cycles:
        for text in cycle.found[:3]:
            lines.append(f"{cycle.name}, {cycle.scenario}, {cycle.program} [{'; '.join(cycle.hit)}]: {text}")
        if len(cycle.found) > 3:
            lines.append(f"  .. and {len(cycle.found) - 3} more")
    left = Counter(killed.TEMPORARY.sub(r".\1.*.tmp", name.rpartition("/")[2]) for c in cycles for name in c.left)
    lines += [f"left over {number} times: {name}" for name, number in left.most_common(12)]
    return "\n".join(lines)


def try_all(
    todo: Iterator[tuple[str, Stage, list[Kill]]],
    wanted: int,
    done: dict[str, Cycle],
    out: Path,
    images: Path,
    jobs: int,
) -> list[Cycle]:
    """Cycles until so many kills have hit, those of earlier starts counted."""
    cycles: list[Cycle] = []
    running: set[Future[Cycle]] = set()
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=wanted, unit="kill", mininterval=1.0) as bar:

        def add(cycle: Cycle) -> None:
            cycles.append(cycle)
            bar.update(min(len(cycle.hit), wanted - bar.n))
            bar.set_postfix_str(f"{sum(len(c.found) for c in cycles)} wrong")

        while bar.n < wanted or running:
            while bar.n < wanted and len(running) < jobs:
                name, stage, kills = next(todo)
                if name in done:
                    add(done[name])
                else:
                    running.add(pool.submit(try_out, out, name, stage, kills, images))
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                cycle = future.result()
                with (out / "results.jsonl").open("a") as file:
                    file.write(f"\n{json.dumps(asdict(cycle))}\n")  # below what was cut short
                add(cycle)
    return cycles


def main() -> int:
    """Kill, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=200, help="kills at random times (default 200)")
    parser.add_argument("--aimed", type=int, default=60, help="kills at named places (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of times and places (default 0)")
    parser.add_argument("--only", choices=SCENARIOS, help="one scenario (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="programs at once (default 1)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmark_results" / "kills", help="folder of the results")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    what: dict[str, Any] = {"version": version(), "seed": options.seed, "only": options.only}
    about = out / "about.json"
    if about.exists() and json.loads(about.read_text()) != what:
        parser.error(f"{out} holds results of {about.read_text()}, this is {json.dumps(what)}; give another --out")
    about.write_text(json.dumps(what))
    images = out / "images"
    if not images.exists():
        make_images(images)
    names = [options.only] if options.only else list(SCENARIOS)
    stages = [stage for name in tqdm(names, desc="without kills") for stage in reference(out, name, images)]
    done = read_results(out / "results.jsonl")
    cycles = try_all(random_cycles(stages, options.seed), options.random, done, out, images, options.jobs)
    cycles += try_all(aimed_cycles(stages, options.seed), options.aimed, done, out, images, options.jobs)
    print(table(cycles))
    if version() != what["version"]:
        print("the program was changed meanwhile: these figures are of no one version")
        return 2
    return 1 if any(cycle.found for cycle in cycles) else 0


if __name__ == "__main__":
    raise SystemExit(main())
