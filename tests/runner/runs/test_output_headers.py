"""Output files: .npy, a text beside small ones, several for many rows, those of earlier versions, and damaged ones."""

import io
import itertools

import numpy as np
import pytest

from actors.errors import ModuleError
from actors.sharing.chunks import OutputNames, ShardedOutputs
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


def written(tmp_path, directory="module001_gmm"):
    return sorted(str(path.relative_to(tmp_path / directory)) for path in (tmp_path / directory).rglob("*.*"))


SHAPES = {
    (3,): True, (3, 2): True, (3, 200): True, (100_000,): True, (0, 2): True, (3, 201): False, (3, 2, 2): False,
}  # fmt: skip
"""Shapes of outputs, and whether there is a text."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["class", "x_hat"])
def test_each_output_is_one_npy_file_and_a_small_one_also_a_text(tmp_path, name, shape):
    files, rows = RunFiles(tmp_path), np.arange(np.prod(shape)).reshape(shape) / 7
    said = write_arrays(files, "gmm", "module001_gmm", {name: rows}, "learn")
    assert written(tmp_path) == [f"{name}_learn.npy", f"{name}_learn.txt"][: 1 + SHAPES[shape]]
    read = np.load(tmp_path / "module001_gmm" / f"{name}_learn.npy", mmap_mode="r" if rows.size else None)
    np.testing.assert_array_equal(read, rows)
    np.testing.assert_array_equal(read_array(files, "module001_gmm", name, "learn"), rows)
    if SHAPES[shape] and rows.size:
        text = np.loadtxt(tmp_path / "module001_gmm" / f"{name}_learn.txt", ndmin=1)
        np.testing.assert_allclose(text.reshape(shape), rows, rtol=1e-7)
    assert said == {}


@pytest.mark.parametrize("shape", [(100_001,), (230_000, 2), (100_001, 2, 3)])
def test_long_outputs_are_written_as_several_npy_files_and_said_to_be(tmp_path, shape):
    files, rows = RunFiles(tmp_path), np.arange(np.prod(shape)).reshape(shape)
    said = write_arrays(files, "gmm", "module001_gmm", {"class": rows}, "learn")
    starts = range(0, shape[0], 100_000)
    assert written(tmp_path) == [f"class_learn/{first:09d}.npy" for first in starts]
    own = tmp_path / "module001_gmm" / "class_learn"
    np.testing.assert_array_equal(np.concatenate([np.load(path) for path in sorted(own.iterdir())]), rows)
    np.testing.assert_array_equal(read_array(files, "module001_gmm", "class", "learn"), rows)
    assert f"class_learn: {shape[0]:,} rows are not written as text but as .npy files of 100,000 rows" in said["long"]


def test_files_of_versions_up_to_0_2_are_read_and_replaced(tmp_path):
    files, rows = RunFiles(tmp_path), np.arange(250_000.0).reshape(-1, 2)
    own = tmp_path / "m"
    own.mkdir()
    np.savetxt(own / "mu_learn.txt", rows[:3])
    np.save(own / "x_hat_learn.npy", rows[:3])
    for name in ("mu", "x_hat"):
        np.testing.assert_array_equal(read_array(files, "m", name, "learn"), rows[:3])
    write_arrays(files, "gmm", "m", {"x_hat": rows, "mu": rows[:2]}, "learn")
    assert written(tmp_path, "m") == [
        "mu_learn.npy", "mu_learn.txt", "x_hat_learn/000000000.npy", "x_hat_learn/000100000.npy",
    ]  # fmt: skip
    np.testing.assert_array_equal(read_array(files, "m", "mu", "learn"), rows[:2])


def test_outputs_in_parts_are_written_part_by_part_to_the_same_files(tmp_path):
    generator, cuts = np.random.default_rng(0), [0, 90_000, 110_000, 111_000, 250_001]
    z, classes = generator.normal(size=(250_001, 2)), generator.integers(0, 5, 250_001)
    means, sample = generator.normal(size=(5, 2)), np.array([3, 95_000, 240_000])
    parts = []
    for first, end in itertools.pairwise(cuts):
        inside = sample[(sample >= first) & (sample < end)]
        own = {"z": z[first:end], "class": classes[first:end], "mu": means, "x_hat": z[inside], "x_hat_rows": inside}
        own["log_evidence"] = np.array([[float(first), first == 0], [1.0, 1.0]])  # a piece, and a sequence of its own
        parts.append(own)
    names = OutputNames(("z", "class"), ("log_evidence",), ("x_hat", "x_hat_rows"))
    sharded = ShardedOutputs(tuple(parts), tuple(cuts[:-1]), (False,) * 4, names, cuts[-1])
    files = RunFiles(tmp_path)
    said = write_arrays(files, "vae", "parts", sharded, "learn")
    whole = {"z": z, "class": classes, "mu": means, "x_hat": z[sample], "x_hat_rows": sample}
    write_arrays(files, "vae", "whole", {**whole, "log_evidence": sharded["log_evidence"]}, "learn")
    assert written(tmp_path, "parts") == written(tmp_path, "whole")
    for name in written(tmp_path, "parts"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "x_hat has 3 of the rows" in said["x_hat"]
    assert sharded["log_evidence"].tolist() == [0.0, 90_001.0, 110_001.0, 111_001.0, 1.0]


@pytest.mark.parametrize("second", [np.zeros((60_000, 3)), np.zeros((60_000, 2), complex), np.zeros((50_000, 2))])
def test_parts_that_do_not_fit_together_are_refused(tmp_path, second):
    parts = ({"z": np.zeros((60_000, 2))}, {"z": second})
    sharded = ShardedOutputs(parts, (0, 60_000), (False,) * 2, OutputNames(("z",)), 120_000)
    with pytest.raises(ModuleError, match=r"module 'vae': its output z(_learn)? has .*, expected"):
        write_arrays(RunFiles(tmp_path), "vae", "m", sharded, "learn")


def test_what_an_output_was_before_is_deleted(tmp_path):
    files = RunFiles(tmp_path)
    for rows in (10, 250_000, 150_000, 10):
        write_arrays(files, "gmm", "module001_gmm", {"class": np.arange(rows)}, "recog")
        assert read_array(files, "module001_gmm", "class", "recog").size == rows
    assert written(tmp_path) == ["class_recog.npy", "class_recog.txt"]
    assert not (tmp_path / "module001_gmm" / "class_recog").exists()


def test_a_directory_of_rows_that_is_a_link_is_refused(tmp_path):
    files = RunFiles(tmp_path)
    write_arrays(files, "gmm", "m", {"mu": np.zeros((150_000, 2))}, "learn")
    (tmp_path / "m" / "mu_learn").rename(tmp_path / "elsewhere")
    (tmp_path / "m" / "mu_learn").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match="mu_learn: cannot be read"):
        read_array(files, "m", "mu", "learn")
    with pytest.raises(OSError, match="is a link"):
        write_arrays(files, "gmm", "m", {"mu": np.zeros((150_000, 2))}, "learn")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2


@pytest.mark.parametrize("damage", ["missing", "shape", "text", "link"])
def test_damaged_files_of_rows_are_refused(tmp_path, damage):
    files = RunFiles(tmp_path)
    write_arrays(files, "gmm", "m", {"mu": np.zeros((250_000, 2))}, "learn")
    second = tmp_path / "m" / "mu_learn" / "000100000.npy"
    second.unlink()
    if damage == "shape":
        np.save(second, np.zeros((100_000, 3)))
    elif damage == "text":
        second.write_text("1 2 3")
    elif damage == "link":
        second.symlink_to("000000000.npy")
    with pytest.raises(RunDirectoryError, match=r"000[12]00000\.npy: cannot be read"):
        read_array(files, "m", "mu", "learn")
