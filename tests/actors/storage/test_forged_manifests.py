"""Forged manifests: whatever a document with a correct digest holds, it is a CheckpointError or a valid manifest."""

import copy
import hashlib
import json
import math
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import CheckpointError
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import COMMIT_NAME, unpack_manifest
from tests.actors.coordination.test_coordinator import learn, model

OLD = json.loads((Path(__file__).parents[2] / "data/old_run/checkpoints/round-002/manifest.json").read_bytes())
del OLD["digest"]
ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    1.5,
    2**63,
    10**400,
    -(10**400),
    1e308,
    math.inf,
    -math.inf,
    math.nan,
    "",
    ".",
    "..",
    "/",
    "../../x",
    "a\0b",
    "\x1b[2J",
    "\ud800",
    "x" * 5000,
    "round-001/manifest.json",
    "round-001/../../a",
    [],
    {},
    [1],
    {"a": 1},
    {"": {}},
    [[]],
    {"path": "round-001/a", "size": 1, "digest": "0" * 64},
]


def sign(content):
    digest = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    return json.dumps({**content, "digest": digest}, indent=1).encode()


def places(value, path=()):
    """Yield the path of every value in a document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def changed(content, path, value, *, rename=False, remove=False):
    content = copy.deepcopy(content)
    node = content
    for key in path[:-1]:
        node = node[key]
    if remove:
        del node[path[-1]]
    elif rename and isinstance(node, dict):
        node[str(value)] = node.pop(path[-1])
    else:
        node[path[-1]] = value
    return content


def is_valid(manifest):
    """Check types and ranges of all that a run reads of a manifest."""
    assert COMMIT_NAME.fullmatch(manifest.name)
    assert type(manifest.round) is type(manifest.sequence) is type(manifest.seed) is int
    assert manifest.round >= 0
    assert manifest.step is None or type(manifest.step) is int
    assert type(manifest.converged) is bool
    assert manifest.score is None or not math.isnan(manifest.score)
    assert all(math.isfinite(value) for value in manifest.module_seconds.values())
    for name, record in manifest.modules.items():
        assert name not in ("", ".", "..")
        assert "/" not in name
        assert all(math.isfinite(value) for value in record.metrics.values())
        for label, file in record.files.items():
            assert label in ("state", "outputs") or label.startswith("message:")
            directory, _, last = file.path.partition("/")
            assert COMMIT_NAME.fullmatch(directory)
            assert last not in ("", ".", "..", "manifest.json")
            assert "/" not in last
            assert "\0" not in last
            assert type(file.size) is int
            assert file.size >= 0
            assert len(file.digest) == 64


def read(data):
    try:
        manifest, sentence = unpack_manifest(data, "run/manifest.json"), ""
    except CheckpointError as error:
        manifest, sentence = None, str(error)
    if manifest is not None:
        is_valid(manifest)
        return
    assert sentence.startswith("run/manifest.json: ")
    assert len(sentence) < 2000
    assert sentence.isprintable()


PLACES = [path for path in places(OLD) if path[0] != "config"]


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_every_value_and_key_of_a_manifest_may_be_forged(path):
    for value in ODD:
        read(sign(changed(OLD, path, value)))
        read(sign(changed(OLD, path, value, rename=True)))
    read(sign(changed(OLD, path, None, remove=True)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON, st.booleans()), min_size=1, max_size=3))
def test_any_json_in_any_place_of_a_manifest(changes):
    content = OLD
    for path, value, rename in changes:
        try:
            content = changed(content, path, value, rename=rename)
        except (KeyError, TypeError, IndexError):  # an earlier change has removed the place
            continue
    read(sign(content))


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_instead_of_a_manifest(content):
    read(json.dumps(content).encode())
    if isinstance(content, dict):
        read(sign({**content, "schema": 2}))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"{" + b'"a":[],' * 1_000_000,
        b"9" * 5000,
        b"[" + b"{}," * 5_000_000 + b"{}]",
    ],
    ids=["lists", "maps", "values", "digits", "many"],
)
def test_a_manifest_that_is_a_bomb_takes_little_time_and_memory(data):
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="the manifest is not readable"):
            unpack_manifest(data, "file")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_is_listed_twice_is_refused():
    content = copy.deepcopy(OLD)
    files = content["modules"]["gmm"]["files"]
    files["outputs"]["path"] = files["state"]["path"]
    with pytest.raises(CheckpointError, match="a file is listed twice"):
        unpack_manifest(sign(content), "file")


@pytest.fixture
def run(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=1), checkpoints)
    return checkpoints


def forge(checkpoints, change):
    path = checkpoints.root / "round-001" / "manifest.json"
    content = json.loads(path.read_bytes())
    del content["digest"]
    change(content)
    path.write_bytes(sign(content))
    return checkpoints


def test_a_sparse_file_of_the_size_that_the_manifest_lists_is_not_read_into_memory(run):
    def change(content):
        file = content["modules"]["encoder"]["files"]["state"]
        file["size"] = 1 << 35
        with (run.root / file["path"]).open("r+b") as sparse:
            sparse.truncate(1 << 35)

    manifest = forge(run, change).manifest("round-001")
    with pytest.raises(CheckpointError, match=r"state\.safetensors: cannot be read \(34359738368 bytes do not fit"):
        run.state(manifest, "encoder")
    forge(run, lambda content: content["modules"]["encoder"]["files"]["state"].update(size=1 << 50))
    with pytest.raises(CheckpointError, match="size: expected an integer from 0 to"):
        run.manifest("round-001")


def test_a_missing_label_and_an_unknown_module_are_named(run):
    forge(run, lambda content: content["modules"]["encoder"]["files"].pop("state"))
    with pytest.raises(CheckpointError, match="lists no state of a module"):
        run.state(run.manifest("round-001"), "encoder")
    with pytest.raises(CheckpointError, match="lists a module that the run's config does not have, mirror"):
        Checkpoints(run.root, modules=["data", "encoder"]).manifest("round-001")


@pytest.mark.parametrize(
    ("name", "position", "valid"),
    [
        ("round-002", (2, None), True),
        ("round-002-step-01", (2, 2), True),
        ("round-002", (1, None), False),
        ("round-002", (999_999_999, None), False),
        ("round-002", (2, 1), False),
        ("round-002-step-01", (2, None), False),
        ("round-002-step-01", (2, 3), False),
    ],
)
def test_round_and_step_are_those_of_the_name(name, position, valid):
    content = sign({**OLD, "name": name, "round": position[0], "step": position[1]})
    if valid:
        manifest = unpack_manifest(content, "file")
        assert (manifest.round, manifest.step) == position
    else:
        with pytest.raises(CheckpointError, match=rf"^file: .*are not those of {name}\)$"):
            unpack_manifest(content, "file")
