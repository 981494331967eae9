"""A program that kills itself, with its whole process group, at the n-th time that it comes to a named place.

Python tells of every file that is opened, renamed or removed before it is done (``sys.addaudithook``), whoever asks for
it. So the places are all boundaries between two changes of the disk, without a word about them in the program:

    make F      before a temporary file for F is made          append F   before something is added to F
    half F      half of the temporary file is written          torn F     half of what was added to F is written
    rename F    all of it is written, F is still the old one   remove F   before F is removed
    renamed F   F is the new file                              folder F   before folder F is made
                                                               write F    before F is written in place

and a few that change nothing: ``step``, ``validation`` and ``denoise`` (a call of the network for samples). F is
relative to the run folder or to that of drawn samples, with ``#`` for numbers.

usage: killed.py PLACE NUMBER NOTES PROGRAM flags ..   (with the place "" nothing is killed; all places go into NOTES)

:class:`Starter` has imported everything before it starts such a program, by a fork, which takes no seconds.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # one thread, for equal bits
RUNS = "runs"  # the folder of runs, in the working directory
TEMPORARY = re.compile(r"\.(.+)\.[\w-]+\.\d+\.[0-9a-f]{8}\.tmp")
MARK = "killed.mark"  # our own event, with the name of a place
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def die() -> None:
    """Kill the process group, of which this process must be the first."""
    assert os.getpgrp() == os.getpid(), "it would kill who started it"
    os.killpg(os.getpgrp(), signal.SIGKILL)


def size(path: Path) -> int:
    """Bytes of a file; 0 if it is not there."""
    return path.stat().st_size if path.exists() else 0


class Places:
    """Notes or dies at places; ``sys.addaudithook`` takes its :meth:`look`.

    Args:
        place: where to die; empty to note every place.
        number: at which time, from 1.
        notes: file of the notes.
    """

    def __init__(self, place: str, number: int, notes: Path) -> None:
        self.place, self.number, self.notes = place, number, notes
        self.root, self.process = Path(RUNS).resolve(), os.getpid()
        self.seen: Counter[str] = Counter()
        self.appended: tuple[Path, int] | None = None  # a file and its size before something was added to it
        self.busy = False

    def look(self, event: str, details: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", MARK) or self.busy:
            return
        if os.getpid() != self.process:  # a process that reads data
            return
        self.busy = True
        try:
            self._look(event, details)
        finally:
            self.busy = False

    def _look(self, event: str, details: tuple[Any, ...]) -> None:
        if event == MARK:
            self.reach(str(details[0]))
            return
        if isinstance(details[0], int):
            return
        path = Path.cwd() / os.fsdecode(details[0])
        if self.root not in path.parents or (event == "open" and not details[2] & WRITING):
            return
        self.tear()
        name, temporary = self.shown(path)
        if event == "os.mkdir":
            if not path.exists():
                self.reach(f"folder {name}")
        elif event == "os.rename":
            self.reach(f"rename {name}")
        elif event == "os.remove":
            self.reach(f"{'renamed' if temporary else 'remove'} {name}")
        elif temporary and details[2] & os.O_CREAT:
            self.reach(f"make {name}")
        elif temporary:
            self.halve(path, name)
        elif details[2] & os.O_APPEND:
            self.reach(f"append {name}")
            self.appended = path, size(path)
        else:
            self.reach(f"write {name}")

    def shown(self, path: Path) -> tuple[str, bool]:
        """The name of a file in its run folder, or of what it stands in for, and whether it is temporary."""
        match = TEMPORARY.fullmatch(path.name)
        whole = path.with_name(match[1]) if match else path
        parts = whole.relative_to(self.root).parts[1:]
        name = Path(*parts[3 * (parts[:1] == ("generated_data",)) :]).as_posix()
        return re.sub(r"\d+", "#", name), match is not None

    def is_next(self, place: str) -> bool:
        return place == self.place and self.seen[place] + 1 == self.number

    def halve(self, path: Path, name: str) -> None:
        """What a process leaves that dies in the middle of writing a file."""
        if self.is_next(place := f"half {name}"):
            os.truncate(path, size(path) // 2)
        self.reach(place)

    def tear(self) -> None:
        """What a process leaves that dies in the middle of adding to a file: nothing else has changed since."""
        if self.appended is None:
            return
        (path, before), self.appended = self.appended, None
        name, _ = self.shown(path)
        if size(path) < before + 2:
            return
        if self.is_next(place := f"torn {name}"):
            os.truncate(path, (before + size(path)) // 2)
        self.reach(place)

    def reach(self, place: str) -> None:
        """Come to a place."""
        if not self.place:
            with self.notes.open("a") as file:
                file.write(place + "\n")
        elif self.is_next(place):
            die()
        self.seen[place] += 1


def mark(owner: Any, method: str, place: str) -> None:
    """Have a method of a class tell of a place before every call."""
    original = getattr(owner, method)

    def marked(*args: Any, **kwargs: Any) -> Any:
        sys.audit(MARK, place)
        return original(*args, **kwargs)

    setattr(owner, method, marked)


def run(place: str, number: int, notes: Path, program: str, flags: Sequence[str]) -> int:
    """Run a program (``train``, ``generate``, ``evaluate``) in a working directory with a folder ``runs``."""
    from common.denoiser import Denoiser

    if program == "train":
        from common.training.module import DiffusionModule

        mark(DiffusionModule, "training_step", "step")
        mark(DiffusionModule, "validation_step", "validation")
    mark(Denoiser, "forward", "denoise")
    sys.addaudithook(Places(place, number, notes).look)
    return int(importlib.import_module(program).main(flags))


# -- without the time of imports ---------------------------------------------------------------------------------------


def serve() -> None:
    """Start a program for every line of the input, a list of folder, place, number, program and flags, by a fork.

    The answer is its exit code. What it says goes into ``log.txt`` of its folder, its notes into ``places``.
    """
    import torch

    from tests.training import interrupted

    torch.set_num_threads(1)
    interrupted.make_quick()
    programs = [importlib.import_module(name) for name in ("train", "generate", "evaluate")]
    assert programs
    for line in sys.stdin:
        folder, place, number, program, flags = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            os.chdir(folder)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 1
            try:
                code = run(place, number, Path(folder, "places"), program, flags)
                if not place:
                    Path("modules").write_text("\n".join(sys.modules))
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if not place:
            preload(Path(folder, "modules"))
        print(os.waitstatus_to_exitcode(status), flush=True)


def preload(names: Path) -> None:
    """Import what a program has imported late."""
    for name in names.read_text().split() if names.exists() else []:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # made by another module, not found by its name


class Starter:
    """A process that starts programs as :func:`serve` does."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve"],
            env={**os.environ, **ALONE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, folder: Path, place: str, number: int, program: str, flags: Sequence[str]) -> int:
        """Run a program to its end or to a place; the exit code."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([str(folder), place, number, program, list(flags)]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
        raise SystemExit
    raise SystemExit(run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5:]))
