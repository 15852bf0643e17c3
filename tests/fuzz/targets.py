"""What is fuzzed: for each reader of input from outside, a strategy of inputs and a function that reads one.

A reader returns a valid result or raises one of its documented errors; the functions here let documented errors pass
and everything else escape.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from actors.backends.ray.temporary import ray_directory
from actors.backends.result_checks import (
    check_device,
    check_metrics,
    check_outbox,
    check_outputs,
    check_progress,
    check_state,
)
from actors.errors import BackendError, CheckpointError, GraphError, MessageError, ModuleError, StorageError
from actors.kernels.jit import cache_directory
from actors.messaging import codec
from actors.messaging.kinds import KINDS
from actors.module import Outbox, OutgoingMessage
from actors.storage import manifest as manifests
from actors.storage import state_codec
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import FileRecord, Manifest, ModuleRecord, pack_manifest
from actors.storage.module_files import LoadRequest, load_module_files
from actors.variables import READERS, VariableError, check_variables
from runner.cli.inspect import inspect_run, print_run
from runner.cluster.auth import token_path
from runner.commands.export import export
from runner.commands.import_run import import_run
from runner.config.run_config import ConfigError, RunConfig, load_config
from runner.config.yaml_io import dump, parse
from runner.data.datasets import DataError, load
from runner.data.intake import check_categories, check_lengths, check_observations
from runner.data.ros import BagOptions
from runner.data.shards import ShardOptions
from runner.report.console import SafeConsole
from runner.report.timeline import write_timeline
from runner.runs import state
from runner.runs.archive import CONTENTS
from runner.runs.directory import RunDirectory, _timed_event, open_run
from runner.runs.environment import current_environment, describe_changes
from runner.runs.event_log import EventLog
from runner.runs.learnt import check_learnt, read_learnt
from runner.runs.live import LiveRun
from runner.runs.outline import read_outline
from runner.runs.outputs import read_array, write_arrays
from runner.runs.records import MetricsFile
from runner.runs.run_files import RunDirectoryError, RunFiles
from runner.runs.state import StateError
from tests.actors.messaging.test_messages import message
from tests.fuzz.command_line import COMMANDS, CONTROL, OLD_RUN, read_command
from tests.fuzz.command_line import prepare as prepare_commands

MODEL = {
    "name": "fuzzed",
    "seed": 3,
    "data": {"source": "cycle"},
    "modules": {"gmm": {"type": "gmm", "classes": 4}, "mm": {"type": "markov"}},
    "connections": ["data -> gmm", "gmm -> mm"],
    "schedule": {"rounds": 2, "steps": [{"steps": ["gmm", "mm"], "repeat": 3}]},
    "recovery": {"tries": 2},
    "cluster": {"together": [["gmm", "mm"]]},
}
MODEL_TEXT = dump(MODEL)
LARGE_MODEL = {
    "name": "large",
    "data": {
        "pixels": {"source": "files", "observations": "a.npy", "categories": {"gmm": "b.txt"}, "lengths": "c.txt", "order": "given"},
        "words": {"source": "words", "count": 6, "offset": 1, "order": "cyclic"},
    },
    "modules": {
        "gmm": {
            "type": "gmm", "classes": 4, "threads": 2,
            "resources": {"num_cpus": 0.5, "num_gpus": "auto", "memory": "2 GiB", "label_selector": {"a/b": "in(x, y)"}, "custom": {"r": 1}},
        },
        "mlda": {"type": "mlda", "classes": 3},
        "both": {"type": "product"},
    },
    "connections": ["pixels -> gmm -> both", "words -> mlda", "mlda -> both"],
    "schedule": {"rounds": 3, "tolerance": 0.1, "steps": [{"module": "gmm", "set": {"iterations": 2}}, "mlda", "both"]},
    "recovery": {"tries": 2, "timeout": 30, "wait": 60},
    "cluster": {"nodes": 1, "strategy": "spread"},
    "checkpoints": {"keep": 2, "storage": "commits"},
}  # fmt: skip
ROWS = np.arange(12.0).reshape(6, 2)


@dataclass(frozen=True)
class Target:
    """One reader.

    Parameters
    ----------
    name : str
    inputs : strategy
    read : callable
        Called with a directory for files, and an input; returns whether the input was accepted.
    weight : int
        Its share of the examples.
    slow : bool
        Whether an input takes a tenth of a second.
    prepare : callable, optional
        Called once with the directory for files.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Path, Any], bool]
    weight: int = 1
    slow: bool = False
    prepare: Callable[[Path], None] | None = None


# --- strategies ---------------------------------------------------------------------------------------------------

