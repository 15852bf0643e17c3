"""Test the command line: files written, output printed, and exit statuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.storage.checkpoints import Checkpoints
from runner.cli.app import app
from runner.config.run_config import load_config
from runner.data.sources import source_states

CONFIGS = Path(__file__).parents[3] / "configs"
SMALL = [
    "--set", "data.count=100", "--set", "modules.vae.epochs=2", "--set", "modules.vae.hidden=16",
    "--set", "modules.vae.latent_dim=4", "--set", "modules.gmm.iterations=3", "--set", "schedule.rounds=2",
    "--set", "schedule.steps=[vae, {steps: [gmm, mm], repeat: 3}, {module: gmm, set: {iterations: 0}}]",
]  # fmt: skip


def serket(*arguments: object, code: int = 0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture(scope="module")
def trained(ray_cluster, tmp_path_factory):
    """Train a small digits model; return its run directory and its result."""
    runs = tmp_path_factory.mktemp("runs")
    done = serket("run", CONFIGS / "digits.yaml", *SMALL, "--runs", runs, "--json")
    return runs / "digits", json.loads(done.stdout.splitlines()[-1])


@pytest.mark.ray
def test_a_run_prints_its_result_as_the_last_line_and_stores_it(trained):
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
def test_a_run_writes_all_files_into_its_directory(trained, file):
    assert (trained[0] / file).stat().st_size > 0


@pytest.mark.ray
def test_every_event_of_a_run_is_one_line_of_json(trained):
    events = [json.loads(line) for line in (trained[0] / "events.jsonl").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names.count("commit") == 3
    assert names.count("scores") == 2
    assert [event["time"] for event in events if event["event"] == "updated"] == sorted(
        event["time"] for event in events if event["event"] == "updated"
    )


@pytest.mark.ray
def test_training_on_actors_gives_the_same_bits_as_in_one_process(trained, tmp_path):
    path, _ = trained
    config = load_config(path / "config.yaml")
    in_process, on_ray = Checkpoints(tmp_path), Checkpoints(path / "checkpoints")
    coordinator = Coordinator(config.graph, InProcessBackend(), run="digits", seed=config.seed, checkpoints=in_process)
    coordinator.start(source_states(config.graph, config.load_data()))
    coordinator.run_rounds()
    for name in on_ray.names():
        for module, record in on_ray.manifest(name).modules.items():
            files = in_process.manifest(name).modules[module].files
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
def test_rows_of_a_different_width_are_rejected_in_one_sentence(trained, tmp_path):
    np.savetxt(tmp_path / "narrow.txt", np.zeros((5, 3)))
    done = serket("recognize", trained[0], tmp_path / "narrow.txt", code=2)
    assert "Traceback" not in done.stderr
    assert "3" in done.stderr


@pytest.mark.ray
def test_inspect_prints_the_state_of_a_finished_run(trained):
    done = serket("inspect", trained[0])
    assert "3 commits, the last round-002" in done.stdout
    assert "done: accuracy" in done.stdout


@pytest.mark.ray
def test_a_run_with_a_taken_name_is_rejected(trained):
    done = serket("run", CONFIGS / "digits.yaml", *SMALL, "--runs", trained[0].parent, "--name", "digits", code=2)
    assert "there is a run of this name" in done.stderr


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_resource_request_that_no_node_can_satisfy_fails_at_once(tmp_path):
    request = ["--set", "modules.gmm.resources.num_cpus=64"]
    done = serket("run", CONFIGS / "digits.yaml", *SMALL, *request, "--runs", tmp_path, code=2)
    assert "module 'gmm' asks for 64 CPU, and no node has that: " in done.stderr


def test_modules_lists_ports_and_parameters():
    text = serket("modules").stdout
    for word in ("observation", "vae", "gmm", "markov", "latent_vectors", "transition_prior", "iterations", "num_samp"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "missing.yaml"], "missing.yaml"),
        (["run", CONFIGS / "digits.yaml", "--set", "modules.vae.epochs=many"], "modules.vae.epochs"),
        (["run", CONFIGS / "digits.yaml", "--set", "modules.vae.epoch=3"], "epochs"),
        (["run", CONFIGS / "digits.yaml", "--set", "data.count=5000000"], "5000000"),
        (["recognize", "nothing", "mnist"], "nothing: no such run"),
        (["inspect", "nothing"], "nothing: no such run"),
    ],
)
def test_user_errors_give_one_sentence_and_status_2(arguments, message, tmp_path):
    done = serket(*arguments, "--runs", tmp_path, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_a_missing_data_file_is_named(tmp_path):
    config = (CONFIGS / "hmm.yaml").read_text().replace("source: cycle", "source: files\n  observations: gone.txt")
    (tmp_path / "mine.yaml").write_text(config.replace("order: cyclic", "order: given"))
    done = serket("run", tmp_path / "mine.yaml", "--runs", tmp_path / "runs", code=2)
    assert "gone.txt: there is no such file" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
def test_a_trained_run_generates_a_sequence_and_draws_it(trained, tmp_path):
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
def test_a_module_that_is_in_no_step_is_not_trained_and_does_not_fail_the_run(ray_cluster, tmp_path):
    without_mm = "schedule.steps=[{steps: [gmm], repeat: 2}]"
    serket("run", CONFIGS / "hmm.yaml", "--set", without_mm, "--runs", tmp_path)
    assert not (tmp_path / "hmm" / "module002_mm").exists()
    np.save(tmp_path / "rows.npy", np.zeros((3, 2)))
    done = serket("recognize", tmp_path / "hmm", tmp_path / "rows.npy", code=2)
    assert "'mm' has learnt nothing yet" in done.output


def test_the_address_local_means_a_cluster_started_on_this_machine(tmp_path):
    arguments = ["run", CONFIGS / "digits.yaml", *SMALL, "--runs", tmp_path, "--address", "local", "--detach"]
    assert "--detach needs a cluster that outlives this command" in serket(*arguments, code=2).stderr
    assert not list(tmp_path.iterdir())
