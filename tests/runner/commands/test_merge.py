"""``serket merge``: runs of several sites become one, and what is refused, in one sentence and without a trace."""

import json
import shutil
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from actors.storage.checkpoints import Checkpoints
from runner.commands.trained_run import load_trained_run
from runner.runs.directory import RunDirectory, open_run
from runner.runs.state import RunRecord, recorded
from tests.runner.commands.test_predict import serket, train

MODEL = """
name: hmm
seed: {seed}
data: {{source: files, observations: {folder}/{site}.npy}}
modules:
  gmm: {{type: gmm, classes: 3, iterations: 30, engine: vb, prior_scale: data{gmm}}}
  mm: {{type: markov, initial: learnt{mm}}}
connections: [data -> gmm, gmm -> mm]
schedule: {{rounds: {rounds}, steps: [{{steps: [gmm, mm], repeat: 3}}]}}
"""
MEANS = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
ROWS = {"a": 120, "b": 150, "c": 90}


def rows_of(site):
    seed = "abc".index(site)
    rng = np.random.default_rng(seed)
    labels = (np.arange(ROWS[site]) + seed + (rng.random(ROWS[site]) < 0.1)) % 3
    return MEANS[labels] + rng.normal(size=(ROWS[site], 2))


def make_run(folder, site, *, gmm="", mm="", rounds=1, model=MODEL, learnt_from=None):
    """Train at a site in this process; return the directory of the run, complete with its result.json."""
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{site}.npy", rows_of(site) if learnt_from is None else learnt_from)
    text = model.format(folder=folder, site=site, seed="abc".index(site), gmm=gmm, mm=mm, rounds=rounds)
    (folder / f"{site}.yaml").write_text(text)
    path = train(folder / "runs" / site, folder / site)
    (path / "result.json").write_text(json.dumps({"run": site, "rounds": rounds}))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The runs of three sites, in a folder each."""
    folder = tmp_path_factory.mktemp("sites")
    return {site: make_run(folder / site, site) for site in "abc"}


@pytest.fixture
def sites(trained, tmp_path):
    """Copies of these runs."""
    return {site: shutil.copytree(path, tmp_path / site / site) for site, path in trained.items()}


def merge(tmp_path, *runs, name="all", code=0):
    return serket("merge", *runs, "--name", name, "--runs", tmp_path / "runs", "--json", code=code)


def refused(tmp_path, *runs, name="all"):
    """Return the sentence with which merging is refused; the new run leaves no trace."""
    done = merge(tmp_path, *runs, name=name, code=2)
    (line,) = done.stderr.splitlines()
    assert not (tmp_path / "runs" / name).exists()
    return line


def states_of(path):
    states = load_trained_run(open_run(path)).states
    return {name: dict(state) for name, state in states.items()}


def test_the_new_run_has_what_was_learnt_from_the_rows_of_all_sites(sites, tmp_path):
    done = merge(tmp_path, *sites.values())
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["run"], result["rows"], result["rows_by_run"]) == ("all", sum(ROWS.values()), ROWS)
    assert result == json.loads((tmp_path / "runs/all/result.json").read_text())
    path = tmp_path / "runs/all"
    state, rows = states_of(path), np.concatenate([rows_of(site) for site in "abc"])
    assert_allclose(state["gmm"]["counts"] @ state["gmm"]["mean"] / 360, rows.mean(axis=0), atol=0.02)
    assert_allclose(state["gmm"]["prior_mean"], rows.mean(axis=0), rtol=1e-9)
    assert_allclose(np.diag(state["gmm"]["prior_scale"]), rows.var(axis=0) / 3, rtol=1e-9)
    assert_allclose(state["mm"]["transitions"].sum(), 360 - 3)
    assert_allclose(state["mm"]["initial_counts"].sum(), 3)
    for file in (
        "config.yaml",
        "environment.json",
        "module001_gmm/model.safetensors",
        "module002_mm/model.safetensors",
    ):
        assert (path / file).is_file()
    Checkpoints(path / "checkpoints").verify(Checkpoints(path / "checkpoints").latest())


def test_each_matching_of_classes_is_reported_and_kept_in_the_log(sites, tmp_path):
    done = merge(tmp_path, *sites.values())
    said = [line for line in done.stderr.splitlines() if "distance in standard deviations" in line]
    assert [("those of b" in line, "those of c" in line) for line in said] == [(True, False), (False, True)]
    directory = open_run(tmp_path / "runs/all").directory
    assert [timed.event.message for timed in directory.log] == done.stderr.splitlines()


def test_a_class_without_a_counterpart_is_a_warning(sites, tmp_path):
    rows = rows_of("b")
    rows[rows[:, 1] > 3.0] -= 14.0
    elsewhere = make_run(tmp_path / "d", "b", learnt_from=rows)
    said = merge(tmp_path, sites["a"], elsewhere).stderr
    assert "has no counterpart in b" in said
    assert said.count("warning") == 1


def test_no_row_is_read_and_no_file_with_rows_is_needed(sites, tmp_path):
    merge(tmp_path, *sites.values(), name="whole")
    for path in sites.values():
        for file in path.rglob("*"):
            if file.name.endswith((".outputs.safetensors", ".message")) or file.name.startswith("data."):
                file.unlink()
        shutil.rmtree(path / "checkpoints/round-000")
    merge(tmp_path, *sites.values(), name="bare")
    whole, bare = (states_of(tmp_path / "runs" / name) for name in ("whole", "bare"))
    for name, state in whole.items():
        for entry, value in state.items():
            assert_array_equal(value, bare[name][entry])
    for file in (tmp_path / "runs/bare").rglob("*"):
        assert file.is_dir() or file.stat().st_size < 4096


def test_the_new_run_is_used_like_any_other(sites, tmp_path):
    merge(tmp_path, *sites.values())
    folder, runs = tmp_path / "runs/all", ("--runs", tmp_path / "runs")
    assert "1 commit, the last" in serket("inspect", "all", *runs).output
    np.save(tmp_path / "new.npy", rows_of("a") + 0.01)
    np.save(tmp_path / "labels.npy", np.argmin(((rows_of("a")[:, None] - MEANS) ** 2).sum(axis=2), axis=1))
    words = ("all", tmp_path / "new.npy", "--categories", tmp_path / "labels.npy", *runs, "--json")
    found = json.loads(serket("recognize", *words).stdout.splitlines()[-1])
    assert found["accuracy"] > 0.98
    predicted = json.loads(serket("predict", *words[:2], *runs, "--json").stdout.splitlines()[-1])
    assert max(predicted["predicted"][0]) > 0.8
    assert "classes" in serket("generate", "all", "--out", tmp_path / "x.csv", *runs).output
    assert "rows by run  a 120, b 150, c 90" in serket("attach", "all", *runs).output
    for settings in ((), ("--set", "schedule.rounds=9")):
        said = serket("resume", "all", *runs, *settings, code=2).stderr
        assert "was merged from others and has no rows of 'data' to learn from" in said
    assert (folder / "result.json").is_file()


def test_a_merged_run_is_merged_with_others_but_not_with_its_own_parts(sites, tmp_path):
    merge(tmp_path, sites["a"], sites["b"], name="ab")
    merge(tmp_path, tmp_path / "runs/ab", sites["c"])
    merge(tmp_path, *sites.values(), name="at_once")
    one, two = (states_of(tmp_path / "runs" / name) for name in ("all", "at_once"))
    for name, state in one.items():
        for entry, value in state.items():
            assert_allclose(value, two[name][entry], rtol=1e-9, atol=1e-9)
    said = refused(tmp_path, tmp_path / "runs/ab", sites["a"], name="again")
    assert "it has learnt from rows of run ab, which would count twice" in said


@pytest.mark.parametrize(
    "given", [{"gmm": ", workers: 2, chunk: 32"}, {"gmm": ", start: random, burn_in: 2"}, {"rounds": 2}]
)
def test_what_only_controls_how_a_site_learns_may_differ(sites, tmp_path, given):
    other = make_run(tmp_path / "other", "b", **given)
    assert json.loads(merge(tmp_path, sites["a"], other).stdout.splitlines()[-1])["rows"] == 270


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"gmm": ", alpha: 0.5"}, "modules.gmm.alpha is 0.1 in a and 0.5 in b"),
        ({"mm": ", alpha: 2"}, "modules.mm.alpha is none in a and 2.0 in b"),
        ({"model": MODEL.replace("classes: 3", "classes: 4")}, "modules.gmm.classes is 3 in a and 4 in b"),
        ({"model": MODEL.replace("gmm, classes: 3, iterations: 30, engine: vb", "dp_gmm, iterations: 3")},
         "modules.gmm.type is 'gmm' in a and 'dp_gmm' in"),
        ({"model": MODEL.replace("[gmm, mm], repeat: 3", "[{{module: gmm, set: {{alpha: 9}}}}, mm], repeat: 3")},
         "modules.gmm.alpha is 0.1 in a and 9.0 in b"),
        ({"model": MODEL.replace("data: {{source", "data: {{pictures: {{source").replace(".npy}}", ".npy}}}}")
          .replace("data -> gmm", "pictures -> gmm")}, "data: the sources are data in a and pictures in b"),
    ],
)  # fmt: skip
def test_runs_of_different_models_are_refused_with_the_first_difference(sites, tmp_path, given, sentence):
    other = make_run(tmp_path / "other", "b", **given)
    assert sentence in refused(tmp_path, sites["a"], other)


def test_parameters_that_a_step_sets_are_those_of_the_new_run(tmp_path):
    model = MODEL.replace("[gmm, mm], repeat: 3", "[{{module: gmm, set: {{alpha: 9}}}}, mm], repeat: 3")
    runs = [make_run(tmp_path / site, site, model=model) for site in "ab"]
    merge(tmp_path, *runs)
    state = states_of(tmp_path / "runs/all")["gmm"]
    assert json.loads(state["__set__"]) == {"alpha": 9.0}


def break_file(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(bytes(data))


STATE = "checkpoints/round-001/gmm.state.safetensors"


def cut_short(path):
    shutil.rmtree(path / "checkpoints/round-001")


DAMAGE = [
    (lambda path: (path / "result.json").unlink(), "has no result.json yet; write it with serket attach"),
    (cut_short, "has done 0 of 1 rounds; continue it with serket resume"),
    (lambda path: shutil.rmtree(path / "checkpoints"), "the run has no commit; start it with serket resume"),
    (lambda path: break_file(path / STATE), "damaged, the contents do not match the digest in the manifest"),
    (lambda path: (path / STATE).write_bytes(b""), "damaged, the manifest lists"),
    (lambda path: (path / STATE).unlink(), "gmm.state.safetensors: cannot be read"),
    (lambda path: (path / "checkpoints/round-001/manifest.json").write_text("{}"), "the manifest is not readable"),
    (lambda path: (path / "config.yaml").write_text("modules: [1]"), "modules.gmm.type is 'gmm' in a and none in"),
    (lambda path: (path / "result.json").write_text("[]"), "result.json"),
    (lambda path: (path / "config.yaml").unlink(), "no such run"),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE)
def test_a_run_that_is_not_complete_or_damaged_is_refused(sites, tmp_path, damage, sentence):
    damage(sites["b"])
    assert sentence in refused(tmp_path, sites["a"], sites["b"])


def test_a_run_that_is_still_running_is_refused(sites, tmp_path):
    (sites["b"] / "result.json").unlink()
    with recorded(sites["b"], RunRecord("127.0.0.1:1")):
        assert "the run is still running; merge it when it is done" in refused(tmp_path, sites["a"], sites["b"])
    with RunDirectory(sites["b"], open_run(sites["b"]).config.graph).lock():
        assert "the run is still running" in refused(tmp_path, sites["a"], sites["b"])


def test_links_in_a_run_directory_are_not_followed(sites, tmp_path):
    state = sites["b"] / STATE
    state.rename(tmp_path / "elsewhere")
    state.symlink_to(tmp_path / "elsewhere")
    assert "gmm.state.safetensors" in refused(tmp_path, sites["a"], sites["b"])


def test_nothing_that_the_config_of_a_further_run_names_is_imported_or_fetched(sites, tmp_path):
    config = sites["b"] / "config.yaml"
    text = config.read_text()
    (tmp_path / "strange").mkdir()
    before = list(sys.path)
    config.write_text(text.replace("code: []", f"code: [{tmp_path}/strange]"))
    assert config.read_text() != text
    merge(tmp_path, sites["a"], sites["b"])
    assert sys.path == before
    config.write_text(text.replace("storage: null", "storage: s3://stranger/bucket"))
    assert config.read_text() != text
    assert "as the place of its commits, which is not known" in refused(tmp_path, sites["a"], sites["b"], name="x")


def test_a_run_given_twice_is_refused_also_by_another_path(sites, tmp_path):
    (tmp_path / "link").symlink_to(sites["a"])
    copy = shutil.copytree(sites["a"], tmp_path / "copy")
    for again in (sites["a"], tmp_path / "link", copy):
        assert "would count twice; give" in refused(tmp_path, sites["a"], sites["b"], again)
    assert "merging needs two runs or more, 1 was given" in refused(tmp_path, sites["a"])


def test_a_name_that_is_taken_is_refused_and_its_run_kept(sites, tmp_path):
    merge(tmp_path, sites["a"], sites["b"])
    before = (tmp_path / "runs/all/result.json").read_bytes()
    done = merge(tmp_path, sites["a"], sites["c"], code=2)
    assert "there is a run of this name; choose another --name" in done.stderr
    assert (tmp_path / "runs/all/result.json").read_bytes() == before
    assert "cannot be a run's name" in merge(tmp_path, sites["a"], sites["c"], name="../x", code=2).stderr


def test_runs_of_one_name_are_told_apart_by_their_paths(sites, tmp_path):
    twin = shutil.move(sites["b"], tmp_path / "b" / "a")
    result = json.loads(merge(tmp_path, sites["a"], twin).stdout.splitlines()[-1])
    assert result["rows_by_run"] == {str(sites["a"]): 120, str(twin): 150}


TWO_SOURCES = """
name: two
seed: {seed}
data:
  left: {{source: files, observations: {folder}/{site}.npy}}
  right: {{source: files, observations: {folder}/{site}.npy}}
modules:
  one: {{type: gmm, classes: 3, engine: vb, prior_scale: data}}
  two: {{type: gmm, classes: 3, engine: vb, prior_scale: data}}
  product: {{type: product}}
connections: [left -> one, right -> two, one -> product, two -> product]
schedule: {{rounds: 1, steps: [{{steps: [one, two, product], repeat: 3}}]}}
"""


def test_a_merged_run_needs_rows_of_all_its_sources(tmp_path):
    runs = [make_run(tmp_path / site, site, model=TWO_SOURCES) for site in "ab"]
    merge(tmp_path, *runs)
    rows, name = tmp_path / "a" / "a.npy", tmp_path / "runs" / "all"
    assert "results in" in serket("recognize", name, f"left={rows}", f"right={rows}").output
    for command in ("recognize", "predict"):
        said = serket(command, name, f"left={rows}", code=2).stderr
        assert "the run was merged from others" in said
        assert "give rows of source right, too" in said
