"""Custom message kinds: which kinds are valid, and their registration in every process of a run."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from actors.errors import KindError, MessageError, ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import find
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.messaging.codec import decode, encode, make_message
from actors.messaging.kinds import KINDS, MAX_ARRAYS, ArraySpec, Kind, register_kind
from actors.messaging.message import Header
from actors.storage.checkpoints import Checkpoints
from tests.actors.backends.ray.test_backend import run_on_actors
from tests.actors.coordination.test_coordinator import ROWS, learn
from tests.support.custom_kinds import TOPIC, WORDS

HERE = "tests.support.custom_kinds"
VALUES = ArraySpec("values", ("N", "D"))


def model(rounds=2, fault=""):
    return Graph(
        [
            ModuleSpec("data", "observation"),
            ModuleSpec("counter", f"{HERE}:Counter", {"fault": fault}),
            ModuleSpec("reader", f"{HERE}:Reader"),
        ],
        [Connection("data", "counter"), Connection("counter", "reader")],
        Schedule(rounds, (Step("counter"), Step("reader"))),
    )


class TestRegistration:
    def test_messages_of_a_kind_are_valid_once_it_is_registered(self):
        arrays = {"values": np.ones((3, 2)), "mask": [True, False, False], "lengths": [1, 2]}
        with pytest.raises(MessageError, match="unknown kind 'mine'"):
            make_message(Header("mine", "a", "p"), arrays)
        register_kind(Kind("mine", (VALUES,)))
        decoded = decode(encode(make_message(Header("mine", "a", "p"), arrays)))
        assert decoded.mask.tolist() == arrays["mask"]
        with pytest.raises(MessageError, match="array 'more' does not belong to the kind"):
            make_message(Header("mine", "a", "p"), {**arrays, "more": np.ones(3)})

    def test_lengths_and_mask_belong_to_every_kind_whether_listed_or_not(self):
        assert KINDS["observations"] == Kind("observations", (ArraySpec("values", ("N", "...")),))

    def test_an_equal_kind_may_be_registered_again(self):
        register_kind(TOPIC, "one")
        register_kind(pickle.loads(pickle.dumps(TOPIC)), "another")
        assert KINDS["topic"] is TOPIC

    def test_a_different_kind_of_the_same_name_is_refused_and_both_are_named(self):
        register_kind(Kind("mine", (VALUES,)), "a.b:One")
        with pytest.raises(KindError) as raised:
            register_kind(Kind("mine", (ArraySpec("values", ("N", "K"), "distribution"),)), "c.d:Two")
        assert str(raised.value) == (
            "kind 'mine' of c.d:Two has values (N×K, distribution), but the kind of a.b:One with this name "
            "has values (N×D, real); choose another name"
        )

    def test_a_built_in_kind_cannot_be_replaced(self):
        with pytest.raises(KindError, match=r"the built-in kind with this name has mean \(N×D, real\), variance"):
            register_kind(Kind("latent_vectors", (VALUES,)))

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Kind("k", ()), "needs an array that is not optional and has N, the rows, as its first dimension"),
            (Kind("k", (ArraySpec("means", ("K", "D")),)), "has N, the rows, as its first dimension"),
            (Kind("k", (ArraySpec("values", ("N", "D"), optional=True),)), "not optional"),
            (Kind("k", (VALUES,), multiplies=True), r"has no array log_prob \(N×K, log_distribution\)"),
            (Kind("k", (ArraySpec("log_prob", ("N", "K")),), multiplies=True), "has no array log_prob"),
            (Kind("k", (VALUES, VALUES)), "has two arrays of the same name: values, values"),
            (Kind("two words", (VALUES,)), "has an invalid name: use letters"),
            (Kind("k", (ArraySpec("", ("N",)),)), "has an invalid name: use letters"),
            (Kind("k", (ArraySpec("values", ("N",), "integers"),)), "expected semantics to be one of real, log, "),
            (Kind("k", (ArraySpec("values", ()),)), "one to 8 dimensions"),
            (Kind("k", (ArraySpec("values", tuple("NABCDEFGH")),)), "one to 8 dimensions"),
            (Kind("k", (ArraySpec("values", ("...", "N")),)), "only be the last"),
            (Kind("k", (ArraySpec("values", "ND"),)), "a tuple of letters"),
            (
                Kind("k", (ArraySpec("p", ("N", "A", "B"), "distribution"),)),
                "expected two dimensions for a (log_)?distribution",
            ),
            (
                Kind("k", (ArraySpec("p", ("N", "..."), "log_distribution"),)),
                "expected two dimensions for a (log_)?distribution",
            ),
            (Kind("k", (VALUES, ArraySpec("mask", ("N",)))), "lengths and mask are the same in every kind"),
            (Kind("k", (VALUES, ArraySpec("gaps", ("N",), "mask"))), "lengths and mask are the same"),
            (Kind("k", tuple(ArraySpec(f"a{i}", ("N",)) for i in range(14))), f"at most {MAX_ARRAYS}"),
            ("topic", "expected a message kind .*, got 'topic'"),
        ],
    )
    def test_an_invalid_kind_is_refused(self, kind, error):
        with pytest.raises(KindError, match=error):
            register_kind(kind)
        assert "k" not in KINDS

    def test_a_kind_may_have_the_maximum_number_of_arrays(self):
        specs = [ArraySpec(f"a{i}", ("N",)) for i in range(MAX_ARRAYS - 2)]
        register_kind(Kind("wide", tuple(specs)))
        arrays = {spec.name: np.ones(2) for spec in specs} | {"mask": [True, False], "lengths": [2]}
        assert len(decode(encode(make_message(Header("wide", "a", "p"), arrays))).arrays) == MAX_ARRAYS

    def test_rows_are_counted_without_an_optional_array_of_rows_that_comes_first(self):
        register_kind(Kind("k", (ArraySpec("extra", ("N",), optional=True), VALUES)))
        arrays = {"values": np.ones((3, 2)), "lengths": [1, 2]}
        assert make_message(Header("k", "a", "p"), arrays).lengths.tolist() == [1, 2]
        with pytest.raises(MessageError, match="lengths sums to 3, but there are 4 rows"):
            make_message(Header("k", "a", "p"), {**arrays, "values": np.ones((4, 2))})


class TestCounts:
    @pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i8"])
    def test_may_be_integers_or_fractions(self, dtype):
        register_kind(WORDS)
        message = make_message(Header("word_counts", "a", "p"), {"counts": np.array([[0, 3], [2, 1]], dtype)})
        assert decode(encode(message))["counts"].tolist() == [[0, 3], [2, 1]]

    @pytest.mark.parametrize(
        ("value", "error"),
        [(-1.0, "contains a negative count in row 1"), (np.nan, "is not finite in row 1"), (np.inf, "is not finite")],
    )
    def test_are_neither_negative_nor_infinite(self, value, error):
        register_kind(WORDS)
        with pytest.raises(MessageError, match=f"counts {error}"):
            make_message(Header("word_counts", "a", "p"), {"counts": [[1.0, 2.0], [0.0, value]]})

    def test_are_not_booleans(self):
        register_kind(WORDS)
        with pytest.raises(MessageError, match="counts has dtype"):
            make_message(Header("word_counts", "a", "p"), {"counts": np.ones((2, 2), bool)})


class TestKindsOfModules:
    def test_are_registered_when_the_class_is_loaded(self):
        assert "topic" not in KINDS
        find(f"{HERE}:Reader")
        assert {"topic", "word_counts"} <= KINDS.keys()

    def test_a_different_kind_of_another_class_is_refused_with_both_classes(self):
        find(f"{HERE}:Reader")
        with pytest.raises(
            ModuleError, match=rf"'{HERE}:Conflicting': kind 'topic' of {HERE}:Conflicting .* the kind of {HERE}:Reader"
        ):
            find(f"{HERE}:Conflicting")

    def test_a_port_of_an_undeclared_kind_is_refused(self):
        with pytest.raises(
            ModuleError, match=r"port 'gossip' is of unknown kind 'gossip'.*list it in the class's kinds"
        ):
            find(f"{HERE}:Undeclared")

    def test_a_model_lists_its_kinds_that_are_not_built_in(self):
        assert model().kinds == (TOPIC, WORDS)
        assert Graph([ModuleSpec("data", "observation")], []).kinds == ()


def test_a_process_that_unpickles_a_model_can_decode_its_messages_without_the_code_of_its_modules():
    graph = model()
    counts = make_message(Header("word_counts", "a", "p"), {"counts": [[1.0]]})
    code = (
        "import pickle, sys; model, data = pickle.loads(sys.stdin.buffer.read());"
        "from actors.messaging.codec import decode; "
        "print(decode(data)['counts'], *[kind.name for kind in model.kinds]);"
        f"assert {HERE!r} not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((graph, encode(counts))), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [b"[[1.]]", b"topic", b"word_counts"]


def test_modules_exchange_them_in_one_process():
    _, events = learn(model())
    totals = [fields["total"] for name, fields in events if name == "updated" and "total" in fields]
    assert [total > 0 for total in totals] == [False, True]


def test_an_invalid_message_stops_the_run_and_is_named():
    with pytest.raises(MessageError, match=r"counter -> .* \(word_counts\): counts contains a negative count in row 2"):
        learn(model(fault="negative"))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_actors_they_give_the_same_bits_also_when_a_run_is_resumed_from_its_commits(tmp_path):
    here, there = Checkpoints(tmp_path / "here"), Checkpoints(tmp_path / "there")
    learn(model(rounds=3), here)
    run_on_actors(model(rounds=1), "run", there)
    events = run_on_actors(model(rounds=3), "run", there)
    assert [name for name, _, _ in events].count("resumed") == 1
    assert here.names() == there.names()
    for name in here.names():
        digests = [
            {
                (module, label): file.digest
                for module, record in run.manifest(name).modules.items()
                for label, file in record.files.items()
            }
            for run in (here, there)
        ]
        assert digests[0] == digests[1]
    sent = there.messages(there.latest(), "reader")["about"]
    assert (sent.header.kind, sent["words"].shape) == ("topic", (2, ROWS.shape[1]))
