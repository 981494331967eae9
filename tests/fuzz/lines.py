"""Command lines of the three programs, made of their own words, and .env files."""

import contextlib
import io
import itertools
import os
import re
import sys
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

import args
from common.config.env_file import TAKEN, read_env_file
from common.config.flags import written
from common.config.parser import Groups
from common.guidance import GUIDANCE
from common.samplers import SOLVERS
from tests.fuzz.edits import mutated, texts_like
from tests.fuzz.frame import Target, require

KEY = "0123456789abcdef" * 2 + "deadbeef"
VALUES = (
    *(
        "",
        "0",
        "1",
        "2",
        "-1",
        "3.5",
        "1e999",
        "nan",
        "inf",
        "1e-400",
        "0x10",
        "1_000",
        "9" * 30,
        "True",
        "False",
        "no",
    ),
    *("none", "auto", "latest", "all", "x", "~", "~/x", "/", "/dev/null", "..", "a b", "8x8", "8x", "0x0", "32,32"),
    *("1,2,4", ",", "1,,2", "0-5", "5-0", "0-99999999999", "a=1", "a=", "mass=0.5", "num_heads=4,x=[1", "\udcff", "\n"),
    *("--", "-", "-x", "=", "\u00fc", "%s", "{}", "x" * 300, "NCHW", "0,1", "1,0", KEY, "heat", "digits", "folder"),
)
PROGRAMS = {"train": args.parse_train, "generate": args.parse_generate, "evaluate": args.parse_evaluate}


def groups_of(program: str) -> Groups:
    if program == "train":
        return args.train_groups(*args.everything())
    every = args.evaluate_groups if program == "evaluate" else args.generate_groups
    return every(args.all_members(), processes=args.DYNAMICS)


@cache
def words_of(program: str) -> st.SearchStrategy[list[str]]:
    """Command lines of a program."""
    flags = [flag for group in groups_of(program).values() for flag in group if flag.name != "plugin"]
    choices = {flag.name: [*map(str, flag.choices or ()), *VALUES] for flag in flags}
    default = {flag.name: [written(flag.default)] if flag.default is not None else [] for flag in flags}
    one = st.sampled_from(sorted(choices)).flatmap(
        lambda name: st.tuples(
            st.sampled_from([f"--{name}"] * 6 + [f"-{name}", f"--{name[:-1]}", f"--{name.upper()}"]),
            st.sampled_from((default[name] or list(VALUES[1:4])) * 9 + choices[name]),
            st.sampled_from(["apart"] * 6 + ["=", "=", "alone"]),
        )
    )
    joined = {"apart": lambda a, b: [a, b], "=": lambda a, b: [f"{a}={b}"], "alone": lambda a, b: [a]}
    flag = one.map(lambda drawn: joined[drawn[2]](drawn[0], drawn[1]))
    other = st.sampled_from(
        [["--help"], ["--help", "all"], ["--version"], ["--plugin", "no.such"], ["--plugin", ""], ["x"]]
    )
    part = st.integers(0, 12).flatmap(lambda n: other if n == 0 else flag)
    parts = st.tuples(starts(program), st.lists(part, max_size=3))
    return parts.map(lambda drawn: [*drawn[0], *(word for some in drawn[1] for word in some)])


def starts(program: str) -> st.SearchStrategy[list[str]]:
    """What decides which other flags there are."""
    deciding = (("--dynamics", args.DYNAMICS), ("--model_name", args.BACKBONES), ("--preset", args.PRESETS))
    if program != "train":
        run = ["--run_id", "x"]
        of_drawing = (("--solver", SOLVERS), ("--guidance", GUIDANCE), ("--match_noise", ("True",)))
        deciding = of_drawing if program == "generate" else ()
    else:
        run = []
    chosen = [[*run, flag, name] for flag, names in deciding for name in names]
    return st.sampled_from([[], run, run, *chosen])


def use_line(case: tuple[str, list[str]]) -> None:
    """Read a command line; a key is not shown."""
    program, words = case
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            PROGRAMS[program](words)
    except SystemExit:
        print(printed.getvalue(), end="", file=sys.stderr)  # which the frame looks at
        is_secret = any(flag == "--wb_key" and KEY in value for flag, value in itertools.pairwise(words))
        require(not (is_secret and KEY in printed.getvalue()), "a key is shown")
        raise


LINES = (
    "DATA_ROOT",
    "WANDB_MODE",
    "WANDB_API_KEY",
    "PATH",
    "HERE",
    "export ",
    "=",
    "=",
    "\n",
    "\r\n",
    '"',
    "'",
    " ",
    "#",
)
TEXT = b"export HERE=/p\nDATA_ROOT=${HERE}/data # here\nWANDB_MODE='offline'\n"
SIMPLE = re.compile(r"(\w+)=([a-z/]+)")


def use_env(content: bytes) -> None:
    """Take a .env file into the environment: nothing else than what may be taken, and simple lines as they stand."""
    for name in TAKEN:
        os.environ.pop(name, None)
    before = dict(os.environ)
    Path(".env").write_bytes(content)
    read_env_file()
    changed = {name for name in os.environ.keys() | before.keys() if os.environ.get(name) != before.get(name)}
    require(changed <= set(TAKEN), f"{changed - set(TAKEN)} were taken")
    lines = content.decode("utf-8-sig", "replace").splitlines()
    first: dict[str, str] = {}
    for line in lines:
        if "=" in line:
            name = line.partition("=")[0].replace("export ", "").strip()
            first.setdefault(name, line)
    for name, line in first.items():
        if name in TAKEN and (match := SIMPLE.fullmatch(line)):
            require(os.environ.get(name) == match[2], f"{line!r} became {os.environ.get(name)!r}")


TARGETS = [
    *(
        Target(program, st.deferred(lambda p=program: st.tuples(st.just(p), words_of(p))), use_line, share=2)
        for program in PROGRAMS
    ),
    Target(
        "env", st.one_of(mutated([TEXT]), texts_like(LINES).map(lambda t: t.encode(errors="replace"))), use_env, share=2
    ),
]
