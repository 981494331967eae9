"""Own modules of a user, named by ``--plugin``, and classes by path."""

import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import sys
import traceback
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from common.config.flags import hints_of
from common.config.schema import Chosen
from common.refusal import Refusal

OWN_PACKAGES = ("common", "gfdm", "fdp")
PLAIN: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}  # hint to types
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


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
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise Refusal(
            f"{name} cannot be imported: {error} ({where.filename}, line {where.lineno})", "plugin"
        ) from error


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


def class_of(chosen: Chosen) -> type:
    """The class that a configuration names, of any kind."""
    return resolve_class(chosen.path, object)


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
        raise Refusal(f"{chosen.path} is abstract")
    parameters = inspect.signature(cls).parameters
    for name in chosen.arguments:
        if name not in parameters:
            raise Refusal(f"{chosen.path} has no argument {name}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in chosen.arguments and parameter.kind not in VARIADIC:
            raise Refusal(f"is required by {chosen.path}", name)
    hints = hints_of(cls)
    return cls(**{name: restore(chosen, name, value, parameters[name].default, hints.get(name))
                  for name, value in chosen.arguments.items()})  # fmt: skip


def restore(chosen: Chosen, name: str, value: Any, default: Any, hint: Any) -> Any:
    """An argument as its constructor wants it: JSON knows neither tuples nor paths.

    Raises:
        Refusal: for a value of another kind than the hint says.
    """
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if isinstance(value, list) and (isinstance(default, tuple) or typing.get_origin(hint) is tuple):
        return tuple(value)
    if isinstance(value, str) and Path in (hint, *typing.get_args(hint)):
        return Path(value)
    allowed = PLAIN.get(hint) if isinstance(hint, type) else None
    odd = allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed))
    if odd and value != default:
        raise Refusal(f"of {chosen.path} cannot be {value!r}", name)
    return value
