"""Whether values from a file are of the kind that a hint says: JSON may hold anything, but neither tuples nor paths."""

import math
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

WHOLE, EXACT = 2**63 - 1, 2**53  # largest whole number; largest one that a float holds exactly
SIZE, LENGTH = 10**6, 10**4  # largest whole number and longest list that a stored class is made with


def fits(value: Any, hint: Any, *, largest: int = WHOLE, longest: int = WHOLE) -> bool:
    """Whether a plain value is of the kind of a hint.

    Args:
        value: as JSON gives it; tuples count as lists.
        hint: of a field or an argument. What is none of ``bool``, ``int``, ``float``, ``str``, ``Path``, ``Literal``, a
            collection, None, or a union of these, is for its constructor to check.
        largest: largest whole number, without sign.
        longest: most elements of a collection.
    """

    def fit(part: Any, kind: Any) -> bool:
        return fits(part, kind, largest=largest, longest=longest)

    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fit(value, parts[0])
    if origin in (Union, types.UnionType):
        return any(fit(value, kind) for kind in parts)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if hint is None or hint is type(None):
        return value is None
    if hint is int:
        return type(value) is int and abs(value) <= largest
    if hint is float:
        return (type(value) is int and abs(value) <= EXACT) or (type(value) is float and math.isfinite(value))
    if hint in (bool, str):
        return type(value) is hint
    if hint is Path:
        return isinstance(value, str | Path)
    kind = origin or hint
    if not isinstance(kind, type) or not issubclass(kind, Collection):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and len(value) <= longest
    if not isinstance(value, list | tuple) or len(value) > longest:
        return False
    if kind is tuple and parts and parts[-1] is not Ellipsis:
        return len(value) == len(parts) and all(map(fit, value, parts))
    return not parts or all(fit(part, parts[0]) for part in value)


def restored(value: Any, hint: Any, default: Any = None) -> Any:
    """A value that fits a hint, as its constructor wants it: a tuple or a path, if the hint or the default is one."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    kinds = (hint, *typing.get_args(hint))
    if isinstance(value, list) and (
        isinstance(default, tuple) or any(typing.get_origin(kind) is tuple for kind in kinds)
    ):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in kinds else value
