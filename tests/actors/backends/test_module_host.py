"""Tests of the module host: contexts and inboxes, validation of messages, status, and numbers of threads."""

import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from actors.backends.module_host import ModuleHost
from actors.backends.thread_limits import limited_threads
from actors.coordination.backend import ModuleCall
from actors.errors import MessageError, ModuleError, NonFiniteError
from actors.graph.graph import Graph
from actors.graph.spec import Connection, ModuleSpec
from actors.module import Outbox, OutgoingMessage
from tests.support.counter import TYPE, answering, call, evidence, host, latents, update


class TestContextAndInbox:
    def test_the_context_has_the_fields_of_the_call(self):
        tested = host()
        receivers = {"evidence": ("mm1", "mm2")}
        when = {"seed": 9, "round": 5, "step": 1, "exchange": 7, "chain": 2, "temperature": 0.5, "ordered": False}
        update(tested, run="mine", receivers=receivers, **when)
        context = tested.module.seen[1]
        assert context.module == "gmm"
        assert context.run == "mine"
        assert context.receivers == receivers
        assert {name: getattr(context, name) for name in when} == when

    def test_random_draws_do_not_depend_on_the_sequence_number(self):
        drawn = []
        for sequence in (1, 99):
            tested = host(lambda _inbox, context: drawn.append(context.generator.random()) or Outbox())
            update(tested, sequence=sequence)
        assert drawn[0] == drawn[1]

    def test_messages_are_in_the_inbox_by_port_and_sender(self):
        tested = host()
        update(tested, latents(sender="vae2"), latents(sender="vae1"))
        inbox = tested.module.seen[0]
        assert list(inbox.all("z")) == ["vae2", "vae1"]
        assert inbox.first("prior") is None

    def test_inputs_are_read_only(self):
        def write(inbox, context):
            inbox.require("z")["mean"][0, 0] = 1.0
            return Outbox()

        given = np.zeros((4, 2))
        message = latents(mean=given)
        tested = host(write)
        with pytest.raises(ValueError, match="read-only"):
            update(tested, message)
        assert given.flags.writeable  # the sender may still modify its own array
        assert not given.any()
        assert not tested.module.seen[0].require("z")["mean"].flags.writeable

    def test_inputs_are_not_copied(self):
        message, tested = latents(), host()
        update(tested, message)
        assert np.shares_memory(tested.module.seen[0].require("z")["mean"], message["mean"])

    def test_overrides_hold_for_one_step(self):
        tested = host(step=5)
        update(tested, overrides={"step": 0})
        assert tested.module.count == 0
        update(tested)
        assert tested.module.count == 5


class TestRejectedInput:
    @pytest.mark.parametrize("port", ["y", "evidence", "means", "prior"])
    def test_on_a_port_that_is_unknown_or_an_output_or_of_another_kind(self, port):
        tested = host()
        with pytest.raises(MessageError, match=rf"vae -> gmm\.{port} \(latent_vectors\): gmm has no input port"):
            update(tested, latents(port=port))
        assert tested.module.count == 0

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"mean": np.zeros((4, 3))}, r"mean is declared as <f8 \(4, 2\), got <f8 \(4, 3\)"),
            ({"mean": np.zeros((4, 2), "f4")}, r"got <f4 \(4, 2\)"),
            ({}, "mean is declared in the header but missing"),
            (
                {"mean": np.zeros((4, 2)), "mask": np.zeros(9, bool)},
                "array 'mask' is not declared in the header, only mean",
            ),
        ],
    )
    def test_with_other_arrays_than_declared(self, arrays, message):
        tested = host()
        asked, _ = call(latents())
        with pytest.raises(MessageError, match=rf"vae -> gmm\.z \(latent_vectors\): .*{message}"):
            tested.call(asked, [arrays])
        assert tested.module.count == 0

    def test_with_values_that_are_not_finite(self):
        asked, _ = call(latents())
        with pytest.raises(MessageError, match=r"vae -> gmm\.z .*mean is not finite in row 0"):
            host().call(asked, [{"mean": np.full((4, 2), np.nan)}])

    def test_with_an_invalid_header(self):
        asked = ModuleCall("update", "run", 0, 0, 0, 0, {}, headers=(b"\xc1",), ports=("z",))
        with pytest.raises(MessageError, match="header: not readable"):
            host().call(asked, [{}])

    def test_with_different_numbers_of_headers_and_arrays(self):
        asked, _ = call(latents())
        with pytest.raises(ValueError, match="zip"):
            host().call(asked, [])


