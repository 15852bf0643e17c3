"""The host: what a module sees of a call, what becomes of its answer, and on how many threads it computes."""

import sys
import threading

import numpy as np
import pytest
from actors.graph.spec import Connection, ModuleSpec
from threadpoolctl import threadpool_info, threadpool_limits

from actors.backends.module_host import Call, Host, limited_threads
from actors.errors import MessageError, ModuleError, NonFiniteError
from actors.graph.graph import Graph
from actors.messaging.codec import unpack_header
from actors.module import Outbox, OutgoingMessage
from tests.support.counter import TYPE, answering, call, evidence, host, latents, update


class TestWhatAModuleSees:
    def test_its_context_is_that_of_the_call(self):
        made = host()
        receivers = {"evidence": ("mm1", "mm2")}
        when = {"seed": 9, "round": 5, "step": 1, "exchange": 7, "chain": 2, "temperature": 0.5, "ordered": False}
        update(made, run="mine", receivers=receivers, **when)
        context = made.module.seen[1]
        assert context.module == "gmm"
        assert context.run == "mine"
        assert context.receivers == receivers
        assert {name: getattr(context, name) for name in when} == when

    def test_its_random_draws_do_not_depend_on_the_attempt(self):
        drawn = []
        for sequence in (1, 99):
            made = host(lambda _inbox, context: drawn.append(context.generator.random()) or Outbox())
            update(made, sequence=sequence)
        assert drawn[0] == drawn[1]

    def test_messages_stand_in_its_inbox_by_port_and_sender(self):
        made = host()
        update(made, latents(sender="vae2"), latents(sender="vae1"))
        inbox = made.module.seen[0]
        assert list(inbox.all("z")) == ["vae2", "vae1"]
        assert inbox.first("prior") is None

    def test_inputs_are_read_only(self):
        def write(inbox, context):
            inbox.require("z")["mean"][0, 0] = 1.0
            return Outbox()

        given = np.zeros((4, 2))
        message = latents(mean=given)
        made = host(write)
        with pytest.raises(ValueError, match="read-only"):
            update(made, message)
        assert given.flags.writeable  # the sender's own array is the sender's own matter
        assert not given.any()
        assert not made.module.seen[0].require("z")["mean"].flags.writeable

    def test_inputs_are_not_copied(self):
        message, made = latents(), host()
        update(made, message)
        assert np.shares_memory(made.module.seen[0].require("z")["mean"], message["mean"])

    def test_overrides_hold_for_one_step(self):
        made = host(step=5)
        update(made, overrides={"step": 0})
        assert made.module.count == 0
        update(made)
        assert made.module.count == 5


class TestRefusedInput:
    @pytest.mark.parametrize("port", ["y", "evidence", "means", "prior"])
    def test_on_a_port_that_is_none_or_an_output_or_of_another_kind(self, port):
        made = host()
        with pytest.raises(MessageError, match=rf"vae -> gmm\.{port} \(latent_vectors\): gmm has no such port"):
            update(made, latents(port=port))
        assert made.module.count == 0

    @pytest.mark.parametrize(
        ("came", "said"),
        [
            ({"mean": np.zeros((4, 3))}, r"mean is announced as <f8 \(4, 2\), <f8 \(4, 3\) came"),
            ({"mean": np.zeros((4, 2), "f4")}, r"<f4 \(4, 2\) came"),
            ({}, "mean is announced and did not come"),
            ({"mean": np.zeros((4, 2)), "mask": np.zeros(9, bool)}, "array 'mask' came, only mean"),
        ],
    )
    def test_whose_arrays_are_not_those_announced(self, came, said):
        made = host()
        asked, _ = call(latents())
        with pytest.raises(MessageError, match=rf"vae -> gmm\.z \(latent_vectors\): .*{said}"):
            made.ask("update", asked, [came])
        assert made.module.count == 0

    def test_whose_values_went_bad_on_the_way(self):
        asked, _ = call(latents())
        with pytest.raises(MessageError, match=r"vae -> gmm\.z .*mean is not finite in row 0"):
            host().ask("update", asked, [{"mean": np.full((4, 2), np.nan)}])

    def test_whose_header_cannot_be_read(self):
        asked = Call("run", 0, 0, 0, 0, {}, headers=(b"\xc1",))
        with pytest.raises(MessageError, match="header: not readable"):
            host().ask("update", asked, [{}])

    def test_of_which_headers_and_arrays_do_not_pair_up(self):
        asked, _ = call(latents())
        with pytest.raises(ValueError, match="zip"):
            host().ask("update", asked, [])


