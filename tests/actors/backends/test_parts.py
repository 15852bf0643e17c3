"""Messages and outputs of shared modules in parts: the same results, and commits with a file for each part."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.backends.shard_host import ShardHost, rows_of_call
from actors.coordination.backend import ModuleCall
from actors.coordination.coordinator import Coordinator
from actors.errors import CheckpointError, ModuleError
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.kernels.row_sample import spread_rows
from actors.messaging.codec import describe, pack_header
from actors.messaging.message import ArrayHeader, Header
from actors.messaging.stored_rows import RowFile, StoredRows, file_version
from actors.sharing import chunks, shard
from actors.sharing.chunks import Extent, ShardedArrays, ShardedOutputs, join_references
from actors.storage import parts as stored_parts
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import pack_manifest, unpack_manifest
from actors.storage.module_files import LoadRequest, load_module_files
from actors.storage.state_codec import pack_state, unpack_state
from runner.runs.event_log import parse_checked_event
from tests.support.events import recorder
from tests.support.toy_modules import same_arrays

ROWS, CHUNK, STRETCH = 300, 16, 64
X = (np.random.default_rng(0).normal(size=(ROWS, 6)) + 4 * np.eye(6)[np.arange(ROWS) % 3]).astype(np.float32)
LENGTHS = np.array([100, 1, 63, 36, 64, 36])
GMM = {"classes": 3, "engine": "vb", "iterations": 3}
OUTPUTS = {"gmm": ("class", "Pdz"), "mm": ("msg", "Pdz", "viterbi", "trans_prob"), "pca": ("z", "x_hat")}


@pytest.fixture
def short_stretches(monkeypatch):
    """Let a stretch have four chunks, and commits of more rows than that have parts."""
    monkeypatch.setattr(chunks, "STRETCH_ROWS", STRETCH)
    monkeypatch.setattr(stored_parts, "STRETCH_ROWS", STRETCH)


def graph(workers=2, rounds=2):
    sharing = Sharing(workers, CHUNK)
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec("pca", "pca", {"latent_dim": 2}, sharing=sharing),
        ModuleSpec("gmm", "gmm", GMM, sharing=replace(sharing, chunk=40)),
        ModuleSpec("mm", "markov", {}, sharing=sharing),
    ]
    steps = tuple(Step(name) for name in ("pca", "gmm", "mm"))
    pairs = [("data", "pca"), ("pca", "gmm"), ("gmm", "mm")]
    return Graph(specs, [Connection(*pair) for pair in pairs], Schedule(rounds, steps))


def trained(root, workers=2, rounds=2, data=None):
    coordinator = Coordinator(graph(workers, rounds), InProcessBackend(), checkpoints=Checkpoints(root))
    coordinator.start({"data": data or {"values": X, "lengths": LENGTHS}})
    coordinator.run_rounds()
    return coordinator


def states(root):
    modules = Checkpoints(root).latest().modules
    found = sorted((name, record.files["state"].digest) for name, record in modules.items())
    return hashlib.sha256(repr(found).encode()).hexdigest()


def outputs(root):
    checkpoints, manifest = Checkpoints(root), Checkpoints(root).latest()
    return {name: dict(checkpoints.outputs(manifest, name)) for name in OUTPUTS}


def test_stretches_are_bounded_and_begin_at_fixed_chunks(short_stretches):
    whole = Extent(ROWS, CHUNK)
    assert [(s.first, s.last) for s in whole.part(0, 1).stretches()] == [(n, min(n + 4, 19)) for n in range(0, 19, 4)]
    assert [(s.first, s.last) for s in whole.part(1, 3).stretches()] == [(6, 8), (8, 12)]
    assert len(Extent(ROWS, 100, 0, 3).stretches()) == 3  # a chunk is not cut
    assert all(s.stop - s.start <= STRETCH for n in range(3) for s in whole.part(n, 3).stretches())


@pytest.mark.parametrize("workers", [1, 3])
def test_the_results_do_not_depend_on_the_stretches(tmp_path, monkeypatch, workers):
    trained(tmp_path / "whole" / "commits")
    monkeypatch.setattr(chunks, "STRETCH_ROWS", STRETCH)
    monkeypatch.setattr(stored_parts, "STRETCH_ROWS", STRETCH)
    coordinator = trained(tmp_path / "parts" / "commits", workers)
    assert len(coordinator.outputs("gmm").parts) == 8  # chunks of 40 rows, of which no two are a stretch
    assert states(tmp_path / "parts" / "commits") == states(tmp_path / "whole" / "commits")
    before, after = outputs(tmp_path / "whole" / "commits"), outputs(tmp_path / "parts" / "commits")
    assert all(same_arrays(before[name], after[name]) for name in OUTPUTS)
    for own in Checkpoints(tmp_path / "parts" / "commits").latest().modules["mm"].slots:
        whole, parted = (
            Checkpoints(tmp_path / kind / "commits").message(
                Checkpoints(tmp_path / kind / "commits").latest().modules["mm"], own
            )
            for kind in ("whole", "parts")
        )
        assert whole.header.arrays == parted.header.arrays
        assert same_arrays(whole.arrays, parted.arrays)


def test_a_commit_has_a_file_for_each_part_and_is_read_back_in_parts(tmp_path, short_stretches):
    root = tmp_path / "commits"
    trained(root)
    record = Checkpoints(root).latest().modules["gmm"]
    assert {"state", "parts", "outputs#0", "outputs#7"} < set(record.files)
    assert "outputs" not in record.files
    assert record.files["outputs#3"].path == "round-002/gmm.outputs.000003.safetensors"
    headers, _, found, *messages = load_module_files(LoadRequest(str(root), "gmm", record))
    assert isinstance(found, ShardedOutputs)
    assert all(isinstance(each, ShardedArrays) for each in messages)
    assert found["class"].shape == (ROWS,)
    assert len(headers) == len(messages) == len(record.slots) == 2
    assert max(file.size for file in record.files.values()) < 4_000  # of 40 rows, not of 300


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_goes_on_from_parts_with_any_number_of_workers(tmp_path, short_stretches, workers):
    trained(tmp_path / "whole" / "commits")
    root = tmp_path / "resumed" / "commits"
    trained(root, 3, rounds=1)
    resumed = Coordinator(graph(workers), InProcessBackend(), checkpoints=Checkpoints(root))
    resumed.resume()
    resumed.run_rounds()
    assert states(root) == states(tmp_path / "whole" / "commits")


def test_of_few_rows_a_commit_has_one_file_whatever_the_number_of_workers(tmp_path):
    coordinators = [trained(tmp_path / f"{workers}" / "commits", workers) for workers in (1, 3)]
    assert len(coordinators[1].outputs("gmm").parts) == 3
    one, three = (Checkpoints(tmp_path / f"{workers}" / "commits").latest().modules["gmm"] for workers in (1, 3))
    assert one.files == three.files
    assert "outputs" in one.files


def test_damage_of_a_part_is_found_and_named(tmp_path, short_stretches):
    root = tmp_path / "commits"
    trained(root)
    path = root / "round-002" / "gmm.outputs.000005.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    checkpoints = Checkpoints(root)
    with pytest.raises(CheckpointError, match=r"gmm.outputs.000005.safetensors: damaged"):
        checkpoints.verify(checkpoints.latest())
    said = []
    assert checkpoints.newest_whole(said.append).name == "round-001"
    with pytest.raises(CheckpointError, match="000005"):
        checkpoints.outputs(checkpoints.latest(), "gmm")["class"]


@pytest.mark.parametrize("lost", ["outputs#5", "parts", "message:class_means#0"])
def test_a_manifest_without_a_part_is_refused(tmp_path, short_stretches, lost):
    root = tmp_path / "commits"
    trained(root)
    manifest = Checkpoints(root).latest()
    record = manifest.modules["gmm"]
    assert unpack_manifest(pack_manifest(manifest), "here") == manifest
    forged = replace(record, files={label: file for label, file in record.files.items() if label != lost})
    with pytest.raises(CheckpointError, match=r"parts|no state|no outputs"):
        load_module_files(LoadRequest(str(root), "gmm", forged))


def forge(root, label, change):
    """Replace the state or outputs in a file of the last commit, with a manifest that lists it as it is."""
    checkpoints = Checkpoints(root)
    manifest = checkpoints.latest()
    record = manifest.modules["gmm"]
    file = record.files[label]
    data = pack_state(change(unpack_state((root / file.path).read_bytes(), label)))
    (root / file.path).write_bytes(data)
    forged = replace(file, size=len(data), digest=hashlib.sha256(data).hexdigest())
    modules = {**manifest.modules, "gmm": replace(record, files={**record.files, label: forged})}
    checkpoints.commit(replace(manifest, modules=modules))
    return checkpoints.latest()


@pytest.mark.parametrize(
    ("label", "change"),
    [
        ("outputs#3", lambda own: {**own, "class": own["class"][:-1]}),
        ("outputs#3", lambda own: {**own, "Pdz": own["Pdz"][:, :2]}),
        ("outputs#3", lambda own: {**own, "Pdz": 1.0}),
        ("outputs#3", lambda own: {name: each for name, each in own.items() if name != "class"}),
        ("parts", lambda own: {**own, "total": 299}),
        ("parts", lambda own: {**own, "rows": "[" * 5000}),
        ("parts", lambda own: {**own, "first_rows outputs": own["first_rows outputs"][::-1].copy()}),
        ("parts", lambda own: {**own, "first_rows outputs": own["first_rows outputs"][:-1]}),
        ("parts", lambda own: {name: each for name, each in own.items() if name != "continued outputs"}),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(tmp_path, short_stretches, label, change):
    root = tmp_path / "commits"
    trained(root, rounds=1)
    manifest = forge(root, label, change)
    with pytest.raises(CheckpointError, match=r"parts|index says"):
        dict(Checkpoints(root).outputs(manifest, "gmm"))


def test_parts_of_a_message_that_begin_elsewhere_are_refused(tmp_path, short_stretches):
    root, name = tmp_path / "commits", "first_rows message:class_posteriors.mm"
    trained(root, rounds=1)
    manifest = forge(root, "parts", lambda own: {**own, name: own[name] + (own[name] > 0)})
    for read in (
        lambda: load_module_files(LoadRequest(str(root), "gmm", manifest.modules["gmm"])),
        lambda: Checkpoints(root).message(manifest.modules["gmm"], "class_posteriors.mm"),
    ):
        with pytest.raises(CheckpointError, match="do not begin where its index says"):
            read()


def test_sampled_outputs_have_fixed_rows_and_their_numbers(tmp_path, short_stretches, monkeypatch):
    from actors.backends import module_host, shard_host

    for place in (shard, module_host, shard_host):
        monkeypatch.setattr(place, "MAX_WHOLE_ROWS", 200)
    for place in (shard, module_host):
        monkeypatch.setattr(place, "SAMPLED_OUTPUT_ROWS", 90)
    rows = spread_rows(ROWS, 90)
    found = []
    for workers in (1, 3):
        coordinator = trained(tmp_path / f"{workers}" / "commits", workers)
        result = coordinator.outputs("pca")
        np.testing.assert_array_equal(result["x_hat_rows"], rows)
        assert result["x_hat"].shape == (90, 6)
        assert result["z"].shape == (ROWS, 2)
        found.append(outputs(tmp_path / f"{workers}" / "commits")["pca"])
        record = Checkpoints(tmp_path / f"{workers}" / "commits").latest().modules["pca"]
        assert "reconstructions" not in record.slots  # its receiver, the source, does not read it
    assert same_arrays(*found)
    monkeypatch.setattr(shard, "MAX_WHOLE_ROWS", 10**6)
    monkeypatch.setattr(shard_host, "MAX_WHOLE_ROWS", 10**6)
    whole = trained(tmp_path / "all" / "commits").outputs("pca")["x_hat"]
    np.testing.assert_array_equal(found[0]["x_hat"], whole[rows])


def test_the_rows_of_a_sample_are_spread_and_do_not_follow_a_cycle():
    rows = spread_rows(10**7, 1000)
    assert len(set((rows // 10**4).tolist())) == 1000  # one in each of 1,000 stretches
    assert np.bincount(rows % 10).min() > 70
    np.testing.assert_array_equal(spread_rows(5, 10), np.arange(5))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_event_of_an_update_has_the_rows_and_the_seconds_of_each_worker(tmp_path, workers, short_stretches):
    events = []
    coordinator = Coordinator(graph(workers, 1), InProcessBackend(), emit=recorder(events))
    coordinator.start({"data": {"values": X}})
    coordinator.run_rounds()
    names = ["pca", "pca#1", "pca#2"][:workers]
    (update,) = [fields for event, fields in events if event == "updated" and fields["module"] == "pca"]
    assert list(update["worker_rows"]) == list(update["worker_seconds"]) == names
    assert list(update["worker_rows"].values()) == {1: [300], 3: [96, 96, 108]}[workers]
    assert all(0 < seconds <= update["seconds"] for seconds in update["worker_seconds"].values())
    parsed = parse_checked_event("updated", json.loads(json.dumps(update)))
    assert parsed.fields() == update


def test_messages_that_differ_in_their_rows_are_refused_and_not_cut():
    headers = [
        Header("latent_vectors", sender, "latent_vectors", arrays=(ArrayHeader("mean", "<f8", (rows, 2)),))
        for sender, rows in (("pca", 300), ("vae", 301))
    ]
    packed = tuple(map(pack_header, headers))
    call = ModuleCall("update", "r", seed=0, round=1, step=0, sequence=1, receivers={}, headers=packed)
    with pytest.raises(ModuleError, match="vae sent 301 rows, pca 300: workers share rows of one number"):
        rows_of_call(call)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("continues", [False, True])
def test_a_worker_knows_whether_a_sequence_goes_on_after_its_rows(cut, continues):
    """Also if the parts of other workers are not sent to it, as on Ray."""
    pieces = [np.array([20, 12]), np.array([5, 27]) if continues else np.array([32])]
    arrays = [
        {"log_prob": np.full((32, 3), -np.log(3.0)), "log_norm": np.zeros(32), "lengths": lengths} for lengths in pieces
    ]
    headers = [Header("class_posteriors", "gmm", "class_posteriors", arrays=describe(each)) for each in arrays]
    header, sharded = join_references(headers, arrays, [0, 32], [False, continues])
    call = ModuleCall(
        "update", "r", 0, 1, 0, 1, receivers={}, headers=(pack_header(header),), ports=("class_posteriors",)
    )
    extents = [Extent(64, CHUNK, first, first + 2) for first in (0, 2)]
    found = []
    for rank, own in enumerate(extents):
        host = ShardHost(graph().modules["mm"], ())
        host.prepare("cpu")
        given = sharded.overlapping(own.start, own.stop) if cut else sharded
        host.open_shard(call, [given], extents, rank)
        found += [(chunk.continued, chunk.continues) for chunk in host.sample()]
    assert found == [(False, True), (True, continues), (continues, True), (True, False)]


@pytest.mark.parametrize("workers", [None, 2])
def test_decoding_what_was_learnt_reads_one_row_of_those_on_disk(tmp_path, monkeypatch, workers):
    np.save(tmp_path / "x.npy", X)
    size, version = file_version(str(tmp_path / "x.npy"))
    file = RowFile(str(tmp_path / "x.npy"), size - X.nbytes, ROWS, size, version)
    stored = StoredRows((file,), X.dtype.str, X.shape[1:], None, 0, ROWS)
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec(
            "vae",
            "vae",
            {"latent_dim": 2, "epochs": 1, "likelihood": "mse"},
            sharing=workers and Sharing(workers, CHUNK),
        ),
        ModuleSpec("gmm", "gmm", GMM),
    ]
    pairs = [Connection("data", "vae"), Connection("vae", "gmm")]
    steps = (Step("vae"), Step("gmm"))
    coordinator = Coordinator(Graph(specs, pairs, Schedule(1, steps)), InProcessBackend())
    coordinator.start({"data": {"stored": stored.to_text()}})
    coordinator.run_rounds()
    read, original = [], StoredRows.read

    def counted(self):
        read.append(len(self))
        return original(self)

    monkeypatch.setattr(StoredRows, "read", counted)
    assert coordinator.generate("vae")["mu_hat"].shape == (3, 6)
    assert sum(read) <= 1
