"""The one door for data: what is taken, what is told, and what is refused, from scripts and files."""

from __future__ import annotations

import bz2
import decimal
import gzip
import lzma
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import runner as srk
from actors.errors import ModuleError
from actors.limits import MAX_EXPANSION
from runner.config.run_config import RunConfig, load_config
from runner.data.datasets import Dataset, load
from runner.data.errors import DataError
from runner.data.intake import check_categories, check_lengths, check_observations
from runner.data.sources import check_modules, check_new_rows, describe_data, load_new_rows, source_states
from runner.report.clustering_metrics import accuracy

ROWS = np.random.default_rng(0).normal(size=(12, 3)).round(3)


def table(path: Path, text: str | bytes, **options: Any):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load("files", observations=path, **options)


# --- what is said -------------------------------------------------------------------------------------------------


def test_rows_columns_sequences_and_source_are_said_in_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3000, 784), np.float32))
    data = load("files", observations=tmp_path / "x.npy")
    assert describe_data({"data": data}) == ["data: 3,000 rows × 784 columns in 1 sequence, from x.npy"]
    data = load("files", observations=tmp_path / "x.npy", lengths=[1000, 2000])
    assert data.describe() == "3,000 rows × 784 columns in 2 sequences, from x.npy"


RISES = "rises from each row to the next, as a clock does, and is learnt from: leave it out if it is one (data.exclude)"


@pytest.mark.parametrize(
    ("first", "lengths", "said"),
    [
        (np.arange(40) * 0.02, None, True),
        (np.tile(np.arange(20.0), 2), [20, 20], True),
        (np.tile(np.arange(20.0), 2), None, False),  # falls once
        (np.repeat(np.arange(20.0), 2), None, False),  # does not rise in each row
        (np.arange(12.0), None, False),  # few rows
    ],
)
def test_a_column_like_a_clock_is_said_to_be_learnt_from(first: Any, lengths: Any, said: bool) -> None:
    other = np.random.default_rng(0).normal(size=len(first))
    frame = pd.DataFrame({"count": first + 0.5, "force": other})
    for given, name in ((frame, "column 1 ('count')"), (frame.to_numpy(), "column 1")):
        rows = check_observations(given, "x")
        data = Dataset(rows.values, None, None if lengths is None else np.array(lengths), "x", columns=rows.columns)
        assert data.clock_notes() == [f"{name} {RISES}"] * said
        assert data.describe().endswith(RISES) == said


def test_three_axes_are_rows_unless_they_are_said_to_be_sequences() -> None:
    data = np.arange(40 * 60 * 12.0).reshape(40, 60, 12)
    line = srk.Observation(data).data.describe()
    assert line.startswith("40 rows × 720 columns in 1 sequence, from the script; each row is 60×12")
    assert "sequences" in line.partition("each row is")[2]
    taken = srk.Observation(data, sequences=True).data
    np.testing.assert_array_equal(taken.observations, data.reshape(2400, 12))
    np.testing.assert_array_equal(taken.lengths, [60] * 40)
    ragged = srk.Observation([data[0, :5], data[1, :7]], sequences=True).data
    np.testing.assert_array_equal(ragged.observations, np.concatenate([data[0, :5], data[1, :7]]))
    np.testing.assert_array_equal(ragged.lengths, [5, 7])


def test_a_file_of_sequences(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(24.0).reshape(2, 4, 3))
    data = load("files", observations=tmp_path / "x.npy", sequences=True)
    assert data.describe() == "8 rows × 3 columns in 2 sequences, from x.npy"
    with pytest.raises(DataError, match=r"data\.sequences gives the lengths itself"):
        load("files", observations=tmp_path / "x.npy", sequences=True, lengths=[4, 4])


# --- arrays: taken with the same values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        ROWS, ROWS.astype(np.float32), ROWS.tolist(), np.asfortranarray(ROWS), ROWS.astype(">f8"),
        np.round(ROWS).astype(int),
        (ROWS * 100).astype(np.uint8), ROWS.astype(object), pd.DataFrame(ROWS, columns=list("abc"), index=range(5, 17)),
        pd.DataFrame(np.round(ROWS)).astype("Int64"), np.ma.masked_array(ROWS), ROWS > 0,
    ],
)  # fmt: skip
def test_numbers_keep_their_values(given: Any) -> None:
    rows = check_observations(given, "data")
    np.testing.assert_array_equal(rows.values, np.asarray(given, dtype=np.float64))
    assert rows.mask is None


