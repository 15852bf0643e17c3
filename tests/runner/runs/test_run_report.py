"""The report of a run: what it contains, that nothing from outside acts in it, and what is not measured."""

import itertools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.coordination.events import ModuleDied, ModuleRecovered, TimedEvent
from runner.cli.app import app
from runner.commands.train import train
from runner.config.run_config import load_config
from runner.report.clustering_metrics import Scores
from runner.report.figures import leading_transitions
from runner.report.progress import Progress
from runner.report.reliability import reliability_of
from runner.runs import artifacts
from runner.runs.comparison import compare_runs
from runner.runs.directory import open_run
from runner.runs.records import RoundScores
from runner.runs.run_files import RunDirectoryError
from runner.runs.timing import Clock
from tests.support.pages import check_self_contained

HOSTILE = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>'
OLD = Path(__file__).parents[2] / "data" / "old_run"
MODEL = """
name: small
data: {source: digits, count: 100, order: cyclic}
modules:
  pca: {type: pca, latent_dim: 4}
  gmm: {type: gmm, classes: 10, iterations: 2, start: sequence}
  mm: {type: markov, rule: smoothed}
connections: [data -> pca, pca -> gmm, gmm -> mm]
schedule: {rounds: 2, steps: [pca, gmm, mm, gmm]}
"""


