"""What a module is given: its context, its inbox; and what it declares."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from actors.errors import ModuleError
from actors.messaging.codec import make_message
from actors.messaging.message import Header, rows_of
from actors.module import Context, Inbox, Module, Outbox
from tests.support.port_stubs import Part

CONTEXT = Context("gmm", seed=7, run="run", round=2, step=1, exchange=3, chain=4)

FIRST_DRAW, TORCH_SEED = 906241743536610288, 2040521619832900837  # as CONTEXT gives them


def draws(context):
    return context.generator.random(8).tolist()


class TestRandomness:
    def test_equal_contexts_draw_the_same(self):
        again = replace(CONTEXT)
        assert draws(again) == draws(replace(CONTEXT))
        assert again.torch_seed == CONTEXT.torch_seed

    def test_the_bits_are_fixed_for_good(self):
        """A run must be repeatable years later, by whatever version comes then."""
        assert CONTEXT.generator.integers(0, 2**63) == FIRST_DRAW
        assert CONTEXT.torch_seed == TORCH_SEED

    @pytest.mark.parametrize(
        "changed",
        [{"module": "mm"}, {"seed": 8}, {"round": 3}, {"step": 2}, {"exchange": 4}, {"chain": 5}, {"seed": 7 + 2**32}],
    )
    def test_any_of_the_six_changes_both_streams(self, changed):
        other = replace(CONTEXT, **changed)
        assert draws(other) != draws(replace(CONTEXT))
        assert other.torch_seed != CONTEXT.torch_seed

    def test_nothing_else_changes_them(self):
        other = replace(
            CONTEXT,
            run="another",
            temperature=0.3,
            receivers={"out": ("a", "b")},
            overrides={"iterations": 0},
            ordered=False,
            reporter=print,
        )
        assert draws(other) == draws(replace(CONTEXT))
        assert other.torch_seed == CONTEXT.torch_seed
        chosen = {"module", "seed", "round", "step", "exchange", "chain"}
        rest = {"run", "temperature", "receivers", "overrides", "learn", "proposal", "ordered", "rows", "reporter"}
        assert {field.name for field in fields(Context)} == chosen | rest

    def test_numbers_in_another_place_are_another_position(self):
        places = [{"round": 1}, {"step": 1}, {"exchange": 1}, {"chain": 1}, {}]
        assert len({Context("m", **place).torch_seed for place in places}) == len(places)
        assert len({draws(Context("m", **place))[0] for place in places}) == len(places)

    def test_the_generator_goes_on_within_a_context(self):
        context = replace(CONTEXT)
        assert context.generator is context.generator
        first, second = draws(context), draws(context)
        assert first != second
        fresh = replace(CONTEXT)
        assert fresh.generator.random(16).tolist() == first + second

    def test_torch_has_a_stream_of_its_own(self):
        """Drawing from one leaves the other where it was, and seeding numpy with torch's seed repeats nothing."""
        context = replace(CONTEXT)
        before = context.torch_seed
        context.generator.random(100)
        assert context.torch_seed == before
        assert 0 <= before < 2**63
        assert draws(replace(CONTEXT)) != np.random.default_rng(before).random(8).tolist()

    def test_module_names_of_any_text_have_streams_of_their_own(self):
        seeds = {Context(name).torch_seed for name in ("", "a", "A", "é", "vae1", "vae2", "vae11", "雨")}
        assert len(seeds) == 8


class TestReport:
    def test_goes_to_the_reporter_with_its_figures(self):
        heard = []
        context = replace(CONTEXT, reporter=lambda done, total, metrics: heard.append((done, total, dict(metrics))))
        context.report(3, 10, loss=0.5)
        context.report(10, 10)
        assert heard == [(3, 10, {"loss": 0.5}), (10, 10, {})]

    def test_without_a_reporter_goes_nowhere(self):
        CONTEXT.report(1, 2, loss=0.5)


def prior(sender, log_prob, port="prior", **extras):
    header = Header("transition_prior", sender, port, receiver="gmm")
    return make_message(header, {"log_prob": np.asarray(log_prob), **extras})


def log(*rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=float))


