"""Kinds of message of one's own: which there can be, and that every process of a run knows them."""

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
ROWS_OF = ArraySpec("values", ("N", "D"))


def model(rounds=2, fault=""):
    return Graph(
        [
            ModuleSpec("data", "observation"),
            ModuleSpec("listener", f"{HERE}:Listener", {"fault": fault}),
            ModuleSpec("reader", f"{HERE}:Reader"),
        ],
        [Connection("data", "listener"), Connection("listener", "reader")],
        Schedule(rounds, (Step("listener"), Step("reader"))),
    )


class TestRegistration:
    def test_a_kind_may_be_said_once_it_is_known(self):
        sent = {"values": np.ones((3, 2)), "mask": [True, False, False], "lengths": [1, 2]}
        with pytest.raises(MessageError, match="unknown kind 'mine'"):
            make_message(Header("mine", "a", "p"), sent)
        register_kind(Kind("mine", (ROWS_OF,)))
        came = decode(encode(make_message(Header("mine", "a", "p"), sent)))
        assert came.mask.tolist() == sent["mask"]
        with pytest.raises(MessageError, match="array 'more' does not belong to the kind"):
            make_message(Header("mine", "a", "p"), {**sent, "more": np.ones(3)})

    def test_lengths_and_mask_belong_to_every_kind_whether_listed_or_not(self):
        assert KINDS["observations"] == Kind("observations", (ArraySpec("values", ("N", "...")),))

    def test_it_may_be_made_known_again(self):
        register_kind(TOPIC, "one")
        register_kind(pickle.loads(pickle.dumps(TOPIC)), "another")
        assert KINDS["topic"] is TOPIC

    def test_another_one_of_the_same_name_is_refused_and_both_are_named(self):
        register_kind(Kind("mine", (ROWS_OF,)), "a.b:One")
        with pytest.raises(KindError) as raised:
            register_kind(Kind("mine", (ArraySpec("values", ("N", "K"), "distribution"),)), "c.d:Two")
        assert str(raised.value) == (
            "kind 'mine' of c.d:Two has values (N×K, distribution); the one of this name that is that of a.b:One "
            "has values (N×D, real): choose another name"
        )

    def test_a_built_in_kind_keeps_its_meaning(self):
        with pytest.raises(KindError, match=r"that is built in has mean \(N×D, real\), variance"):
            register_kind(Kind("latent_vectors", (ROWS_OF,)))

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            (Kind("k", ()), "needs an array that is always there and whose first dimension is N"),
            (Kind("k", (ArraySpec("means", ("K", "D")),)), "whose first dimension is N"),
            (Kind("k", (ArraySpec("values", ("N", "D"), optional=True),)), "always there"),
            (Kind("k", (ROWS_OF,), multiplies=True), r"needs an array log_prob \(N×K, log_distribution\)"),
            (Kind("k", (ArraySpec("log_prob", ("N", "K")),), multiplies=True), "needs an array log_prob"),
            (Kind("k", (ROWS_OF, ROWS_OF)), "names an array twice: values, values"),
            (Kind("two words", (ROWS_OF,)), "need names of letters"),
            (Kind("k", (ArraySpec("", ("N",)),)), "need names of letters"),
            (Kind("k", (ArraySpec("values", ("N",), "integers"),)), "its semantics are one of real, log, "),
            (Kind("k", (ArraySpec("values", ()),)), "one to 8 dimensions"),
            (Kind("k", (ArraySpec("values", tuple("NABCDEFGH")),)), "one to 8 dimensions"),
            (Kind("k", (ArraySpec("values", ("...", "N")),)), "only the last"),
            (Kind("k", (ArraySpec("values", "ND"),)), "a tuple of letters"),
            (Kind("k", (ArraySpec("p", ("N", "A", "B"), "distribution"),)), "rows of two dimensions"),
            (Kind("k", (ArraySpec("p", ("N", "..."), "log_distribution"),)), "rows of two dimensions"),
            (Kind("k", (ROWS_OF, ArraySpec("mask", ("N",)))), "lengths and mask say the same in every kind"),
            (Kind("k", (ROWS_OF, ArraySpec("gaps", ("N",), "mask"))), "lengths and mask say the same"),
            (Kind("k", tuple(ArraySpec(f"a{i}", ("N",)) for i in range(14))), f"at most {MAX_ARRAYS}"),
            ("topic", "'topic' is none"),
        ],
    )
    def test_what_no_message_could_be_held_against_is_refused(self, kind, said):
        with pytest.raises(KindError, match=said):
            register_kind(kind)
        assert "k" not in KINDS

    def test_as_many_arrays_as_fit_come_through(self):
        own = [ArraySpec(f"a{i}", ("N",)) for i in range(MAX_ARRAYS - 2)]
        register_kind(Kind("wide", tuple(own)))
        arrays = {spec.name: np.ones(2) for spec in own} | {"mask": [True, False], "lengths": [2]}
        assert len(decode(encode(make_message(Header("wide", "a", "p"), arrays))).arrays) == MAX_ARRAYS

    def test_rows_are_counted_though_an_optional_array_of_rows_comes_first_and_is_left_out(self):
        register_kind(Kind("k", (ArraySpec("extra", ("N",), optional=True), ROWS_OF)))
        arrays = {"values": np.ones((3, 2)), "lengths": [1, 2]}
        assert make_message(Header("k", "a", "p"), arrays).lengths.tolist() == [1, 2]
        with pytest.raises(MessageError, match="lengths adds up to 3, but there are 4 rows"):
            make_message(Header("k", "a", "p"), {**arrays, "values": np.ones((4, 2))})


