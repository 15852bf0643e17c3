"""A stranger's run directory: links, pipes, bombs and odd contents in place of every file, each refused by name."""

import io
import os
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from actors.errors import CheckpointError, ModuleError, StorageError
from runner.cli.app import app
from runner.commands.monitor import RunMonitor
from runner.report.progress import Progress
from runner.runs.artifacts import draw_plots
from runner.runs.directory import RunDirectory, RunDirectoryError, find_run
from runner.runs.outputs import parse_npy
from runner.runs.run_files import RunFiles
from tests.actors.coordination.test_coordinator import model
from tests.runner.commands.test_resume import MODEL, attach_to, resume_run, run  # noqa: F401
from tests.runner.conftest import toy_run
from tests.support.events import timed

FILES = ["config.yaml", "environment.json", "result.json", "events.jsonl", "metrics.csv", ".lock"]
SECRET = b"of somebody else\n"


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside"
    path.mkdir()
    (path / "file").write_bytes(SECRET)
    return path


@pytest.fixture
def directory(tmp_path):
    directory = toy_run(tmp_path, rounds=2)
    RunMonitor(directory, Progress(directory.graph)).catch_up()
    directory.write_models()
    directory.write_environment("127.0.0.1:1")
    directory.write_json("result.json", {"run": "toy"})
    directory.log.append([timed("scores", 1.0, round=1)])
    (directory.path / "config.yaml").write_text(MODEL)
    return directory


def use(directory, draw=True):
    """Read and write each file of a run directory, and draw its pictures; return the errors."""
    errors = []
    for call in (
        lambda: RunFiles(directory.path).read_config(),
        directory.environment,
        lambda: directory.read_json("result.json"),
        lambda: list(directory.log),
        lambda: directory.log.append([timed("scores", 1.0, round=1)]),
        directory.log.repair,
        directory.metrics_file.rows,
        directory.metrics_file.rewind,
        lambda: directory.record("round-002"),
        directory.write_models,
        lambda: directory.lock().__enter__(),
        lambda: directory.read_output("encoder", "z", "learn"),
        lambda: draw_plots(directory) if draw else None,
        lambda: directory.write_json("result.json", {}),
        lambda: directory.write_environment("127.0.0.1:2"),
    ):
        try:
            call()
        except (RunDirectoryError, OSError, CheckpointError) as error:
            errors.append(str(error))
    return errors


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "dangling", "hard link"])
def test_links_in_place_of_a_file_lead_nowhere(directory, outside, name, kind):
    (directory.path / name).unlink(missing_ok=True)
    if kind == "hard link":
        os.link(outside / "file", directory.path / name)
    else:
        (directory.path / name).symlink_to(outside / ("file" if kind == "link" else "new"))
    errors = use(directory, draw=name in ("events.jsonl", "metrics.csv"))  # pictures show nothing of the others
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == SECRET
    if kind != "hard link":
        assert any(f"{name} is a link" in error for error in errors)
    assert not any(SECRET.decode().strip() in error for error in errors)


@pytest.mark.parametrize("name", ["module001_encoder", "module002_mirror", "checkpoints"])
def test_links_in_place_of_a_directory_lead_nowhere(directory, outside, name):
    (directory.path / name).rename(directory.path.parent / "moved")
    for place in (outside, outside / "nowhere"):
        (directory.path / name).symlink_to(place)
        errors = use(directory)
        assert any(f"{name} is a link" in error for error in errors)
        assert [path.name for path in outside.iterdir()] == ["file"]
        (directory.path / name).unlink()


