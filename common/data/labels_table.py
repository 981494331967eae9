"""Labels in a table beside the files: ``metadata.csv``, ``labels.csv``, ``.tsv``, ``.jsonl``, StyleGAN's dataset.json.

A table has a column with the name of a file and one with its label; their names are looked up below. Names of files
are relative to the table's folder, or bare, with or without their ending, as long as that tells them apart; case and
the way to write accents make no difference where that is certain. A column that says the part (train, test, ..) of
each file splits the set.
"""

import csv
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from common.data.source import DataUnavailable
from common.data.trees import Tree

OF_LABELS_ONLY = ("labels", "label", "_classes")  # what is called so is of no other use
STEMS = (*OF_LABELS_ONLY, "metadata", "annotations", "train", "train_labels", "trainlabels")
ENDINGS = (".csv", ".tsv", ".jsonl")
STYLEGAN = "dataset.json"  # {"labels": [[file, label], ..]}, or null for no classes
OF_FILES = ("file_name", "filename", "file", "image", "image_id", "image_name", "path", "filepath", "img", "id", "name")
OF_LABELS = ("label", "labels", "class", "class_name", "category", "target", "y")
MISSING = "NaN"  # as json.dumps writes what is not there
OF_PARTS = ("split", "part", "partition", "subset", "set")
SEPARATORS = ",;\t"
LARGEST = 2**28  # bytes


@dataclass(frozen=True)
class Row:
    """What a table says of a file.

    Attributes:
        where: its line or entry, from 1 on.
        file: the file as the table names it.
        label: its class; None in a table without labels.
        part: its part as the table names it, or None.
    """

    where: str
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
        of_files: the column with names of files, None if there is none.
        of_labels: the column that labels were read from, None if there is none.
        of_parts: the column that says the part of each file, None if there is none.
    """

    name: str
    place: Path
    columns: tuple[str, ...]
    rows: list[Row]
    of_files: str | None
    of_labels: str | None
    of_parts: str | None

    @property
    def decides(self) -> bool:
        """Whether it says classes or parts."""
        return self.of_labels is not None or self.of_parts is not None

    @property
    def of_nothing(self) -> bool:
        """Whether it says that there are no classes: StyleGAN's sets lie in folders by number."""
        return PurePosixPath(self.name).name.casefold() == STYLEGAN and not self.decides


def find_table(tree: Tree, stems: Collection[str] = STEMS) -> Table | None:
    """The table directly in a folder.

    Args:
        tree: the folder.
        stems: names without ending that a table may have.

    Raises:
        DataUnavailable: if there are two with labels, or it cannot be read.
    """
    found = [
        name
        for name, reason in tree.passed
        if "/" not in name and ((reason in ENDINGS and _stem(name) in stems) or name.casefold() == STYLEGAN)
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
    """A table; None for a dataset.json of another kind.

    Raises:
        DataUnavailable: naming it and what is wrong with it.
    """
    place = tree.path / name
    try:
        with tree.files([name]).open(0) as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except Exception as error:  # a member of an archive may be broken in any way
        raise DataUnavailable(
            f"{place} cannot be read as text in UTF-8 ({type(error).__name__}); save it as that"
        ) from error
    if len(content) > LARGEST:
        raise DataUnavailable(f"{place} is larger than any table of labels; remove it, or rename it")
    ending = PurePosixPath(name).suffix.lower()
    try:
        found = {".json": _of_stylegan, ".jsonl": _of_jsonl}.get(ending, _of_csv)(text)
        records = None if found is None else list(found)
    except (ValueError, csv.Error) as error:
        raise DataUnavailable(f"{place}: {error}; mend it, or remove it") from None
    if records is None:
        return None
    columns = tuple(dict.fromkeys(key for _, record in records for key in record))
    known = {column.strip().casefold(): column for column in reversed(columns)}
    file_column, label_column, part_column = (
        next((known[key] for key in keys if key in known), None) for keys in (OF_FILES, OF_LABELS, OF_PARTS)
    )
    if file_column is None:
        return Table(name, place, columns, [], None, None, None)
    others = [column for column in columns if column and column not in (file_column, part_column)]
    is_csv = not ending.startswith(".json")
    if label_column is None and len(others) == 1 and is_csv and others[0].casefold() not in ("text", "caption"):
        label_column = others[0]
    rows = []
    for where, record in records:
        of_file, label, part = (
            None if column is None else record.get(column) for column in (file_column, label_column, part_column)
        )
        if isinstance(label, (list, dict)):
            raise DataUnavailable(f"{place}, {where}: {label_column} is no single label; give one per file")
        if of_file in (None, "") or (label_column is not None and label in (None, "", MISSING)):
            raise DataUnavailable(f"{place}, {where}: no {label_column if of_file else file_column}; fill it in")
        texts = (None if value is None else _text(value) for value in (label, part))
        rows.append(Row(where, str(of_file), *texts))
    return Table(name, place, columns, rows, file_column, label_column, part_column)


def _text(label: Any) -> str:
    """A label as text: 3.0 is 3, as programs that know no whole numbers write it."""
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label).strip()


