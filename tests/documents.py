"""What documents tell a user to do: code blocks and commands."""

import re
import shlex
from pathlib import Path

import evaluate
import generate
import train

ROOT = Path(__file__).resolve().parent.parent
MAINS = {"train.py": train.main, "generate.py": generate.main, "evaluate.py": evaluate.main}
PROGRAMS = tuple(MAINS)


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Words of every ``python PROGRAM ..`` line."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python ")]


def run(command: list[str], *more: str) -> None:
    """Run a command in this process; flags in ``more`` win over those before."""
    program, *flags = command
    assert MAINS[program]([*flags, *more]) == 0, command
