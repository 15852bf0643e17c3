"""Test the spellings of the SERKET toolkits, what scripts load, and modules whose rows are groups."""

import numpy as np
import pytest

from actors.errors import GraphError, ModuleError
from runner import script, script_run
from runner.data.datasets import load
from runner.runs.run_files import RunDirectoryError
from runner.script import GMM, MLDA, VAE, MarkovModel, Network, Observation, TorchNN, TorchVAE
from runner.user_networks import definitions
from tests.support.group_module import SIZE


@pytest.fixture(autouse=True)
def _own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERKET_LOCAL", "1")
    monkeypatch.setattr(script_run.ScriptRun, "_next_number", 0)


@pytest.fixture
def points():
    """Two separate clusters, in turn, and their labels."""
    labels = np.arange(60) % 2
    return np.random.default_rng(3).normal(size=(60, 2)) + 8.0 * labels[:, None], labels


@pytest.mark.parametrize(
    ("handle", "expected"),
    [
        (lambda: VAE(18, epoch=7), {"latent_dim": 18, "epochs": 7}),
        (lambda: VAE(18, 7, "pictures", None, 2, "MSE"), {"batch_size": None, "kl_weight": 2.0, "likelihood": "mse"}),
        (lambda: VAE(18, KLD_weight=0.5, loss_step=50), {"kl_weight": 0.5}),
        (lambda: VAE(18, KL_param=0.5), {"kl_weight": 0.5}),
        (lambda: VAE(18, hidden_encoder_dim=9, hidden_decoder_dim=7), {"hidden": 9, "hidden_decoder": 7}),
        (lambda: TorchVAE(784, 10, 1e-2, "cpu", 5), {"latent_dim": 10, "learning_rate": 1e-2, "epochs": 5}),
        (lambda: GMM(K=4), {"classes": 4}),
        (lambda: GMM(4, 30), {"classes": 4, "iterations": 30}),
        (lambda: MarkovModel(50), {"num_samp": 50}),
        (lambda: MLDA(K=6, itr=20), {"topics": 6, "iterations": 20}),
        (
            lambda: Network(itr1=3, itr2=4, batch_size1=5, batch_size2=6),
            {"epochs": 3, "input_steps": 4, "batch_size": 5},
        ),
        (lambda: TorchNN(5, 6, 3, 4, 1e-2), {"epochs": 3, "input_steps": 4, "batch_size": 5, "learning_rate": 1e-2}),
    ],
)
def test_a_spelling_means_the_parameter(handle, expected):
    parameters = handle().parameters
    assert {name: parameters[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: VAE(18, weight_stddev=0.1), ModuleError, "weight_stddev=0.1 cannot be honoured: initial weights are"),
        (lambda: VAE(18, RE="L1"), ModuleError, "^VAE: likelihood: expected 'bce' or 'mse', got 'l1'$"),
        (lambda: VAE(18, 5, epoch=5), TypeError, "epoch is given twice, by position and by name"),
        (lambda: VAE(18, itr=5, epoch=5), TypeError, "itr and epoch are the same parameter"),
        (lambda: VAE(18, device="tpu"), ModuleError, "device='tpu' is not known; use 'cpu' or 'cuda'"),
        (lambda: Network(seaquence_size=3), ModuleError, "seaquence_size=3 cannot be honoured: rows are predicted"),
        (lambda: GMM(10, mode="recog"), ModuleError, "give load_dir='module001_…'"),
        (lambda: GMM(1, 2, "a", None, None, 6), TypeError, "takes at most 5 positional arguments"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_weights_go_to_the_modalities_in_the_order_of_connection():
    counts = np.random.default_rng(0).integers(0, 5, (12, 4))
    first, second = Observation(counts), Observation(counts)
    module = MLDA(2, [30, 50], itr=2)
    module.connect(second, first)
    module.update()
    assert module.parameters["weights"] == {second.name: 30, first.name: 50}


def test_as_many_weights_as_modules_below_are_needed():
    module = MLDA(2, [30, 50])
    module.connect(Observation(np.ones((4, 3))))
    with pytest.raises(GraphError, match="2 weights for 1 modules below \\(data\\); give one for each"):
        module.update()


def test_a_network_of_tensorflow_is_refused_when_the_handle_is_made():
    class Model(VAE):
        def build_encoder(self, x, latent_dim):
            return x

    with pytest.raises(ModuleError, match=r"Model.build_encoder\(x, latent_dim\) builds a network of TensorFlow"):
        Model(18)


def test_a_width_that_is_not_that_of_the_data_is_refused():
    module = TorchVAE(784, 10)
    module.connect(Observation(np.ones((4, 3))))
    with pytest.raises(GraphError, match="input_dim is 784, but a row has 3 numbers"):
        module.update()


def test_a_script_that_connects_at_its_top_level_is_imported_without_these_lines():
    source = "import numpy\nwidth = 3\ndata = numpy.ones(2)\nclass A:\n    pass\na = A()\na.connect(data)\n"
    assert definitions(source) == "import numpy\nwidth = 3\n\nclass A:\n    pass"
    guarded = "a = 1\nif __name__ == '__main__':\n    a.connect(2)\n"
    assert definitions(guarded) == guarded


def test_load_dir_recognizes_new_rows_with_what_an_earlier_script_has_learnt(tmp_path, points, monkeypatch):
    rows, labels = points
    learnt = GMM(2, start="kmeans", category=labels)
    learnt.connect(Observation(rows))
    learnt.update()
    before = (tmp_path / "module001_gmm" / "model.safetensors").read_bytes()
    monkeypatch.setattr(script_run.ScriptRun, "_next_number", 0)  # as in another process

    new = np.array([[8.0, 8.0], [0.0, 0.0], [8.5, 7.0]])
    loaded = GMM(2, load_dir="module001_gmm", category=[1, 0, 1])
    loaded.connect(Observation(new))
    loaded.update()

    classes = np.loadtxt("module001_gmm/class_recog.txt", dtype=int)
    of_label = {label: learnt.outputs["class"][np.flatnonzero(labels == label)[0]] for label in (0, 1)}
    np.testing.assert_array_equal(classes, [of_label[1], of_label[0], of_label[1]])
    np.testing.assert_array_equal(np.loadtxt("module001_gmm/class_matched_recog.txt", dtype=int), [1, 0, 1])
    assert float((tmp_path / "module001_gmm" / "acc_recog.txt").read_text()) == 1.0
    assert (tmp_path / "module001_gmm" / "model.safetensors").read_bytes() == before
    assert np.loadtxt("module001_gmm/class_learn.txt").shape == (60,)


def test_a_module_may_learn_above_one_that_recognizes(points):
    rows, _ = points
    learnt = GMM(2, start="kmeans")
    learnt.connect(Observation(rows))
    learnt.update()
    loaded, above = GMM(2, load_dir="module001_gmm"), MarkovModel()
    loaded.connect(Observation(rows))
    above.connect(loaded)
    for _ in range(2):
        loaded.update()
        above.update()
    np.testing.assert_array_equal(loaded.outputs["class"], learnt.outputs["class"])
    np.testing.assert_allclose(above.outputs["trans_prob"], [[0, 1], [1, 0]], atol=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GMM(2, load_dir="nowhere"), "there is no model.safetensors, which a script leaves in"),
        (lambda: GMM(2, load_dir="module001_gmm/004"), "give load_dir='module001_gmm'"),
        (lambda: GMM(3, load_dir="module001_gmm"), "the state has 2 classes, this GMM has 3"),
        (lambda: MLDA(2, load_dir="module001_gmm"), "was not learnt by a module of type 'mlda'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_a_sentence(points, make, message):
    learnt = GMM(2, itr=2)
    learnt.connect(Observation(points[0]))
    learnt.update()

    def recognize():
        loaded = make()
        loaded.connect(Observation(np.ones((4, 2))))
        loaded.update()

    with pytest.raises(RunDirectoryError, match=message):
        recognize()


def test_a_second_model_of_an_observation_writes_directories_of_its_own(points):
    obs = Observation(points[0])
    for classes in (2, 3):
        module = GMM(classes, itr=2)
        module.connect(obs)
        module.update()
    assert np.loadtxt("module001_gmm/mu_learn.txt").shape == (2, 2)
    assert np.loadtxt("module002_gmm/mu_learn.txt").shape == (3, 2)


class TestGroups:
    """A module of the user's sums groups of rows, so that the modules above have fewer rows."""

    def connected(self, points, **of_group):
        rows, labels = points
        groups = script.Module("tests.support.group_module:GroupSum", name="groups")
        above = GMM(2, start="kmeans", **of_group)
        below = GMM(2, start="kmeans", name="below", category=np.repeat(labels, SIZE)[: len(rows)])
        obs = Observation(np.repeat(rows, SIZE, axis=0)[: len(rows)])
        below.connect(obs)
        groups.connect(obs)
        above.connect(groups)
        return below, groups, above

    def test_categories_and_outputs_go_by_module(self, points):
        group_labels = np.arange(60 // SIZE) % 2
        below, groups, above = self.connected(points, category=group_labels)
        for module in (below, groups, above):
            module.update()
        assert len(np.loadtxt(f"module{below.number:03d}_below/class_learn.txt")) == 60
        name = f"module{above.number:03d}_gmm"
        np.testing.assert_array_equal(np.loadtxt(f"{name}/class_matched_learn.txt"), group_labels)
        assert set(above._model.directory.scores("round-001-step-02").by_module) == {"below", "gmm"}

    def test_categories_of_other_rows_are_refused_in_a_sentence(self, points):
        below, groups, above = self.connected(points, category=points[1])
        below.update()
        groups.update()
        with pytest.raises(
            ModuleError, match=f"'gmm': its classes cannot be compared with the categories: {60 // SIZE}"
        ):
            above.update()


def test_local_runs_have_the_results_of_their_seed(points):
    results = []
    for _ in range(2):
        module = GMM(2)
        module.connect(Observation(points[0], seed=5))
        module.update()
        results.append(module.outputs)
    np.testing.assert_array_equal(results[0]["Pdz"], results[1]["Pdz"])


@pytest.mark.ray
def test_a_local_run_has_the_bits_of_one_on_a_cluster(ray_cluster):
    data = load("cycle")
    outputs = []
    for local in (True, False):
        obs, gmm1, mm1 = Observation(data.observations, local=local), GMM(4), MarkovModel()
        gmm1.connect(obs)
        mm1.connect(gmm1)
        for module in (gmm1, mm1, gmm1):
            module.update()
        outputs.append((gmm1.outputs["Pdz"].tobytes(), mm1.outputs["trans_prob"].tobytes()))
        gmm1._model._stack.close()  # its watchdog would end this process with the session's cluster
    assert outputs[0] == outputs[1]
