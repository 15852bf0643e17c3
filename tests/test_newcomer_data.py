"""A newcomer's recordings: columns of very different units, missing cells, behaviours that last and overlap."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from runner import GMM, MarkovModel, Model
from runner.cli.app import app
from runner.report.clustering_metrics import score

BEHAVIOURS = np.array(["rest", "walk", "turn", "climb"])
COLUMNS = ["accel", "gyro", "current", "pressure", "light", "angle"]
MEANS = np.array(
    [[0.05, 2, 2e-3, 101325, 310, 0], [1.2, 9, 9e-3, 101322, 290, 0.05], [0.6, 55, 6e-3, 101323, 270, 0.4],
     [1.5, 12, 14e-3, 101290, 300, 0.1]]
)  # fmt: skip
DEVIATIONS = np.array(
    [[0.25, 8, 2e-3, 14, 25, 0.1], [0.5, 10, 3e-3, 14, 25, 0.12], [0.4, 25, 3e-3, 14, 30, 0.2],
     [0.6, 12, 4e-3, 14, 25, 0.12]]
)  # fmt: skip
NEXT = np.array([[0, 0.7, 0.2, 0.1], [0.2, 0, 0.5, 0.3], [0.1, 0.8, 0, 0.1], [0.3, 0.6, 0.1, 0]])


def recordings(seed: int) -> pd.DataFrame:
    """Return twelve sessions of 80 to 260 rows, with 2 % of the cells missing."""
    rng, parts = np.random.default_rng(seed), []
    for session in range(12):
        rows, kinds, kind = int(rng.integers(80, 260)), list[int](), int(rng.integers(4))
        while len(kinds) < rows:
            kinds += [kind] * int(rng.integers(6, 25))
            kind = int(rng.choice(4, p=NEXT[kind]))
        z = np.array(kinds[:rows])
        x = MEANS[z] + rng.normal(size=(rows, 6)) * DEVIATIONS[z]
        x[rng.random(x.shape) < 0.02] = np.nan
        part = pd.DataFrame(x, columns=COLUMNS)
        part.insert(0, "t", np.round(np.arange(rows) * 0.02, 2))
        part.insert(1, "session", f"s{session + 1:02d}")
        part["behaviour"] = BEHAVIOURS[z]
        parts.append(part)
    return pd.concat(parts)


def test_a_model_file_for_them_leaves_the_clock_out_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recordings(1).to_csv("robot.csv", index=False, float_format="%.6g")
    words = ["new-model", "robot.csv", "--lengths", "session", "--labels", "behaviour", "--no-ask"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "1,967 rows × 6 columns in 12 sequences" in done.output
    assert "column 1 ('t'), a time, is left out" in done.output
    assert "232 values are missing in 222 rows" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_behaviours_are_found_in_them_as_they_are(seed):
    data = {"sequence_column": "session", "category_column": "behaviour"}
    model = Model(gmm=GMM(4, prior_scale="data"), mm=MarkovModel(estimate="variational"), data=data, seed=seed)
    model.fit(recordings(1), progress=False)
    assert model.run.summary["accuracy"] > 0.995
    new = recordings(2)
    assert score(model.predict(new), pd.factorize(new["behaviour"])[0]).accuracy > 0.98