def learn(folder, *settings, name="small", model=MODEL, report=False):
    """Train a model, without the pictures in its directory, which have tests of their own."""
    path = folder / "model.yaml"
    path.write_text(model)
    config = load_config(path, settings)
    clock, progress = Clock(time.time()), Progress(config.graph)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "draw_plots", lambda _directory: [])
        patch.setenv("SERKET_REPORT", "1" if report else "0")
        return train(config, clock=clock, progress=progress, runs=folder / "runs", name=name, local=True)[0]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A run of PCA, GMM and MM on a few digits, with its report."""
    return learn(tmp_path_factory.mktemp("learnt"), report=True)


@pytest.fixture(scope="module")
def page(learnt):
    return check_self_contained((learnt.path / "report.html").read_text())


@pytest.fixture
def run(learnt, tmp_path):
    """A copy of the run, without its report."""
    path = Path(shutil.copytree(learnt.path, tmp_path / "runs" / "small"))
    (path / "report.html").unlink()
    return path


def serket(*words, status=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


def test_a_run_ends_with_a_report_that_is_complete_in_itself(learnt, page):
    assert (learnt.path / "report.html").stat().st_size < 2_000_000
    titles = ["Model", "Measures by round", "Classes", "Transitions", "Latent space and decoded classes"]
    titles += ["Least certain rows", "How the run went", "Configuration and machine"]
    assert [title for title in titles if title not in page.text] == []
    assert page.count("figure") >= 10
    assert page.count("svg") == page.count("figure") + 1
    assert "Not shown" not in page.text
    assert json.loads((learnt.path / "result.json").read_text())["phases"]["report"] > 0


def test_it_names_the_sizes_of_messages_and_the_measures(learnt, page):
    manifest = learnt.checkpoints.latest()
    size = manifest.modules["gmm"].files["message:class_posteriors.mm"].size
    assert f"class_posteriors {size / 1024:.1f} KiB" in page.text
    result = json.loads((learnt.path / "result.json").read_text())
    assert f"Accuracy {result['accuracy']:,.4f}" in page.text
    assert f"Evidence (nats) {result['evidence']:,.1f}" in page.text
    assert f"ECE {result['ece']:,.4f}" in page.text


def test_it_shows_whether_probabilities_hold_with_and_without_the_parent(learnt, page):
    manifest = learnt.checkpoints.latest()
    posterior = learnt.checkpoints.outputs(manifest, "gmm")["Pdz"]
    alone = np.exp(learnt.checkpoints.message(manifest.modules["gmm"], "class_posteriors.mm")["log_prob"])
    labels = learnt.categories_of("gmm")
    for name, each in (("with mm", posterior), ("without mm", alone)):
        width, mass = (reliability_of(each, labels, binning=binning).ece for binning in ("width", "mass"))
        assert f"{name} {width:.4f} {mass:.4f}" in page.text
    rounds = learnt.metrics_file.rows()
    assert rounds[-1]["ece"] == pytest.approx(reliability_of(posterior, labels).ece, abs=1e-6)


def test_intervals_of_transitions_and_the_calibration_are_shown_where_there_are_some(tmp_path, page):
    assert "posterior interval" not in page.text
    assert "With calibrate" not in page.text
    settings = ("modules.mm.samples=30", "modules.gmm.calibrate=true", "schedule.rounds=1")
    drawn = learn(tmp_path, *settings, report=True)
    text = check_self_contained((drawn.path / "report.html").read_text()).text
    out = artifacts.read_commit(drawn, "round-001").outputs["mm"]
    pairs = leading_transitions(out["trans_prob"], range(10), 1000)
    assert 10 < len(pairs) <= 100
    for k, j in pairs:
        interval = f"{out['trans_low'][k, j]:.3f} to {out['trans_high'][k, j]:.3f}"
        assert f"{out['trans_prob'][k, j]:.3f} {interval}" in text
    trust = drawn.checkpoints.state(drawn.checkpoints.latest(), "gmm")
    power, lapse = f"{trust['temperature']:g}", f"{100 * trust['lapse']:g}"
    assert (
        f"With calibrate, gmm raises its likelihood to the power {power} and takes it to be wrong for {lapse} %" in text
    )


def test_metrics_of_earlier_versions_get_the_column_of_calibration_errors(run):
    directory = open_run(run).directory
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    place = lines[0].index("ece")
    (run / "metrics.csv").write_text("".join(",".join(line[:place]) + "\r\n" for line in lines))
    assert "ece" not in directory.metrics_file.rows()[0]
    scores = RoundScores(3, -1.0, Scores(0.5, 0.4, 0.3, 0.2))
    directory.metrics_file.append(scores)
    assert [row["ece"] for row in directory.metrics_file.rows()] == [None, None, 0.2]


def test_it_says_what_the_parent_changed(learnt, page):
    """The posterior without the Markov model is that with it, divided by its prior: p(z | x) / p(z) · constant."""
    manifest = learnt.checkpoints.latest()
    posterior = learnt.checkpoints.outputs(manifest, "gmm")["Pdz"]
    log_prior = learnt.checkpoints.message(manifest.modules["mm"], "transition_prior.gmm")["log_prob"]
    labels = learnt.categories_of("gmm")
    with np.errstate(divide="ignore"):
        alone = (np.log(posterior) - log_prior).argmax(axis=1)
    together = posterior.argmax(axis=1)

    def agreement(classes):
        counts = np.zeros((10, 10), int)
        np.add.at(counts, (classes, labels), 1)
        from scipy.optimize import linear_sum_assignment

        return counts[linear_sum_assignment(-counts)].sum() / len(labels)

    changed = int((alone != together).sum())
    assert changed > 0
    sentence = f"changed the class of {changed} of {len(labels)} rows: accuracy {agreement(alone):.4f} without it"
    assert f"The message of mm {sentence}, {agreement(together):.4f} with it." in page.text


def test_texts_from_outside_are_shown_as_texts(run):
    environment = json.loads((run / "environment.json").read_text())
    environment["processor"] = environment["packages"]["numpy"] = HOSTILE
    (run / "environment.json").write_text(json.dumps(environment))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"# {HOSTILE}\n{config}")
    log = open_run(run).directory.log
    log.append([TimedEvent(time.time(), ModuleDied("gmm", HOSTILE, 1, f"{HOSTILE}\x1b[31m"))])
    log.append([TimedEvent(time.time(), ModuleRecovered("gmm", 2.5))])
    assert "report in" in serket("report", run)
    html = (run / "report.html").read_text()
    page = check_self_contained(html)
    assert page.text.count(HOSTILE) == 5
    assert page.count("script") == 1
    assert "\x1b" not in html
    assert "gmm after 2.5 s" in page.text


def test_what_is_not_measured_says_so(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 3))
    np.save(tmp_path / "rows.npy", rows)
    directory = learn(
        tmp_path,
        name="plain",
        model="name: plain\ndata: {source: files, observations: rows.npy}\n"
        "modules: {gmm: {type: gmm, classes: 2, iterations: 2}}\n"
        "connections: [data -> gmm]\nschedule: {rounds: 1}\n",
    )
    assert not (directory.path / "report.html").exists(), "SERKET_REPORT is 0"
    serket("report", directory.path)
    page = check_self_contained((directory.path / "report.html").read_text())
    for sentence in (
        "Not measured: the data has no labels.",
        "Not measured: the model has no Markov model.",
        "Not recorded: no module has latent vectors",
        "Not recorded: no module reconstructs rows",
        "Not recorded: no module has a parent",
        "None: no process died",
        "Accuracy not measured",
    ):
        assert sentence in page.text


def test_the_config_is_written_as_before_where_it_says_nothing_of_reports(learnt):
    assert "report" not in (learnt.path / "config.yaml").read_text()


def test_a_run_without_its_data_has_a_report_that_says_why_labels_are_missing(run):
    text = (run / "config.yaml").read_text()
    text = text.replace("source: digits", "source: files").replace("observations: null", "observations: gone.npy")
    (run / "config.yaml").write_text(text.replace("count: 100", "count: null").replace("order: cyclic", "order: given"))
    serket("report", run)
    page = check_self_contained((run / "report.html").read_text())
    assert "Not measured: the labels cannot be read" in page.text


def test_what_is_too_large_to_be_read_is_not_read(run, monkeypatch):
    monkeypatch.setattr("runner.runs.run_report.MAX_REPORT_READ_BYTES", 1000)
    serket("report", run)
    text = check_self_contained((run / "report.html").read_text()).text
    assert text.count("too much to be read for a report") == 3


def test_a_run_of_version_0_1_has_a_report(tmp_path):
    old = Path(shutil.copytree(OLD, tmp_path / "old_run"))
    serket("report", old)
    assert "Accuracy 1.0000" in check_self_contained((old / "report.html").read_text()).text


def test_a_run_that_has_learnt_nothing_has_none(run):
    for commit in (run / "checkpoints").glob("round-00[12]"):
        shutil.rmtree(commit)
    assert "nothing is learnt yet" in serket("report", run, status=2)


@pytest.fixture(scope="module")
def pair(learnt, tmp_path_factory):
    """The run, and another one whose config leaves the report out."""
    settings = ("seed=3", "modules.gmm.iterations=1", "report=false")
    other = learn(tmp_path_factory.mktemp("other"), *settings, name="b", report=True)
    return [learnt.path, other.path]


def test_the_config_can_leave_the_report_out(pair):
    assert not (pair[1] / "report.html").exists()
    assert (pair[1] / "result.json").exists()
    assert "report: false" in (pair[1] / "config.yaml").read_text()
    assert not open_run(pair[1]).directory.reports


class TestComparison:
    def test_it_shows_the_measures_and_the_settings_that_differ(self, pair):
        comparison = compare_runs(pair)
        results = [json.loads((path / "result.json").read_text()) for path in pair]
        for name in ("accuracy", "ari", "evidence", "seconds"):
            assert comparison.measures[name] == [result[name] for result in results]
        assert comparison.differences == {
            "seed": ["0", "3"],
            "modules.gmm.iterations": ["2", "1"],
            "report": [None, "false"],
        }

    def test_the_command_prints_it_and_writes_a_page(self, pair, tmp_path):
        printed = serket("compare", *pair, "--html", tmp_path / "page.html", "--json")
        assert json.loads(printed.strip().splitlines()[-1])["runs"] == ["small", "b"]
        page = check_self_contained((tmp_path / "page.html").read_text())
        for text in (
            "modules.gmm.iterations 2 1",
            "Accuracy by round",
            "2 runs: small, b",
            " nats score -",
            "overhead share",
        ):
            assert text in page.text
        assert page.count("figure") == 4

    def test_a_report_of_several_runs_is_a_comparison(self, pair, tmp_path):
        serket("report", *pair, "--out", tmp_path / "page.html")
        assert "Differences of the configurations" in (tmp_path / "page.html").read_text()

    def test_equal_runs_have_no_differences(self, pair, tmp_path):
        copy = Path(shutil.copytree(pair[0], tmp_path / "copy"))
        assert "the configurations are the same" in serket("compare", pair[0], copy)

    def test_runs_of_one_name_are_called_by_their_paths(self, pair, tmp_path):
        copy = Path(shutil.copytree(pair[0], tmp_path / "small"))
        assert [run.name for run in compare_runs([pair[0], copy]).runs] == [str(pair[0]), str(copy)]

    @pytest.mark.parametrize(("chosen", "reason"), [([0], "one run was named"), ([0, 1, 0], "named twice")])
    def test_it_needs_different_runs(self, pair, chosen, reason):
        with pytest.raises(RunDirectoryError, match=reason):
            compare_runs([pair[number] for number in chosen])

    def test_a_comparison_imports_no_code_that_a_config_names(self, pair, tmp_path):
        copy = Path(shutil.copytree(pair[0], tmp_path / "copy"))
        text = (copy / "config.yaml").read_text().replace("type: gmm", "type: evil_module:Evil")
        (copy / "config.yaml").write_text(text)
        (copy / "evil_module.py").write_text("raise SystemExit('imported')")
        found = compare_runs([pair[0], copy]).differences
        assert found == {"modules.gmm.type": ["gmm", "evil_module:Evil"]}


def test_every_number_of_a_page_comes_from_the_run(learnt, page):
    """The classes' sizes and labels, by brute force over the 10 classes."""
    classes, labels = learnt.read_output("gmm", "class", "learn").ravel().astype(int), learnt.categories_of("gmm")
    sizes = np.bincount(classes, minlength=10)
    for k, size in itertools.islice(enumerate(sizes), 3):
        if size:
            assert f" {k} {size} " in page.text
    assert len(labels) == sizes.sum()
