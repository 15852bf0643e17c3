"""The command line as a person meets it: what it leaves, what it says, and how it ends."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.storage.checkpoints import Checkpoints
from runner.cli.app import app
from runner.config.run_config import load_config
from runner.data.sources import source_states

CONFIGS = Path(__file__).parents[3] / "configs"
SMALL = [
    "--set", "data.count=100", "--set", "modules.vae.epochs=2", "--set", "modules.vae.hidden=16",
    "--set", "modules.vae.latent_dim=4", "--set", "modules.gmm.iterations=3", "--set", "schedule.rounds=2",
]  # fmt: skip


def serket(*words: object, code: int = 0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture(scope="module")
def trained(ray_cluster, tmp_path_factory):
    """A small run of the digits model; its directory and its result."""
    runs = tmp_path_factory.mktemp("runs")
    done = serket("run", CONFIGS / "digits.yaml", *SMALL, "--runs", runs, "--json")
    return runs / "digits", json.loads(done.stdout.splitlines()[-1])


@pytest.mark.ray
def test_a_run_prints_its_result_as_the_last_line_and_keeps_it(trained):
    path, result = trained
    assert {"run", "rounds", "seconds", "accuracy", "ari", "nmi", "evidence", "module_seconds"} <= result.keys()
    assert (result["run"], result["rounds"]) == ("digits", 2)
    assert 0.1 <= result["accuracy"] <= 1.0
    assert json.loads((path / "result.json").read_text()) == result


@pytest.mark.ray
@pytest.mark.parametrize(
    "file",
    [
        "config.yaml", "environment.json", "events.jsonl", "metrics.csv", "progress.png", "confusion.png",
        "transitions.png", "latents.png", "class_means.png", "module001_vae/z_learn.txt",
        "module001_vae/mu_hat_learn.txt",
        "module002_gmm/acc_learn.txt", "module003_mm/trans_prob_learn.txt", "module003_mm/model.safetensors",
        "checkpoints/round-002/manifest.json",
    ],
)  # fmt: skip
def test_a_run_leaves_everything_in_its_directory(trained, file):
    assert (trained[0] / file).stat().st_size > 0


@pytest.mark.ray
def test_every_event_of_a_run_is_a_line_of_json(trained):
    events = [json.loads(line) for line in (trained[0] / "events.jsonl").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names.count("commit") == 3
    assert names.count("scores") == 2
    assert [event["time"] for event in events if event["event"] == "updated"] == sorted(
        event["time"] for event in events if event["event"] == "updated"
    )


@pytest.mark.ray
def test_the_real_model_gives_the_same_bits_on_actors_as_in_one_process(trained, tmp_path):
    path, _ = trained
    config = load_config(path / "config.yaml")
    here, there = Checkpoints(tmp_path), Checkpoints(path / "checkpoints")
    coordinator = Coordinator(config.graph(), InProcess(), run="digits", seed=config.seed, checkpoints=here)
    coordinator.start(source_states(config.graph(), config.load_data()))
    coordinator.run_rounds()
    for name in there.names():
        for module, record in there.manifest(name).modules.items():
            files = here.manifest(name).modules[module].files
            assert {label: file.digest for label, file in files.items()} == {
                label: file.digest for label, file in record.files.items()
            }


@pytest.mark.ray
@pytest.mark.parametrize("order", [[], ["--unordered"]])
def test_a_trained_run_recognizes_other_rows(trained, order):
    path, _ = trained
    done = serket("recognize", path, "digits", "--offset", "20", "--count", "50", *order, "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"] == 50
    assert 0.1 <= result["accuracy"] <= 1.0
    assert np.loadtxt(path / "module002_gmm" / "class_recog.txt").shape == (50,)
    assert (path / "module002_gmm" / "acc_recog.txt").exists()


@pytest.mark.ray
def test_recognition_takes_a_file_and_its_categories(trained, tmp_path):
    path, _ = trained
    np.savetxt(tmp_path / "new.txt", np.random.default_rng(0).random((7, 64)))
    np.savetxt(tmp_path / "labels.txt", np.arange(7), fmt="%d")
    done = serket("recognize", path, tmp_path / "new.txt", "--categories", tmp_path / "labels.txt", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 7


@pytest.mark.ray
def test_rows_of_another_width_are_refused_in_a_sentence(trained, tmp_path):
    np.savetxt(tmp_path / "narrow.txt", np.zeros((5, 3)))
    done = serket("recognize", trained[0], tmp_path / "narrow.txt", code=2)
    assert "Traceback" not in done.stderr
    assert "3" in done.stderr


@pytest.mark.ray
def test_inspect_says_where_a_finished_run_stands(trained):
    done = serket("inspect", trained[0])
    assert "3 commits, the last round-002" in done.stdout
    assert "done: accuracy" in done.stdout


@pytest.mark.ray
def test_a_run_of_a_taken_name_is_refused(trained):
    done = serket("run", CONFIGS / "digits.yaml", *SMALL, "--runs", trained[0].parent, "--name", "digits", code=2)
    assert "there is a run of this name" in done.stderr


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_request_that_no_node_can_meet_ends_at_once(tmp_path):
    wish = ["--set", "modules.gmm.resources.num_cpus=64"]
    done = serket("run", CONFIGS / "digits.yaml", *SMALL, *wish, "--runs", tmp_path, code=2)
    assert "module 'gmm' asks for 64 CPU, and no node has that: " in done.stderr


def test_modules_lists_ports_and_parameters():
    text = serket("modules").stdout
    for word in ("observation", "vae", "gmm", "markov", "latent_vectors", "transition_prior", "iterations", "num_samp"):
        assert word in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "missing.yaml"], "missing.yaml"),
        (["run", CONFIGS / "digits.yaml", "--set", "modules.vae.epochs=many"], "modules.vae.epochs"),
        (["run", CONFIGS / "digits.yaml", "--set", "modules.vae.epoch=3"], "epochs"),
        (["run", CONFIGS / "digits.yaml", "--set", "data.count=5000000"], "5000000"),
        (["recognize", "nothing", "mnist"], "nothing: no such run"),
        (["inspect", "nothing"], "nothing: no such run"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence_and_status_2(words, said, tmp_path):
    done = serket(*words, "--runs", tmp_path, code=2)
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_a_data_file_that_is_not_there_is_named(tmp_path):
    config = (CONFIGS / "hmm.yaml").read_text().replace("source: cycle", "source: files\n  observations: gone.txt")
    (tmp_path / "mine.yaml").write_text(config.replace("order: cyclic", "order: given"))
    done = serket("run", tmp_path / "mine.yaml", "--runs", tmp_path / "runs", code=2)
    assert "gone.txt: there is no such file" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
def test_a_trained_run_makes_up_a_sequence_and_draws_it(trained, tmp_path):
    path, _ = trained
    done = serket("generate", path, "--length", 12, "--out", tmp_path / "sheet.png")
    classes = [int(word) for word in done.stdout.splitlines()[0].split()[1:]]
    assert len(classes) == 12
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    again = serket("generate", path, "--length", 12, "--out", tmp_path / "again.png")
    assert again.stdout.splitlines()[0] == done.stdout.splitlines()[0]
    other = serket("generate", path, "--length", 12, "--out", tmp_path / "other.png", "--seed", 99)
    assert other.stdout.splitlines()[0] != done.stdout.splitlines()[0]


@pytest.mark.slow
@pytest.mark.ray
def test_a_module_in_no_step_learns_nothing_and_does_no_harm(ray_cluster, tmp_path):
    alone = "schedule.steps=[{steps: [gmm], repeat: 2}]"
    serket("run", CONFIGS / "hmm.yaml", "--set", alone, "--runs", tmp_path)
    assert not (tmp_path / "hmm" / "module002_mm").exists()
    np.save(tmp_path / "rows.npy", np.zeros((3, 2)))
    done = serket("recognize", tmp_path / "hmm", tmp_path / "rows.npy", code=2)
    assert "'mm' has learnt nothing yet" in done.output


def test_rays_name_for_a_cluster_that_is_started_here_is_no_address(tmp_path):
    words = ["run", CONFIGS / "digits.yaml", *SMALL, "--runs", tmp_path, "--address", "local", "--detach"]
    assert "--detach needs a cluster that outlives this command" in serket(*words, code=2).stderr
    assert not list(tmp_path.iterdir())