def test_rows_without_any_value_are_missing() -> None:
    masked = np.ma.masked_array(ROWS, mask=np.arange(12)[:, None] * np.ones(3) == 4)
    holes = np.where(np.arange(12)[:, None] == 4, np.nan, ROWS)
    nothing = [row.tolist() if number != 4 else [None] * 3 for number, row in enumerate(ROWS)]
    for given in (masked, holes, nothing, pd.DataFrame(holes), pd.DataFrame(holes).astype("Float64")):
        rows = check_observations(given, "data")
        np.testing.assert_array_equal(rows.mask, np.arange(12) == 4)
        np.testing.assert_array_equal(np.delete(rows.values, 4, axis=0), np.delete(ROWS, 4, axis=0))
        assert "1 row without any value is missing" in rows.notes
        assert np.isfinite(rows.values).all()


HOLES = np.where((np.arange(12)[:, None] == 4) & (np.arange(3) == 1), np.nan, ROWS)


def test_values_that_are_missing_in_part_of_a_row_make_a_mask_of_values() -> None:
    masked = np.ma.masked_array(ROWS, mask=np.isnan(HOLES))
    lists = [[None if np.isnan(value) else value for value in row] for row in HOLES]
    for given in (HOLES, masked, lists, pd.DataFrame(HOLES), pd.DataFrame(HOLES).astype("Float64")):
        rows = check_observations(given, "data")
        np.testing.assert_array_equal(rows.mask, np.isnan(HOLES))
        np.testing.assert_array_equal(rows.values, np.where(np.isnan(HOLES), 0.0, ROWS))
        assert "1 value is missing in 1 row" in rows.notes
    more = HOLES.copy()
    more[7:9] = np.nan
    rows = check_observations(more, "data")
    assert rows.mask is not None
    assert rows.mask.sum() == 7
    assert {"2 rows without any value are missing", "1 value is missing in 1 other row"} <= set(rows.notes)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.npy"])
def test_missing_values_of_a_file_reach_the_model(tmp_path: Path, name: str) -> None:
    if name == "a.npy":
        np.save(tmp_path / name, [[1, 2], [3, np.nan], [np.nan, np.nan], [5, 6]])
    else:
        text = "x,y\n1,2\n3,NA\n,null\n5,6\n" if name != "a.txt" else "1 2\n3 nan\nNA NA\n5 6\n"
        (tmp_path / name).write_text(text.replace(",", "\t") if name == "a.tsv" else text)
    data = load("files", observations=tmp_path / name)
    np.testing.assert_array_equal(data.mask, [[0, 0], [0, 1], [1, 1], [0, 0]])
    np.testing.assert_array_equal(data.observations, [[1, 2], [3, 0], [0, 0], [5, 6]])


MODEL_OF = (
    "name: a\ndata: {{source: files, observations: {0}, scale: standard}}\n"
    "modules: {{gmm: {{type: gmm, classes: 2, engine: vb{1}}}}}\nconnections: [data -> gmm]\nschedule: {{rounds: 1}}\n"
)


def test_a_column_without_any_value_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,z\n1,,2\n3,,4\n5,,\n")
    (tmp_path / "m.yaml").write_text(MODEL_OF.format("a.csv", ""))
    with pytest.raises(DataError, match="data: column 2 has no value in any row; leave out columns without"):
        load_config(tmp_path / "m.yaml").load_data()
    config = load_config(tmp_path / "m.yaml", ["data.scale=none"])
    with pytest.raises(DataError, match=r"data: column 2 \('y'\) has no value in any row"):
        check_modules(config.graph, config.load_data())


def test_what_cannot_use_rows_that_lack_values_is_refused_before_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,\n,4\n5,7\n")
    model = MODEL_OF.format("a.csv", "").replace("engine: vb}}", "engine: vb}, net: {type: network}}")
    (tmp_path / "m.yaml").write_text(model.replace("[data -> gmm]", "[data -> gmm, gmm -> net, data -> net]"))
    config = load_config(tmp_path / "m.yaml")
    with pytest.raises(ModuleError, match=r"row 2 of data lacks some .* \(2 rows do\).* 'network' cannot use"):
        check_modules(config.graph, config.load_data())


