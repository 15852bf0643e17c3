"""Text tables: cells that would be lost or moved, doubtful headers, and the remedies of refusals."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from runner.config.sections import DataConfig
from runner.data.datasets import Dataset, load
from runner.data.errors import DataError
from runner.data.sources import load_new_rows
from runner.data.tables import TableOptions


def table(path: Path, text: str | bytes, **options: object) -> Dataset:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load("files", observations=path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", ["#N/A", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#NULL!"])
def test_errors_of_spreadsheets_are_no_comments(tmp_path: Path, cell: str) -> None:
    for text in (f"x,y\n1,2\n{cell},4\n3,5\n", f"x,y\n1,2\n4,{cell}\n3,5\n"):
        with pytest.raises(DataError, match=r"line 3: holds '#.*an error of a spreadsheet"):
            table(tmp_path / "x.csv", text)


ARM = pd.DataFrame({"force": [1.0, 2.0], "current": [3.0, 4.0], "angle": [5.0, 6.0]})


def new_rows(path: Path, learnt: DataConfig, frame: pd.DataFrame) -> Dataset:
    frame.to_csv(path, index=False)
    return load_new_rows({"data": learnt}, [str(path)])["data"]


@pytest.mark.parametrize("of_frames", [False, True])
def test_columns_of_new_rows_are_those_learnt_from_by_their_names(tmp_path: Path, of_frames: bool) -> None:
    ARM.assign(time=[0.1, 0.2]).to_csv(tmp_path / "arm.csv", index=False)
    given = {"frames": {"columns": list(ARM)}} if of_frames else {}
    learnt = DataConfig.model_validate({"source": "files", "observations": str(tmp_path / "arm.csv"), **given})
    new = tmp_path / "new.csv"
    for frame in (
        ARM[["angle", "force", "current"]],
        ARM.assign(more=9.0),
        ARM.assign(time=[1, 2])[["time", *ARM[::-1]]],
    ):
        read = new_rows(new, learnt, frame)
        np.testing.assert_array_equal(read.observations, ARM)
        assert read.columns == tuple(ARM)
        assert "columns are taken by their names: force, current, angle" in read.notes
    with pytest.raises(DataError, match=r"new.csv: has no column current, angle, from which the run has learnt; add"):
        new_rows(new, learnt, ARM.rename(columns={"current": "ampere", "angle": "radian"}))
    swapped = ARM[["current", "force", "angle"]]
    np.testing.assert_array_equal(new_rows(new, learnt, swapped.set_axis(list("abc"), axis=1)).observations, swapped)
    np.savetxt(tmp_path / "bare.csv", swapped, delimiter=",")  # without names they are by their places
    np.testing.assert_array_equal(
        load_new_rows({"data": learnt}, [str(tmp_path / "bare.csv")])["data"].observations, swapped
    )
    (tmp_path / "arm.csv").unlink()
    by_place = new_rows(new, learnt, swapped)
    if of_frames:  # whose names a run keeps
        np.testing.assert_array_equal(by_place.observations, ARM)
    else:
        np.testing.assert_array_equal(by_place.observations, swapped)
        assert (
            f"columns are taken by their places, as {tmp_path}/arm.csv is not there to compare names" in by_place.notes
        )


CELLS = [[1.5, -2.25, 3.0], [0.125, 4.0, 5e-3], [7.0, np.nan, 9.0]]
"""Values that any separator and decimal mark write exactly; one is missing."""


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    ("separator", "decimal", "said"),
    [
        (";", ",", ("semicolons separate its columns", "its commas are decimal ones")),
        (";", ".", ("semicolons separate its columns",)),
        ("\t", ",", ("tabs separate its columns", "its commas are decimal ones")),
        ("\t", ".", ("tabs separate its columns",)),
        (",", ".", ()),
    ],
)
def test_a_csv_of_semicolons_or_tabs_is_read_and_that_is_said(
    tmp_path: Path, separator: str, decimal: str, said: tuple[str, ...], header: bool
) -> None:
    """As pandas writes it."""
    frame = pd.DataFrame(CELLS, columns=["force", "Δx", "angle, left" if separator != "," and decimal == "," else "c"])
    frame.to_csv(path := tmp_path / "a.csv", sep=separator, decimal=decimal, index=False, header=header)
    for options in ({}, {"table": TableOptions(columns=(1, 2, 3))}):
        read = load("files", observations=path, **options)
        np.testing.assert_array_equal(np.where(read.mask, np.nan, read.observations), CELLS)
        assert read.notes[: len(said)] == said


@pytest.mark.parametrize("text", ["x,y\n\t1,2\n\t3,4\n", "\t1,2\n\t3,4\n", "x,y\n1,2\t\n3,4\t\n", "1,;2\n3,;4\n"])
def test_what_commas_separate_is_not_taken_for_decimals(tmp_path: Path, text: str) -> None:
    try:
        found = table(tmp_path / "a.csv", text)
    except DataError:
        return
    np.testing.assert_array_equal(found.observations, [[1, 2], [3, 4]])
    assert not found.notes


def test_comments_are_comments(tmp_path: Path) -> None:
    text = "# x N/A\n1 2 # of #N/A\n#\n3 4\n"
    np.testing.assert_array_equal(table(tmp_path / "x.txt", text).observations, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "text", ["1\t\t3\n\t3\t4\n3\t4\t\n", "1\t2\t3\n4\t\t6\n", "1\t2\t\n4\t5\t6\n"], ids=["all", "inner", "last"]
)
def test_empty_cells_between_tabs_do_not_move_the_others(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="empty cell between tabs in column"):
        table(tmp_path / "x.txt", text)


def test_tabs_may_align_columns(tmp_path: Path) -> None:
    for text in ("1\t\t3\n2\t\t4\n", "1.5\t\t3\n1000000.5\t4\n", "\t1 2\n3\t4\n"):
        assert table(tmp_path / "x.txt", text).observations.shape == (2, 2)


@pytest.mark.parametrize(
    "header", ["2010,2020,2030", "400,402,404,406", "0.1,0.2,0.3,0.4", "5.5,5,4.5,4"], ids=["years", "nm", "Hz", "down"]
)
def test_a_first_line_of_equal_steps_is_asked_about(tmp_path: Path, header: str) -> None:
    width = header.count(",") + 1
    below = np.random.default_rng(0).normal(size=(5, width)).round(3)
    text = "\n".join([header, *(",".join(map(str, row)) for row in below.tolist())])
    with pytest.raises(DataError, match="could be a header that names the columns or a row of data"):
        table(tmp_path / "x.csv", text)
    np.testing.assert_array_equal(table(tmp_path / "x.csv", text, header=True).observations, below)
    assert len(table(tmp_path / "x.csv", text, header=False).observations) == 6


def test_rows_of_equal_steps_are_rows(tmp_path: Path) -> None:
    rows = np.arange(24.0).reshape(6, 4) * 2.5
    np.savetxt(tmp_path / "x.csv", rows, delimiter=",")
    np.testing.assert_array_equal(load("files", observations=tmp_path / "x.csv").observations, rows)


def test_the_index_of_a_part_of_a_table_is_asked_about(tmp_path: Path) -> None:
    text = "id,x,y\n" + "".join(f"{row + 100},{row * 0.5},{row % 3}\n" for row in range(6))
    with pytest.raises(DataError, match=r"column 1 \('id'\) counts the rows"):
        table(tmp_path / "x.csv", text)
    assert table(tmp_path / "x.csv", text, index=True).observations.shape == (6, 2)
    assert table(tmp_path / "x.csv", text, index=False).observations.shape == (6, 3)


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("x.csv", "a,b\n1,2,\n3,4,\n", "ends with a comma, as all rows do.*remove this comma"),
        ("x.csv", "1,٣\n2,4\n", "holds '٣' where a number belongs"),
        ("x.txt", "x y\n1 2\n", "set data.header to true if this line names the columns"),
        ("x.csv", "t,1,2\n0.5,1,2\n", "data.header to true .*data.index to true"),
        ("x.txt", b"1 2\n3 4\n\0\0\0", "ends with NUL"),
        ("x.txt", gzip.compress(b"1 2\n", mtime=0), "is gzipped; end its name in .gz"),
        ("x.csv", b"PK\x03\x04\x14\0", "is an archive"),
        ("x.txt", b"\x93NUMPY\x01\0", "end its name in .npy"),
        ("x.csv", "a,b\n1 °C,2\n".encode("latin-1"), "holds '1 °C' where"),
    ],
)
def test_the_remedy_fits_the_file(tmp_path: Path, name: str, content: str | bytes, remedy: str) -> None:
    with pytest.raises(DataError, match=remedy):
        table(tmp_path / name, content)


def test_a_sparse_matrix_of_scipy_is_refused(tmp_path: Path) -> None:
    for kind in ("csr", "csc", "coo"):
        scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.eye(3, format=kind))
        with pytest.raises(DataError, match=r"sparse matrix.*toarray"):
            load("files", observations=tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["c.txt", "c.csv"])
def test_categories_keep_a_sharp_sign(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("C # the first\nC++\nC#\n# end\n")
    data = table(tmp_path / "x.txt", "1 2\n3 4\n5 6\n", categories=tmp_path / name)
    assert data.categories is not None
    assert data.categories.tolist() == [0, 2, 1]  # C, C#, C++


@pytest.mark.parametrize(("name", "text"), [("c.txt", "a\tx\nb\ty\n"), ("c.csv", "a;x\nb;y\n")])
def test_categories_in_several_columns_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="more than one column"):
        table(tmp_path / "x.txt", "1 2\n3 4\n", categories=tmp_path / name)


def test_large_numbers_as_categories_are_not_merged(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("9007199254740993\n9007199254740992\n")
    with pytest.raises(DataError, match=r"beyond 2\^53"):
        table(tmp_path / "x.txt", "1 2\n3 4\n", categories=tmp_path / "c.txt")


@pytest.mark.parametrize("cell", ["9007199254740993", "-9007199254740993", "+123456789012345678"])
def test_an_integer_that_a_float_cannot_hold_is_refused_with_what_it_would_become(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=rf"line 3: holds '.*in column 2, .*become {int(float(cell))};"):
        table(tmp_path / "x.csv", f"a,b\n1,2\n3,{cell}\n")


@pytest.mark.parametrize("cell", ["1e-400", "-2.4E-0324", "0.001e-330"])
def test_a_number_that_would_become_zero_is_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=rf"line 2: holds '{cell}' in column 1, which is too small"):
        table(tmp_path / "x.txt", f"1.5 2.5\n{cell} 3.5\n")


@pytest.mark.parametrize(
    "cell", ["9007199254740992", "9007199254740994", "1e20", "123456789012345678.5", "0e-400", "1e-300", "5e-324"]
)
def test_numbers_that_a_float_holds_or_rounds_as_any_decimal_are_read(tmp_path: Path, cell: str) -> None:
    assert table(tmp_path / "x.txt", f"1.5 2.5\n{cell} 3.5\n").observations[1, 0] == float(cell)


def test_large_integers_in_an_index_are_left_out_with_it(tmp_path: Path) -> None:
    text = "Unnamed: 0,a\n9007199254740993,1\n9007199254740995,2\n"
    assert table(tmp_path / "x.csv", text).observations.tolist() == [[1.0], [2.0]]


# --- chosen columns ---------------------------------------------------------------------------------------------------

TRIALS = "time,trial,force,angle,label\n" + "".join(
    f"{0.1 * row:.1f},{trial},{row}.5,-{row}.25,{label}\n"
    for row, (trial, label) in enumerate([("b", "push"), ("b", "pull"), ("a", "push"), ("a", "push"), ("c", "pull")])
)


def _load(tmp_path: Path, text: str, name: str = "x.csv", **options: Any) -> Dataset:
    (tmp_path / name).write_text(text)
    return load("files", observations=tmp_path / name, table=TableOptions(**options))


def test_columns_name_data_sequences_and_categories_and_a_time_is_left_out(tmp_path: Path) -> None:
    data = _load(tmp_path, TRIALS, sequence_column="trial", category_column="label")
    assert data.columns == ("force", "angle")
    assert data.lengths.tolist() == [2, 2, 1]
    assert data.categories.tolist() == [1, 0, 1, 1, 0]
    assert np.array_equal(data.observations, [[row + 0.5, -row - 0.25] for row in range(5)])
    assert "column 1 ('time'), a time, is left out (data.columns to use it)" in data.notes


@pytest.mark.parametrize("name", ["t", "t_s", "time [ms]", "Elapsed", "seconds", "ms", "Timestamp", "stamp (ns)"])
def test_names_of_times(tmp_path: Path, name: str) -> None:
    data = _load(tmp_path, TRIALS.replace("time", name, 1), sequence_column="trial", category_column="label")
    assert data.columns == ("force", "angle")


@pytest.mark.parametrize("name", ["T", "torque", "msg", "second_joint", "temperature", "s"])
def test_names_that_are_no_times(tmp_path: Path, name: str) -> None:
    data = _load(tmp_path, TRIALS.replace("time", name, 1), sequence_column="trial", category_column="label")
    assert data.columns == (name, "force", "angle")


def test_a_time_that_falls_within_a_sequence_is_data(tmp_path: Path) -> None:
    rows = "".join(f"{value},{row}.5\n" for row, value in enumerate([1.0, 2.0, 1.5, 3.0]))
    assert _load(tmp_path, f"t,force\n{rows}", exclude=()).columns == ("t", "force")


@pytest.mark.parametrize("columns", [("angle", "time"), (4, 1), ("angle", 1), ("4", "1")])
def test_columns_are_chosen_by_name_or_number_in_their_order(tmp_path: Path, columns: tuple[str | int, ...]) -> None:
    data = _load(tmp_path, TRIALS, columns=columns)
    assert data.columns == ("angle", "time")
    assert np.allclose(data.observations, [[-row - 0.25, 0.1 * row] for row in range(5)])


def test_a_column_that_is_left_out_may_hold_anything(tmp_path: Path) -> None:
    text = TRIALS.replace(",push", ",").replace(",a,", ",,")
    assert _load(tmp_path, text, exclude=("label", 2)).columns == ("force", "angle")


def test_a_table_of_tabs_with_dates_keeps_its_empty_cells_in_place(tmp_path: Path) -> None:
    lines = ["timestamp\tx\ty"] + [f"2026-01-01T00:00:0{n}\t{n}.5\t{n * n}.5" for n in range(4)]
    lines[2] = "2026-01-01T00:00:01\t\t"
    data = _load(tmp_path, "\n".join(lines), "x.tsv")
    assert data.mask.tolist() == [False, True, False, False]
    assert data.observations[3].tolist() == [3.5, 9.5]


def test_a_column_called_time_whose_values_fall_is_data(tmp_path: Path) -> None:
    text = "time,x\n" + "".join(f"{value},{value}.5\n" for value in (3, 1, 2, 7))
    assert _load(tmp_path, text).observations.shape == (4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": ("speed",)},
            "data.columns: there is no column 'speed'; the columns are time, trial, force, angle",
        ),
        ({"exclude": (9,)}, "data.exclude: there is no column 9; "),
        ({"columns": ("force", 3)}, "data.columns: column 3 is given twice; leave one out"),
        ({"columns": ("force", "trial"), "sequence_column": "trial"}, "column 2 is data and names sequences"),
        ({"columns": ("force", "label")}, "holds 'push' where a number belongs"),
        ({"exclude": ("time", "trial", "force", "angle", "label")}, "no column of data is left; choose others"),
        ({"sequence_column": "label", "exclude": ("trial",)}, "line 4: sequence 'push' begins again after another one"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        _load(tmp_path, TRIALS, **options)
    assert message in str(caught.value)


def test_new_rows_are_read_alike_and_may_lack_sequences_and_categories(tmp_path: Path) -> None:
    section = DataConfig.model_validate(
        {"source": "files", "observations": "x.csv", "sequence_column": "trial", "category_column": "label"}
    )
    (tmp_path / "new.csv").write_text(TRIALS)
    (tmp_path / "bare.csv").write_text("time,force,angle\n0,1.5,2.5\n1,2.5,7.5\n")
    known, bare = (load_new_rows({"data": section}, [str(tmp_path / name)])["data"] for name in ("new.csv", "bare.csv"))
    assert known.lengths.tolist() == [2, 2, 1]
    assert known.columns == bare.columns == ("force", "angle")
    assert bare.lengths is None
    (tmp_path / "lengths.txt").write_text("5\n")
    joined = load_new_rows({"data": section}, [str(tmp_path / "new.csv")], lengths=tmp_path / "lengths.txt")["data"]
    assert joined.lengths.tolist() == [5]