odd_text = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    [
        "",
        "a" * 300,
        "../x",
        "/etc/passwd",
        "\0",
        "\x1b[31m",
        "\ud800",
        "=1+1",
        "-",
        "<<",
        "1e999",
        "nan",
        "9" * 400,
        "a.b:C",
    ]
)
number = st.integers() | st.integers(-3, 10) | st.floats() | st.sampled_from([2**63, -(2**63), 2**64, 10**50, 0, -1])
leaf = st.none() | st.booleans() | number | odd_text
json_value = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_text, inner, max_size=4), max_leaves=8
)


@st.composite
def changed(draw: Any, document: Any) -> Any:
    """Draw a document in which one place is replaced, removed or added to."""
    if isinstance(document, dict) and document and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(document)))
        return {**document, key: draw(changed(document[key]))}
    if isinstance(document, list) and document and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(document) - 1))
        return [*document[:index], draw(changed(document[index])), *document[index + 1 :]]
    if isinstance(document, dict) and draw(st.booleans()):
        kept = {key: value for key, value in document.items() if draw(st.booleans())}
        return {
            **kept,
            **draw(st.dictionaries(odd_text | st.sampled_from(sorted(document) or ["a"]), json_value, max_size=2)),
        }
    return draw(json_value)


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Draw bytes that differ from `content` in a few places, or are cut off, or are longer."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 3)):
            case 0:
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                data[place : place + draw(st.integers(1, 8))] = draw(st.binary(max_size=8))
            case 2:
                del data[place:]
            case _:
                data += draw(st.binary(max_size=16))
    return bytes(data)


yaml_text = st.lists(
    st.sampled_from(
        ["a", ": ", "- ", "\n", "  ", "[", "]", "{", "}", ", ", "&a ", "*a", "<<: ", "!!int ", "!!float ", "!!set ", "!x ",
         "|", ">", "'", '"', "#", "?", "1", "-1", "0x", ".", "e5", "~", "---\n", "...\n", "%YAML 1.1\n", "\\", "\t", "\x07",
         "2001-01-01", "=", "name", "seed", "data", "modules", "1:2", "_", "é", "\ud800", "\ufeff"]
    )
    | st.text(max_size=4),
    max_size=30,
).map("".join)  # fmt: skip
paths = st.lists(
    st.sampled_from(["name", "seed", "data", "modules", "gmm", "classes", "connections", "schedule", "steps", "0", "1", "code",
                     "cluster", "recovery", "checkpoints", "resources", "observations", "label_selector", "together"])
    | odd_text,
    min_size=1, max_size=4,
).map(".".join)  # fmt: skip
overrides = (
    st.builds(lambda path, value: f"{path}={value}", paths, yaml_text | json_value.map(repr) | odd_text) | yaml_text
)


# --- readers ------------------------------------------------------------------------------------------------------


def read_config(folder: Path, document: Any) -> bool:
    """Load a model file given as a document or as text."""
    try:
        text = document if isinstance(document, str) else dump(document)
    except (ValueError, RecursionError):
        return False  # cannot be written as YAML
    (folder / "m.yaml").write_bytes(text.encode(errors="surrogatepass"))
    return _load(folder, ())


def read_overrides(folder: Path, settings: list[str]) -> bool:
    """Load a valid model file with ``--set``."""
    (folder / "m.yaml").write_text(MODEL_TEXT)
    return _load(folder, settings)


def _load(folder: Path, settings: Any) -> bool:
    try:
        config = load_config(folder / "m.yaml", settings)
    except (ConfigError, ModuleError, GraphError) as error:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", str(error).replace(str(folder), ""))
        return False
    parse(config.to_yaml(), "what was written")
    return True


def read_data(folder: Path, given: tuple[str, bytes]) -> bool:
    """Load a file as observations alone, and also as their categories and as their lengths."""
    name, content = given
    (folder / name).write_bytes(content)
    file, accepted = folder / name, 0
    converted = {"shards": ShardOptions(cache=str(folder / "rows"))} if name.endswith((".parquet", ".png")) else {}
    for roles in ({}, {"categories": file}, {"lengths": file}):
        try:
            data = load("files", observations=file, **converted, **({} if converted else roles))
        except DataError as error:
            assert "\n" not in str(error)
            continue
        accepted += 1
        values = np.asarray(data.observations)
        assert np.isfinite(values).all()
        assert values.ndim >= 2
        assert values.size
    shutil.rmtree(folder / "rows", ignore_errors=True)
    return accepted > 0


def read_bag(folder: Path, given: tuple[str, bytes]) -> bool:
    """Load a ROS bag as observations."""
    name, content = given
    (folder / name).write_bytes(content)
    try:
        data = load("files", observations=folder / name, bags=BagOptions(("/t.temperature",), 100.0))
    except DataError as error:
        assert "\n" not in str(error)
        return False
    assert np.isfinite(data.observations).all()
    return True


