"""Output files whose .npy header is damaged."""

import io

import numpy as np
import pytest

from runner.runs.outputs import read_array
from runner.runs.run_files import RunDirectoryError, RunFiles


def test_a_header_with_an_open_bracket_is_refused(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.ones((6, 2)))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mu_learn.npy").write_bytes(stream.getvalue().replace(b"(6, 2), }", b"(6,<KL2  "))
    with pytest.raises(RunDirectoryError, match=r"mu_learn\.npy: cannot be read"):
        read_array(RunFiles(tmp_path), "m", "mu", "learn")
