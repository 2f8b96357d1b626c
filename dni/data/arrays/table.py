"""Tables of numbers: columns of a CSV file with a header, or of a NumPy array."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dni.errors import DataError

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Rows in order of time, with named columns."""

    path: Path
    names: tuple[str, ...]  #: of all columns of the file
    columns: tuple[str, ...]  #: of the columns that were read
    values: Numbers  #: (rows, columns), all finite

    def of(self, columns: Sequence[str]) -> Numbers:
        """Return some of the columns that were read, (rows, columns)."""
        return self.values[:, [self.columns.index(name) for name in columns]]


def read_table(path: Path, columns: Sequence[str] = (), more: Sequence[str] = ()) -> Table:
    """Read `columns` (empty: all) and `more` of a .csv or .npy file. Columns of an array are called 0, 1 and so on.

    Raise DataError for a file that cannot be read, for a column that it does not have, and for a value that is not a
    finite number, with its line (or row) and column.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}; give a .csv file with names in its first line, or a .npy file")
    if path.suffix not in (".csv", ".npy"):
        raise DataError(f"{path} is neither .csv nor .npy: write it as one of these")
    with _readable(path):
        return _read_csv(path, columns, more) if path.suffix == ".csv" else _read_npy(path, columns, more)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; convert it") from None


def _read_csv(path: Path, columns: Sequence[str], more: Sequence[str]) -> Table:
    names = _header(path)
    chosen = _chosen(path, names, [*(columns or names), *more])
    places = [names.index(name) for name in chosen]
    try:
        values = np.loadtxt(
            path, delimiter=",", skiprows=1, usecols=places, ndmin=2, comments=None, quotechar='"', encoding="utf-8-sig"
        )
    except ValueError as error:
        raise _wrong_cell(path, names, places) or DataError(f"cannot read {path}: {error}") from None
    if not np.isfinite(values).all():
        raise _wrong_cell(path, names, places) or DataError(f"{path} has values that are not finite: write numbers")
    return Table(path, names, chosen, values)


def _header(path: Path) -> tuple[str, ...]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = tuple(name.strip() for name in next(csv.reader(file), []))
    if not names:
        raise DataError(f"{path} is empty: write its column names into the first line and numbers below")
    if all(_number(name) is not None for name in names):
        raise DataError(f"{path} has no column names: write them into its first line, separated by commas")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns {twice!r}: give each another name")
    return names


def _wrong_cell(path: Path, names: Sequence[str], places: Sequence[int]) -> DataError | None:
    """Return an error that locates the first value that is not a finite number; None: there is none."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        next(lines)
        for cells in lines:
            if not cells:
                continue
            where = f"{path}, line {lines.line_num}"
            if len(cells) != len(names):
                return DataError(f"{where} has {len(cells)} values, and the first line names {len(names)} columns")
            for place in places:
                found = _number(cells[place])
                if found is None or not math.isfinite(found):
                    return DataError(
                        f"{where}, column {names[place]!r}: {cells[place]!r} is not a finite number: fill it in, "
                        "delete the line, or name the columns to read in data.channels and data.targets"
                    )
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_npy(path: Path, columns: Sequence[str], more: Sequence[str]) -> Table:
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}; write an array of numbers with numpy.save") from None
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(f"{path} is {array.dtype} of shape {array.shape}: write numbers of shape (rows, columns)")
    names = tuple(str(number) for number in range(array.shape[1]))
    chosen = _chosen(path, names, [*(columns or names), *more])
    values: Numbers = array[:, [names.index(name) for name in chosen]].astype(np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = (int(one) for one in wrong[0])
        raise DataError(
            f"{path}, row {row}, column {chosen[column]}: {values[row, column]} is not a finite number: correct it"
        )
    return Table(path, names, chosen, values)


def _chosen(path: Path, names: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    for name in asked:
        if name not in names:
            raise DataError(f"{path} has no column {name!r}: it has {', '.join(names)}")
    return tuple(dict.fromkeys(asked))
