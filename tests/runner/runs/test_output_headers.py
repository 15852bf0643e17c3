"""Output files whose .npy header is damaged."""

import io

import numpy as np
import pytest

from runner.runs.outputs import parse_npy, read_array
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