class TestCounts:
    @pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i8"])
    def test_are_whole_or_broken_numbers(self, dtype):
        register_kind(WORDS)
        sent = make_message(Header("word_counts", "a", "p"), {"counts": np.array([[0, 3], [2, 1]], dtype)})
        assert decode(encode(sent))["counts"].tolist() == [[0, 3], [2, 1]]

    @pytest.mark.parametrize(
        ("value", "said"),
        [(-1.0, "holds a negative count in row 1"), (np.nan, "is not finite in row 1"), (np.inf, "is not finite")],
    )
    def test_are_neither_negative_nor_infinite(self, value, said):
        register_kind(WORDS)
        with pytest.raises(MessageError, match=f"counts {said}"):
            make_message(Header("word_counts", "a", "p"), {"counts": [[1.0, 2.0], [0.0, value]]})

    def test_are_no_truth_values(self):
        register_kind(WORDS)
        with pytest.raises(MessageError, match="counts has dtype"):
            make_message(Header("word_counts", "a", "p"), {"counts": np.ones((2, 2), bool)})


class TestOfModules:
    def test_are_known_once_the_class_is_found(self):
        assert "topic" not in KINDS
        find(f"{HERE}:Reader")
        assert {"topic", "word_counts"} <= KINDS.keys()

    def test_a_kind_that_is_another_one_elsewhere_is_refused_with_both_classes(self):
        find(f"{HERE}:Reader")
        with pytest.raises(
            ModuleError, match=rf"'{HERE}:Rival': kind 'topic' of {HERE}:Rival .* that of {HERE}:Reader"
        ):
            find(f"{HERE}:Rival")

    def test_a_port_of_a_kind_that_is_not_declared_is_refused(self):
        with pytest.raises(
            ModuleError, match=r"port 'gossip' is of unknown kind 'gossip'.*list it in the class's kinds"
        ):
            find(f"{HERE}:Forgetful")

    def test_a_model_names_those_that_are_not_built_in(self):
        assert model().kinds == (TOPIC, WORDS)
        assert Graph([ModuleSpec("data", "observation")], []).kinds == ()


def test_whoever_receives_a_model_reads_its_messages_without_its_modules_code():
    sent = model()
    counts = make_message(Header("word_counts", "a", "p"), {"counts": [[1.0]]})
    code = (
        "import pickle, sys; model, data = pickle.loads(sys.stdin.buffer.read());"
        "from actors.messaging.codec import decode; "
        "print(decode(data)['counts'], *[kind.name for kind in model.kinds]);"
        f"assert {HERE!r} not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((sent, encode(counts))), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [b"[[1.]]", b"topic", b"word_counts"]


def test_modules_talk_in_them_in_one_process():
    _, events = learn(model())
    assert [fields["heard"] > 0 for name, fields in events if name == "updated" and "heard" in fields] == [False, True]


def test_one_that_is_not_what_it_says_stops_the_run_and_is_named():
    with pytest.raises(MessageError, match=r"listener -> .* \(word_counts\): counts holds a negative count in row 2"):
        learn(model(fault="negative"))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_actors_they_give_the_same_bits_also_when_a_run_is_taken_up_from_its_commits(tmp_path):
    here, there = Checkpoints(tmp_path / "here"), Checkpoints(tmp_path / "there")
    learn(model(rounds=3), here)
    run_on_actors(model(rounds=1), "run", there)
    events = run_on_actors(model(rounds=3), "run", there)
    assert [name for name, _, _ in events].count("resumed") == 1
    assert here.names() == there.names()
    for name in here.names():
        of_both = [
            {
                (module, label): file.digest
                for module, record in run.manifest(name).modules.items()
                for label, file in record.files.items()
            }
            for run in (here, there)
        ]
        assert of_both[0] == of_both[1]
    said = there.messages(there.latest(), "reader")["about"]
    assert (said.header.kind, said["words"].shape) == ("topic", (2, ROWS.shape[1]))
