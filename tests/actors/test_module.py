"""The contract of modules: context, inbox, parameters, and the module in the documentation."""

import doctest
import sys
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from types import ModuleType

import numpy as np
import pytest

import actors.module
from actors.conformance import ModuleChecks, iter_outcomes
from actors.errors import ModuleError
from actors.messaging.codec import make_message
from actors.messaging.message import Header, rows_of
from actors.module import Context, Inbox, Module, Outbox
from tests.support.port_stubs import StubModule

CONTEXT = Context("gmm", seed=7, run="run", round=2, step=1, exchange=3, chain=4)

FIRST_DRAW, TORCH_SEED = 906241743536610288, 2040521619832900837  # as CONTEXT gives them


def draws(context):
    return context.generator.random(8).tolist()


class TestRandomness:
    def test_equal_contexts_give_equal_draws(self):
        again = replace(CONTEXT)
        assert draws(again) == draws(replace(CONTEXT))
        assert again.torch_seed == CONTEXT.torch_seed

    def test_the_draws_do_not_change_between_versions(self):
        """A run must be repeatable with later versions."""
        assert CONTEXT.generator.integers(0, 2**63) == FIRST_DRAW
        assert CONTEXT.torch_seed == TORCH_SEED

    @pytest.mark.parametrize(
        "changed",
        [{"module": "mm"}, {"seed": 8}, {"round": 3}, {"step": 2}, {"exchange": 4}, {"chain": 5}, {"seed": 7 + 2**32}],
    )
    def test_each_of_the_six_fields_changes_both_streams(self, changed):
        other = replace(CONTEXT, **changed)
        assert draws(other) != draws(replace(CONTEXT))
        assert other.torch_seed != CONTEXT.torch_seed

    def test_other_fields_do_not_change_the_streams(self):
        other = replace(
            CONTEXT,
            run="another",
            mode="recognize",
            temperature=0.3,
            receivers={"out": ("a", "b")},
            overrides={"iterations": 0},
            ordered=False,
            noise=True,
            reporter=print,
        )
        assert draws(other) == draws(replace(CONTEXT))
        assert other.torch_seed == CONTEXT.torch_seed
        chosen = {"module", "seed", "round", "step", "exchange", "chain"}
        rest = {
            "run",
            "temperature",
            "receivers",
            "overrides",
            "learn",
            "proposal",
            "ordered",
            "rows",
            "reporter",
            "order_above",
            "mode",
            "noise",
        }
        of_shared_updates = {"sweep", "chunk"}
        assert {field.name for field in fields(Context)} == chosen | rest | of_shared_updates

    def test_each_pass_and_each_chunk_of_an_update_that_workers_share_has_its_own_stream(self):
        places = [{}, *({"sweep": sweep, "chunk": chunk} for sweep in (0, 1, 2) for chunk in (None, 0, 1))]
        assert len({draws(replace(CONTEXT, **place))[0] for place in places}) == len(places)
        assert len({replace(CONTEXT, **place).torch_seed for place in places}) == len(places)

    def test_the_same_number_in_another_field_is_another_position(self):
        places = [{"round": 1}, {"step": 1}, {"exchange": 1}, {"chain": 1}, {}]
        assert len({Context("m", **place).torch_seed for place in places}) == len(places)
        assert len({draws(Context("m", **place))[0] for place in places}) == len(places)

    def test_a_context_has_one_generator_that_continues(self):
        context = replace(CONTEXT)
        assert context.generator is context.generator
        first, second = draws(context), draws(context)
        assert first != second
        fresh = replace(CONTEXT)
        assert fresh.generator.random(16).tolist() == first + second

    @pytest.mark.parametrize("sweep", [None, 0, 3, 2**32 - 1, 2**32])
    @pytest.mark.parametrize("chunk", [None, 0, 7])
    def test_the_context_of_a_pass_draws_like_a_new_one_of_the_same_place(self, sweep, chunk):
        assert draws(CONTEXT)  # its generator is not handed on
        within, new = CONTEXT.within(sweep=sweep, chunk=chunk), replace(CONTEXT, sweep=sweep, chunk=chunk)
        assert within == new
        assert draws(within) == draws(new)
        key = (*(int(word) for word in np.frombuffer(blake2b(b"gmm", digest_size=8).digest(), "<u4")), 4, 2, 1, 3, 1)
        key += () if sweep is None else (sweep, 0 if chunk is None else chunk + 1)
        words = np.random.SeedSequence(7, spawn_key=key).generate_state(1, np.uint64)
        assert within.torch_seed == int(words[0] >> 1)

    def test_the_torch_seed_is_independent_of_the_generator(self):
        """Draws from the generator do not change it, and it does not seed the same stream in numpy."""
        context = replace(CONTEXT)
        before = context.torch_seed
        context.generator.random(100)
        assert context.torch_seed == before
        assert 0 <= before < 2**63
        assert draws(replace(CONTEXT)) != np.random.default_rng(before).random(8).tolist()

    def test_each_module_name_has_its_own_stream(self):
        seeds = {Context(name).torch_seed for name in ("", "a", "A", "é", "vae1", "vae2", "vae11", "雨")}
        assert len(seeds) == 8


