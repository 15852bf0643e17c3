"""Test the example scripts of the SERKET toolkits: they run with their import lines changed, and find the categories.

The data are made here, in the form of the originals: pictures, histograms of sound and of features, sound files.
"""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from runner import script, script_run

SCRIPTS = Path(__file__).parent / "reference_scripts"
ROWS = 300


def pictures(generator, labels, noise=0.05):
    """Draw binary 8×8 pictures of ten prototypes, with some pixels flipped."""
    prototypes = generator.random((10, 64)) < 0.4
    return (prototypes[labels] ^ (generator.random((len(labels), 64)) < noise)).astype(float)


def histograms(generator, labels, words, tokens):
    """Draw counts of words, from one distribution for each label."""
    topics = generator.dirichlet(np.full(words, 0.2), labels.max() + 1)
    return np.array([generator.multinomial(tokens, topics[label]) for label in labels])


def write_tables(folder, **tables):
    folder.mkdir(exist_ok=True)
    for name, values in tables.items():
        np.savetxt(folder / f"{name}.txt", values, fmt="%g")


def write_sounds(generator):
    """Write three words of three tones each, each spoken three times at a slightly different pitch."""
    words = ((220, 440, 880), (1760, 330, 660), (500, 2500, 1200))
    time = np.arange(4000) / 8000
    for digit, tones in enumerate(words):
        for take in range(3):
            parts = [np.sin(2 * np.pi * tone * generator.uniform(0.98, 1.02) * time) for tone in tones]
            sound = np.concatenate(parts) + 0.02 * generator.normal(size=12000)
            wavfile.write(f"{digit}_speaker_{take}.wav", 8000, (8000 * sound).astype(np.int16))


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """Return a function that runs a script, all modules in this process, in a directory with its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERKET_LOCAL", "1")
    monkeypatch.setattr(script_run.ScriptRun, "_next_number", 0)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(name, *changes):
        source = (SCRIPTS / f"{name}.py").read_text()
        for before, after in changes:
            assert before in source
            source = source.replace(before, after)
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setattr(sys, "argv", [f"{name}.py"])
        runpy.run_path(f"{name}.py", run_name="__main__")
        return {path.parent.name: float(path.read_text()) for path in sorted(Path().glob("module*/acc_learn.txt"))}

    return run


@pytest.fixture
def generator():
    return np.random.default_rng(1)


def test_hmm(run_script, generator):
    labels = np.arange(ROWS) % 4
    points = np.array([[0, 0], [6, 0], [0, 6], [6, 6]])[labels] + generator.normal(size=(ROWS, 2))
    write_tables(Path(), data=points, correct=labels)
    accuracy = run_script("hmm")
    assert sorted(path.name for path in Path().glob("module*")) == ["module001_gmm", "module002_gmm", "module003_mm"]
    assert min(accuracy.values()) > 0.95


def picture_data(generator, folder=Path()):
    labels = np.arange(ROWS) % 10
    data = pictures(generator, labels)
    targets = np.eye(10)[labels]
    write_tables(folder, data=data, data1=data, data2=histograms(generator, labels, 50, 200), category=labels)
    return labels, targets


FEW = (("epoch=200", "epoch=100"), ("itr1=500", "itr1=150"), ("range(10)", "range(2)"))
KMEANS = ("gmm.GMM(", 'gmm.GMM(start="kmeans", prior_scale="data", classes=')


@pytest.mark.slow
def test_vae_gmm(run_script, generator):
    picture_data(generator)
    assert run_script("vae_gmm")["module002_gmm"] > 0.95


@pytest.mark.slow
def test_vae_gmm_finds_the_pictures_from_a_start_by_k_means(run_script, generator):
    picture_data(generator)
    accuracy = run_script("vae_gmm", KMEANS, ("epoch=200", "epoch=100"), ("range(5)", "range(2)"))
    assert accuracy["module002_gmm"] > 0.95


@pytest.mark.slow
def test_vae_gmm_mm(run_script, generator):
    picture_data(generator)
    assert run_script("vae_gmm_mm")["module002_gmm"] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae_gmm_mlda", "vae_gmm_mlda_mm"])
def test_vae_gmm_mlda(run_script, generator, name):
    picture_data(generator)
    accuracy = run_script(name)
    assert accuracy["module003_gmm"] > 0.95
    assert accuracy["module004_mlda"] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), [("vae_gmm_nn", "."), ("vae_gmm_nn_pytorch", "data")])
def test_vae_gmm_nn(run_script, generator, name, folder):
    _, targets = picture_data(generator, Path(folder))
    write_tables(Path(folder), data2=targets)
    assert run_script(name)["module003_gmm"] > 0.95


def test_networks_of_a_script_are_built_from_its_methods(run_script, generator):
    """In few rounds, and with a start that finds the pictures, the network predicts the labels from the classes."""
    labels, targets = picture_data(generator, Path("data"))
    write_tables(Path("data"), data2=targets)
    accuracy = run_script("vae_gmm_nn_pytorch", KMEANS, *FEW)
    assert accuracy["module003_gmm"] > 0.95
    predicted = np.loadtxt("module004_network/y_hat_learn.txt")
    assert np.mean(predicted.argmax(axis=1) == labels) > 0.95
    reconstructed = np.loadtxt("module002_vae/x_hat_learn.txt")
    assert np.mean((reconstructed - np.loadtxt("data/data1.txt")) ** 2) < 0.1


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_mmlda(run_script, generator, rounds):
    objects = np.repeat(np.arange(10), 5)
    motions = (7 * objects + 3) % 10
    write_tables(
        Path(),
        dsift=histograms(generator, objects, 100, 2000),
        mfcc=histograms(generator, objects, 50, 220),
        tactile=histograms(generator, objects, 15, 170),
        angle=histograms(generator, motions, 70, 130),
        object_category=objects,
        motion_category=motions,
    )
    accuracy = run_script("mmlda", ("range(5)", f"range({rounds})"))
    assert len(accuracy) == 2
    assert min(accuracy.values()) > 0.9


@pytest.mark.slow
def test_a_chain_of_mldas(run_script, generator):
    labels = np.repeat(np.arange(10), 5)
    tables = {f"data{i:03d}": histograms(generator, labels, 10, 1000) for i in range(5)}
    write_tables(Path(), data_category=labels, **tables)
    accuracy = run_script("mmlda_chain")
    assert len(accuracy) == 5
    assert min(accuracy.values()) > 0.95


def test_hac_lda(run_script, generator):
    write_sounds(generator)
    assert run_script("hac_lda")["module001_mlda"] == 1.0


def test_features_of_images_are_refused_with_what_to_do_instead(run_script):
    with pytest.raises(ImportError, match=r"compute them with a network of your choice.*give the histograms to Obs"):
        run_script("mmlda_cnn")


def test_ros_is_refused_with_what_to_do_instead(run_script, monkeypatch):
    monkeypatch.setitem(sys.modules, "rospy", type(sys)("rospy"))
    with pytest.raises(ImportError, match=r"topics of ROS need a ROS installation|features of images"):
        run_script("ros_image_categorization")


def test_accuracies_of_several_labelled_modules_are_in_the_metrics_and_the_log(run_script, generator, capsys):
    objects = np.repeat(np.arange(3), 10)
    write_tables(Path(), a=histograms(generator, objects, 20, 100), b=histograms(generator, objects, 20, 100))
    first, second = (script.Observation(np.loadtxt(name)) for name in ("a.txt", "b.txt"))
    lower, upper = script.MLDA(3, name="lower", category=objects), script.MLDA(3, name="upper", category=objects)
    lower.connect(first)
    upper.connect(lower, second)
    for module in (lower, upper):
        module.update()
    directory = lower._model.directory
    rows = directory.metrics_file.rows()
    assert [set(row) - {"round", "evidence", "score", "accuracy", "ari", "nmi", "ece"} for row in rows] == [
        {"accuracy_lower", "accuracy_upper"}
    ] * 2
    assert [row["accuracy_upper"] for row in rows] == [None, 1.0]
    assert rows[1]["accuracy_lower"] == float(Path("module002_lower/acc_learn.txt").read_text())
    assert "lower accuracy=1.000  upper accuracy=1.000" in capsys.readouterr().err
    scored = [json.loads(line) for line in (directory.path / "events.jsonl").read_text().splitlines()]
    assert [event["accuracies"] for event in scored if event["event"] == "scores"][-1] == {"lower": 1.0, "upper": 1.0}
