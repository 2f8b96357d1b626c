"""dni/data/arrays/table.py: columns of CSV files and arrays, and which cell is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dni.data.arrays.table import read_table
from dni.errors import DataError


def test_columns_of_a_csv_file_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('﻿day,"wind, m/s",power\r\nMo,1.5,-2e3\r\n\r\nTu,"3",4\r\n'.encode())
    table = read_table(path, ["power"], ["wind, m/s", "power"])
    assert table.names == ("day", "wind, m/s", "power")
    assert table.columns == ("power", "wind, m/s")
    assert table.values.tolist() == [[-2000.0, 1.5], [4.0, 3.0]]
    assert table.of(["wind, m/s"]).tolist() == [[1.5], [3.0]]


def test_columns_of_an_array_by_number(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.int16).reshape(3, 2))
    assert read_table(tmp_path / "a.npy").values.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert read_table(tmp_path / "a.npy", ["1"]).values.tolist() == [[1.0], [3.0], [5.0]]
    np.save(tmp_path / "b.npy", np.array([1.5, 2.5]))
    assert read_table(tmp_path / "b.npy").values.tolist() == [[1.5], [2.5]]


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("a,b\n1,2\n3,nan\n", [], r"line 3, column 'b': 'nan' is not a finite number: fill it in, delete the line"),
        ("a,b\n1,2\n\n3,\n", [], r"line 4, column 'b': '' is not a finite number"),
        ("a,b\n1,2\ninf,3\n", ["a"], r"line 3, column 'a': 'inf' is not a finite number"),
        (
            "day,b\nMo,2\n",
            [],
            r"line 2, column 'day': 'Mo' is not a finite number: .*name the columns to read in data\.ch",
        ),
        ("a,b\n1,2\n3\n", [], r"line 3 has 1 values, and the first line names 2 columns"),
        ("a,b\n1,2\n", ["c"], r"has no column 'c': it has a, b"),
        ("1,2\n3,4\n", [], r"has no column names: write them into its first line, separated by commas"),
        ("a,a\n3,4\n", [], r"has two columns 'a': give each another name"),
        ("", [], r"is empty: write its column names into the first line and numbers below"),
    ],
)
def test_a_csv_file_that_is_not_as_it_must_be(tmp_path: Path, text: str, columns: list[str], says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=says) as error:
        read_table(path, columns)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_array_that_is_not_as_it_must_be(tmp_path: Path) -> None:
    def refused(says: str, name: str = "a.npy") -> None:
        with pytest.raises(DataError, match=says):
            read_table(tmp_path / name)

    np.save(tmp_path / "a.npy", np.array([[1.0, 2.0], [3.0, np.inf]]))
    refused(r"a\.npy, row 1, column 1: inf is not a finite number: correct it")
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 2)))
    refused(r"a\.npy is float64 of shape \(2, 2, 2\): write numbers of shape \(rows, columns\)")
    np.save(tmp_path / "a.npy", np.array(["x"]))
    refused(r"a\.npy is <U1 of shape")
    (tmp_path / "a.npy").write_bytes(b"x,y\n")
    refused(r"cannot read .*a\.npy: .*write an array of numbers with numpy\.save")
    refused(r"no such file: .*b\.csv; give a \.csv file with names", "b.csv")
    (tmp_path / "c.txt").write_text("a\n1\n")
    refused(r"c\.txt is neither \.csv nor \.npy", "c.txt")
    (tmp_path / "d.csv").write_bytes(b"a\n\xff\n")
    refused(r"d\.csv is not UTF-8 text: .*at byte 2", "d.csv")