class TestReport:
    def test_calls_the_reporter_with_progress_and_metrics(self):
        reports = []
        context = replace(CONTEXT, reporter=lambda done, total, metrics: reports.append((done, total, dict(metrics))))
        context.report(3, 10, loss=0.5)
        context.report(10, 10)
        assert reports == [(3, 10, {"loss": 0.5}), (10, 10, {})]

    def test_does_nothing_without_a_reporter(self):
        CONTEXT.report(1, 2, loss=0.5)


def prior(sender, log_prob, port="prior", **extras):
    header = Header("transition_prior", sender, port, receiver="gmm")
    return make_message(header, {"log_prob": np.asarray(log_prob), **extras})


def log(*rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=float))


class TestInbox:
    def test_returns_messages_by_port_and_sender_in_order_of_delivery(self):
        b, a, other = prior("b", log([1.0])), prior("a", log([1.0])), prior("a", log([1.0]), port="other")
        inbox = Inbox([b, other, a])
        assert list(inbox.all("prior")) == ["b", "a"]
        assert inbox.first("prior") is b
        assert inbox.require("other") is other
        assert {id(message) for message in inbox} == {id(message) for message in (a, b, other)}

    def test_a_later_message_of_the_same_sender_and_port_replaces_the_earlier_one(self):
        inbox = Inbox([prior("a", log([0.5, 0.5])), latest := prior("a", log([0.1, 0.9]))])
        assert list(inbox.all("prior").values()) == [latest]

    def test_only_require_raises_on_an_empty_port(self):
        inbox = Inbox()
        assert inbox.all("prior") == {}
        assert inbox.first("prior") is None
        assert inbox.log_product("prior") is None
        assert list(inbox) == []
        with pytest.raises(ModuleError, match="no message on port 'prior', connect a module that sends one"):
            inbox.require("prior")

    def test_rows_of_returns_lengths_and_mask(self):
        message = prior("a", log([0.5, 0.5], [0.5, 0.5]), lengths=[2], mask=[False, True])
        assert {name: array.tolist() for name, array in rows_of(message).items()} == {
            "lengths": [2],
            "mask": [False, True],
        }
        assert rows_of(prior("a", log([1.0]))) == {}


