"""The direction of imports (docs/architecture.md), and no NumPy or SciPy inside a step."""

import ast
import builtins
import importlib
import sys
import types
from pathlib import Path

import pytest
import torch

from common.denoiser import PREDICTIONS, Denoiser
from common.samplers import SOLVERS, path_of, sample
from tests.dynamics.members import build, calls_of_a_step, data_shape

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "gfdm", "fdp")
SCRIPTS = ("train", "generate", "evaluate")

# One ordered list, the highest floor first: a file imports from floors below its own, and from its own package.
# Packages of one floor do not know each other, except that meta and data may use the denoiser.
FLOORS = (
    ("scripts",),
    ("train", "generate", "evaluate"),
    ("args",),
    ("gfdm", "fdp"),
    ("common.training", "common.generation"),
    ("common.metrics",),
    ("common.runs",),
    ("common.program",),
    ("common.config",),
    ("common.guidance", "common.samplers"),
    ("common.denoiser", "common.meta", "common.data"),
    ("common.dynamics", "common.backbones"),
    ("common.media", "common.cluster"),
    ("common.files",),
    ("common.sides", "common.units"),
    (
        "common.seeding",
        "common.labels",
        "common.broadcast",
        "common.refusal",
        "common.natural",
        "common.table",
        "common.stopping",
        "common.memory",
        "common.cores",
        "common.progress",
    ),
)
PLACES = {place: height for height, places in enumerate(FLOORS) for place in places}
NEIGHBOURS = {("common.meta", "common.denoiser"), ("common.data", "common.denoiser")}


def place_of(name: str) -> str | None:
    """The part of the house that a module belongs to; None for libraries, and for ``common`` itself."""
    return next((place for place in PLACES if within(name, place)), None)


def against_the_arrows(here: str, there: str) -> bool:
    """Whether a module must not import another one."""
    own, other = place_of(here), place_of(there)
    if there.partition(".")[0] in ("tests", "benchmarks"):
        return True
    if own is None or other is None or own == other or (own, other) in NEIGHBOURS:
        return False
    return PLACES[other] <= PLACES[own]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    files = [ROOT / f"{name}.py" for name in ("args", *SCRIPTS)] + sorted((ROOT / "scripts").glob("*.py"))
    for package in PACKAGES:
        files += sorted((ROOT / package).rglob("*.py"))
    return [file for file in files if file.exists()]


def imported(file: Path) -> set[str]:
    """Every module that a file names in an import, at any depth; ``from a import b`` counts as a and a.b."""
    names: set[str] = set()
    package = module_name(file).split(".")
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + (file.name == "__init__.py")] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def within(name: str, start: str) -> bool:
    return name.startswith(start) if start.endswith(".") else name == start or name.startswith(start + ".")


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_the_arrows(file):
    here = module_name(file)
    wrong = sorted(name for name in imported(file) if against_the_arrows(here, name))
    assert not wrong, f"{here} must not import {', '.join(wrong)}"


def test_every_file_has_a_floor():
    """No file of the product stands outside the list."""
    lost = [name for name in map(module_name, sources()) if place_of(name) is None and name != "common"]
    assert not lost


def test_the_checker_sees_a_wrong_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "common" / "dynamics").mkdir(parents=True)
    wrong = tmp_path / "common" / "dynamics" / "wrong.py"
    wrong.write_text("from gfdm import dynamics\ndef f():\n    from ..backbones import unet\n")
    with pytest.raises(
        AssertionError, match=r"must not import common\.backbones, common\.backbones\.unet, gfdm, gfdm\."
    ):
        test_imports_follow_the_arrows(wrong)


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_packages_import_without_side_effects(file, capsys):
    module = importlib.import_module(module_name(file))
    assert isinstance(module, types.ModuleType)
    assert capsys.readouterr().out == ""


# -- no NumPy in a step ------------------------------------------------------------------------------------------------

HOSTS = ("numpy", "scipy")


class OffLimits:
    """Stands in for NumPy, SciPy and what was imported from them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str):
        raise AssertionError(f"{self._name}.{attribute} was used in a step")

    def __call__(self, *args: object, **options: object):
        raise AssertionError(f"{self._name} was called in a step")


@pytest.fixture
def no_host_libraries(monkeypatch):
    """Makes NumPy and SciPy unusable in our modules, late imports and tensor conversions included."""
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self, **_: pytest.fail("Tensor.numpy was used in a step"))
    monkeypatch.setattr(torch, "from_numpy", lambda array: pytest.fail("from_numpy was used in a step"))
    ours = [module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES]
    for module in ours:
        for name, value in list(vars(module).items()):
            home = getattr(value, "__name__" if isinstance(value, types.ModuleType) else "__module__", None)
            if isinstance(home, str) and home.split(".")[0] in HOSTS:
                monkeypatch.setattr(module, name, OffLimits(name))
    real_import = builtins.__import__

    def guarded(name, namespace=None, *rest, **options):
        asking = (namespace or {}).get("__name__", "")
        if name.split(".")[0] in HOSTS and asking.split(".")[0] in PACKAGES:
            raise AssertionError(f"{asking} imported {name} in a step")
        return real_import(name, namespace, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", guarded)


STEPPED = ["vp", "subvp", "ve", "cld", "edm", "flow", "fvp-0.9-2", "fve-0.3-3", "fvp-0.9-2-path", "heat-5x7"]


class Still(torch.nn.Module):
    def forward(self, x, t, labels=None):
        return x


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.usefixtures("_built", "no_host_libraries")
def test_no_numpy_in_a_step_of_training_or_sampling(name):
    dynamics, shape = build(name), (2, 1, *data_shape(name))
    x0, t = torch.randn(shape), torch.rand(2)
    for call in calls_of_a_step(dynamics, x0, t, torch.randn(2, dynamics.num_components, *shape[1:])).values():
        call()
    for prediction in PREDICTIONS:
        Denoiser(Still(), dynamics, "x0" if prediction == "eps" and dynamics.scale_vanishes else prediction).error(
            x0, t, x0
        )
    for solver, kind in SOLVERS.items():
        sample(path_of(kind, dynamics), lambda v, t, labels: v, shape, solver=solver, steps=3, seeds=[0, 1])


@pytest.fixture
def _built():
    """Construction may use NumPy, and so may a library that is loaded: they come first."""
    importlib.import_module("torchdiffeq")
    for name in STEPPED:
        build(name)


@pytest.mark.usefixtures("no_host_libraries")
def test_the_guard_bites():
    from common.dynamics import tables

    with pytest.raises(AssertionError, match="was used in a step"):
        tables.time_nodes(1e-3, 1.0, 20.0)