def _make_bags() -> dict[str, bytes]:
    """Return a bag of each kind; none where rosbags, an extra, is not installed."""
    if importlib.util.find_spec("rosbags") is None:
        return {}
    from tests.runner.data.test_ros import temperatures, write

    with tempfile.TemporaryDirectory() as folder:
        rows = temperatures(*range(0, 200, 10))
        for kind, compressed in (("ros1", "BZ2"), ("mcap", "STORAGE"), ("sqlite3", "")):
            write(Path(folder) / kind, kind, rows, compressed)
        files = [path for path in sorted(Path(folder).rglob("*")) if path.suffix in (".bag", ".mcap", ".db3")]
        return {f"bag{path.suffix}": path.read_bytes() for path in files}


def read_message(_folder: Path, content: bytes) -> bool:
    """Decode a message, a header and a text."""
    accepted = 0
    for decode in (codec.decode, codec.unpack_header):
        try:
            decode(content)
        except MessageError as error:
            assert not CONTROL.search(str(error)), repr(str(error))
            continue
        accepted += 1
    return accepted > 0


def read_state(_folder: Path, content: bytes) -> bool:
    """Unpack a state."""
    try:
        state_codec.unpack_state(content, "a state")
    except CheckpointError:
        return False
    return True


def signed(content: Any) -> bytes:
    """Return a manifest with the digest of what it holds, so that not the digest is what is refused."""
    if not isinstance(content, dict):
        return json.dumps(content).encode()
    plain = {key: value for key, value in json.loads(json.dumps(content)).items() if key != "digest"}
    try:
        digest = hashlib.sha256(manifests._to_json(plain)).hexdigest()
    except ValueError:  # NaN
        digest = "0" * 64
    return manifests._to_json({**plain, "digest": digest})


def read_manifest(_folder: Path, content: Any) -> bool:
    """Parse a manifest."""
    data = content if isinstance(content, bytes) else signed(content)
    try:
        manifests.unpack_manifest(data, "a manifest")
    except CheckpointError:
        return False
    return True


def read_events(folder: Path, content: Any) -> bool:
    """Read an event log."""
    text = content if isinstance(content, bytes) else "".join(f"{json.dumps(each)}\n" for each in content).encode()
    (folder / "events.jsonl").write_bytes(text)
    log = EventLog(folder / "events.jsonl", "fuzzed")
    try:
        found = list(log)
        later, position = log.read_from(0)
    except RunDirectoryError:
        return False
    assert position <= len(text)
    assert len(later) <= len(found)
    return bool(found)


LIVE = {
    "time": 4e9,
    "round": 1,
    "active": json.dumps({"gmm": {"doing": "learning", "done": 3, "total": 8, "loss": 0.5}}),
}


def read_live(folder: Path, content: Any) -> bool:
    """Read what ``serket watch`` shows: the driver's ``live.json``, and the event log."""
    (folder / "config.yaml").write_text(
        "name: fuzzed\ndata: {source: cycle}\nmodules: {gmm: {type: gmm}}\n"
        "connections: [data -> gmm]\nschedule: {rounds: 3}\n"
    )
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    for name in ("live.json", "events.jsonl"):
        (folder / name).write_bytes(text + b"\n")
    try:
        state = LiveRun(read_outline(folder)).poll()
    except RunDirectoryError:
        return False
    json.dumps(state, allow_nan=False)
    return bool(state["modules"]["gmm"]["metrics"])


def read_result(folder: Path, content: Any) -> bool:
    """Read ``result.json`` and ``metrics.csv``."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    for name in ("result.json", "metrics.csv"):
        (folder / name).write_bytes(text)
    accepted = 0
    for read in (lambda: RunFiles(folder).read_object("result.json"), MetricsFile(folder / "metrics.csv").rows):
        try:
            read()
        except RunDirectoryError:
            continue
        accepted += 1
    return accepted > 0


def read_state_record(folder: Path, content: Any) -> bool:
    """Read the record of a running run in the user's state directory."""
    path = state._record_path(folder)
    state.prepare_state_directory()
    path.touch(mode=0o600)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    try:
        record = state.read_record(folder)
    except StateError:
        return False
    assert record is not None
    return True


