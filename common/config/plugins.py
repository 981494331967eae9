"""Own modules of a user, named by ``--plugin``, and classes by path."""

import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import reprlib
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config.flags import at_home, hints_of
from common.config.kinds import LENGTH, SIZE, fits, restored
from common.config.schema import Chosen
from common.refusal import Refusal

# where classes are that a run may be made of; others must be in a register, or in a module that --plugin named
OBJECTIVES = ("common.training.denoising", "common.training.consistency")
OWN_PACKAGES = ("common.dynamics", "common.backbones", "common.meta", *OBJECTIVES, "gfdm", "fdp")
_registers: list[Mapping[str, type]] = []
_plugins: set[str] = set()
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def named_plugins(words: Sequence[str]) -> tuple[str, ...]:
    """What a command line names with --plugin, in order."""
    named = [word.removeprefix("--plugin=") for word in words if word.startswith("--plugin=")]
    named += [value for flag, value in itertools.pairwise(words) if flag == "--plugin"]
    return tuple(at_home(part) for names in named for part in names.split(","))


def import_plugins(names: Iterable[str]) -> None:
    """Import modules by name (also from the working folder) or by the path of their .py file.

    An error inside a plugin is a bug of the plugin, and keeps its traceback.

    Raises:
        Refusal: if there is no such module, its name is taken, or a module that it imports is missing.
    """
    for name in names:
        _import(name)


def _import(name: str) -> None:
    path = Path(name)
    is_file = path.suffix == ".py"
    module, folder = (path.stem, path.parent.resolve()) if is_file else (name, Path.cwd())
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or (is_file and not path.is_file()):
        raise Refusal(f"{name}: no such module; give a module's name or the path of its .py file", "plugin")
    if is_file and (found.origin is None or Path(found.origin).resolve() != path.resolve()):
        raise Refusal(f"{name}: {found.origin or 'Python itself'} has that name already; rename the file", "plugin")
    _plugins.add(module)
    try:
        importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise Refusal(
            f"{name} cannot be imported: {error} ({where.filename}, line {where.lineno})", "plugin"
        ) from error


def class_path(cls: type) -> str:
    """``module:Class``, as :func:`resolve_class` reads it."""
    return f"{cls.__module__}:{cls.__qualname__}"


def trust(*registers: Mapping[str, type]) -> None:
    """Let configurations name the classes of some registers, also those that are added later.

    Args:
        registers: names to classes, e.g. ``{"mine": MyNetwork}``.
    """
    _registers.extend(register for register in registers if not any(register is known for known in _registers))


def resolve_class(path: str, kind: type) -> type:
    """The class that a configuration names.

    A configuration comes with a run folder, from anywhere. It may name classes of this program that a run is made of,
    those of registers (:func:`trust`) and of modules that --plugin named; it cannot choose what is imported.

    Args:
        path: ``module:Class``.
        kind: what it must be a subclass of.

    Raises:
        Refusal: if it is none of those, cannot be found, or is of another kind.
    """
    module, _, name = str(path).partition(":")
    for cls in (cls for register in _registers for cls in register.values()):
        if class_path(cls) == path:
            return _of_kind(cls, kind, path)
    if not (_lies_in(module, OWN_PACKAGES) or _lies_in(module, _plugins)):
        raise Refusal(
            f"config.json names {path!r}, which is not ours; name its file with --plugin or, in Python, let "
            "common.config.plugins.trust know the class before the run is loaded"
        )
    try:
        cls = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise Refusal(f"config.json names {path!r}, which cannot be imported: {error}") from error
    if not isinstance(cls, type) or (cls.__module__, cls.__qualname__) != (module, name):
        raise Refusal(f"config.json names {path!r}, which is no class that is defined there")
    return _of_kind(cls, kind, path)


def _of_kind(cls: type, kind: type, path: str) -> type:
    if not issubclass(cls, kind):
        raise Refusal(f"config.json names {path!r}, which is no {kind.__name__}")
    return cls


def _lies_in(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def class_of(chosen: Chosen) -> type:
    """The class that a configuration names, of any kind."""
    return resolve_class(chosen.path, object)


def is_own(chosen: Chosen) -> bool:
    """Whether a configuration names a class of this program, not one of a plugin or of the caller."""
    return _lies_in(chosen.path.partition(":")[0], OWN_PACKAGES)


def build(chosen: Chosen, kind: type, *given: Any) -> Any:
    """Make the object of a chosen class.

    Args:
        chosen: class and arguments.
        kind: what the class must be a subclass of.
        given: what stands in no configuration: its first arguments.

    Raises:
        Refusal: if the class cannot be found or is of another kind, its arguments do not fit its constructor, or one of
            this program cannot compute with them.
    """
    cls = resolve_class(chosen.path, kind)
    if inspect.isabstract(cls):
        raise Refusal(f"{chosen.path} is abstract")
    parameters = dict(list(inspect.signature(cls).parameters.items())[len(given) :])
    for name in chosen.arguments:
        if name not in parameters:
            raise Refusal(f"{chosen.path} has no argument {name}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in chosen.arguments and parameter.kind not in VARIADIC:
            raise Refusal(f"is required by {chosen.path}", name)
    hints = hints_of(cls)
    arguments = {
        name: restore(chosen, name, value, parameters[name].default, hints.get(name, Any))
        for name, value in chosen.arguments.items()
    }
    try:
        return cls(*given, **arguments)
    except (ArithmeticError, MemoryError, RuntimeError) as error:
        if not is_own(chosen):
            raise
        raise Refusal(f"{chosen.path} cannot be made: {str(error).partition(chr(10))[0]}") from error


def restore(chosen: Chosen, name: str, value: Any, default: Any, hint: Any) -> Any:
    """An argument as its constructor wants it: JSON knows neither tuples nor paths.

    Raises:
        Refusal: for a value of another kind than the hint says, or a far too large one.
    """
    modest = {"largest": SIZE, "longest": LENGTH} if is_own(chosen) else {}
    if not fits(value, hint, **modest) and value != default:
        raise Refusal(f"of {chosen.path} cannot be {reprlib.repr(value)}", name)
    return restored(value, hint, default)
