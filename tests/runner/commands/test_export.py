"""``serket export`` and ``serket import``: what the file carries, what an imported run can do, and hostile files."""

import hashlib
import json
import shutil
import stat
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.storage.checkpoints import Checkpoints
from actors.storage.state_codec import pack_state
from runner.cli.app import app
from runner.commands.export import export
from runner.commands.generate import generate
from runner.commands.trained_run import load_trained_run, recognize_rows
from runner.config.yaml_io import parse
from runner.data.sources import load_new_rows
from runner.runs.archive import CONTENTS, open_archive
from runner.runs.directory import open_run
from runner.runs.scales import unpack_scales
from tests.runner.commands.test_predict import serket, train

MODEL = """
name: arm
data: {{source: files, observations: {0}/rows.csv, categories: {0}/labels.txt, lengths: {0}/lengths.txt}}
modules:
  gmm: {{type: gmm, classes: 3, iterations: 2, prior_scale: data, start: sequence, calibrate: true}}
  mm: {{type: markov, initial: learnt, estimate: variational}}
connections: [data -> gmm, gmm -> mm]
schedule: {{rounds: 1, steps: [{{steps: [gmm, mm], repeat: 4}}, {{module: gmm, set: {{iterations: 0}}}}]}}
"""
WORDS = """
name: words
data:
  pictures: {{source: files, observations: {0}/rows.csv}}
  words: {{source: files, observations: {0}/words.npy}}
modules:
  gmm: {{type: gmm, classes: 3, iterations: 2, prior_scale: data, start: random}}
  mlda: {{type: mlda, topics: 3, iterations: 4}}
connections: [pictures -> gmm -> mlda, words -> mlda]
schedule: {{rounds: 1, steps: [{{steps: [gmm, mlda], repeat: 2}}]}}
"""
TUTORIAL = MODEL.replace("estimate: variational", "rule: tutorial").replace("initial: learnt, ", "")
SCALED = MODEL.replace("lengths.txt}}", "lengths.txt, scale: standard}}")
LENGTHS = np.full(12, 10)
LABELS = np.tile([0, 1, 2, 2, 2], 24)
MEANS = np.array([[0.0, 0.0, 5.0], [6.0, 0.0, 5.0], [0.0, 6.0, 5.0]])