def read_environment(folder: Path, content: Any) -> bool:
    """Read ``environment.json`` and compare it with this environment."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "environment.json").write_bytes(text)
    try:
        before = RunFiles(folder).read_object("environment.json")
    except RunDirectoryError:
        return False
    describe_changes(before, ENVIRONMENT)
    return True


def read_status_files(folder: Path, content: Any) -> bool:
    """Read saved events, those of old runs, and the note of a failure; then as events of a log."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    accepted = 0
    for name in (
        "unread_events/events.json",
        "unheard/events.json",
        "unread_events/events-000001.json",
        "failure/reason.txt",
    ):
        shutil.rmtree(folder / "status", ignore_errors=True)
        (folder / "status" / name).parent.mkdir(parents=True)
        (folder / "status" / name).write_bytes(text)
        files = Checkpoints(folder / "status").status_files
        accepted += bool([_timed_event(*event) for event in files.read_events()])
        files.read_failure()
    return accepted > 0


def read_outputs(folder: Path, given: tuple[str, bytes]) -> bool:
    """Read an output of a module back."""
    suffix, content = given
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    (folder / "outputs").mkdir()
    (folder / "outputs" / f"mu_learn{suffix}").write_bytes(content)
    try:
        return read_array(RunFiles(folder), "outputs", "mu", "learn") is not None
    except RunDirectoryError:
        return False


def read_answer(_folder: Path, content: Any) -> bool:
    """Check what a module returned: as outbox, metrics, outputs, state, device and progress."""
    accepted = 0
    checks = (
        lambda: check_outbox("m", content),
        lambda: check_outbox("m", Outbox(content, content, content)),
        lambda: check_outbox("m", Outbox((OutgoingMessage(content, content, content),), {}, {})),
        lambda: check_metrics("m", content),
        lambda: check_outputs("m", content),
        lambda: check_state("m", content),
        lambda: state_codec.unpack_state(state_codec.pack_state(check_state("m", content)), "a state"),
        lambda: check_device("m", content),
        lambda: check_progress("m", content, content, content if isinstance(content, dict) else {}),
    )
    for check in checks:
        try:
            check()
        except ModuleError:
            continue
        accepted += 1
    return accepted > 0


def read_variables(folder: Path, given: list[tuple[str, str]]) -> bool:
    """Read the environment variables of this software, and make the directories that they name."""
    given = [(name, value) for name, value in given if "\0" not in value]
    present = {name: os.environ.pop(name, None) for name in VARIABLES}
    caught = 0
    try:
        for name, value in given:
            inside = f"{folder}/v/{value.lstrip('/~').replace('..', '.')}" if name in _DIRECTORIES and value else value
            os.environ[name] = inside
        for read in (check_variables, cache_directory, ray_directory, state.prepare_state_directory, token_path):
            try:
                read()
            except (VariableError, BackendError, StateError) as error:
                caught += 1
                assert not (isinstance(error, VariableError) and CONTROL.search(str(error))), repr(str(error))
                assert len(str(error)) < 20_000
                assert "RAY_AUTH_TOKEN is" not in str(error)
    except UnicodeEncodeError:
        return False  # the operating system passes no such value
    finally:
        for name, value in present.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder / "v", ignore_errors=True)
    return caught == 0


def read_names(folder: Path, given: tuple[str, str, str]) -> bool:
    """Make a run with these names of the run, a module and a source; all that it writes is inside of its directory."""
    run, module, source = given
    runs = folder / "names" / "runs"
    shutil.rmtree(folder / "names", ignore_errors=True)
    runs.mkdir(parents=True)
    document = {
        "name": run,
        "data": {source: {"source": "cycle"}},
        "modules": {module: {"type": "gmm", "classes": 2}},
        "connections": [f"{source} -> {module}"],
    }
    try:
        (folder / "names" / "m.yaml").write_bytes(dump(document).encode(errors="surrogatepass"))
        config = load_config(folder / "names" / "m.yaml")
    except (ConfigError, ModuleError, GraphError):
        config = None
    accepted = config is not None
    if config is not None:
        assert (config.name, [*config.modules], [*config.sources]) == (run, [module], [source])
        directory = RunDirectory.create(runs, run, config.graph)
        directory.write_config(config)
        write_arrays(RunFiles(directory.path), module, f"module001_{module}", {"mu": ROWS}, "learn")
        assert [each.name for each in runs.iterdir()] == [run]
        assert open_run(directory.path).config.name == run
    else:
        try:  # as --name
            RunDirectory.create(runs, run, GRAPH, exact=True)
        except RunDirectoryError as error:
            assert not CONTROL.search(str(error)), repr(str(error))
        except ValueError as error:
            assert "surrogates" in str(error)  # the command line has none of them
        else:
            assert [each.name for each in runs.iterdir()] == [run]
            accepted = True
    assert {each.name for each in (folder / "names").iterdir()} <= {"m.yaml", "runs"}
    return accepted