class TestLogProduct:
    A, B, C = log([0.2, 0.8], [0.5, 0.5]), log([0.5, 0.5], [0.9, 0.1]), log([0.6, 0.4], [0.3, 0.7])

    def product(self, *factors):
        p = np.prod([np.exp(factor) for factor in factors], axis=0)
        return p / p.sum(1, keepdims=True)

    def test_the_product_of_one_message_is_that_message(self):
        product = Inbox([prior("a", self.A)]).log_product("prior")
        np.testing.assert_allclose(product, self.A)

    def test_the_product_of_several_messages_is_normalised(self):
        inbox = Inbox([prior("a", self.A), prior("b", self.B), prior("c", self.C)])
        np.testing.assert_allclose(np.exp(inbox.log_product("prior")), self.product(self.A, self.B, self.C))

    def test_without_leaves_out_only_the_named_sender(self):
        inbox = Inbox([prior("a", self.A), prior("b", self.B), prior("c", self.C)])
        np.testing.assert_allclose(np.exp(inbox.log_product("prior", without="b")), self.product(self.A, self.C))
        np.testing.assert_array_equal(inbox.log_product("prior", without="unknown"), inbox.log_product("prior"))

    def test_returns_none_without_the_only_sender(self):
        assert Inbox([prior("a", self.A)]).log_product("prior", without="a") is None

    def test_the_product_is_float64_and_writable_for_read_only_float32_messages(self):
        single = prior("a", self.A.astype(np.float32))
        product = Inbox([single]).log_product("prior")
        assert product.dtype == np.float64
        product += 1.0
        np.testing.assert_array_equal(single["log_prob"], self.A.astype(np.float32))

    def test_classes_of_probability_zero_keep_probability_zero(self):
        inbox = Inbox([prior("a", log([0.0, 0.5, 0.5])), prior("b", log([0.5, 0.0, 0.5]))])
        np.testing.assert_array_equal(np.exp(inbox.log_product("prior")), [[0, 0, 1]])

    def test_does_not_underflow(self):
        inbox = Inbox([prior(str(i), [[-5000.0, 0.0]]) for i in range(4)])
        np.testing.assert_array_equal(inbox.log_product("prior"), [[-20000.0, 0.0]])

    def test_messages_that_exclude_each_other_are_refused_with_the_row(self):
        inbox = Inbox([prior("a", log([0.5, 0.5], [0, 1])), prior("b", log([0.5, 0.5], [1, 0]))])
        with pytest.raises(ModuleError, match="the messages of a, b exclude each other in row 1"):
            inbox.log_product("prior")

    def test_messages_of_different_shapes_are_refused_with_both_shapes(self):
        """Also where numpy would broadcast one of them."""
        for other in (log([0.5, 0.5]), log([1.0], [1.0])):
            inbox = Inbox([prior("a", self.A), prior("b", other)])
            with pytest.raises(ModuleError, match=r"\(2, 2\) from a and .* from b"):
                inbox.log_product("prior")


class TestModule:
    class Sleeper(StubModule):
        @dataclass(frozen=True)
        class Parameters:
            minutes: int = 5
            deep: bool = True

    def test_the_parameters_of_a_step_contain_its_overrides(self):
        module = self.Sleeper(self.Sleeper.Parameters(minutes=9))
        assert module.at(CONTEXT) is module.parameters
        assert module.at(replace(CONTEXT, overrides={"deep": False})) == self.Sleeper.Parameters(9, False)
        assert module.parameters == self.Sleeper.Parameters(9, True)

    def test_prepare_is_optional(self):
        assert self.Sleeper(self.Sleeper.Parameters()).prepare("cpu", 1) is None

    def test_a_class_without_all_abstract_methods_cannot_be_instantiated(self):
        class Incomplete(Module):
            def update(self, inbox, context):
                return Outbox()

        with pytest.raises(TypeError, match="abstract"):
            Incomplete(None)


class TestDocumentation:
    def test_the_examples_run(self):
        result = doctest.testmod(actors.module)
        assert result.attempted > 10
        assert result.failed == 0

    def test_the_module_in_the_documentation_passes_the_conformance_checks(self, monkeypatch):
        documented = ModuleType("documented")
        for example in doctest.DocTestParser().get_examples(Module.__doc__):
            exec(example.source, vars(documented))
        monkeypatch.setitem(sys.modules, "documented", documented)

        class Checks(ModuleChecks):
            module = "documented:KMeans"
            under_ray = False

        verdicts = {outcome.name: (outcome.verdict, outcome.sentence) for outcome in iter_outcomes(Checks)}
        assert [(name, *verdict) for name, verdict in verdicts.items() if verdict[0] == "failed"] == []
        assert sum(verdict == "passed" for verdict, _ in verdicts.values()) > 10