def classes_of(result):
    """Return the number of classes of each message, by slot."""
    return {slot: message["log_prob"].shape[1] for slot, message in result.messages.items()}


class TestAnswers:
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
        assert {slot: sent.header.route for slot, sent in reply.messages.items()} == {
            "evidence.mm1": "gmm -> mm1.evidence (class_posteriors)",
            "evidence.mm2": "gmm -> mm2.evidence (class_posteriors)",
        }
        assert classes_of(reply) == {"evidence.mm1": 3, "evidence.mm2": 2}
        header = reply.messages["evidence.mm1"].header
        assert (header.run, header.round, header.step, header.sequence) == ("mine", 2, 3, 4)

    def test_a_message_without_a_receiver_is_sent_to_all_receivers_without_their_own(self):
        reply = update(
            host(
                answering(
                    OutgoingMessage("evidence", evidence(k=2)),
                    OutgoingMessage("evidence", evidence(k=5), receiver="mm2"),
                )
            )
        )
        assert classes_of(reply) == {"evidence.mm1": 2, "evidence.mm2": 5}

    def test_a_slot_without_a_message_is_left_out(self):
        reply = update(host())
        assert reply.messages == {}

    def test_a_message_without_a_slot_is_dropped(self):
        reply = update(host(answering(OutgoingMessage("evidence", evidence())), slots=()))
        assert reply.messages == {}

    def test_the_slots_are_those_of_the_graph(self):
        source, counter = "tests.support.toy_modules:Encoder", ModuleSpec("gmm", TYPE)
        specs = [ModuleSpec("data", "tests.support.toy_modules:Source"), ModuleSpec("vae", source), counter]
        graph = Graph(specs, [Connection("data", "vae"), Connection("vae", "gmm")])
        tested = ModuleHost(counter, graph.slots("gmm"))
        tested.module.behaviour = answering(
            OutgoingMessage("means", {"means": np.eye(2), "responsibilities": np.eye(2)})
        )
        sent = update(tested).messages
        assert {slot: sorted(message.arrays) for slot, message in sent.items()} == {
            "means": ["means", "responsibilities"]
        }

    def test_invalid_arrays_are_rejected_with_the_route_of_the_message(self):
        bad = {**evidence(), "log_norm": np.full(4, np.nan)}
        with pytest.raises(NonFiniteError, match=r"gmm -> mm1\.evidence \(class_posteriors\): log_norm is not finite"):
            update(host(answering(OutgoingMessage("evidence", bad))))

    def test_a_message_for_an_unknown_port_is_rejected(self):
        for port in ("evidense", "z"):
            with pytest.raises(MessageError, match=rf"gmm\.{port}: no such output port, only evidence, means"):
                update(host(answering(OutgoingMessage(port, evidence()))))

    def test_a_receiver_on_a_port_with_one_message_for_all_is_rejected(self):
        means = {"means": np.eye(3), "responsibilities": np.eye(3)}
        with pytest.raises(MessageError, match=r"gmm\.means: got a message for the receiver vae"):
            update(host(answering(OutgoingMessage("means", means, receiver="vae"))))

    def test_a_receiver_that_is_not_connected_is_rejected(self):
        with pytest.raises(MessageError, match=r"gmm\.evidence to mm3: no such receiver, only mm1, mm2"):
            update(host(answering(OutgoingMessage("evidence", evidence(), receiver="mm3"))))

    @pytest.mark.parametrize("receiver", ["", "mm1"])
    def test_a_second_message_for_the_same_slot_is_rejected(self, receiver):
        twice = [OutgoingMessage("evidence", evidence(), receiver=receiver)] * 2
        with pytest.raises(MessageError, match=r"gmm\.evidence.*: got two messages, expected at most one"):
            update(host(answering(*twice)))

    def test_metrics_outputs_and_seconds_are_in_the_result(self):
        classes = np.arange(4)
        reply = update(host(answering(metrics={"evidence": np.float32(-2.5)}, outputs={"class": classes})))
        assert reply.metrics == {"evidence": -2.5}
        assert type(reply.metrics["evidence"]) is float
        assert reply.outputs == {"class": classes}
        assert 0 <= reply.seconds < 5