class TestInbox:
    def test_keeps_what_came_by_port_and_sender_in_order_of_delivery(self):
        b, a, other = prior("b", log([1.0])), prior("a", log([1.0])), prior("a", log([1.0]), port="other")
        inbox = Inbox([b, other, a])
        assert list(inbox.all("prior")) == ["b", "a"]
        assert inbox.first("prior") is b
        assert inbox.require("other") is other
        assert {id(message) for message in inbox} == {id(message) for message in (a, b, other)}

    def test_a_later_message_of_the_same_sender_and_port_replaces_the_earlier(self):
        inbox = Inbox([prior("a", log([0.5, 0.5])), latest := prior("a", log([0.1, 0.9]))])
        assert list(inbox.all("prior").values()) == [latest]

    def test_an_empty_port_is_told_from_a_required_one(self):
        inbox = Inbox()
        assert inbox.all("prior") == {}
        assert inbox.first("prior") is None
        assert inbox.log_product("prior") is None
        assert list(inbox) == []
        with pytest.raises(ModuleError, match="no message on port 'prior': connect a module that sends one"):
            inbox.require("prior")

    def test_rows_of_a_message_are_its_lengths_and_mask(self):
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

    def test_of_one_message_is_that_message(self):
        product = Inbox([prior("a", self.A)]).log_product("prior")
        np.testing.assert_allclose(product, self.A)

    def test_of_several_is_their_normalised_product(self):
        inbox = Inbox([prior("a", self.A), prior("b", self.B), prior("c", self.C)])
        np.testing.assert_allclose(np.exp(inbox.log_product("prior")), self.product(self.A, self.B, self.C))

    def test_leaves_out_the_sender_named_and_no_other(self):
        inbox = Inbox([prior("a", self.A), prior("b", self.B), prior("c", self.C)])
        np.testing.assert_allclose(np.exp(inbox.log_product("prior", without="b")), self.product(self.A, self.C))
        np.testing.assert_array_equal(inbox.log_product("prior", without="nobody"), inbox.log_product("prior"))

    def test_without_the_only_sender_there_is_none(self):
        assert Inbox([prior("a", self.A)]).log_product("prior", without="a") is None

    def test_is_float64_and_writable_whatever_came(self):
        single = prior("a", self.A.astype(np.float32))
        product = Inbox([single]).log_product("prior")
        assert product.dtype == np.float64
        product += 1.0
        np.testing.assert_array_equal(single["log_prob"], self.A.astype(np.float32))

    def test_impossible_classes_stay_impossible(self):
        inbox = Inbox([prior("a", log([0.0, 0.5, 0.5])), prior("b", log([0.5, 0.0, 0.5]))])
        np.testing.assert_array_equal(np.exp(inbox.log_product("prior")), [[0, 0, 1]])

    def test_does_not_underflow(self):
        inbox = Inbox([prior(str(i), [[-5000.0, 0.0]]) for i in range(4)])
        np.testing.assert_array_equal(inbox.log_product("prior"), [[-20000.0, 0.0]])

    def test_messages_that_exclude_each_other_are_refused_with_the_row(self):
        inbox = Inbox([prior("a", log([0.5, 0.5], [0, 1])), prior("b", log([0.5, 0.5], [1, 0]))])
        with pytest.raises(ModuleError, match="the messages of a, b exclude each other in row 1"):
            inbox.log_product("prior")

    def test_messages_of_different_shapes_are_refused_with_both(self):
        """Also where numpy would stretch one of them: a single row is not everybody's row."""
        for other in (log([0.5, 0.5]), log([1.0], [1.0])):
            inbox = Inbox([prior("a", self.A), prior("b", other)])
            with pytest.raises(ModuleError, match=r"\(2, 2\) from a and .* from b"):
                inbox.log_product("prior")


class TestModule:
    class Sleeper(Part):
        @dataclass(frozen=True)
        class Parameters:
            minutes: int = 5
            deep: bool = True

    def test_parameters_of_a_step_are_its_own_with_the_steps_overrides(self):
        module = self.Sleeper(self.Sleeper.Parameters(minutes=9))
        assert module.at(CONTEXT) is module.parameters
        assert module.at(replace(CONTEXT, overrides={"deep": False})) == self.Sleeper.Parameters(9, False)
        assert module.parameters == self.Sleeper.Parameters(9, True)

    def test_needs_no_preparation(self):
        assert self.Sleeper(self.Sleeper.Parameters()).prepare("cpu", 1) is None

    def test_cannot_be_made_with_its_contract_unfulfilled(self):
        class Half(Module):
            def update(self, inbox, context):
                return Outbox()

        with pytest.raises(TypeError, match="abstract"):
            Half(None)