def read_table(folder: Path, given: tuple[str, bytes, dict[str, Any], dict[str, bytes], Any]) -> bool:
    """Load a table with options, categories and lengths; what it holds, if that is known, comes out."""
    name, content, options, others, known = given
    (folder / name).write_bytes(content)
    files = {}
    for role, text in others.items():
        files[role] = folder / f"{role}{'.csv' if text.startswith(b',') else '.txt'}"
        files[role].write_bytes(text)
    try:
        data = load("files", observations=folder / name, **files, **options)
    except DataError as error:
        assert not CONTROL.search(str(error)), repr(str(error))
        assert len(str(error)) < 20_000
        assert known is None or others or options, str(error)
        return False
    assert not CONTROL.search(data.describe())
    assert np.isfinite(data.observations).all()
    assert data.lengths is None or data.lengths.sum() == len(data.observations)
    assert data.categories is None or len(data.categories) == len(data.observations)
    if known is not None and not options:
        np.testing.assert_array_equal(data.observations, known)
    return True


def read_arrays(_folder: Path, given: tuple[Any, int]) -> bool:
    """Check what a script gives: as observations, as sequences, as categories, as lengths."""
    value, rows = given
    accepted = 0
    checks = (
        lambda: check_observations(value, "data").values,
        lambda: check_observations(value, "data", sequences=True).values,
        lambda: check_observations(value, "data", divide_by=255.0).values,
        lambda: check_categories(value, "categories")[0],
        lambda: check_categories(value, "categories", rows=rows)[0],
        lambda: check_lengths(value, "lengths", rows),
    )
    for number, check in enumerate(checks):
        try:
            array = check()
        except DataError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 20_000
            continue
        accepted += 1
        assert np.isfinite(array).all()
        if (
            number == 0
            and isinstance(value, np.ndarray)
            and not isinstance(value, np.ma.MaskedArray)
            and value.dtype.kind in "iu"
        ):
            np.testing.assert_array_equal(array.reshape(-1), value.reshape(-1))  # no value changes
    return accepted > 0


def read_model(folder: Path, content: bytes) -> bool:
    """Read what a script has left, to continue from it (load_dir)."""
    (folder / "model.safetensors").write_bytes(content)
    try:
        check_learnt(read_learnt(folder), GRAPH.modules["gmm"], folder)
    except RunDirectoryError as error:
        assert "\n" not in str(error)
        return False
    return True


def read_export(folder: Path, content: bytes) -> bool:
    """Import a run of a file; nothing is left where it is refused."""
    file, runs = folder / "file", folder / "imported"
    file.write_bytes(content)
    try:
        import_run(file, name="run", runs=runs)
    except (RunDirectoryError, ConfigError) as error:
        assert not CONTROL.search(str(error)), repr(str(error))
        assert not runs.exists()
        return False
    shutil.rmtree(runs)
    return True


def exported_run() -> bytes:
    """Return the file of an exported run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        export(open_run(OLD_RUN), path)
        return path.read_bytes()


def resealed(content: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """Return an exported file of which one member was changed, and the list of digests with it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        held = {each: archive.read(each) for each in archive.namelist()}
    held[name] = change(held[name])
    if name != CONTENTS:
        listed = json.loads(held[CONTENTS])
        listed["files"][name] = {"size": len(held[name]), "digest": hashlib.sha256(held[name]).hexdigest()}
        held[CONTENTS] = json.dumps(listed).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for each, data in held.items():
            archive.writestr(each, data)
    return stream.getvalue()


def copy_run(folder: Path) -> None:
    """Copy a run whose files are changed one at a time."""
    shutil.copytree(OLD_RUN, folder / "run", dirs_exist_ok=True)


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Replace the content of a file for the duration of the block."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def read_commit(folder: Path, given: tuple[str, bytes, bool]) -> bool:
    """Look for the newest commit of which one file was changed, and read all of it; the manifest may know the change."""
    name, content, known = given
    root = folder / "run" / "checkpoints"
    with ExitStack() as stack:
        stack.enter_context(replaced(root / name, content))
        if known and not name.endswith("manifest.json"):
            place = root / name.partition("/")[0] / "manifest.json"
            manifest = json.loads(place.read_bytes())
            for module in manifest["modules"].values():
                for file in module["files"].values():
                    if file["path"] == name:
                        file.update(size=len(content), digest=hashlib.sha256(content).hexdigest())
            stack.enter_context(replaced(place, signed(manifest)))
        log: list[str] = []
        checkpoints = Checkpoints(root)
        try:
            found = checkpoints.newest_whole(log.append)
            for module, record in found.modules.items() if found else ():
                checkpoints.state(found, module)
                checkpoints.outputs(found, module)
                checkpoints.messages(found, module)
                load_module_files(LoadRequest(str(root), module, record))
        except CheckpointError as error:
            assert not CONTROL.search(str(error)), repr(str(error))
            return False
    assert found is not None
    return not log


