"""Output files: long ones as .npy, and those whose .npy header is damaged."""

import io

import numpy as np
import pytest

from runner.runs.outputs import parse_npy, read_array, write_arrays
from runner.runs.run_files import RunDirectoryError, RunFiles


def test_a_header_with_an_open_bracket_is_refused(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.ones((6, 2)))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mu_learn.npy").write_bytes(stream.getvalue().replace(b"(6, 2), }", b"(6,<KL2  "))
    with pytest.raises(RunDirectoryError, match=r"mu_learn\.npy: cannot be read"):
        read_array(RunFiles(tmp_path), "m", "mu", "learn")


@pytest.mark.parametrize(
    "shape", [b"(6,<KL2  ", b"(6, 2" + b" " * 4, b"(6, 2)" + b"\x00" * 3, b"(6, -2), ", b"((((((((("]
)
def test_whatever_is_wrong_with_a_header_is_a_value_error(shape):
    np.save(stream := io.BytesIO(), np.ones((6, 2)))
    assert b"(6, 2), }" in stream.getvalue()
    with pytest.raises(ValueError, match=r"\w"):
        parse_npy(stream.getvalue().replace(b"(6, 2), }", shape))


@pytest.mark.parametrize(("shape", "suffix"), [((100_000,), "txt"), ((100_001,), "npy"), ((100_001, 2), "npy")])
def test_long_outputs_are_written_for_numpy_load_and_said_to_be(tmp_path, caplog, shape, suffix):
    files = RunFiles(tmp_path)
    (tmp_path / "module001_gmm").mkdir()
    rows = np.arange(np.prod(shape)).reshape(shape)
    write_arrays(files, "gmm", "module001_gmm", {"class": rows}, "learn")
    assert [path.name for path in (tmp_path / "module001_gmm").iterdir()] == [f"class_learn.{suffix}"]
    np.testing.assert_array_equal(read_array(files, "module001_gmm", "class", "learn").reshape(shape), rows)
    assert ("100,001 rows are not written as text; read them with numpy.load" in caplog.text) == (suffix == "npy")