def rows(seed):
    return MEANS[LABELS] + np.random.default_rng(seed).normal(size=(len(LABELS), 3))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of somebody called anna, with the files of a run and the runs that learnt from them."""
    folder = tmp_path_factory.mktemp("home") / "anna"
    folder.mkdir()
    np.savetxt(folder / "rows.csv", rows(0), delimiter=",", header="x,y,z", comments="")
    np.savetxt(folder / "new.csv", rows(1), delimiter=",", header="x,y,z", comments="")
    np.savetxt(folder / "labels.txt", LABELS, fmt="%d")
    np.savetxt(folder / "lengths.txt", LENGTHS, fmt="%d")
    np.save(folder / "words.npy", np.random.default_rng(2).poisson(np.eye(3)[LABELS] * 5 + 0.2).astype(float))
    for name, model in {"arm": MODEL, "words": WORDS, "tutorial": TUTORIAL, "scaled": SCALED}.items():
        (folder / f"{name}.yaml").write_text(model.format(folder))
        train(folder / "runs" / name, folder / name)
    return folder


@pytest.fixture
def file(site, tmp_path):
    """The exported run ``arm``, without rows."""
    export(open_run(site / "runs" / "arm"), tmp_path / "arm.serket")
    return tmp_path / "arm.serket"


def imported(file, *options):
    serket("import", file, "--runs", file.parent / "theirs", *options)
    (path,) = (file.parent / "theirs").iterdir()
    return path


def recognized(path, site, *, words=False):
    run = open_run(path)
    given = [str(site / "new.csv")] if not words else [f"pictures={site}/new.csv", f"words={site}/words.npy"]
    graph = run.config.graph
    data = load_new_rows(
        run.config.sources, given, categories=None, lengths=None, count=None, offset=0, ordered=True, graph=graph
    )
    return recognize_rows(load_trained_run(run), data, ordered=True)


def same(left, right):
    assert left.keys() == right.keys()
    for module, outputs in left.items():
        assert outputs.keys() == right[module].keys()
        for name, array in outputs.items():
            np.testing.assert_array_equal(array, right[module][name], err_msg=f"{module} {name}")


# --- what an imported run can do -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["arm", "words", "tutorial", "scaled"])
@pytest.mark.parametrize("with_rows", [False, True])
def test_an_imported_run_recognizes_and_generates_with_the_same_bits(site, tmp_path, name, with_rows):
    export(open_run(site / "runs" / name), tmp_path / "a", with_rows=with_rows)
    path = imported(tmp_path / "a")
    theirs, ours = site / "runs" / name, path
    same(recognized(theirs, site, words=name == "words"), recognized(ours, site, words=name == "words"))
    same(generate(open_run(theirs), 20, seed=3)[0], generate(open_run(ours), 20, seed=3)[0])


def test_a_scale_is_exported_without_rows_and_exported_again(site, tmp_path):
    export(open_run(site / "runs" / "scaled"), tmp_path / "a")
    path = imported(tmp_path / "a")
    states = recognized(path, site)
    np.testing.assert_array_equal(states["gmm"]["class"], recognized(site / "runs" / "scaled", site)["gmm"]["class"])
    scale = unpack_scales((path / "scales.safetensors").read_bytes(), ["data"])["data"]
    np.testing.assert_allclose(scale["center"], rows(0).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scale["width"], rows(0).std(axis=0), rtol=1e-6)
    export(open_run(path), tmp_path / "b")
    assert unpack_scales(open_member(tmp_path / "b", "scales.safetensors"), ["data"])["data"].keys() == scale.keys()


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"data/center": np.zeros(3)},
        {"data/center": np.zeros(3), "data/width": np.zeros(3)},
        {"data/center": np.zeros(3), "data/width": np.ones(2)},
        {"data/center": np.full(3, np.nan), "data/width": np.ones(3)},
        {"data/center": np.zeros(3, np.float32), "data/width": np.ones(3)},
        {"data/center": np.zeros(3), "data/width": np.ones(3), "other/center": np.ones(3)},
    ],
)
def test_a_scale_of_another_form_is_refused(entries):
    with pytest.raises(ValueError, match=r"scales\.safetensors"):
        unpack_scales(pack_state(entries), ["data"])
    with pytest.raises(ValueError, match=r"scales\.safetensors"):
        unpack_scales(b"no file", ["data"])


def open_member(file, name):
    with open_archive(file) as archive:
        return archive.read(name, 10**6)


def test_the_commands_take_an_imported_run_under_its_new_name(site, file):
    path = imported(file, "--name", "theirs")
    assert path.name == "theirs"
    runs = ["--runs", path.parent]
    result = json.loads(
        serket("recognize", "theirs", site / "new.csv", "--categories", site / "labels.txt", *runs, "--json")
        .stdout.splitlines()[-1]
    )  # fmt: skip
    assert result["accuracy"] > 0.9
    assert "1 commit, the last round-001" in serket("inspect", "theirs", *runs).stdout
    assert (path / "module001_gmm" / "model.safetensors").exists()
    assert json.loads((path / "imported.json").read_text()) == {"run": "arm", "rows": False, "sequences": 12}


def test_rows_without_lengths_are_told_of_the_sequences_that_were_learnt(site, file):
    done = serket("recognize", imported(file), site / "new.csv")
    assert "learnt from 12 sequences" in done.stderr


def test_without_rows_resume_says_what_to_ask_for(file):
    done = serket("resume", imported(file), "--local", "--set", "schedule.rounds=2", code=2)
    assert "imported without the rows of 'data' to learn from; ask for an export --with-rows" in done.stderr


@pytest.mark.slow
def test_a_run_with_its_rows_is_resumed_with_the_bits_of_the_original(site, tmp_path):
    original = shutil.copytree(site / "runs" / "arm", tmp_path / "arm")
    checkpoints = Checkpoints(original / "checkpoints")
    config = parse((original / "config.yaml").read_text(), "")  # as a driver commits it
    checkpoints.commit(replace(checkpoints.latest(), config=config))
    serket("export", original, tmp_path / "file", "--with-rows")
    moved = site.rename(site.with_name("gone"))  # the receiver has none of the exporter's files
    try:
        ours = imported(tmp_path / "file")
        serket("resume", ours, "--local", "--set", "schedule.rounds=2", "--json")
        found = Checkpoints(ours / "checkpoints").manifest("round-002")
    finally:
        moved.rename(site)
    serket("resume", original, "--local", "--set", "schedule.rounds=2", "--json")
    expected = Checkpoints(original / "checkpoints").manifest("round-002")
    digests = [
        {module: {label: each.digest for label, each in record.files.items()} for module, record in own.modules.items()}
        for own in (found, expected)
    ]
    assert digests[0] == digests[1]
    np.testing.assert_array_equal(np.load(ours / "data" / "categories.npy"), LABELS)


# --- what the file carries -----------------------------------------------------------------------------------------


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_without_rows_the_file_holds_no_row_no_result_of_one_and_no_path(site, file):
    held = contents(file)
    assert sorted(held) == [
        "checkpoints/round-001/gmm.state.safetensors", "checkpoints/round-001/manifest.json",
        "checkpoints/round-001/mm.state.safetensors", "config.yaml", CONTENTS,
    ]  # fmt: skip
    whole = b"".join(held.values())
    for secret in (str(site).encode(), b"anna", b"labels.txt", b"lengths.txt"):
        assert secret not in whole
    values = np.loadtxt(site / "rows.csv", delimiter=",", skiprows=1)
    assert all(row.tobytes() not in whole and row.astype(np.float32).tobytes() not in whole for row in values)
    with open_archive(file) as archive:
        assert archive.head["environment"].keys() == {"python", "packages", "machine", "processor"}
    for name in ("gmm", "mm"):
        data = held[f"checkpoints/round-001/{name}.state.safetensors"]
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        shapes = {key: each["shape"] for key, each in header.items() if key != "__metadata__"}
        assert [key for key, shape in shapes.items() if len(LABELS) in shape] == []


def test_an_mlda_is_exported_without_the_words_of_its_rows(site, tmp_path):
    export(open_run(site / "runs" / "words"), tmp_path / "a")
    state = open_run(imported(tmp_path / "a")).directory
    learnt = state.checkpoints.state(state.checkpoints.latest(), "mlda")
    of_rows = {key: value for key, value in learnt.items() if key.startswith(("tokens.", "words.", "topics."))}
    assert [key for key, value in of_rows.items() if np.any(value)] == []
    assert max(map(np.size, of_rows.values())) == 1
    assert learnt["topic_shares"].shape == (3,)


def test_equal_runs_give_equal_files(site, file, tmp_path):
    export(open_run(site / "runs" / "arm"), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_it_is_said_what_the_file_carries(site, tmp_path):
    without = serket("export", site / "runs" / "arm", tmp_path / "a").stdout
    assert "neither the rows nor results of single rows" in without
    assert "resume needs an export --with-rows" in without
    with_rows = serket("export", site / "runs" / "arm", tmp_path / "b", "--with-rows").stdout
    assert "the rows that it learnt from" in with_rows
    result = json.loads(serket("export", site / "runs" / "arm", tmp_path / "c", "--json").stdout)
    assert result == {"file": str(tmp_path / "c"), "size": (tmp_path / "c").stat().st_size, "round": 1, "rows": False}


# --- what is refused -----------------------------------------------------------------------------------------------


def refused(file, match):
    """Check that a file is refused in one sentence that names it, and that nothing is left."""
    done = serket("import", file, "--runs", file.parent / "theirs", code=2)
    assert done.stderr.startswith(f"serket: {file}")
    assert match in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (file.parent / "theirs").exists()


def rewrite(file, change):
    """Write an archive whose members `change` was called with, by name; the digests of its list are made to fit."""
    held = contents(file)
    listed = json.loads(held.pop(CONTENTS))
    change(held)
    listed["files"] = {
        name: {"size": len(data), "digest": hashlib.sha256(data).hexdigest()} for name, data in held.items()
    }
    path = file.with_name("forged")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {CONTENTS: json.dumps(listed).encode(), **held}.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name", ["../out", "/etc/out", "a/../../out", "a/b/c/d", "a\x1b[31m", "checkpoints/../x", "a//b"]
)
def test_names_that_lead_elsewhere_are_refused(file, name):
    forged = rewrite(file, lambda held: held.update({name: b"x"}))
    refused(forged, "is not the name of a file of a run")
    assert not (file.parent / "out").exists()


def test_what_is_more_than_a_run_is_refused(file):
    refused(rewrite(file, lambda held: held.update({"error.txt": b"x"})), "are not those of its commit")
    refused(rewrite(file, lambda held: held.pop("config.yaml")), "it holds no config.yaml")


def test_links_and_compressed_or_doubled_members_are_refused(file, tmp_path):
    held = contents(file)
    for kind in ("link", "deflated", "twice", "unlisted"):
        path = tmp_path / kind
        with pytest.warns() if kind == "twice" else zipfile.ZipFile(tmp_path / "other", "w"), \
                zipfile.ZipFile(path, "w") as archive:  # fmt: skip
            for name, data in held.items():
                info = zipfile.ZipInfo(name)
                if name == "config.yaml":
                    info.external_attr = (stat.S_IFLNK | 0o777) << 16 if kind == "link" else 0
                    info.compress_type = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
                archive.writestr(info, data)
            if kind in ("twice", "unlisted"):
                archive.writestr("config.yaml" if kind == "twice" else "more", b"x")
        words = {"link": "is a link", "deflated": "is compressed", "twice": "is there twice", "unlisted": "lists"}
        refused(path, words[kind])


def test_a_bomb_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "bomb"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CONTENTS, b"{}" + b" " * (1 << 24))
    assert path.stat().st_size < 1 << 17
    refused(path, "no file that serket export wrote")


def test_too_many_members_are_refused(tmp_path, file, monkeypatch):
    monkeypatch.setattr("runner.runs.archive.MAX_EXPORT_FILES", 3)
    refused(file, "more than 3 files")


@pytest.mark.parametrize("place", range(0, 9_000, 701))
def test_a_changed_byte_is_found_unless_it_is_one_of_the_archive_that_says_nothing(file, place):
    """Such as the time of a member, which nothing reads."""
    data = bytearray(file.read_bytes())
    data[place % len(data)] ^= 0x41
    forged = file.with_name("forged")
    forged.write_bytes(data)
    done = CliRunner().invoke(app, ["import", str(forged), "--runs", str(file.parent / "theirs")])
    if done.exit_code == 0:
        assert contents(forged) == contents(file)
        return
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert not (file.parent / "theirs").exists()


def test_what_is_no_export_is_refused(tmp_path, file):
    for name, data in {"text": b"hello", "empty": b"", "cut": file.read_bytes()[:-100]}.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "no file that serket export wrote")
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    refused(tmp_path / "arrays.npz", "no file that serket export wrote")
    refused(tmp_path / "missing", "there is no such file")
    (tmp_path / "link").symlink_to(file)
    refused(tmp_path / "link", "is a link")


def config_with(old, new):
    def change(held):
        text = held["config.yaml"].decode()
        assert old in text
        held["config.yaml"] = text.replace(old, new).encode()

    return change


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            "type: gmm",
            "type: counting:Counting",
            "modules.gmm.type is counting:Counting, code that the file does not hold; give the dir",
        ),
        ("calibrate: true", "encoder: os:system", "modules.gmm.encoder is os:system, code that the file does not hold"),
        ("classes: 3", "classes: 5", "cannot load what it has learnt"),
        ("classes: 3", "classes: many", "its config is not valid here"),
        ("  mm:", "  nn:", "its config is not valid here"),
        ("name: arm", "name: [", "is not valid YAML"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(file, old, new, match):
    done = serket("import", rewrite(file, config_with(old, new)), "--runs", file.parent / "theirs", code=2)
    assert match in done.stderr
    assert "Traceback" not in done.output
    assert not (file.parent / "theirs").exists()


def test_places_that_a_config_names_are_not_used(file, tmp_path):
    """Storage, code, nodes and files of an attacker's choice."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "gmm.py").write_text("raise SystemExit('code was run')")
    extra = f"checkpoints: {{storage: {tmp_path}/elsewhere}}\ncluster: {{nodes: 9}}"
    forged = rewrite(file, config_with("checkpoints: {keep: null}", extra))
    forged = rewrite(forged, config_with("code: []", f"code: [{tmp_path}/evil]"))
    forged = rewrite(forged, config_with("observations: rows.csv", "observations: /etc/passwd"))
    path = imported(forged)
    config = open_run(path).config
    assert (config.code, config.checkpoints.storage, config.cluster.nodes) == ([], None, 1)
    assert config.sources["data"].observations == path / "passwd"
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_that_has_learnt_nothing_and_a_taken_name_are_refused(site, file):
    imported(file)
    done = serket("import", file, "--runs", file.parent / "theirs", code=2)
    assert "there is a run of this name; choose another --name" in done.stderr
    empty = file.parent / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    shutil.copy(site / "runs" / "arm" / "config.yaml", empty)
    assert "has learnt nothing yet" in serket("export", empty, file.parent / "b", code=2).stderr
    assert "exists already" in serket("export", site / "runs" / "arm", file, code=2).stderr
    assert "cannot be written" in serket("export", site / "runs" / "arm", "/nowhere/b", code=2).stderr


def test_a_path_in_a_parameter_is_not_carried(site, tmp_path):
    path = shutil.copytree(site / "runs" / "arm", tmp_path / "arm")
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("rule: smoothed", "rule: /home/anna/rule"))
    done = serket("export", path, tmp_path / "a", code=2)
    assert not Path(tmp_path / "a").exists()
    assert "rule" in done.stderr