class TestWhatBecomesOfAnAnswer:
    def test_every_receiver_of_a_port_gets_its_own_message(self):
        reply = update(
            host(
                answering(
                    OutgoingMessage("evidence", evidence(k=2), receiver="mm2"),
                    OutgoingMessage("evidence", evidence(k=3), receiver="mm1"),
                )
            ),
            run="mine",
        )
        heads = [head and unpack_header(head) for head in reply.answer.headers]
        assert [head and head.route for head in heads] == [
            "gmm -> mm1.evidence (class_posteriors)",
            "gmm -> mm2.evidence (class_posteriors)",
            None,
        ]
        assert [arrays and arrays["log_prob"].shape[1] for arrays in reply.messages] == [3, 2, None]
        assert (heads[0].run, heads[0].round, heads[0].step, heads[0].sequence) == ("mine", 2, 3, 4)

    def test_a_message_without_a_receiver_goes_to_all_that_get_none_of_their_own(self):
        reply = update(
            host(
                answering(
                    OutgoingMessage("evidence", evidence(k=2)),
                    OutgoingMessage("evidence", evidence(k=5), receiver="mm2"),
                )
            )
        )
        assert [arrays and arrays["log_prob"].shape[1] for arrays in reply.messages] == [2, 5, None]

    def test_a_slot_for_which_nothing_came_stays_empty(self):
        reply = update(host())
        assert reply.answer.headers == (None, None, None)
        assert reply.messages == (None, None, None)

    def test_what_nobody_receives_is_dropped(self):
        reply = update(host(answering(OutgoingMessage("evidence", evidence())), slots=()))
        assert reply.messages == ()

    def test_the_slots_are_those_of_the_graph(self):
        source, counter = "tests.support.toy_modules:Encoder", ModuleSpec("gmm", TYPE)
        specs = [ModuleSpec("data", "tests.support.toy_modules:Source"), ModuleSpec("vae", source), counter]
        graph = Graph(specs, [Connection("data", "vae"), Connection("vae", "gmm")])
        made = Host(counter, graph.slots("gmm"))
        made.module.behaviour = answering(OutgoingMessage("means", {"means": np.eye(2), "responsibilities": np.eye(2)}))
        assert [sorted(arrays) for arrays in update(made).messages] == [["means", "responsibilities"]]

    def test_wrong_arrays_are_refused_in_the_senders_name(self):
        bad = {**evidence(), "log_norm": np.full(4, np.nan)}
        with pytest.raises(NonFiniteError, match=r"gmm -> mm1\.evidence \(class_posteriors\): log_norm is not finite"):
            update(host(answering(OutgoingMessage("evidence", bad))))

    def test_a_misspelt_port_is_refused_and_not_lost(self):
        for port in ("evidense", "z"):
            with pytest.raises(MessageError, match=rf"gmm\.{port}: no such output port, only evidence, means"):
                update(host(answering(OutgoingMessage(port, evidence()))))

    def test_a_receiver_of_a_port_that_all_share_is_refused_and_not_lost(self):
        means = {"means": np.eye(3), "responsibilities": np.eye(3)}
        with pytest.raises(MessageError, match=r"gmm\.means: a message of its own came for vae"):
            update(host(answering(OutgoingMessage("means", means, receiver="vae"))))

    def test_a_receiver_that_is_not_connected_is_refused_and_not_lost(self):
        with pytest.raises(MessageError, match=r"gmm\.evidence to mm3: no such receiver, only mm1, mm2"):
            update(host(answering(OutgoingMessage("evidence", evidence(), receiver="mm3"))))

    @pytest.mark.parametrize("receiver", ["", "mm1"])
    def test_a_second_message_for_the_same_place_is_refused_and_not_lost(self, receiver):
        twice = [OutgoingMessage("evidence", evidence(), receiver=receiver)] * 2
        with pytest.raises(MessageError, match=r"gmm\.evidence.*: two messages came, one can be sent"):
            update(host(answering(*twice)))

    def test_figures_outputs_and_seconds_come_along(self):
        classes = np.arange(4)
        reply = update(host(answering(metrics={"evidence": np.float32(-2.5)}, outputs={"class": classes})))
        assert reply.answer.metrics == {"evidence": -2.5}
        assert type(reply.answer.metrics["evidence"]) is float
        assert reply.outputs == {"class": classes}
        assert 0 <= reply.answer.seconds < 5


