"""Own modules of a user, named by ``--plugin``, and classes by path."""

import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.config.flags import hints_of
from common.config.schema import Chosen
from common.refusal import Refusal

OWN_PACKAGES = ("common", "gfdm", "fdp")
PLAIN: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}  # hint to types


def named_plugins(words: Sequence[str]) -> tuple[str, ...]:
    """What a command line names with --plugin, in order."""
    named = [word.removeprefix("--plugin=") for word in words if word.startswith("--plugin=")]
    named += [value for flag, value in itertools.pairwise(words) if flag == "--plugin"]
    return tuple(part for names in named for part in names.split(","))


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
    try:
        importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise Refusal(f"{name} cannot be imported: {error}", "plugin") from error


def class_path(cls: type) -> str:
    """``module:Class``, as :func:`resolve_class` reads it."""
    return f"{cls.__module__}:{cls.__qualname__}"


def resolve_class(path: str, kind: type) -> type:
    """The class that a configuration names.

    Args:
        path: ``module:Class``.
        kind: what it must be a subclass of.

    Raises:
        Refusal: if it cannot be found, is of another kind, or lies in a module that is neither ours nor imported:
            importing runs code, and a configuration from elsewhere must not choose what is imported.
    """
    module = str(path).partition(":")[0]
    if module.partition(".")[0] not in OWN_PACKAGES and module not in sys.modules:
        raise Refusal(
            f"config.json names {path!r}, which is not ours; name its file with --plugin, or import {module!r} before "
            "loading the run"
        )
    try:
        cls = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise Refusal(f"config.json names {path!r}, which cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise Refusal(f"config.json names {path!r}, which is no {kind.__name__}")
    return cls


def build(chosen: Chosen, kind: type) -> Any:
    """Make the object of a chosen class.

    Args:
        chosen: class and arguments.
        kind: what the class must be a subclass of.

    Raises:
        Refusal: if the class cannot be found or is of another kind, or its arguments do not fit its constructor.
    """
    cls = resolve_class(chosen.path, kind)
    if inspect.isabstract(cls):
        raise Refusal(f"config.json: {chosen.path} is abstract")
    try:
        inspect.signature(cls).bind(**chosen.arguments)
    except TypeError as error:
        raise Refusal(f"config.json: {chosen.path} cannot be made from its arguments: {error}") from error
    hints = hints_of(cls)
    for name, value in chosen.arguments.items():
        allowed = PLAIN.get(hints.get(name))
        if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
            raise Refusal(f"config.json: {name} of {chosen.path} cannot be {value!r}")
    return cls(**chosen.arguments)