class TestState:
    def test_an_update_returns_it_and_another_host_can_continue_from_it(self):
        first, second = host(step=2), host(step=2)
        second.load_state(update(first).state)
        assert update(second).state == update(first).state == {"count": 4}

    def test_a_recognition_does_not_return_or_change_it(self):
        tested = host()
        reply = tested.call(*call(latents(), mode="recognize"))
        assert reply.state == {}
        assert tested.module.count == 0
        assert isinstance(tested.module.seen[1].ordered, bool)

    def test_a_generation_does_not_return_or_change_it(self):
        tested = host()
        reply = tested.call(*call(mode="generate"))  # the default implementation has no outputs
        assert reply.state == reply.outputs == {}
        assert tested.module.count == 0

    def test_invalid_parameters_are_rejected(self):
        with pytest.raises(ModuleError, match="start: Input should be greater than or equal to 0"):
            host(start=-1)

    def test_the_module_is_prepared_with_its_number_of_threads(self):
        tested = host(threads=2)
        assert tested.prepare("cuda") == "cpu"  # the device that it really uses
        assert tested.device == "cpu"
        assert tested.module.prepared == [("cuda", 2)]


class TestStatus:
    def test_has_the_fields_that_the_update_reported(self):
        seen = []

        def behaviour(inbox, context):
            seen.append(tested.status())
            context.report(2, 10, loss=0.25)
            seen.append(tested.status())
            return Outbox()

        tested = host(behaviour)
        assert tested.status() == {"doing": "waiting"}
        update(tested)
        tested.call(*call(mode="recognize"))
        assert seen[0] == {"doing": "learning"}
        assert seen[1] == {"doing": "learning", "done": 2, "total": 10, "loss": 0.25}
        assert seen[2]["doing"] == "recognizing"
        assert tested.status() == {"doing": "waiting"}

    def test_is_answered_while_the_module_learns(self):
        busy, release = threading.Event(), threading.Event()

        def behaviour(inbox, context):
            context.report(1, 2)
            busy.set()
            release.wait(10)
            return Outbox()

        tested = host(behaviour)
        learner = threading.Thread(target=update, args=(tested,))
        learner.start()
        assert busy.wait(10)
        assert tested.status() == {"doing": "learning", "done": 1, "total": 2}
        release.set()
        learner.join()
        assert tested.status() == {"doing": "waiting"}

    def test_a_metric_may_not_replace_a_field_of_the_status(self):
        seen = []

        def behaviour(inbox, context):
            context.report(1, 2, doing=3.0)
            seen.append(tested.status())
            return Outbox()

        tested = host(behaviour)
        update(tested)
        assert seen == [{"doing": "learning", "done": 1, "total": 2}]

    def test_is_waiting_again_after_a_failure(self):
        tested = host(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            update(tested)
        assert tested.status() == {"doing": "waiting"}

    def test_is_waiting_again_after_a_failed_preparation(self):
        tested = host()
        tested.module.prepare = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            tested.prepare("cpu")
        assert tested.status() == {"doing": "waiting"}


def pools():
    """Return the number of threads of the BLAS and OpenMP pools in this process."""
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}


class TestThreads:
    @pytest.fixture(autouse=True)
    def _blas(self):
        np.eye(2) @ np.eye(2)
        with threadpool_limits(2):  # the number outside the module, independent of the machine
            yield

    @pytest.mark.parametrize("threads", [1, 3])
    def test_pools_have_the_modules_number_during_a_call_and_their_own_afterwards(self, threads):
        within = []
        tested = host(lambda *_: within.append(pools()) or Outbox(), threads=threads)
        before = pools()
        assert before
        update(tested)
        assert set(within[0].values()) == {threads}
        assert pools() == before

    def test_pools_have_their_own_number_after_a_failure(self):
        before = pools()
        with pytest.raises(ZeroDivisionError):
            update(host(lambda *_: 1 / 0, threads=1))
        assert pools() == before

    def test_torch_has_the_modules_number_during_a_call(self):
        torch = pytest.importorskip("torch")
        within = []
        tested = host(lambda *_: within.append(torch.get_num_threads()) or Outbox(), threads=3)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            update(tested)
            assert within == [3]
            assert torch.get_num_threads() == 2
            with limited_threads(1):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_torch_is_not_imported_for_a_module_that_does_not_use_it(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        update(host())
        assert "torch" not in sys.modules
