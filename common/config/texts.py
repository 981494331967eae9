"""What docstrings say of arguments: the help texts of flags."""

import ast
import inspect
import re
import sys
import textwrap


def described(kind: type) -> dict[str, str]:
    """Texts of arguments by name, from the ``Args:`` and ``Attributes:`` sections of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for section in re.split(r"\n(?=\S)", inspect.cleandoc(docstring(base))):
            title, _, body = section.partition("\n")
            if title.startswith(("Args", "Attributes")):
                for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", body, re.MULTILINE):
                    texts[name] = first_sentence(" ".join(text.split()))
    return texts


def docstring(kind: type) -> str:
    """The docstring of a class itself; from its source if Python was told to drop them (-OO, $PYTHONOPTIMIZE)."""
    if sys.flags.optimize < 2:
        return kind.__dict__.get("__doc__") or ""
    try:
        (found,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):  # made by a program, or built in
        return ""
    return (isinstance(found, ast.ClassDef) and ast.get_docstring(found)) or ""


def first_sentence(text: str) -> str:
    """What a help text takes from a docstring: the first sentence, without marks of code."""
    return re.split(r"\.(?: (?=[A-Z(])|$)", text.replace("`", ""))[0]
