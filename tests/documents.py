"""What documents tell a user to do: code blocks and commands."""

import re
import shlex
from pathlib import Path

import evaluate
import generate
import train
from common.runs.__main__ import main as list_runs
from scripts import export

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("train.py", "generate.py", "evaluate.py")
MAINS = {
    **dict(zip(PROGRAMS, (train.main, generate.main, evaluate.main), strict=True)),
    "scripts/export.py": export.main,
    "-m common.runs": list_runs,
}


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Words of every ``python PROGRAM ..`` line."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python ")]
    return [[" ".join(one[:2]), *one[2:]] if one[0] == "-m" else one for one in words]


def run(command: list[str], *more: str) -> None:
    """Run a command in this process; flags in ``more`` win over those before."""
    program, *flags = command
    assert MAINS[program]([*flags, *more]) == 0, command