@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_links_in_place_of_outputs_and_pictures_are_replaced(directory, outside, kind):
    paths = [each for each in directory.path.glob("module*/*") if each.is_file()]
    paths += [directory.path / "progress.png", directory.path / "latents.png"]
    assert len(paths) >= 5
    for path in paths:
        path.unlink(missing_ok=True)
        (path.symlink_to if kind == "link" else path.hardlink_to)(outside / "file")
    directory.record("round-002")
    directory.write_models()
    draw_plots(directory)
    assert (outside / "file").read_bytes() == SECRET
    assert not any(path.is_symlink() for path in paths)
    assert (directory.path / "progress.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [*FILES, "checkpoints/round-002/manifest.json", "checkpoints/failure/reason.txt"])
def test_a_pipe_in_place_of_a_file_does_not_hang_a_command(run, name):  # noqa: F811
    path = run / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    started = time.monotonic()
    for words in (
        ["inspect", run],
        ["attach", run],
        ["resume", run, "--set", "seed=9"],
        ["inspect", run, "--timeline", run / "t"],
    ):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code in (0, 1, 2), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert time.monotonic() - started < 60


def test_a_pipe_in_place_of_a_lock_does_not_hang(directory):
    os.mkfifo(directory.path / ".lock") if not (directory.path / ".lock").exists() else None
    with pytest.raises(RunDirectoryError, match="lock is a pipe, socket or device"), directory.lock():
        pass
    assert directory.is_locked()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("environment.json", b"[" * 1_000_000),
        ("environment.json", b'{"packages": 3}'),
        ("environment.json", b'{"detached": "yes"}'),
        ("environment.json", b'{"address": {"a": 1}}'),
        ("environment.json", b'{"address": "a\\u001b[2J"}'),
        ("environment.json", b"[]"),
        ("environment.json", b"\xff\xfe"),
        ("environment.json", b'{"pid": ' + b"9" * 5000 + b"}"),
        ("result.json", b'{"module_seconds": [1]}'),
        ("result.json", b'{"module_seconds": {"a": "x"}}'),
        ("result.json", b'{"accuracy": "high"}'),
        ("result.json", b'{"extra": [[[]]]}'),
        ("result.json", b'{"run": 3}'),
    ],
)
def test_odd_values_are_one_sentence_that_names_the_file(directory, name, content):
    (directory.path / name).write_bytes(content)
    with pytest.raises(RunDirectoryError, match=f"{name}: cannot be read") as caught:
        directory.read_json(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", FILES[:-1])
def test_huge_sparse_files_are_refused_or_passed_over(directory, name):
    path = directory.path / name
    with path.open("ab") as file:
        file.truncate(1 << 42)
    started = time.monotonic()
    assert any(f"{name}: cannot be read (it has 4398046511104 bytes" in error for error in use(directory))
    assert time.monotonic() - started < 20


def test_lines_of_the_event_log_that_are_not_events_are_passed_over(directory):
    odd = [
        b"[" * 100_000,
        b"{}",
        b'{"time": "x", "event": "round", "round": 1}',
        b'{"time": true, "event": "round", "round": 1}',
        b'{"time": 1e999, "event": "round", "round": 1}',
        b'{"time": 1, "event": "round", "round": "1"}',
        b'{"time": 1, "event": {"a": 1}, "round": 1}',
        b'{"time": 1, "event": "round", "round": ' + b"9" * 4000 + b"}",
        b'{"time": 1, "event": "updated", "module": ["a"], "round": 1, "step": 0, "seconds": 1}',
        b'{"time": 1, "event": "updated", "module": "a", "round": 1, "step": 0, "total_seconds": "x"}',
        b'{"time": 1, "event": "commit", "name": 3, "round": 1, "whole": true, "seconds": 1}',
        b"\xff" * 10,
        b"x" * (3 << 20),
        b'{"time": 2, "event": "round", "round": 7}',
        b'{"time": 1, "ev',
    ]
    (directory.path / "events.jsonl").write_bytes(b"\n".join(odd))
    assert [(each.time, each.event.round) for each in directory.log if each.event.event == "round"] == [(2.0, 7)]
    directory.log.repair()
    assert (directory.path / "events.jsonl").read_bytes() == b"\n".join(odd[:-1]) + b"\n"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_in_any_file(directory, content):
    for name in FILES[1:-1]:
        (directory.path / name).write_bytes(content)
    for call in (
        directory.environment,
        lambda: directory.read_json("result.json"),
        lambda: list(directory.log),
        directory.metrics_file.rows,
        directory.repair,
    ):
        with suppress(RunDirectoryError):
            call()


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", "a\0b", "a\nb", "\x1b[2J", "x" * 300])
def test_an_output_whose_name_leads_elsewhere_is_refused_with_its_module(directory, name, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ModuleError, match=r"module 'encoder': its output .* cannot be the name of a file"):
        directory.write_outputs("encoder", {name: np.zeros(3)}, "learn")
    assert sorted(tmp_path.rglob("*")) == before


def test_outputs_of_odd_types_are_written_or_refused_with_their_module(directory):
    directory.write_outputs("encoder", {"single": np.array(1.5), "list": [1, 2]}, "learn")
    assert directory.read_output("encoder", "single", "learn").tolist() == [1.5]
    for value in (np.array(["a"]), np.array([None]), {"a": 1}, "text"):
        with pytest.raises(ModuleError, match=r"module 'encoder': its output odd is .*, expected an array of numbers"):
            directory.write_outputs("encoder", {"odd": value}, "learn")
    directory.categories = {"": np.arange(3)}
    with pytest.raises(ModuleError, match="module 'encoder': its classes cannot be compared with the categories"):
        directory.write_outputs("encoder", {"class": np.zeros((3, 2))}, "learn")


def npy(shape, dtype="<f8", data=b"", order=False):
    header = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "data",
    [
        npy((1 << 40,)),
        npy((1 << 62, 1 << 62)),
        npy((-1,), data=bytes(8)),
        npy((0, -1)),
        npy((1,), "|O", b"\x80\x04N."),
        npy((1,), "<U2", bytes(8)),
        npy((1,), "<M8[s]", bytes(8)),
        npy((3,), data=bytes(8)),
        npy((1,), data=bytes(16)),
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x03\x00" + bytes(8),
        b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 65535,
    ],
)
def test_a_forged_array_is_refused_before_its_size_is_allocated(directory, data):
    (directory.path / "module001_encoder" / "odd_learn.npy").write_bytes(data)
    with pytest.raises(RunDirectoryError, match=r"odd_learn\.npy: cannot be read"):
        directory.read_output("encoder", "odd", "learn")


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((3, 4, 5))), np.zeros((0, 3), np.uint8)]
)
def test_an_array_is_read_as_it_was_written(array):
    file = io.BytesIO()
    np.save(file, array)
    np.testing.assert_array_equal(parse_npy(file.getvalue()), array)