def _of_stylegan(text: str) -> Iterator[tuple[str, dict[str, Any]]] | None:
    """Entries of StyleGAN's dataset.json; None for a file of another kind.

    Raises:
        ValueError: for labels that are no pairs of a file and a label.
    """
    try:
        content = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or "labels" not in content:
        return None
    pairs = content["labels"] or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError('"labels" must be a list of pairs, each a file and its label')
    return ((f"entry {i}", {OF_FILES[0]: file, OF_LABELS[0]: label}) for i, (file, label) in enumerate(pairs, 1))


def _of_csv(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
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
        yield f"line {reader.line_num}", {key: field.strip() for key, field in zip(header, fields, strict=True)}


def _of_jsonl(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines and records of a file with a JSON object in each line.

    Raises:
        ValueError: for a line that is none.
    """
    for number, line in enumerate(io.StringIO(text), 1):  # other ends of lines than \n may stand in texts of JSON
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=str)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"line {number} is no JSON object")
        yield f"line {number}", record


def match(table: Table, names: Sequence[str], own: str = "") -> tuple[dict[str, Row], list[Row]]:
    """The rows of files.

    Args:
        table: the table.
        names: paths of files, relative to the folder of the table.
        own: where those files lie that a row means if it might mean several; a folder with / at its end.

    Returns:
        Rows by path, without those files that the table does not name; and the rows without a file.

    Raises:
        DataUnavailable: for a row that may mean several files, for a file in several classes, and if no file is named.
    """
    whole = set(names)
    alike: dict[str, list[str]] = {}
    for name in names:
        bare = name.rpartition("/")[2]
        for key in {_spelt(form) for path in (name, bare) for form in (path, path.rpartition(".")[0])}:
            alike.setdefault(key, []).append(name)
    folder = os.path.abspath(table.place.parent).split("/")  # noqa: PTH100  # links stay as they are
    found: dict[str, Row] = {}
    missing: list[Row] = []
    for row in table.rows:
        key = row.file.replace("\\", "/").removeprefix("./")
        meant = [key] if key in whole else alike.get(_spelt(key)) or alike.get(_spelt(_below(key, folder)), [])
        if len(meant) > 1:
            meant = [name for name in meant if own and name.startswith(own)] or meant
        if len(meant) > 1:
            raise DataUnavailable(
                f"{table.place}, {row.where}: {row.file} may be {' or '.join(meant[:3])}; write the path"
            )
        if not meant:
            missing.append(row)
            continue
        before = found.setdefault(meant[0], row)
        if (before.label, before.part) != (row.label, row.part):
            raise DataUnavailable(
                f"{table.place}: {meant[0]} stands twice, with {before.label} in {before.where} and {row.label} in "
                f"{row.where}; keep one"
            )
    if not found:
        first = f": {missing[0].file} in {missing[0].where} is not there" if missing else ", it has no rows"
        raise DataUnavailable(f"{table.place} names none of the files{first}; mend it, or remove it")
    return found, missing


def _spelt(path: str) -> str:
    """A path without what systems differ in: case, and the way to write accents."""
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold()


def _below(path: str, folder: Sequence[str]) -> str:
    """A path without the folder it lies in, of which the whole path or its end may be written before it."""
    parts = path.split("/")
    lengths = [i for i in range(1, len(parts)) if parts[:i] == list(folder[-i:])]
    return "/".join(parts[max(lengths, default=0) :])
