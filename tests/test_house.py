"""The size of the product's files, and how settings travel: typed, not looked up by string."""

import ast
import re
from pathlib import Path

import pytest

from common.data import SOURCES
from common.samplers import SOLVERS
from tests.test_imports import ROOT, sources

LIMITS = {"train.py": 120, "generate.py": 110, "evaluate.py": 80, "args.py": 320}
LARGEST = 420
# config.json is read and written here, and command lines are read by argparse
BORDERS = {"common/config/stored.py"}
TYPED = ("common/config/", "common/runs/", "common/generation/", "common/training/")
SETTINGS = re.compile(
    r"settings|config|given|values|options|arguments|explicit|stored|content|spec|command", re.IGNORECASE
)
ALLOWED = 10


def product() -> list[Path]:
    return [file for file in sources() if file.name != "__init__.py"]


@pytest.mark.parametrize("file", product(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_is_too_long(file):
    lines = len(file.read_text().splitlines())
    assert lines <= LIMITS.get(str(file.relative_to(ROOT)), LARGEST)


def root_of(node: ast.expr) -> str:
    """The name that an expression hangs on, with its attributes: ``self.config.data`` for ``self.config.data["x"]``."""
    if isinstance(node, ast.Attribute):
        return f"{root_of(node.value)}.{node.attr}"
    if isinstance(node, ast.Call | ast.Subscript):
        return root_of(node.func if isinstance(node, ast.Call) else node.value)
    return node.id if isinstance(node, ast.Name) else ""


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def look_ups(code: str) -> list[str]:
    """Every look-up by a constant string in something that is called like settings."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Subscript) and is_text(node.slice) and SETTINGS.search(root_of(node.value)):
            found.append(ast.unparse(node))
        if not isinstance(node, ast.Call) or not node.args:
            continue
        asked: ast.expr | None = None
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop") and is_text(node.args[0]):
            asked = node.func.value
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and is_text(node.args[1]):
            asked = node.args[0]
        if asked is not None and SETTINGS.search(root_of(asked)):
            found.append(ast.unparse(node))
    return found


def test_the_counter_counts():
    code = (
        "settings['a']; config.data.get('b'); given.pop('c', 1); getattr(config, 'd'); rows['x']; config[key]; a.get(1)"
    )
    assert len(look_ups(code)) == 4


def test_settings_are_typed():
    names = [file.relative_to(ROOT).as_posix() for file in product()]
    scripts = [name for name in names if "/" not in name or name.startswith("scripts/")]
    typed = [name for name in names if name.startswith(TYPED) and name not in BORDERS]
    found = [f"{name}: {text}" for name in [*scripts, *typed] for text in look_ups((ROOT / name).read_text())]
    assert len(found) <= ALLOWED, "\n".join(found)


# names in a register are known where it is filled; presets are values, and name what they are for
KNOWN_NAMES = {
    "solver": (SOLVERS, ("common/samplers/", "scripts/")),
    "data set": (SOURCES, ("common/data/", "gfdm/presets.py", "fdp/presets.py")),
}


@pytest.mark.parametrize("what", KNOWN_NAMES)
def test_names_are_known_in_one_place(what):
    names, places = KNOWN_NAMES[what]
    found = []
    for file in product():
        place = file.relative_to(ROOT).as_posix()
        if not place.startswith(places):
            constants = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant))
            found += [f"{place}: {node.value!r}" for node in constants if node.value in tuple(names)]
    assert not found