def test_wrong_metrics_name_the_line_and_repair_writes_them_again(directory):
    path = directory.path / "metrics.csv"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"\r\n2,", b"\r\n=cmd(),") + b"x,y\r\n")
    with pytest.raises(RunDirectoryError, match=r"metrics\.csv, line 3: expected 6 numbers; delete the file"):
        directory.metrics_file.rows()
    directory.repair()
    RunMonitor(directory, Progress(directory.graph)).catch_up()
    assert path.read_bytes() == before


def test_a_run_directory_that_is_a_link_itself_is_the_users_choice(directory, tmp_path):
    (tmp_path / "link").symlink_to(directory.path)
    linked = RunDirectory(find_run("link", tmp_path), directory.graph)
    linked.record("round-002")
    with linked.lock():
        assert linked.checkpoints.latest().name == "round-002"


# --- the storage of a run ---------------------------------------------------------------------------------------------


def create(runs, storage, *, exact=True):
    return RunDirectory.create(runs, "toy", model(), exact=exact, storage=str(storage))


def test_two_runs_of_one_name_and_storage_in_different_folders_do_not_share_commits(tmp_path):
    first = create(tmp_path / "one", tmp_path / "storage")
    with pytest.raises(RunDirectoryError, match="commits or a claim of a run of this name; choose another --name"):
        create(tmp_path / "two", tmp_path / "storage")
    assert not (tmp_path / "two" / "toy").exists()
    second = create(tmp_path / "two", tmp_path / "storage", exact=False)
    assert (second.name, second.checkpoints.root) == ("toy-2", tmp_path / "storage" / "toy-2")
    first.claim()  # as when it is resumed


def test_a_run_that_could_not_start_gives_its_name_back(tmp_path):
    create(tmp_path / "one", tmp_path / "storage").delete_unstarted()
    assert not (tmp_path / "one" / "toy").exists()
    create(tmp_path / "two", tmp_path / "storage")


def test_an_old_run_is_claimed_when_it_is_resumed_and_a_strangers_is_not(tmp_path):
    own = create(tmp_path / "one", tmp_path / "storage")
    (own.path / "claim.json").unlink()
    (tmp_path / "storage" / "toy" / "claim" / "claim.json").unlink()
    own.claim()
    (tmp_path / "stranger" / "toy").mkdir(parents=True)
    stranger = RunDirectory(tmp_path / "stranger" / "toy", model(), storage=str(tmp_path / "storage"))
    with pytest.raises(StorageError, match="another run commits there"):
        stranger.claim()
    own.claim()


@pytest.mark.parametrize("url", ["memory://runs", "zip://runs::/nowhere/a.zip", "http://127.0.0.1:9/runs", "data://x"])
def test_storage_that_loses_commits_is_refused_before_ray_starts(tmp_path, url, monkeypatch):
    (tmp_path / "model.yaml").write_text(f"{MODEL}checkpoints: {{storage: '{url}'}}\n")
    monkeypatch.setattr("runner.cluster.connection.cluster", lambda *_, **__: pytest.fail("Ray was started"))
    result = CliRunner().invoke(app, ["run", str(tmp_path / "model.yaml"), "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 2, (result.output, result.exception)
    assert len(result.output.strip().splitlines()) == 1
    assert url in result.output
    assert not list((tmp_path / "runs").glob("*"))