@pytest.mark.parametrize(("scale", "expected"), [("standard", StandardScaler()), ("unit", MinMaxScaler())])
def test_columns_are_scaled_by_the_values_that_they_have(tmp_path: Path, scale: str, expected: Any) -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(40, 3)) * [1, 1e6, 1e-6] + [5, 0, 1]
    X[generator.random(X.shape) < 0.3] = np.nan
    X[3] = np.nan
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "m.yaml").write_text(MODEL_OF.format("a.npy", ""))
    data = load_config(tmp_path / "m.yaml", [f"data.scale={scale}"]).load_data()["data"]
    np.testing.assert_allclose(data.observations, np.nan_to_num(expected.fit_transform(X)), rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(data.mask, np.isnan(X))


def test_a_missing_row_of_a_file_reaches_the_model_as_missing(tmp_path: Path) -> None:
    for name, text in {"a.csv": "x,y\n1,2\n,\nNA,null\n4,5\n", "a.txt": "1 2\nnan nan\nNA NA\n4 5\n"}.items():
        data = table(tmp_path / name, text)
        np.testing.assert_array_equal(data.mask, [False, True, True, False])
        np.testing.assert_array_equal(data.observations[[0, 3]], [[1, 2], [4, 5]])
    (tmp_path / "m.yaml").write_text(
        "name: a\ndata: {source: files, observations: a.csv}\nmodules: {gmm: {type: gmm, classes: 2}}\n"
        "connections: [data -> gmm]\nschedule: {rounds: 1}\n"
    )
    config = load_config(tmp_path / "m.yaml")
    np.testing.assert_array_equal(source_states(config.graph, config.load_data())["data"]["mask"], data.mask)


# --- arrays: refused ----------------------------------------------------------------------------------------------

BAD_ROWS: dict[str, tuple[Any, str]] = {
    "complex": (ROWS + 1j, "complex numbers.*magnitudes"),
    "texts": (np.array([["1", "2"]]), "texts, such as '1', not real numbers"),
    "bytes": (np.array([[b"1"]]), "bytes"),
    "dates": (np.array(["2024-01-01"], dtype="M8[D]"), "dates.*seconds since the first"),
    "durations": (np.array([3], dtype="m8[s]"), "durations"),
    "records": (np.zeros(3, [("x", "f8")]), "records with named fields.*structured_to_unstructured"),
    "decimals": ([[decimal.Decimal("0.1")]], "row 1: holds Decimal.*numpy.asarray"),
    "objects": ([[1.0], [{}]], "row 2: holds {} of type dict"),
    "large integers": (np.array([[1], [2**53 + 1]]), r"row 2: 9007199254740993 is beyond 2\^53"),
    "larger integers": ([[2**80 + 1]], "row 1: 1208925819614629174706177 is no float64"),
    "long doubles": (np.array([[np.longdouble(10) ** 400]]), "row 1: 1e.400 is beyond its range"),
    "tiny long doubles": (np.array([[np.longdouble(10) ** -400]]), "row 1: 1e-400 is beyond its range"),
    "ragged": ([[1, 2], [3]], "row 2 has 1 numbers where 2 were expected"),
    "infinity": (np.where(np.isnan(HOLES), -np.inf, HOLES), "row 5: .* column 2 is -inf .1 such value"),
    "all missing": (np.full((3, 2), np.nan), "all rows are missing"),
    "empty": ([], "holds no rows of numbers"),
    "no columns": (np.zeros((3, 0)), "holds no rows of numbers"),
    "a number": (3.0, "holds no rows of numbers"),
    "nothing": (None, "holds no rows of numbers|NaN"),
    "frame of texts": (pd.DataFrame({"x": [1.0], "kind": ["a"]}), "column 'kind' holds texts; leave it out"),
    "frame of dates": (pd.DataFrame({"t": pd.to_datetime(["2024-01-01"])}), "column 't' holds dates"),
    "frame of a name twice": (pd.DataFrame(ROWS, columns=["a", "b", "a"]), "two columns are called 'a'"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "match"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_what_a_conversion_would_change_is_refused(given: Any, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        srk.Observation(given)
    assert "\n" not in str(caught.value)


def test_an_index_of_a_frame_that_became_a_column_is_left_out() -> None:
    frame = pd.DataFrame(ROWS, columns=list("xyz")).reset_index()
    rows = check_observations(frame, "data")
    np.testing.assert_array_equal(rows.values, ROWS)
    assert rows.notes == ("column 1 ('index'), an index, is left out",)


CATEGORIES: dict[str, tuple[Any, list[int]]] = {
    "integers": ([3, 1, 3], [3, 1, 3]),
    "whole floats": (np.array([3.0, 1.0, 3.0]), [3, 1, 3]),
    "large integers": (np.array([2**62 + 1, 0, 1]), [2**62 + 1, 0, 1]),
    "truth values": ([True, False, True], [1, 0, 1]),
    "texts": (["walk", "run", "walk"], [1, 0, 1]),
    "texts of numpy": (np.array(["walk", "run", "walk"]), [1, 0, 1]),
    "bytes": (np.array([b"walk", b"run", b"walk"]), [1, 0, 1]),
    "a series": (pd.Series(["walk", "run", "walk"], dtype="category"), [1, 0, 1]),
    "nullable": (pd.Series([3, 1, 3], dtype="Int64"), [3, 1, 3]),
    "a column": (np.array([[3], [1], [3]]), [3, 1, 3]),
}


@pytest.mark.parametrize(("given", "expected"), CATEGORIES.values(), ids=CATEGORIES)
def test_categories_of_any_type_are_taken(given: Any, expected: list[int]) -> None:
    handle = srk.GMM(2, category=given)
    np.testing.assert_array_equal(handle.category, expected)
    assert handle.category is not None
    assert handle.category.dtype == np.int64
    texts = "walk" in str(given)
    assert bool(handle.notes) == texts
    assert not texts or handle.notes == ("categories 0 = run, 1 = walk",)


BAD_CATEGORIES: dict[str, tuple[Any, str]] = {
    "NaN": ([0.0, np.nan], "row 2: nan is no integer"),
    "fractions": ([0, 1.5], "row 2: 1.5 is no integer"),
    "infinity": ([0, np.inf], "row 2: inf is no integer"),
    "inexact": ([0, 1e17], r"row 2: 1e\+17 is no integer that is exact, beyond 2\^53"),
    "unsigned": (np.array([0, 2**63], np.uint64), r"row 2: 9223372036854775808 .* beyond 2\^63 - 1"),
    "None": (["a", None], "row 2: has no category"),
    "missing": (pd.Series(["a", pd.NA]), "row 2: has no category"),
    "masked": (np.ma.masked_array([1, 2], mask=[False, True]), "row 2: is masked"),
    "mixed": (["a", 1], "row 2: 1 is mixed with texts"),
    "an empty text": (["a", " "], "row 2: has an empty category"),
    "complex": ([1 + 0j], "holds complex numbers"),
    "dates": (np.array(["2024-01-01"], "M8[D]"), "holds dates"),
    "one-hot": (np.eye(3), r"shape \(3, 3\).*argmax"),
    "objects": ([{}], "of type dict"),
    "nothing": ([], "holds no categories"),
}


@pytest.mark.parametrize(("given", "match"), BAD_CATEGORIES.values(), ids=BAD_CATEGORIES)
def test_categories_that_would_change_are_refused(given: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        check_categories(given, "category")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([6.5, 5.5], "6.5 is no integer"), ([6, 5], "do not add up to the 12 rows of the observations, but to 11"),
        ([13, -1], "no positive integer, -1 of sequence 1"), ([12, 0], "no positive integer"),
        ([np.nan, 12], "nan is no integer"),
        ([], "holds no lengths"), ([[6, 6], [6, 6]], "shape"), ([True] * 12, "truth values"), (["12"], "holds texts"),
        (np.ma.masked_array([6, 6], mask=[True, False]), "masked"), ([12 + 0j], "complex"),
        ([None], "no positive integer"),
    ],
)  # fmt: skip
def test_lengths_that_would_be_cut_are_refused(given: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        srk.Observation(ROWS, lengths=given)
    np.testing.assert_array_equal(check_lengths(np.array([5.0, 7.0]), "lengths", 12), [5, 7])


# --- tables -------------------------------------------------------------------------------------------------------


def written(frame: pd.DataFrame, **options: Any) -> str:
    return frame.to_csv(**options)


NAMED, COUNTED = pd.DataFrame(ROWS, columns=list("xyz")), pd.DataFrame(ROWS)
TABLES: dict[str, tuple[str, bool]] = {
    "index": (written(NAMED), True),
    "named index": (written(NAMED.rename_axis("index")), True),
    "index of dates": (written(NAMED.set_index(pd.date_range("2024-01-01", periods=12))), True),
    "shuffled index": (written(NAMED.sample(frac=1, random_state=0)), True),
    "index read and written again": (written(NAMED.rename_axis("Unnamed: 0")), True),
    "index and counted columns": (written(COUNTED), True),
    "index of texts": (written(NAMED.set_index(pd.Index([f"row {n}" for n in range(12)]))), True),
    "R's row names": ('"x","y","z"\n' + "".join(f'"{n}",{a},{b},{c}\n' for n, (a, b, c) in enumerate(ROWS, 1)), True),
    "no index": (written(NAMED, index=False), False),
    "neither": (written(COUNTED, index=False, header=False), False),
    "a name with a comma": (written(NAMED.rename(columns={"x": "x, in m"})), True),
}


@pytest.mark.parametrize(("text", "left_out"), TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_tables_as_data_frames_write_them(tmp_path: Path, text: str, left_out: bool, name: str) -> None:
    content = text.encode()
    data = table(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    expected = NAMED.sample(frac=1, random_state=0) if text == TABLES["shuffled index"][0] else ROWS
    np.testing.assert_array_equal(data.observations, expected)
    assert ("an index, is left out" in data.describe()) == left_out


ASKED: dict[str, tuple[str, str]] = {
    "counted columns": (written(COUNTED, index=False), "header"),
    "counted columns above counts": (written(pd.DataFrame([[5, 3], [2, 9]]), index=False), "header"),
    "one counted column": (written(COUNTED[[0]], index=False), "header"),
    "years": ("2019,2020,2021\n" + written(COUNTED, index=False, header=False), "header"),
    "an index without a name": (written(COUNTED, header=False), "index"),
    "an index from one": (written(COUNTED.set_index(np.arange(1, 13)), header=False), "index"),
    "an id": (written(NAMED.rename_axis("id")), "index"),
    "a shuffled id": (written(NAMED.sample(frac=1, random_state=0).rename_axis("id")), "index"),
    "a name twice": (written(COUNTED.set_axis(["a", "b", "a"], axis=1), index=False), "header"),
}


@pytest.mark.parametrize(("text", "option"), ASKED.values(), ids=ASKED)
def test_what_could_be_a_header_or_an_index_is_asked_for(tmp_path: Path, text: str, option: str) -> None:
    with pytest.raises(DataError, match=f"set data.{option} to true") as caught:
        table(tmp_path / "a.csv", text)
    assert "\n" not in str(caught.value)
    plain = np.loadtxt(text.splitlines()[int("a" in text or "id" in text) :], delimiter=",", ndmin=2)
    answers = {option: True}
    expected = plain[:, 1:] if option == "index" else plain[int("a" not in text) :]
    np.testing.assert_array_equal(table(tmp_path / "a.csv", text, **answers).observations, expected)
    if "a" not in text:
        np.testing.assert_array_equal(table(tmp_path / "a.csv", text, **{option: False}).observations, plain)


CELLS: dict[str, tuple[str, str]] = {
    "decimal comma": ('x,y\n"1,5",2\n', "line 2: holds '1,5'.*a comma within a number"),
    "thousands": ('x,y\n"1,234.5",2\n', "line 2: holds '1,234.5'.*without separators of thousands"),
    "semicolons and thousands": ("x;y\n1.000,5;2,5\n", "line 2: .*semicolons separate columns of a .csv if all lines"),
    "more semicolons": ("x;y\n1,5;2,5\n1,5;2,5;3\n", "line 2: .*semicolons separate columns of a .csv if all lines"),
    "empty ends": ("x,y\n3,\n5,\n", "line 2: ends with a comma, as all rows do, so that column 2 is empty"),
    "a text": ("x,y\n1,high\n", "line 2: holds 'high' where a number belongs; correct it, or leave out its column"),
    "ragged": ("x,y\n1,2\n3\n", "line 3: has 1 columns where 2 were expected"),
    "a short header": ("x,y\n1,2,3,4\n", "line 2: has 4 columns where 2 were expected, the number of names"),
    "an underscore": ("x\n1_000\n", "line 2: holds '1_000'"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "match"), CELLS.values(), ids=CELLS)
def test_cells_that_are_no_numbers_are_named(tmp_path: Path, text: str, match: str) -> None:
    for name, content in {"a.csv": text.encode(), "a.csv.gz": gzip.compress(text.encode())}.items():
        with pytest.raises(DataError, match=match):
            table(tmp_path / name, content)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_headers_in_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    np.testing.assert_array_equal(
        table(tmp_path / "a.csv", "größe,höhe\n1,2\n3,4\n".encode(encoding)).observations, [[1, 2], [3, 4]]
    )
    with pytest.raises(DataError, match="columns 1 and 2 are both called 'größe'"):
        table(tmp_path / "a.csv", "größe,größe\n1,2\n".encode(encoding))


def test_every_text_format_and_npy_may_be_gzipped(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.txt", ROWS)
    np.save(tmp_path / "a.npy", ROWS)
    for name in ("a.txt", "a.npy"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        np.testing.assert_array_equal(load("files", observations=tmp_path / f"{name}.gz").observations, ROWS)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"a\nb\n" * 6))
    data = load("files", observations=tmp_path / "a.txt.gz", categories=tmp_path / "c.txt.gz")
    np.testing.assert_array_equal(data.categories, [0, 1] * 6)
    for name, compress in {"a.txt.bz2": bz2.compress, "a.csv.xz": lzma.compress}.items():
        with pytest.raises(DataError, match="unpack the file, or compress it with gzip"):
            table(tmp_path / name, compress(b"1 2\n"))
    with pytest.raises(DataError, match="is damaged"):
        table(tmp_path / "a.csv.gz", gzip.compress(b"1,2\n" * 1000)[:40])


def test_a_compressed_table_may_expand_by_the_factor_of_the_limits(tmp_path: Path) -> None:
    content = gzip.compress(b"1 1\n" * 2_000_000)
    assert MAX_EXPANSION * len(content) < 8_000_000
    with pytest.raises(DataError, match="expands to more than a compressed file of its size may"):
        table(tmp_path / "a.txt.gz", content)


def test_categories_of_texts_may_have_a_header(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS[:4])
    for text in ("kind\nb\na\nb\na\n", "b\na\nb\na\n", ",kind\n0,b\n1,a\n2,b\n3,a\n"):
        (tmp_path / "c.csv").write_text(text)
        data = load("files", observations=tmp_path / "a.npy", categories=tmp_path / "c.csv")
        np.testing.assert_array_equal(data.categories, [1, 0, 1, 0])
        assert "categories 0 = a, 1 = b" in data.describe()


def test_arrays_of_an_archive_that_are_not_used_are_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", observations=ROWS, labels=np.arange(12), extra=ROWS)
    data = load("files", observations=tmp_path / "a.npz", categories=tmp_path / "a.npz")
    assert "its array observations is used, not labels, extra" in data.describe()
    np.testing.assert_array_equal(data.categories, np.arange(12))


def test_pixels_are_divided_the_same_way_or_on_demand(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    (tmp_path / "a.idx").write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 5, 0, 0, 0, 4]) + pixels.tobytes())
    by_name = load("files", observations=tmp_path / "a.idx")
    assert "pixels of 0 to 255 are divided by 255" in by_name.describe()
    asked = load("files", observations=tmp_path / "a.npy", divide_by=255)
    assert "values are divided by 255" in asked.describe()
    np.testing.assert_array_equal(asked.observations, by_name.observations)
    np.testing.assert_array_equal(load("files", observations=tmp_path / "a.idx", divide_by=1).observations, pixels)


# --- what the modules can use -------------------------------------------------------------------------------------


def model(tmp_path: Path, module: str, values: Any, steps: str = "[m]") -> RunConfig:
    np.save(tmp_path / "a.npy", values)
    (tmp_path / "m.yaml").write_text(
        f"name: a\ndata: {{source: files, observations: a.npy}}\nmodules: {{m: {module}}}\n"
        f"connections: [data -> m]\nschedule: {{rounds: 1, steps: {steps}}}\n"
    )
    config = load_config(tmp_path / "m.yaml")
    check_modules(config.graph, config.load_data())
    return config


PROPORTIONS = np.random.default_rng(0).dirichlet(np.ones(6), 20)
UNFIT: dict[str, tuple[str, Any, str]] = {
    "proportions": ("{type: mlda}", PROPORTIONS, r"20 of 20 rows .*give data a weight.*weights: {data: 100}"),
    "proportions near one": ("{type: mlda}", np.eye(3) * 0.8 + 0.1, "3 of 3 rows"),
    "fractions of counts": ("{type: mlda}", np.full((4, 6), 2.4), "4 of 4 rows"),
    "negative counts": ("{type: mlda}", [[1.0, -2.0]], "negative value -2 in row 1"),
    "pixels": ("{type: vae}", np.full((4, 6), 200, np.uint8), r"200 is above 1 \(row 1\); divide them by 255"),
    "sensors": ("{type: vae}", [[0.5, 0.5], [0.5, -1.5]], r"-1.5 is below 0 \(row 2\)"),
    "a bit too much": ("{type: vae}", [[0.5, 1.000001]], "1.000001 is above 1"),
    "above float32": ("{type: vae, likelihood: mse}", [[1e39, 0.0]], "above 3.40282e.38, the largest"),
    "below float32": ("{type: vae, likelihood: mse}", [[1e-50, 1.0]], "below 1.17549e-38"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "values", "match"), UNFIT.values(), ids=UNFIT)
def test_rows_that_a_module_cannot_use_are_refused_before_anything_starts(
    tmp_path: Path, module: str, values: Any, match: str
) -> None:
    with pytest.raises(ModuleError, match=match):
        model(tmp_path, module, values)


@pytest.mark.parametrize(
    ("module", "values"),
    [
        ("{type: mlda, weights: {data: 20}}", PROPORTIONS),
        ("{type: mlda}", np.arange(12.0).reshape(4, 3)),
        ("{type: mlda}", PROPORTIONS * 100_000),
        ("{type: vae}", [[0.5, 1.0000001]]),
        ("{type: vae}", [[-1e-8, 1.0]]),
        ("{type: vae, likelihood: mse}", [[1e-50, 1.0], [1.0, 1.0]]),
    ],
)
def test_rows_that_a_module_can_use_pass(tmp_path: Path, module: str, values: Any) -> None:
    model(tmp_path, module, values)


@pytest.mark.parametrize(
    "steps",
    [
        "[{module: m, set: {likelihood: mse}}, m]",
        "[{module: m, set: {likelihood: mse}}, {module: m, set: {epochs: 0}}, {module: m, set: {batch_size: 2}}]",
        "[{steps: [{module: m, set: {likelihood: mse}}, {module: m, set: {likelihood: bce}}], repeat: 2}]",
        "[{module: m, set: {epochs: 0}}, {module: m, set: {likelihood: mse}}]",
    ],
)
def test_rows_are_checked_with_what_each_step_sets(tmp_path: Path, steps: str) -> None:
    with pytest.raises(ModuleError, match=r"-1.5 is below 0 \(row 2\)"):
        model(tmp_path, "{type: vae}", [[0.5, 0.5], [0.5, -1.5]], steps)


def test_a_step_that_learns_nothing_uses_rows_as_the_step_before_it(tmp_path: Path) -> None:
    steps = "[{module: m, set: {likelihood: mse}}, {module: m, set: {epochs: 0}}]"
    config = model(tmp_path, "{type: vae}", [[0.5, 0.5], [0.5, -1.5]], steps)
    data = config.load_data()
    check_new_rows(config.graph, data, {"m": {"__set__": '{"likelihood": "mse"}'}})
    with pytest.raises(ModuleError, match=r"-1.5 is below 0 \(row 2\)"):
        check_new_rows(config.graph, data, {"m": {}})


VAE = "{type: vae, likelihood: mse}"


@pytest.mark.parametrize(
    ("module", "factor", "match"),
    [
        (VAE, 1e-12, r"sum to [\d.]+e-24, but likelihood 'mse' assumes a variance of 1.*divide_by: 1e-12"),
        (VAE, 1e6, r"is 1.\d+e.06.*slow to learn.*divide_by: 1e.06"),
        ("{type: vae, likelihood: mse, kl_weight: 10}", 1.0, "nothing can be learnt"),
        ("{type: vae, likelihood: mse, kl_weight: 0.01}", 0.2, ""),
        ("{type: vae, likelihood: mse, epochs: 0}", 1e6, ""),
        (VAE, 1.0, ""),
        (VAE, 50.0, ""),
    ],
)
def test_a_unit_that_does_not_fit_a_likelihood_of_fixed_variance_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, module: str, factor: float, match: str
) -> None:
    model(tmp_path, module, factor * np.random.default_rng(0).normal(size=(300, 2)))
    assert re.search(match, caplog.text)
    assert bool(caplog.records) == bool(match)


# --- right values -------------------------------------------------------------------------------------------------


def three_blobs() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(1)
    labels = np.arange(150) % 3
    return np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])[labels] + generator.normal(size=(150, 2)), labels


def test_a_table_with_its_index_is_clustered_as_without(tmp_path: Path) -> None:
    values, labels = three_blobs()
    pd.DataFrame(values, columns=["x", "y"]).to_csv(tmp_path / "index.csv")
    data = load("files", observations=tmp_path / "index.csv")
    reference = GaussianMixture(3, n_init=5, random_state=0)
    expected = accuracy(reference.fit_predict(values), labels)
    assert expected > 0.97
    assert accuracy(reference.fit_predict(data.observations), labels) == expected


def test_new_rows_are_read_as_those_that_were_learnt_from(tmp_path: Path) -> None:
    NAMED.rename_axis("id").to_csv(tmp_path / "a.csv")
    (tmp_path / "m.yaml").write_text(
        "name: a\ndata: {source: files, observations: a.csv, index: true, divide_by: 2}\n"
        "modules: {gmm: {type: gmm, classes: 2}}\nconnections: [data -> gmm]\nschedule: {rounds: 1}\n"
    )
    config = load_config(tmp_path / "m.yaml")
    new = load_new_rows(config.sources, [str(tmp_path / "a.csv")])
    np.testing.assert_array_equal(new["data"].observations, config.load_data()["data"].observations)
    np.testing.assert_array_equal(new["data"].observations, ROWS / 2)
    kept = load_new_rows(config.sources, [str(tmp_path / "a.csv")], index=False)
    assert kept["data"].observations.shape == (12, 4)


def test_a_masked_row_of_a_script_is_sent_as_missing() -> None:
    observation = srk.Observation(np.ma.masked_array(ROWS, mask=np.arange(12)[:, None] * np.ones(3) == 4), name="data")
    np.testing.assert_array_equal(observation.data.mask, np.arange(12) == 4)
    assert observation.data.describe().endswith("1 row without any value is missing")


def test_fewer_rows_than_classes_are_refused_for_learning_also_above_another_module_but_not_for_recognition(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((3, 6)))
    text = (
        "name: a\ndata: {{source: files, observations: a.npy}}\n"
        "modules: {{p: {{type: pca, latent_dim: 2}}, g: {{type: gmm, classes: {}}}}}\n"
        "connections: {}\nschedule: {{rounds: 1}}\n"
    )
    for connections in ("[data -> p, p -> g]", "[data -> p, data -> g]"):
        (tmp_path / "m.yaml").write_text(text.format(4, connections))
        config = load_config(tmp_path / "m.yaml")
        with pytest.raises(ModuleError, match="module 'g': 3 rows cannot start 4 classes: use at most 3"):
            check_modules(config.graph, config.load_data())
        check_new_rows(config.graph, config.load_data(), {})
        (tmp_path / "m.yaml").write_text(text.format(3, connections))
        config = load_config(tmp_path / "m.yaml")
        check_modules(config.graph, config.load_data())


# --- found by fuzzing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 0.5])
def test_a_float_of_any_width_that_is_no_integer_is_no_category(dtype: str, value: float) -> None:
    """In float16 the bound 2^53 is infinite, so that infinity became the class -2^63."""
    with pytest.raises(DataError, match=r"row 2.*is no integer"):
        check_categories(np.array([1, value], dtype=dtype), "categories")
    assert check_categories(np.array([1, 3], dtype=dtype), "categories")[0].tolist() == [1, 3]


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**53 + 1, 10**5000], ids=["400", "-400", "2^53", "5000"])
def test_an_integer_that_no_float_holds_is_refused_with_its_row(number: int) -> None:
    with pytest.raises(DataError, match=r"row 2: .* (is no|where) float64.*; subtract an offset, or scale"):
        check_observations([[1], [number]], "data")
    with pytest.raises(DataError, match="row 2"):
        check_categories(np.array([1, number if abs(number) > 2**63 else 2**64], dtype=object), "categories")


@pytest.mark.parametrize("given", [{}, {1: 2}, None, object(), 10**400, {1, 2}], ids=type)
def test_a_single_object_is_no_data(given: Any) -> None:
    for check in (lambda: check_observations(given, "data"), lambda: check_observations(given, "data", sequences=True)):
        with pytest.raises(DataError, match=r"^data"):
            check()


@pytest.mark.parametrize(
    "given", [[[1, [2, 3]], [[4], 5]], [[["a"], 1]], [[[1, 2]], [[3], [4, 5]]], [[None, np.zeros(0)]]]
)
def test_sequences_of_rows_of_different_lengths_are_refused(given: Any) -> None:
    with pytest.raises(DataError, match=r"^data"):
        check_observations(given, "data", sequences=True)


class _Failing:
    def __array__(self, *_arguments: Any, **_options: Any) -> Any:
        raise ZeroDivisionError("of its own")


def test_an_object_that_fails_to_convert_itself_is_no_data() -> None:
    with pytest.raises(DataError, match=r"data: is no array of numbers \(of its own\)"):
        check_observations(_Failing(), "data")
