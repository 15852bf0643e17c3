"""Test the tables of a run: what each class is, what each row is, and covariances as text."""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import invwishart

from actors.kernels.mixture.columns import choose_columns, identity
from actors.kernels.mixture.niw import NIWPrior, posterior_from_labels
from actors.modules.mixture.class_states import Classes, expected_covariances, pack
from runner.data.intake import check_categories
from runner.report.category_names import NamedCategories, category_name, storable
from runner.runs.tables import class_table, read_class_table, row_table
from tests.runner.commands.test_places import serket

PICTURES = """name: arm
data: {source: files, observations: x.txt, categories: c.txt}
modules: {pca: {type: pca, latent_dim: 2}, gmm: {type: gmm, classes: 2, iterations: 3, start: kmeans}}
connections: [data -> pca -> gmm]
schedule: {rounds: 1}
report: false
"""
CLASSES = np.array([2, 2, 0, 0, 0, 1])
NAMED = NamedCategories(np.array([0, 0, 1, 1, 0, 0]), ["grasp", "lift, high"])


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_categories_of_classes_are_read_back_by_name():
    assert read_class_table(class_table(CLASSES, NAMED)) == {0: "lift, high", 2: "grasp"}
    assert read_class_table(class_table(CLASSES, np.array([5, 5, 7, 7, 5, 9]))) == {0: "7", 1: "9", 2: "5"}
    for damaged in ("", "a,b,c\n1,2,3\n", "class,category,name\n1\n", 'class,category,name\nx,1,"y"\n'):
        with pytest.raises(ValueError, match=r".+"):
            read_class_table(damaged)


def test_generated_pictures_are_titled_with_the_categories_of_their_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds = np.arange(40) % 2
    np.savetxt("x.txt", np.random.default_rng(0).normal(size=(40, 4)) + 9.0 * kinds[:, None])
    Path("c.txt").write_text("".join(f"{['reach', 'grasp'][k]}\n" for k in kinds))
    Path("model.yaml").write_text(PICTURES)
    serket("run", "model.yaml", "--local")
    titles = []
    monkeypatch.setattr("runner.commands.generate.draw_images", lambda *given: titles.extend(given[2]))
    serket("generate", "arm", "--length", "30")
    assert set(titles) == {"class 0 = reach", "class 1 = grasp"} or set(titles) == {
        "class 0 = grasp",
        "class 1 = reach",
    }
    (tmp_path / "runs/arm/module002_gmm/classes_learn.csv").write_text("damaged")
    titles.clear()
    serket("generate", "arm", "--length", "30")
    assert set(titles) == {"class 0", "class 1"}


def test_each_class_has_the_category_to_which_it_is_matched_and_its_name():
    lines = read(class_table(CLASSES, NAMED))
    assert [tuple(line.values()) for line in lines] == [
        ("0", "1", "lift, high", "3", "2"),
        ("1", "", "", "1", ""),
        ("2", "0", "grasp", "2", "2"),
    ]
    assert read(class_table(CLASSES, np.asarray(NAMED)))[0]["name"] == "1"


def test_each_row_has_its_sequence_its_place_in_it_its_category_and_its_classes():
    lines = read(row_table(6, np.array([4, 2]), {"gmm": CLASSES, "mm": CLASSES[::-1]}, NAMED))
    assert [line["sequence"] for line in lines] == ["0"] * 4 + ["1"] * 2
    assert [line["place"] for line in lines] == ["0", "1", "2", "3", "0", "1"]
    assert lines[2] == {
        "row": "2", "sequence": "0", "place": "2", "category": "lift, high", "class_gmm": "0", "class_mm": "0",
    }  # fmt: skip
    assert list(read(row_table(6, None, {"gmm": CLASSES}, None))[5].values()) == ["5", "0", "5", "1"]


