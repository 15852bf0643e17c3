"""Test the script of the tutorial as printed in the README: it runs and writes its files."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runner.data.datasets import load

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ray


def readme_script() -> str:
    match = re.search(r"```python\n(import runner as srk.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert match, "the README does not contain the tutorial script"
    return match.group(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run the script on 200 digits for two epochs and two rounds; return its working directory."""
    folder = tmp_path_factory.mktemp("tutorial")
    data = load("mnist", count=200, order="cyclic")
    np.savetxt(folder / "data.txt", data.observations, fmt="%.6f")
    np.savetxt(folder / "category.txt", data.categories, fmt="%d")
    script = readme_script().replace("itr=200, batch_size=500", "itr=2, batch_size=50").replace("range(5)", "range(2)")
    (folder / "tutorial.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "tutorial.py"], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_script_is_that_of_the_tutorial_except_for_the_imports_and_a_typo():
    tutorial = """
obs = srk.Observation( np.loadtxt( "data.txt" ) )
data_category = np.loadtxt( "category.txt" )

vae1 = vae.VAE( 18, itr=200, batch_size=500 )
gmm1 = gmm.GMM( 10, category=data_category )
mm1 = mm.MarkovModel()

vae1.connect( obs )  # connect obs to vae1
gmm1.connect( vae1 )  # connect vae1 to gmm1
mm1.connect( gmm1 )  # connect gmm1 to mm1

for i in range(5):
    vae1.update()  # train vae1
    gmm1.update()  # train gmm1
    mm1.update()  # train mm1
"""
    assert tutorial.strip() in readme_script()


@pytest.mark.parametrize(
    ("file", "shape"),
    [
        ("module001_vae/z_learn.txt", (200, 18)),
        ("module001_vae/loss.txt", (4,)),
        ("module002_gmm/class_learn.txt", (200,)),
        ("module002_gmm/Pdz_learn.txt", (200, 10)),
        ("module002_gmm/mu_learn.txt", (10, 18)),
        ("module002_gmm/acc_learn.txt", ()),
        ("module003_mm/trans_prob_learn.txt", (10, 10)),
        ("module003_mm/msg_learn.txt", (200, 10)),
    ],
)
def test_it_writes_files_that_numpy_reads(trained, file, shape):
    assert np.loadtxt(trained / file).shape == shape


def test_it_writes_the_models_and_the_reconstructions(trained):
    assert np.load(trained / "module001_vae" / "x_hat_learn.npy").shape == (200, 784)
    for module in ("module001_vae", "module002_gmm", "module003_mm"):
        assert (trained / module / "model.safetensors").stat().st_size > 0


def test_rows_of_probabilities_sum_to_one(trained):
    for file in ("module002_gmm/Pdz_learn.txt", "module003_mm/trans_prob_learn.txt", "module003_mm/msg_learn.txt"):
        np.testing.assert_allclose(np.loadtxt(trained / file).sum(1), 1.0, atol=1e-5)
