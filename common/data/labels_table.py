"""Labels in a table beside the files: ``metadata.csv``, ``labels.csv``, ``.tsv`` or ``.jsonl``.

A table has a column with the name of a file and one with its label; their names are looked up below. Names of files
are relative to the table's folder, or bare, with or without their ending, as long as that tells them apart. A column
that says the part (train, test, ..) of each file splits the set.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from common.data.source import DataUnavailable
from common.data.trees import Tree

STEMS = ("metadata", "labels", "label", "annotations")
ENDINGS = (".csv", ".tsv", ".jsonl")
OF_FILES = ("file_name", "filename", "file", "image", "image_id", "image_name", "path", "filepath", "img", "id", "name")
OF_LABELS = ("label", "labels", "class", "class_name", "category", "target", "y")
OF_PARTS = ("split", "part", "partition", "subset", "set")
SEPARATORS = ",;\t"
LARGEST = 2**28  # bytes


@dataclass(frozen=True)
class Row:
    """What a table says of a file.

    Attributes:
        line: where, from 1 on.
        file: the file as the table names it.
        label: its class; None in a table without labels.
        part: its part as the table names it, or None.
    """

    line: int
    file: str
    label: str | None
    part: str | None


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: its path in the tree.
        place: where it is, for messages.
        columns: names of the columns.
        rows: its rows.
        of_labels: the column that labels were read from, None if there is none.
        of_parts: the column that says the part of each file, None if there is none.
    """

    name: str
    place: Path
    columns: tuple[str, ...]
    rows: list[Row]
    of_labels: str | None
    of_parts: str | None


def find_table(tree: Tree, also: Collection[str] = ()) -> Table | None:
    """The table directly in a folder, if there is one with a column for names of files.

    Args:
        tree: the folder.
        also: further names without ending that a table may have there.

    Raises:
        DataUnavailable: if there are two, or it cannot be read.
    """
    found = [
        passed.name
        for passed in tree.passed
        if passed.reason in ENDINGS and "/" not in passed.name and _stem(passed.name) in (*STEMS, *also)
    ]
    tables = [table for table in (read_table(tree, name) for name in sorted(found)) if table is not None]
    labelled = [table for table in tables if table.of_labels]
    if len(labelled) > 1:
        names = " and ".join(table.name for table in labelled)
        raise DataUnavailable(f"{tree.path}: {names} have labels; keep one of them")
    return next(iter((*labelled, *tables)), None)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.casefold()


def read_table(tree: Tree, name: str) -> Table | None:
    """A table; None if it has no column for names of files.

    Raises:
        DataUnavailable: naming it and what is wrong with it.
    """
    try:
        with tree.files([name]).open(0) as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except Exception as error:  # a member of an archive may be broken in any way
        raise DataUnavailable(
            f"{tree.path / name} cannot be read as text in UTF-8 ({type(error).__name__}); mend it"
        ) from error
    if len(content) > LARGEST:
        raise DataUnavailable(f"{tree.path / name} is larger than any table of labels; remove it, or rename it")
    is_json = name.lower().endswith(".jsonl")
    try:
        records = list(_of_jsonl(text) if is_json else _of_csv(text))
    except (ValueError, csv.Error) as error:
        raise DataUnavailable(f"{tree.path / name}: {error}; mend it, or remove it") from None
    columns = tuple(dict.fromkeys(key for _, record in records for key in record))
    known = {column.strip().casefold(): column for column in reversed(columns)}
    file_column, label_column, part_column = (
        next((known[key] for key in keys if key in known), None) for keys in (OF_FILES, OF_LABELS, OF_PARTS)
    )
    if file_column is None:
        return None
    others = [column for column in columns if column not in (file_column, part_column)]
    if label_column is None and len(others) == 1 and not is_json and others[0].casefold() not in ("text", "caption"):
        label_column = others[0]
    rows = []
    for line, record in records:
        of_file, label, part = (
            None if column is None else record.get(column) for column in (file_column, label_column, part_column)
        )
        if isinstance(label, (list, dict)):
            raise DataUnavailable(
                f"{tree.path / name}, line {line}: {label_column} is no single label; give one per file"
            )
        if of_file in (None, "") or (label_column is not None and label in (None, "")):
            raise DataUnavailable(
                f"{tree.path / name}, line {line}: no {label_column if of_file else file_column}; fill it in"
            )
        texts = (None if value is None else _text(value) for value in (label, part))
        rows.append(Row(line, str(of_file), *texts))
    return Table(name, tree.path / name, columns, rows, label_column, part_column)


def _text(label: Any) -> str:
    """A label as text: 3.0 is 3, as programs that know no whole numbers write it."""
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label).strip()


def _of_csv(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines and records of a table with a header, or of names of files and labels without one.

    Raises:
        ValueError, csv.Error: for a column that is there twice, and a line with more or fewer fields than the header.
    """
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=first.count), strict=True)
    header: list[str] | None = None
    for fields in reader:
        if not any(field.strip() for field in fields):
            continue
        if header is None:
            looks_like_data = len(fields) == 2 and bool(PurePosixPath(fields[0].strip()).suffix)
            header = [OF_FILES[0], OF_LABELS[0]] if looks_like_data else [field.strip() for field in fields]
            if twice := [name for name, count in Counter(header).items() if name and count > 1]:
                raise ValueError(f"line {reader.line_num} names the column {twice[0]} twice")
            if not looks_like_data:
                continue
        if len(fields) != len(header):
            raise ValueError(f"line {reader.line_num} has {len(fields)} fields, the first one {len(header)}")
        yield reader.line_num, {key: field.strip() for key, field in zip(header, fields, strict=True)}


def _of_jsonl(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines and records of a file with a JSON object in each line.

    Raises:
        ValueError: for a line that is none.
    """
    for number, line in enumerate(io.StringIO(text), 1):  # other ends of lines than \n may stand in texts of JSON
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"line {number} is no JSON object")
        yield number, record


def match(table: Table, names: Sequence[str]) -> tuple[dict[str, Row], list[Row]]:
    """The rows of files.

    Args:
        table: the table.
        names: paths of files, relative to the folder of the table.

    Returns:
        Rows by path, without those files that the table does not name; and the rows without a file.

    Raises:
        DataUnavailable: for a row that may mean several files, for a file in several classes, and if no file is named.
    """
    whole = set(names)
    bare: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        for key in {path.name, path.stem, str(path.with_suffix(""))} - {name}:
            bare.setdefault(key, []).append(name)
    found: dict[str, Row] = {}
    missing: list[Row] = []
    for row in table.rows:
        key = row.file.replace("\\", "/").removeprefix("./")
        meant = [key] if key in whole else bare.get(key, [])
        if len(meant) > 1:
            raise DataUnavailable(
                f"{table.place}, line {row.line}: {row.file} may be {' or '.join(meant[:3])}; write the path"
            )
        if not meant:
            missing.append(row)
            continue
        before = found.setdefault(meant[0], row)
        if (before.label, before.part) != (row.label, row.part):
            raise DataUnavailable(
                f"{table.place}: {meant[0]} stands twice, with {before.label} in line {before.line} and {row.label} in "
                f"line {row.line}; keep one"
            )
    if not found:
        first = f": {missing[0].file} in line {missing[0].line} is not there" if missing else ", it has no rows"
        raise DataUnavailable(f"{table.place} names none of the files{first}; mend it, or remove it")
    return found, missing
