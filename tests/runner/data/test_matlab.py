"""Files of MATLAB: the variable that has the rows, and what is refused."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from runner.data import matlab
from runner.data.datasets import Dataset, load
from runner.data.errors import DataError
from runner.data.tables import TableOptions

ROWS = np.arange(12.0).reshape(4, 3) / 7


def _load(path: Path, variable: str | None = None, **options: Any) -> Dataset:
    return load("files", observations=path, table=TableOptions(variable=variable), **options)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_variable_is_found_by_its_name_or_as_the_only_array(tmp_path: Path, compressed: bool) -> None:
    savemat(tmp_path / "one.mat", {"recording": ROWS, "place": "lab"}, do_compression=compressed)
    savemat(
        tmp_path / "x.mat",
        {"X": ROWS, "other": ROWS + 1, "labels": [[3, 3, 5, 5]], "lengths": [[1], [3]]},
        do_compression=compressed,
    )
    data = _load(tmp_path / "x.mat", categories=tmp_path / "x.mat", lengths=tmp_path / "x.mat")
    assert np.array_equal(data.observations, ROWS)
    assert data.categories.tolist() == [3, 3, 5, 5]
    assert data.lengths.tolist() == [1, 3]
    assert data.notes == ("its variable X is used, not other, labels, lengths",)
    assert np.array_equal(_load(tmp_path / "one.mat").observations, ROWS)
    assert np.array_equal(_load(tmp_path / "x.mat", "other").observations, ROWS + 1)


@pytest.mark.parametrize(
    ("variables", "variable", "message"),
    [
        ({"a": ROWS, "b": ROWS}, None, "holds a, b; name one by data.variable"),
        ({"a": ROWS}, "c", "has no variable 'c', but a"),
        ({"a": {"x": ROWS}}, "a", "is of MATLAB's type struct"),
        ({"a": ROWS * 1j}, "a", "holds complex numbers"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(
    tmp_path: Path, variables: dict[str, Any], variable: str | None, message: str
) -> None:
    savemat(tmp_path / "x.mat", variables)
    with pytest.raises(DataError) as caught:
        _load(tmp_path / "x.mat", variable)
    assert message in str(caught.value)


def test_damaged_and_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab, "expanded_limit", lambda size: 100 * size)
    file = tmp_path / "x.mat"
    savemat(file, {"x": np.random.default_rng(0).normal(size=(50, 3))}, do_compression=True)
    whole = file.read_bytes()
    bomb = zlib.compress(bytes(4 << 20), 9)
    for content, message in (
        (whole[:-9], "a variable is cut off"),
        (b"MATLAB 7.3 MAT-file".ljust(126) + b"IM", "version 7.3"),
        (b"plain text", "is not a .mat file"),
        (whole[:128] + b"\x0f\0\0\0" + len(bomb).to_bytes(4, "little") + bomb, "expands to more than"),
        (whole[:140] + bytes(40) + whole[180:], "is damaged"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            _load(file)


def test_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(DataError, match=r"pickles are never read, as they can run code; .*to_parquet or to_csv"):
        _load(tmp_path / "x.pkl")