def read_run(folder: Path, given: tuple[str, bytes]) -> bool:
    """Inspect, open and repair a run of which one file was changed."""
    name, content = given
    path, accepted = folder / "run", 0
    console = SafeConsole(file=io.StringIO(), width=100)
    opened: list[Any] = []
    actions = (
        lambda: print_run(inspect_run(path), console),
        lambda: opened.append(open_run(path).directory),
        lambda: write_timeline(read_outline(path).directory, folder / "t.json", read_outline(path).modules),
        *(
            lambda act=act: act(*opened)
            for act in (
                lambda directory: directory.metrics_file.rows(),
                lambda directory: directory.environment(),
                lambda directory: directory.unrecorded_commits(),
                lambda directory: (directory.log.position(), list(directory.log)),
                lambda directory: directory.import_saved_events(),
                lambda directory: directory.repair(),
            )
        ),
    )
    if not (path / name).exists():
        (path / name).write_bytes(b"")
    with replaced(path / name, content), replaced(path / "metrics.csv", (path / "metrics.csv").read_bytes()):
        for act in actions:
            try:
                if act in actions[:3] or opened:
                    act()
            except (RunDirectoryError, ConfigError, CheckpointError, GraphError, ModuleError, StorageError) as error:
                assert len(str(error)) < 20_000
                continue
            accepted += 1
    assert not CONTROL.search(console.file.getvalue().replace("\x1b[", ""))
    copy_run(folder)
    return accepted == len(actions)


# --- valid inputs to begin with -----------------------------------------------------------------------------------


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), version)
    return stream.getvalue()


def _npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def _idx(shape: tuple[int, ...], body: bytes, code: int = 8) -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + body


def _parquet(rows: Any) -> bytes:
    stream = io.BytesIO()
    columns = {f"c{number}": column for number, column in enumerate(rows.T)}
    parquet.write_table(pyarrow.table({**columns, "v": list(rows.astype("i2"))}), stream)
    return stream.getvalue()


def _picture(rows: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rows.astype("u1")).save(stream, "PNG")
    return stream.getvalue()


def _packed(content: bytes, packed: bool) -> bytes:
    return gzip.compress(content, 1, mtime=0) if packed else content


def _as_array(values: list[Any]) -> Any:
    try:
        return np.array(values)
    except (ValueError, TypeError, OverflowError):
        return values


def _edited(command: tuple[str, ...], edits: list[tuple[int, str, bool]]) -> list[str]:
    """Return a command in which arguments are replaced, or to which some are added."""
    words = list(command)
    for place, word, replaces in edits:
        words[place : place + replaces] = [word]
    return words


def _graph() -> Any:
    graph = {**MODEL, "schedule": {"rounds": 2}}
    return RunConfig.model_validate(graph, context={"root": Path()}).graph


