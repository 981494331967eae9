"""A ``.env`` file: where the data is and what W&B needs, taken into the environment; nothing else in it is.

Such a file lies in the working folder, which may be one that came with somebody else's data: a line in it must not
choose what Python imports, nor where a key is sent.
"""

import codecs
import os
import re
from collections.abc import Mapping
from pathlib import Path

from common.refusal import Refusal

TAKEN = ("DATA_ROOT", "WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_MODE", "WANDB_DIR")
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=(.*)")
ENDS = re.compile(r"\r\n|\n|\r")  # of lines; Python's own list has letters that may stand in a name
REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
LARGEST = 2**16  # bytes


def read_env_file(path: Path = Path(".env")) -> list[str]:
    """Take the lines that may be taken into the environment; what the shell has set wins.

    Values may be quoted, have a comment behind them, and refer to earlier lines or the environment by ``${NAME}``, as
    in the .env file of the published code of FDP.

    Args:
        path: the file; nothing happens if it is none.

    Returns:
        Names of lines that were left out.

    Raises:
        Refusal: if it is no text, or far too long for one.
    """
    if not path.is_file():
        return []
    known: dict[str, str] = dict(os.environ)
    left_out: list[str] = []
    for name, value in parsed(text_of(path), known):
        known.setdefault(name, value)
        if name not in TAKEN:
            left_out.append(name)
        elif value:
            os.environ.setdefault(name, value)
    return left_out


def text_of(path: Path) -> str:
    """The text of a file in UTF-8, or in what its byte order mark says."""
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Refusal(f"{path.absolute()} is no text in UTF-8; save it as one, or remove it") from error
    if len(content) > LARGEST or "\0" in text:
        raise Refusal(f"{path.absolute()} is no list of NAME=value lines; mend it, or remove it")
    return text


def parsed(text: str, known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names and values of all lines ``NAME=value``; other lines are comments.

    Args:
        text: the lines.
        known: values that lines may refer to, beside earlier ones.
    """
    found: dict[str, str] = {}

    def meant(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return known.get(name, found.get(name, ""))

    lines = []
    for line in ENDS.split(text):
        match = LINE.fullmatch(line)
        if match is None:
            continue
        name, written = match[1], match[2].strip()
        quote = written[:1]
        if quote in ("'", '"') and quote in written[1:]:
            value = written[1:].partition(quote)[0]
        else:
            value = re.split(r"(?:^|\s)#", written, maxsplit=1)[0].strip()
        found[name] = value if quote == "'" else REFERENCE.sub(meant, value)
        lines.append((name, found[name]))
    return lines
