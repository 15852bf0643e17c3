"""Tests of the observation module: it holds the data and sends them upwards."""

import numpy as np
import pytest

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox

CONTEXT = Context("data")


def observation(**data):
    module = make_module("observation", {})
    module.load_state(data)
    return module


def sent(outbox):
    (outgoing,) = outbox.messages
    assert outgoing.port == "observations"
    return make_message(Header("observations", "data", "observations"), outgoing.arrays)


@pytest.mark.parametrize("answer", ["update", "recognize"])
def test_sends_the_data_of_its_state(answer):
    values = np.arange(24.0).reshape(4, 3, 2)
    mask = np.array([False, True, False, False])
    module = observation(values=values, lengths=[1, 3], mask=mask)
    message = sent(getattr(module, answer)(Inbox(), CONTEXT))
    assert np.array_equal(message["values"], values)
    assert message.lengths.tolist() == [1, 3]
    assert np.array_equal(message.mask, mask)


def test_lengths_and_mask_are_optional():
    message = sent(observation(values=np.ones((2, 3)), lengths=None).update(Inbox(), CONTEXT))
    assert set(message.arrays) == {"values"}


def test_integers_are_sent_as_floats():
    message = sent(observation(values=np.array([[0, 255]], dtype=np.uint8)).update(Inbox(), CONTEXT))
    assert message["values"].tolist() == [[0.0, 255.0]]


def test_refuses_an_update_without_data():
    with pytest.raises(ModuleError, match="'data' has no data"):
        make_module("observation", {}).update(Inbox(), CONTEXT)


@pytest.mark.parametrize("values", [3.0, np.ones((0, 2)), np.array([["a"]])])
def test_refuses_values_that_are_not_rows_of_numbers(values):
    with pytest.raises(ModuleError, match="numbers in rows"):
        observation(values=values)


def test_the_state_is_a_copy_and_can_be_loaded():
    values = np.ones((2, 2))
    module = observation(values=values)
    values[:] = 7
    state = module.state()
    assert (state["values"] == 1).all()
    other = observation(**state)
    state["values"][:] = 9
    assert (other.state()["values"] == 1).all()
    assert make_module("observation", {}).state() == {}