def _zip(members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in dict(members).items():
            archive.writestr(name.partition("\0")[0] or "a", content)
    return stream.getvalue()


npy_headers = st.builds(
    lambda descr, order, shape, body: b"\x93NUMPY\x01\x00"
    + struct.pack("<H", len(text := f"{{'descr': {descr!r}, 'fortran_order': {order!r}, 'shape': {shape!r}, }}\n".encode(errors="replace")))
    + text + body,
    st.sampled_from(["<f8", "|u1", "<i2", "|O", "<U3", "|b1", "<c16", "<f2", [("a", "<f8")], "<M8[s]"]) | odd_text,
    st.booleans() | leaf, st.lists(st.integers(-1, 4) | st.integers(0, 2**70), max_size=5).map(tuple) | leaf, st.binary(max_size=64),
)  # fmt: skip
idx_files = st.builds(
    lambda code, sizes, body: _idx(tuple(sizes), body, code),
    st.sampled_from([8, 9, 10, 11, 12, 13, 14]), st.lists(st.integers(0, 3) | st.integers(0, 2**32 - 1), max_size=6),
    st.binary(max_size=40),
)  # fmt: skip
tables = st.text(alphabet="0123456789.eE+-, \t\n\r#\"'_xnaif\0\x1b", max_size=80).map(str.encode) | st.binary(
    max_size=60
)
member_names = st.sampled_from(["a.npy", "observations.npy", "categories.npy", "../x.npy", "/a", "a"]) | st.text(
    max_size=5
)
data_files = st.one_of(
    st.tuples(st.sampled_from(["a.txt", "a.csv"]), tables | damaged(b"x,y\n1,2\n3,4\n")),
    st.tuples(st.just("a.npy"), npy_headers | damaged(_npy(ROWS)) | damaged(_npy(np.arange(4), (2, 0)))),
    st.tuples(st.just("a.npz"), damaged(_npz(observations=ROWS, categories=np.arange(6)))
              | st.lists(st.tuples(member_names, npy_headers), max_size=3).map(_zip)),
    st.tuples(st.just("a.idx"), idx_files | damaged(_idx((2, 3), b"abcdef"))),
    st.tuples(st.just("a.parquet"), damaged(_parquet(ROWS))),
    st.tuples(st.just("a.png"), damaged(_picture(ROWS))),
    st.tuples(st.just("a.idx.gz"), idx_files.map(gzip.compress) | damaged(gzip.compress(_idx((2, 3), b"abcdef")))),
)  # fmt: skip
EVENT = {
    "time": 1.5,
    "run": "fuzzed",
    "event": "updated",
    "round": 1,
    "step": 0,
    "module": "gmm",
    "seconds": 0.5,
    "metrics": {},
}
RESULT = {
    "run": "fuzzed",
    "rounds": 2,
    "seconds": 1.5,
    "accuracy": 0.5,
    "module_seconds": {"gmm": 0.5},
    "evidence": -3.5,
}
METRICS = b"round,evidence,score,accuracy,ari,nmi\r\n1,-3.5,-4,0.5,0.25,0.125\r\n2,-3,,,,\r\n"
MESSAGES = [codec.encode(message(kind)) for kind in sorted(KINDS)]
HEADERS = [codec.pack_header(message(kind).header) for kind in sorted(KINDS)]
STATE = state_codec.pack_state({"a": np.arange(4.0), "b": 2, "c": "x", "d": 1.5, "f": None, "g": True})
MANIFEST = json.loads(
    pack_manifest(
        Manifest(
            "round-001",
            "fuzzed",
            3,
            1,
            2,
            {"gmm": ModuleRecord(1, {"state": FileRecord("round-001/x", 3, "0" * 64)})},
            events=(("round", 1.5, {"round": 1}, 3, "ab"),),
        )
    )
)

RECORD = {"address": "127.0.0.1:6379", "own": False, "detached": True, "pid": 4, "secret": "ab"}
ENVIRONMENT = current_environment()
SAVED_EVENTS = [["updated", 1.5, {"round": 1, "step": 0, "module": "gmm", "seconds": 0.5, "metrics": {}}, 3, "ab"],
                ["log_message", 1.5, {"text": "x"}]]  # fmt: skip
ANSWER = {"mu": ROWS, "class": np.arange(6), "evidence": -3.5, "n": 2, "done": True, "text": "x", "none": None}
answers = changed(ANSWER) | st.sampled_from(
    [ROWS, np.array(["a"]), np.array(None), np.float64(1), np.timedelta64(1, "s")]
)

GRAPH = _graph()
LEARNT = (Path(__file__).parents[1] / "data" / "old_run" / "module001_gmm" / "model.safetensors").read_bytes()
VARIABLES = (*READERS, "TMPDIR", "HOME", "XDG_STATE_HOME")
_DIRECTORIES = ("RAY_TMPDIR", "TMPDIR", "SERKET_STATE_DIR", "XDG_STATE_HOME", "HOME")
NAMES = ("fuzzed", "gmm", "data")
COMMIT_FILES = {
    f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted((OLD_RUN / "checkpoints").glob("round-*/*"))
}
RUN_FILES = {path.name: path.read_bytes() for path in sorted(OLD_RUN.iterdir()) if path.is_file()}
TABLES = (
    b"x,y\n1,2\n3,4\n",
    b"1 2\n3 4\n5 6\n",
    b"# c\n1\n2\n",
    b'"a","b"\n1.5,2\n,\n3,-4e3\n',
    b",0,1\n0,5,6\n1,7,8\n",
)
variable_values = odd_text | st.sampled_from(
    ["0", "1", "token", "disabled", "30", "auto", "gmm:inside:2", "tmp", "a/b"]
)
argument = (
    odd_text
    | st.integers().map(str)
    | st.sampled_from(["9" * 5000, "--json", "--set", "--", "-", "a=b", "seed=3", "old"])
)
arguments = st.sampled_from(COMMANDS).flatmap(
    lambda command: st.lists(st.tuples(st.integers(0, len(command)), argument, st.booleans()), max_size=3).map(
        lambda edits: _edited(command, edits)
    )
)
table_options = st.fixed_dictionaries({}, optional={
    "header": st.booleans(), "index": st.booleans(), "divide_by": st.floats(1, 255), "sequences": st.booleans(),
    "count": st.integers(-1, 5), "offset": st.integers(-1, 5), "order": st.sampled_from(["given", "shuffled", "cyclic"]),
})  # fmt: skip
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
table_files = st.builds(
    lambda content, encoding, packed, options, others: (
        f"t{'.csv' if b',' in content else '.txt'}{'.gz' * packed}",
        _packed(content.decode(errors="replace").encode(encoding, errors="replace"), packed), options, others, None,
    ),
    st.sampled_from(TABLES).flatmap(damaged) | tables, encodings, st.booleans(), table_options,
    st.dictionaries(st.sampled_from(["categories", "lengths"]), tables | st.sampled_from([b"1\n2\n", b"a\nb\n", b"2"]), max_size=2),
)  # fmt: skip
scripts_values = st.recursive(
    leaf | st.sampled_from([np.float32(1), np.datetime64("now"), np.ma.masked, b"x", 1j, 10**400]),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(_as_array), max_leaves=10,
)  # fmt: skip

EXPORTED = exported_run()
with zipfile.ZipFile(io.BytesIO(EXPORTED)) as _exported:
    EXPORTED_FILES = {name: _exported.read(name) for name in _exported.namelist()}
EXPORTED_NAMES = sorted(EXPORTED_FILES)

BAGS = _make_bags()
TARGETS = [
    Target(
        "model files",
        changed(MODEL) | changed(LARGE_MODEL) | yaml_text | damaged(MODEL_TEXT.encode()).map(_text),
        read_config,
    ),
    Target("--set", st.lists(overrides, min_size=1, max_size=2), read_overrides),
    Target("data files", data_files, read_data, 2),
    Target(
        "messages", st.sampled_from([*MESSAGES, *HEADERS]).flatmap(damaged) | st.binary(max_size=60), read_message, 2
    ),
    Target("states", damaged(STATE) | st.binary(max_size=60), read_state),
    Target("manifests", changed(MANIFEST) | damaged(json.dumps(MANIFEST).encode()) | json_value, read_manifest),
    Target("live", changed(LIVE) | changed(EVENT) | damaged(json.dumps(LIVE).encode()), read_live),
    Target("events", st.lists(changed(EVENT), max_size=3) | damaged(json.dumps(EVENT).encode() + b"\n"), read_events),
    Target("results", changed(RESULT) | damaged(json.dumps(RESULT).encode()) | damaged(METRICS), read_result),
    Target("records of runs", changed(RECORD) | damaged(json.dumps(RECORD).encode()), read_state_record),
    Target("environments", changed(ENVIRONMENT) | damaged(json.dumps(ENVIRONMENT).encode()), read_environment),
    Target("status files", changed(SAVED_EVENTS) | damaged(json.dumps(SAVED_EVENTS).encode()), read_status_files),
    Target("outputs", st.tuples(st.just(".txt"), tables) | st.tuples(st.just(".npy"), npy_headers), read_outputs),
    Target("answers of modules", answers, read_answer),
    Target("command lines", arguments, read_command, slow=True, prepare=prepare_commands),
    Target("variables", st.lists(st.tuples(st.sampled_from(VARIABLES), variable_values), max_size=3), read_variables),
    Target(
        "names", st.tuples(*(odd_text | st.from_regex(r"[a-z._-]{1,4}") | st.just(each) for each in NAMES)), read_names
    ),
    Target("tables", table_files, read_table, 2),
    Target("arrays", st.tuples(scripts_values, st.integers(0, 4)), read_arrays, 2),
    Target(
        "commits",
        st.sampled_from(sorted(COMMIT_FILES)).flatmap(
            lambda name: st.tuples(st.just(name), damaged(COMMIT_FILES[name]), st.booleans())
        ),
        read_commit,
        prepare=copy_run,
    ),
    Target(
        "runs",
        st.sampled_from(sorted(RUN_FILES)).flatmap(lambda name: st.tuples(st.just(name), damaged(RUN_FILES[name]))),
        read_run,
        slow=True,
        prepare=copy_run,
    ),
    Target("learnt models", damaged(LEARNT) | damaged(STATE), read_model),
    Target(
        "exported runs",
        damaged(EXPORTED)
        | st.sampled_from(EXPORTED_NAMES).flatmap(
            lambda name: damaged(EXPORTED_FILES[name]).map(lambda data: resealed(EXPORTED, name, lambda _: data))
        ),
        read_export,
        slow=True,
    ),
]
if BAGS:
    bags = st.sampled_from(sorted(BAGS)).flatmap(lambda name: st.tuples(st.just(name), damaged(BAGS[name])))
    TARGETS.append(Target("ROS bags", bags, read_bag, slow=True))