class TestState:
    def test_an_update_returns_it_and_another_host_goes_on_from_there(self):
        first, second = host(step=2), host(step=2)
        second.load_state(update(first).state)
        assert update(second).state == update(first).state == {"count": 4}

    def test_a_recognition_returns_none_and_changes_none(self):
        made = host()
        reply = made.ask("recognize", *call(latents()))
        assert reply.state == {}
        assert made.module.count == 0
        assert isinstance(made.module.seen[1].ordered, bool)

    def test_neither_does_the_way_down(self):
        made = host()
        reply = made.ask("generate", *call())  # the contract's own: nothing to show
        assert reply.state == reply.outputs == {}
        assert made.module.count == 0

    def test_a_module_that_cannot_be_made_is_refused(self):
        with pytest.raises(ModuleError, match="start: Input should be greater than or equal to 0"):
            host(start=-1)

    def test_the_module_is_prepared_with_the_threads_it_was_promised(self):
        made = host(threads=2)
        assert made.prepare("cuda") == "cpu"  # the device that it really uses
        assert made.device == "cpu"
        assert made.module.prepared == [("cuda", 2)]


class TestStatus:
    def test_tells_what_the_update_reported(self):
        seen = []

        def behaviour(inbox, context):
            seen.append(made.status())
            context.report(2, 10, loss=0.25)
            seen.append(made.status())
            return Outbox()

        made = host(behaviour)
        assert made.status() == {"doing": "waiting"}
        update(made)
        made.ask("recognize", *call())
        assert seen[0] == {"doing": "learning"}
        assert seen[1] == {"doing": "learning", "done": 2, "total": 10, "loss": 0.25}
        assert seen[2]["doing"] == "recognizing"
        assert made.status() == {"doing": "waiting"}

    def test_is_answered_while_the_module_learns(self):
        busy, enough = threading.Event(), threading.Event()

        def behaviour(inbox, context):
            context.report(1, 2)
            busy.set()
            enough.wait(10)
            return Outbox()

        made = host(behaviour)
        learner = threading.Thread(target=update, args=(made,))
        learner.start()
        assert busy.wait(10)
        assert made.status() == {"doing": "learning", "done": 1, "total": 2}
        enough.set()
        learner.join()
        assert made.status() == {"doing": "waiting"}

    def test_figures_may_have_any_name(self):
        seen = []

        def behaviour(inbox, context):
            context.report(1, 2, doing=3.0)
            seen.append(made.status())
            return Outbox()

        made = host(behaviour)
        update(made)
        assert seen == [{"doing": "learning", "done": 1, "total": 2}]

    def test_is_waiting_again_after_a_failure(self):
        made = host(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            update(made)
        assert made.status() == {"doing": "waiting"}

    def test_is_waiting_again_after_a_failed_preparation(self):
        made = host()
        made.module.prepare = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            made.prepare("cpu")
        assert made.status() == {"doing": "waiting"}


def pools():
    """Threads of the BLAS and OpenMP pools in this process."""
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}


class TestThreads:
    @pytest.fixture(autouse=True)
    def _blas(self):
        np.eye(2) @ np.eye(2)
        with threadpool_limits(2):  # what the rest of the process uses, whatever the machine
            yield

    @pytest.mark.parametrize("threads", [1, 3])
    def test_pools_have_as_many_as_the_module_may_use_and_theirs_back_afterwards(self, threads):
        within = []
        made = host(lambda *_: within.append(pools()) or Outbox(), threads=threads)
        before = pools()
        assert before
        update(made)
        assert set(within[0].values()) == {threads}
        assert pools() == before

    def test_pools_have_theirs_back_after_a_failure(self):
        before = pools()
        with pytest.raises(ZeroDivisionError):
            update(host(lambda *_: 1 / 0, threads=1))
        assert pools() == before

    def test_torch_has_as_many_too(self):
        torch = pytest.importorskip("torch")
        within = []
        made = host(lambda *_: within.append(torch.get_num_threads()) or Outbox(), threads=3)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            update(made)
            assert within == [3]
            assert torch.get_num_threads() == 2
            with limited_threads(1):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_torch_is_not_imported_for_a_module_that_does_without(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        update(host())
        assert "torch" not in sys.modules
