"""Programs on disks that are full or read-only: ``small_disk.py RUN WORK NAME ..`` prints what each did, as JSON.

RUN is a trained run. The disks are mounted in a namespace of this process, which nobody else sees: permissions would
mean nothing to root.
"""

import contextlib
import ctypes
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.training import tiny
from tests.training.interrupted import make_quick

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 32, 16384, 1 << 18
LIBC = ctypes.CDLL(None, use_errno=True)
TRAIN = tiny.command(**tiny.FLAGS, wb_id="new", train_steps=8, batch_size=4, checkpoint_every=2, val_check_interval=4)
DRAW = ("--run_id", "tiny", "--n_samples", "300", "--steps", "2")


def call(name: str, *words: object) -> None:
    """A function of the C library."""
    given = [str(word).encode() if isinstance(word, str | Path) else word for word in words]
    if getattr(LIBC, name)(*given) != 0:
        raise OSError(ctypes.get_errno(), name)


def own_namespace() -> None:
    """Mounts of this process are its own from here on; without being root, in a namespace of users too."""
    user, group = os.getuid(), os.getgid()
    if user == 0:
        call("unshare", CLONE_NEWNS)
    else:
        call("unshare", CLONE_NEWNS | CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    call("mount", "none", "/", None, MS_REC | MS_PRIVATE, None)


@contextlib.contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[None]:
    """A disk of so many kilobytes."""
    place.mkdir()
    call("mount", "tmpfs", place, "tmpfs", 0, f"size={kilobytes}k")
    try:
        yield
    finally:
        call("umount2", place, 2)


def fill(place: Path, free: int) -> None:
    """Leave so many kilobytes."""
    there = shutil.disk_usage(place).free
    (place / "filling").write_bytes(bytes(max(0, there - free * 1024)))


def read_only(place: Path) -> None:
    """Nothing can be written from here on."""
    call("mount", "tmpfs", place, "tmpfs", MS_REMOUNT | MS_RDONLY, "")


def files(place: Path) -> dict[str, int]:
    """Names and sizes."""
    return {str(p.relative_to(place)): p.stat().st_size for p in sorted(place.rglob("*")) if p.is_file()}


def started(program: str, *words: object) -> dict[str, object]:
    """What a program did, started in this process: exit code and outputs; its traceback if it has one."""
    import traceback

    import evaluate
    import generate
    import train
    from common.generation import room
    from scripts import export

    room.free_at = lambda folder: 2**40  # as if the disk were filled by others, after it was looked at
    mains: dict[str, Callable[..., int]] = {
        "train": train.main, "generate": generate.main, "evaluate": evaluate.main, "export": export.main,
    }  # fmt: skip
    out, err, trace = io.StringIO(), io.StringIO(), ""
    code: object
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = mains[program]([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            code, trace = "raised", traceback.format_exc()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "trace": trace}


def scenarios(run: Path, work: Path, chosen: Collection[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """Faults of these names, with what was left, and what the same command did once there was room."""
    size = sum(files(run).values()) // 1024
    commands = {
        "train": TRAIN,
        "resume": ["--resume", "tiny"],
        "generate": [*DRAW],
        "evaluate": ["--run_id", "tiny", "--metrics", "nearest"],
        "export": ["--run_id", "tiny"],
    }
    rooms: dict[str, tuple[int, ...]] = {
        "train": (0, 3, 300, 700), "resume": (0, 30, 900), "generate": (0, 20, 60), "evaluate": (0,), "export": (0, 90),
    }  # fmt: skip
    for name, words in commands.items():
        program = "train" if name == "resume" else name
        for room in (*rooms[name], None):
            fault = f"{name}-{'read-only' if room is None else room}"
            if fault not in chosen:
                continue
            place = work / fault
            with disk(place, 2 * size + 8192):
                runs = place / "runs"
                if name != "train":
                    shutil.copytree(run, runs / run.name, ignore=shutil.ignore_patterns("samples", "step-0000150*"))
                    if name == "resume":
                        checkpoints = runs / run.name / "checkpoints"
                        shutil.copy(checkpoints / "step-0000100.ckpt", checkpoints / "last.ckpt")
                        shutil.rmtree(runs / run.name / "model")
                    if name == "evaluate":
                        started("generate", *DRAW, "--output_dir", runs)
                else:
                    runs.mkdir()
                before = files(runs)
                if room is None:
                    read_only(place)
                else:
                    fill(place, room)
                found = started(program, *words, "--output_dir", runs)
                found |= {"before": before, "after": files(runs)}
                if room is not None:
                    (place / "filling").unlink()
                    begun = (runs / "new_digits_H0.9_K2" / "config.json").exists()
                    again = ["--resume", "new"] if name == "train" and begun else words
                    found["again"] = started(program, *again, "--output_dir", runs)
                    found["end"] = files(runs)
                yield fault, found


def main() -> int:
    """Try everything; one line of JSON each."""
    (run, work), chosen = map(Path, sys.argv[1:3]), sys.argv[3:]
    try:
        own_namespace()
    except OSError as error:
        print(json.dumps({"skipped": f"no namespace of one's own: {error}"}))
        return 0
    make_quick()
    for name, found in scenarios(run, work, chosen):
        print(json.dumps({"name": name, **found}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