def test_categories_that_are_texts_keep_their_names_where_they_are_taken_from_and_stored():
    labels, _ = check_categories(["b", "a", "b"], "labels")
    assert labels.tolist() == [1, 0, 1]
    assert [category_name(labels, k) for k in (0, 1, 2)] == ["a", "b", "2"]
    assert category_name(labels[1:], 0) == "a"
    assert storable(labels).tolist() == ["b", "a", "b"]
    assert check_categories(storable(labels), "again")[0].tolist() == [1, 0, 1]
    numbers, _ = check_categories([3, 4], "labels")
    assert storable(numbers) is numbers


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e6])
def test_covariances_are_the_mean_of_the_inverse_wishart_posterior_in_the_units_of_the_rows(scale):
    generator = np.random.default_rng(0)
    rows = scale * generator.normal(size=(200, 2)) @ np.array([[2.0, 0.0], [1.0, 0.5]])
    labels = np.repeat([0, 1], 100)
    constant = np.column_stack([rows[:, 0], np.full(200, 3.0), rows[:, 1]])
    columns = choose_columns(constant, np.float64)
    internal = columns.internal(constant)
    prior = NIWPrior(internal.mean(axis=0), 1.0, 4.0, 0.1 * np.diag(internal.var(axis=0)))
    classes = Classes(posterior_from_labels(internal, labels, 2, prior), prior, columns)
    found = expected_covariances(pack(classes))
    assert found.shape == (2, 3, 3)
    assert not found[:, 1].any()
    units = np.ldexp(1.0, columns.exponent[columns.kept])
    for k in range(2):
        expected = invwishart(104.0, classes.factors.scale[k]).mean() * units * units[:, None]
        np.testing.assert_allclose(found[k][np.ix_([0, 2], [0, 2])], expected, rtol=1e-12)
    np.testing.assert_allclose(found[0][0, 0], np.var(rows[:100, 0]), rtol=0.05)  # few rows' worth of prior


def test_a_covariance_that_does_not_exist_is_not_a_number():
    prior = NIWPrior(np.zeros(2), 1.0, 2.5, np.eye(2))
    classes = Classes(posterior_from_labels(np.zeros((1, 2)), [0], 2, prior), prior, identity(2))
    found = expected_covariances(pack(classes))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
    assert expected_covariances({"labels": np.zeros(3)}) is None


MODEL = """
name: arm
data: {source: files, observations: arm.csv, sequence_column: trial, category_column: activity}
modules:
  gmm: {type: gmm, classes: 2, iterations: 2}
  mm: {type: markov}
connections: [data -> gmm, gmm -> mm]
schedule: {rounds: 1}
"""


def test_a_run_leaves_tables_with_the_names_of_categories_and_draws_pictures_in_any_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(1)
    kinds = np.tile(np.repeat([0, 1], 8), 4)
    table = pd.DataFrame(generator.normal(size=(64, 2)) + 9.0 * kinds[:, None], columns=["force", "angle"])
    table["trial"] = np.repeat(["one", "two"], 32)
    table["activity"] = np.where(kinds, "wipe", "hold")
    table.to_csv("arm.csv", index=False)
    (tmp_path / "model.yaml").write_text(MODEL)
    serket("run", "model.yaml", "--local")
    rows = pd.read_csv("runs/arm/rows_learn.csv")
    assert rows["sequence"].tolist() == [0] * 32 + [1] * 32
    assert rows["place"].tolist() == [*range(32), *range(32)]
    assert rows["category"].tolist() == table["activity"].tolist()
    of_classes = pd.read_csv("runs/arm/module001_gmm/classes_learn.csv").set_index("class")["name"]
    assert of_classes[rows["class_gmm"]].tolist() == table["activity"].tolist()
    covariances = np.loadtxt("runs/arm/module001_gmm/covariances_learn.txt").reshape(2, 2, 2)
    whole = table[["force", "angle"]].to_numpy()
    for k in range(2):  # the posterior of Murphy (2007), eq. 254, with r0 = 1 and nu0 = D + 2
        own = whole[rows["class_gmm"] == k]
        apart = own.mean(axis=0) - whole.mean(axis=0)
        count = len(own)
        scale = 0.1 * np.eye(2) + count * np.cov(own.T, bias=True) + count / (count + 1) * np.outer(apart, apart)
        np.testing.assert_allclose(covariances[k], scale / (count + 1), rtol=1e-6)
    serket("report", "arm")
    assert ">wipe<" in (tmp_path / "runs/arm/report.html").read_text()
    said = serket("report", "arm", "--pictures", "drawn")
    assert said.splitlines() == [f"drawn/{name}.svg" for name in ("progress", "confusion", "transitions", "states")]
    for name in ("confusion", "transitions", "states"):
        assert "hold" in (tmp_path / f"drawn/{name}.svg").read_text()
    assert "--format gif: give one of png, svg, pdf" in serket(
        "report", "arm", "--pictures", "x", "--format", "gif", code=2
    )
    serket("recognize", "arm", "arm.csv", "--out", "again")
    assert pd.read_csv("again/rows_recog.csv")["category"].tolist() == table["activity"].tolist()
