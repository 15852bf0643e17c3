"""Tests of the checks of what a module returns: each bad answer stops the update by name, and the run goes on."""

import dataclasses
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.backends.in_process import InProcessBackend
from actors.backends.result_checks import EVENT_FIELDS, bound_exception, check_state
from actors.coordination.coordinator import Coordinator
from actors.coordination.events import TimedEvent, UpdateFinished
from actors.errors import MessageError, ModuleError, ModuleFailedError, NonFiniteError, SerketError, show_value
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Slot
from actors.limits import (
    MAX_ARRAYS,
    MAX_ERROR_CHARACTERS,
    MAX_EXCEPTION_CHARACTERS,
    MAX_INTEGER_BITS,
    MAX_MESSAGES,
    MAX_METRICS,
    MAX_NAME_CHARACTERS,
    MAX_OUTPUTS,
    MAX_STATE_ENTRIES,
)
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Module, Outbox, OutgoingMessage, Port
from actors.storage.checkpoints import Checkpoints
from runner.runs.event_log import EventLog
from runner.runs.outputs import write_arrays
from runner.runs.run_files import RunFiles
from tests.actors.backends.test_host_finite_values import ask, posteriors, scripted, sending
from tests.support.toy_modules import Source  # noqa: F401 (used by the graphs)


def show(value):
    """Return a short name of a test's parameter."""
    shown = show_value(value)
    return type(value).__name__ if shown.startswith("<") else shown[:30]  # no address, which differs between processes


WHERE = "module 'm', round 3, step 1"


def masked(*values):
    return np.ma.array(values, mask=np.eye(1, len(values))[0] if np.ndim(values) == 1 else True)


# --- the outbox -------------------------------------------------------------------------------------------------------

MODES = [("update", ""), ("recognize", ", recognizing"), ("generate", ", generating"), ("propose", ", proposing")]


@pytest.mark.parametrize(("mode", "doing"), MODES)
@pytest.mark.parametrize(
    ("outbox", "problem"),
    [
        (lambda: None, "returned None, expected an Outbox"),
        (lambda: {"class": 1}, "returned a dict, expected an Outbox"),
        (lambda: (), "returned a tuple, expected an Outbox"),
        (
            lambda: Outbox(OutgoingMessage("z", {})),
            "the messages are an actors.module.OutgoingMessage, expected a list",
        ),
        (lambda: Outbox(iter([])), "the messages are a list_iterator, expected a list of OutgoingMessage"),
        (lambda: Outbox("z"), "the messages are a str"),
        (lambda: Outbox([("z", {})]), "a message is a tuple, expected an OutgoingMessage"),
        (lambda: Outbox([OutgoingMessage(3, {})]), "the port of a message is an int, expected a str"),
        (lambda: Outbox([OutgoingMessage("z", {}, None)]), "the receiver of a message is None, expected a str"),
        (lambda: Outbox([OutgoingMessage("z", [1])]), "message on port 'z': its arrays are a list, expected a mapping"),
        (lambda: Outbox([OutgoingMessage("z", {3: 1})]), "message on port 'z': an array has the name 3"),
        (lambda: Outbox([OutgoingMessage("z" * 10**7, {})]), "m.'zzzzzzzzzzzz...zzzzzzzzzzzzz': no such output port"),
        (lambda: Outbox(metrics=[("a", 1)]), "the metrics are a list, expected a mapping of names to numbers"),
        (lambda: Outbox(metrics=None), "the metrics are None"),
        (lambda: Outbox(outputs=[np.zeros(2)]), "the outputs are a list, expected a mapping of names to arrays"),
        (lambda: Outbox(outputs={"z": [1.0]}), "output 'z' is a list, expected an array; use numpy.atleast_1d"),
        (lambda: Outbox(metrics={"loss": "0.5"}), "loss is a str, expected a real number"),
    ],
)
def test_an_answer_of_another_form_is_refused_in_every_mode_by_name(outbox, problem, mode, doing):
    with pytest.raises((ModuleError, MessageError)) as refused:
        ask(scripted(outbox), mode=mode)
    assert f"{WHERE}{doing}: {problem}" in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_list_of_outgoing_messages_may_be_a_tuple_and_names_may_be_those_of_numpy():
    sent = OutgoingMessage("evidence", posteriors())
    reply = ask(
        scripted(
            Outbox((sent,), {np.str_("loss"): 1}, {np.str_("z"): np.zeros(2)}), Slot("evidence", "class_posteriors")
        )
    )
    assert list(reply.messages) == ["evidence"]
    assert [type(name) for name in (*reply.metrics, *reply.outputs)] == [str, str]


# --- messages ---------------------------------------------------------------------------------------------------------


class Converts:
    """Raises its own exception when it is converted to an array."""

    def __array__(self, *_, **__):
        raise ZeroDivisionError("in the conversion")


@pytest.mark.parametrize(
    ("mean", "problem"),
    [
        (masked([1.0, 2.0]), "mean is a masked array, whose mask would be lost"),
        ([masked(1.0, 2.0)], "mean is a masked array"),
        ([[1.0], [1.0, 2.0]], "mean cannot be converted to an array"),
        (Converts(), r"mean cannot be converted to an array \(in the conversion\)"),
        (np.array([[1j]]), "mean has dtype '<c16', expected <f4 or <f8"),
        (np.array([["a"]]), "mean has dtype '<U1'"),
        (np.array([["2020"]], "M8[s]"), r"mean has dtype '<M8\[s\]'"),
        (np.array([[None]]), r"mean has dtype '\|O'"),
        ([[10**30]], r"mean has dtype '\|O'"),
        (np.zeros((1, 1), [("a", "f8")]), "mean has dtype"),
        (3.0, r"mean has shape \(\)"),
        (None, r"mean has dtype '\|O'"),
    ],
    ids=show,
)
def test_an_array_of_a_message_that_cannot_be_sent_as_it_is_is_refused_by_name(mean, problem):
    with pytest.raises(MessageError, match=rf"^{WHERE}: m -> \?\.z \(latent_vectors\): {problem}"):
        ask(sending("z", "latent_vectors", mean=mean))


def test_tensors_are_converted_and_those_with_a_gradient_refused_with_the_remedy():
    torch = pytest.importorskip("torch")
    sent = ask(sending("z", "latent_vectors", mean=torch.ones(2, 3))).messages["z"]["mean"]
    np.testing.assert_array_equal(sent, np.ones((2, 3), np.float32))
    for tensor in (torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, dtype=torch.bfloat16)):
        with pytest.raises(MessageError, match=r"z .*mean cannot be converted to .*; send tensor\.detach\(\)\.cpu"):
            ask(sending("z", "latent_vectors", mean=tensor))


def test_the_public_function_for_messages_refuses_masked_arrays_too():
    with pytest.raises(MessageError, match="whose mask would be lost"):
        make_message(Header("latent_vectors", "a", "z"), {"mean": masked([1.0, 2.0])})


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EVENT_FIELDS))
def test_a_metric_may_not_have_the_name_of_a_field_of_the_event(name):
    with pytest.raises(ModuleError, match=f"{WHERE}: a metric has the name '{name}', which is a field of the event"):
        ask(scripted(Outbox(metrics={name: 1.0})))


def test_the_reserved_names_are_those_of_the_events_and_of_the_lines_of_the_event_log(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", "run")
    event = UpdateFinished(0, "gmm", 1, exchange=2, temperature=0.5, seconds=1.0, message_bytes=8)
    log.append([TimedEvent(time.time(), event)])
    line = json.loads((tmp_path / "events.jsonl").read_text())
    assert line.keys() | {field.name for field in dataclasses.fields(UpdateFinished)} <= EVENT_FIELDS
    assert event.fields().keys() <= EVENT_FIELDS


def test_plugins_md_lists_the_reserved_names_and_the_limits():
    text = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text(encoding="utf-8")
    table = text.partition("## What a module may return")[2].partition("\n## ")[0]
    assert [name for name in EVENT_FIELDS if f"`{name}`" not in table] == []
    limits = (MAX_NAME_CHARACTERS, MAX_METRICS, MAX_OUTPUTS, MAX_STATE_ENTRIES, MAX_INTEGER_BITS)
    assert [limit for limit in limits if f"{limit:,}" not in table] == []
    assert f"{MAX_EXCEPTION_CHARACTERS:,} characters" in text


@pytest.mark.parametrize(
    "name",
    ["", "mean loss", "a-b", "a.b", "=1+1", "\x1b[31m", "a\n", "a" * 101, "a" * 50_000_000, 3, None, ("a",), 10**5000],
    ids=show,
)
def test_a_metric_has_a_short_name_of_letters_and_digits(name):
    with pytest.raises(
        ModuleError, match=f"{WHERE}: a metric has the name .*expected letters, digits and '_'"
    ) as refused:
        ask(scripted(Outbox(metrics={name: 1.0})))
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "value",
    [
        "1",
        None,
        1j,
        np.complex64(1),
        [1.0],
        np.array(1.0),
        np.array([1.0]),
        np.timedelta64(1, "s"),
        np.str_("1"),
        object(),
    ],
    ids=show,
)
def test_the_value_of_a_metric_is_a_real_number(value):
    with pytest.raises(ModuleError, match=f"{WHERE}: loss is .*, expected a real number"):
        ask(scripted(Outbox(metrics={"loss": value})))


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), np.longdouble("1e4000"), float("nan"), np.float16("inf")], ids=lambda _: ""
)
def test_the_value_of_a_metric_is_finite_as_a_float(value):
    with pytest.raises(NonFiniteError, match=f"{WHERE}: loss is -?(inf|nan)"):
        ask(scripted(Outbox(metrics={"loss": value})))


def test_metrics_become_python_floats():
    given = {
        "a": True,
        "b": np.bool_(False),
        "c": np.float32(0.5),
        "d": np.uint8(3),
        "e": 2,
        "verlust_ä": -0.0,
        "f" * 100: 1,
    }
    metrics = ask(scripted(Outbox(metrics=given))).metrics
    assert metrics == {"a": 1.0, "b": 0.0, "c": 0.5, "d": 3.0, "e": 2.0, "verlust_ä": 0.0, "f" * 100: 1.0}
    assert {type(value) for value in metrics.values()} == {float}


def test_the_numbers_of_metrics_and_outputs_are_limited():
    with pytest.raises(ModuleError, match=f"returned more than {MAX_METRICS} metrics"):
        ask(scripted(Outbox(metrics={f"a{i}": 1.0 for i in range(MAX_METRICS + 1)})))
    with pytest.raises(ModuleError, match=f"returned more than {MAX_OUTPUTS} outputs"):
        ask(scripted(Outbox(outputs={f"a{i}": np.zeros(1) for i in range(MAX_OUTPUTS + 1)})))


@pytest.mark.parametrize(("done", "total"), [("1", 2), (1, None), (float("nan"), 2), (1, float("inf")), ([1], 2)])
def test_the_progress_of_an_update_is_two_finite_numbers(done, total):
    def report(_inbox, context):
        context.report(done, total)
        return Outbox()

    tested = scripted()
    tested.module.update = report
    with pytest.raises(ModuleError, match=f"{WHERE}: the progress (done|total) is "):
        ask(tested)


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        ({"loss": "0.5"}, "the metric loss of a progress report is not usable: must be real number, not str"),
        ({"loss": 10**400}, "the metric loss of a progress report is not usable: int too large"),
        ({"loss": [1.0]}, "the metric loss of a progress report is not usable"),
        ({"mean loss": 1.0}, "a metric has the name 'mean loss', expected letters"),
        ({"loss": float("nan")}, "loss is nan after 1 of 2"),
    ],
)
def test_the_metrics_of_a_progress_report_are_finite_numbers(metrics, problem):
    def report(_inbox, context):
        context.report(1, 2, **metrics)
        return Outbox()

    tested = scripted()
    tested.module.update = report
    with pytest.raises(ModuleError, match=f"{WHERE}: {problem}"):
        ask(tested)


# --- outputs ----------------------------------------------------------------------------------------------------------

BAD_FILES = [
    "",
    ".",
    "..",
    ".hidden",
    "a/b",
    "/etc/passwd",
    "../../x",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x1b[31m",
    "\u202eb",
    "\ud800",
]


@pytest.mark.parametrize(
    "name",
    [*BAD_FILES, "__metadata__", "__scalars__", "acc", "x" * 101, "ä" * 101, "\U0001f600" * 60, 3, None, b"z"],
    ids=show,
)
def test_the_name_of_an_output_is_that_of_a_file(name):
    with pytest.raises(ModuleError, match=f"{WHERE}: an output has the name .*, (expected|which)") as refused:
        ask(scripted(Outbox(outputs={name: np.zeros(2)})))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(("one", "other"), [("z", "Z"), ("straße", "STRASSE"), ("\u00e4", "a\u0308")])
def test_two_outputs_may_not_be_one_file_where_case_does_not_count(one, other):
    with pytest.raises(ModuleError, match=f"{WHERE}: the outputs '{one}' and '{other}' have the same file name"):
        ask(scripted(Outbox(outputs={one: np.zeros(2), other: np.ones(2)})))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([1.0], "is a list, expected an array; use numpy.atleast_1d"),
        (3.0, "is a float, expected an array"),
        (np.float64(3), "is a numpy.float64|is a float64, expected an array"),
        (np.array(3.0), r"has 0 dimensions, expected 1 to 8"),
        (np.zeros((1,) * 9), r"has 9 dimensions, expected 1 to 8"),
        (masked(1.0, 2.0), "is a masked array, whose mask would be lost"),
        (np.array(["a"]), "is an array of <U1, expected numbers or booleans"),
        (np.array([1j]), "is an array of complex128"),
        (np.array([None]), "is an array of object"),
        (np.zeros(2, [("a", "f8")]), r"is an array of"),
        (np.zeros(2, "M8[s]"), r"is an array of datetime64"),
        (np.zeros(2, np.longdouble), "is an array of float128, expected numbers or booleans; use at most 64 bits"),
        (np.eye(2).view(np.matrix), "is a matrix, expected a plain array"),
        ({"a": 1}, "is dict, expected an array"),
        (None, "is None, expected an array"),
        ("text", "is a str, expected an array"),
    ],
    ids=show,
)
def test_an_output_is_an_array_of_numbers_with_a_dimension(value, problem):
    with pytest.raises(ModuleError, match=f"{WHERE}: output 'z' {problem}"):
        ask(scripted(Outbox(outputs={"z": value})))


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3, dtype=">i4"),
        np.zeros(2, np.float16),
        np.zeros((0, 2)),
        np.zeros(0),
        np.eye(3).T[::2],
        np.ones((1,) * 8),
        np.zeros(3, bool),
    ],
    ids=lambda value: f"{value.dtype.str}{value.shape}",
)
def test_an_output_that_is_accepted_can_be_written_and_is_not_copied(value, tmp_path):
    outputs = ask(scripted(Outbox(outputs={"Überblick z": value}))).outputs
    assert outputs["Überblick z"] is value
    write_arrays(RunFiles(tmp_path), "m", "module001_m", outputs, "learn")
    assert {path.stem for path in (tmp_path / "module001_m").iterdir()} == {"Überblick z_learn"}


# --- the state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [None, [], ("a",), Outbox()])
def test_a_state_is_a_dict(state):
    tested = scripted()
    tested.module.held = state
    with pytest.raises(ModuleError, match=rf"{WHERE}: state\(\) returned .*, expected a dict"):
        ask(tested)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"a": {3: 4}}, "state 'a' is dict"),
        ({"a": (1, 2)}, "state 'a' is tuple"),
        ({"a": masked(1.0, 2.0)}, "state 'a' is a masked array"),
        ({"a": np.array([None])}, "state 'a' is an array of object"),
        ({"__metadata__": np.zeros(2)}, "state '__metadata__' is not a valid name"),
        ({"__scalars__": 1}, "state '__scalars__' is not a valid name"),
        ({3: 4}, "state 3 is a name of type int"),
        ({10**5000: 4}, "state <int> is a name of type int"),
        ({"a": "\ud800"}, "state 'a' is a text with surrogates"),
    ],
)
def test_a_state_that_would_not_come_back_from_a_commit_is_refused_by_name(state, problem):
    tested = scripted()
    tested.module.held = state
    with pytest.raises(ModuleError, match=f"^{WHERE}: {problem}"):
        ask(tested)


def test_a_state_is_not_copied():
    held = {"a": np.arange(4, dtype=">f8"), "b": np.float32(1), "c": None}
    state = ask(scripted(**held)).state
    assert all(state[name] is value for name, value in held.items())


# --- any answer -------------------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.sampled_from(
        [np.zeros(2), np.array(1.0), np.float32(1), np.array(["a"]), masked(1.0, 2.0), object(), Outbox, Converts()]
    ),
)
NAMES = st.one_of(
    st.text(max_size=4), st.integers(), st.none(), st.sampled_from(["z", "Z", "round", "../x", "evidence"])
)
MAPS = st.one_of(ODD, st.dictionaries(NAMES, ODD, max_size=3))
MESSAGES = st.builds(OutgoingMessage, st.one_of(st.just("z"), ODD), MAPS, st.one_of(st.just(""), ODD))
OUTBOXES = st.one_of(ODD, st.builds(Outbox, st.one_of(ODD, st.lists(st.one_of(ODD, MESSAGES), max_size=2)), MAPS, MAPS))


@settings(max_examples=400, deadline=None)
@given(OUTBOXES, MAPS, st.sampled_from([mode for mode, _ in MODES]))
def test_any_answer_is_accepted_or_refused_by_name_in_a_short_text(outbox, state, mode):
    tested = scripted()
    tested.slots = (Slot("z", "latent_vectors"),)
    tested.module.outbox, tested.module.held = (lambda: outbox), state
    try:
        result = ask(tested, mode=mode)
    except SerketError as error:
        text = str(error)
    else:
        text = f"{WHERE}: accepted"
        assert {type(value) for value in result.metrics.values()} <= {float}
        assert all(type(value) is np.ndarray and value.ndim for value in result.outputs.values())
    assert text.startswith(WHERE), text
    assert len(text) < 1000


# --- exceptions -------------------------------------------------------------------------------------------------------


class LoudError(Exception):
    """Has a text of 50 MB that is not among its arguments."""

    def __str__(self):
        return "x" * 50_000_000


class MuteError(Exception):
    """Raises an exception when its text is read."""

    def __str__(self):
        raise ValueError("no text")


def raising(error):
    tested = scripted(lambda: (_ for _ in ()).throw(error))
    with pytest.raises(Exception) as raised:  # noqa: PT011 (its type is tested)
        ask(tested)
    return raised.value


@pytest.mark.parametrize("kind", [ModuleError, NonFiniteError, MessageError])
def test_the_text_of_a_modules_own_error_is_cut_in_its_middle(kind):
    error = raising(kind("module 'm': " + "x" * 50_000_000 + " the end"))
    assert type(error) is kind
    assert len(str(error)) <= MAX_EXCEPTION_CHARACTERS
    assert str(error).startswith("module 'm': xxx")
    assert str(error).endswith("xxx the end")
    assert "characters are left out" in str(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("x" * 50_000_000), LoudError(), MuteError(), OSError(5, "x" * 10**7), KeyError("x" * 10**7)],
    ids=show,
)
def test_the_text_of_any_exception_is_cut_and_its_traceback_kept(error):
    started = time.perf_counter()
    raised = raising(error)
    assert time.perf_counter() - started < 2
    assert isinstance(raised, ModuleFailedError)
    assert str(raised).startswith(type(error).__name__)
    assert len(str(raised)) <= MAX_EXCEPTION_CHARACTERS + MAX_ERROR_CHARACTERS
    assert "in update" in str(raised)
    assert raised.__cause__ is None
    assert raised.__suppress_context__


def test_long_texts_of_causes_and_notes_are_cut_too():
    error = RuntimeError("short")
    error.__cause__ = ValueError("x" * 50_000_000)
    assert str(raising(error)).startswith("RuntimeError: short\n")
    noted = RuntimeError("short")
    noted.add_note("x" * 50_000_000)
    assert len(str(raising(noted))) < MAX_ERROR_CHARACTERS


def test_other_exceptions_are_raised_as_they_are():
    for error in (RuntimeError("short"), ModuleError("x" * MAX_EXCEPTION_CHARACTERS), ZeroDivisionError()):
        assert raising(error) is error
    deep = RuntimeError("short")
    assert bound_exception(deep) is deep


def test_a_text_with_surrogates_becomes_valid_unicode():
    assert str(raising(ModuleError("file \udcff"))) == "file \\udcff"


@pytest.mark.parametrize("method", ["prepare", "load_state", "state", "recognize"])
def test_exceptions_of_every_method_are_cut(method):
    tested = scripted()

    def fail(*_):
        raise RuntimeError("x" * 10**7)

    setattr(tested.module, method, fail)
    calls = {
        "prepare": lambda: tested.prepare("cpu"),
        "load_state": lambda: tested.load_state({}),
        "state": lambda: ask(tested),
        "recognize": lambda: ask(tested, mode="recognize"),
    }
    with pytest.raises(ModuleFailedError) as raised:
        calls[method]()
    assert len(str(raised.value)) <= MAX_EXCEPTION_CHARACTERS + MAX_ERROR_CHARACTERS


@pytest.mark.parametrize("device", ["x" * 10**7, "cpu\n", ""], ids=show)
def test_the_device_of_a_module_is_a_short_name(device):
    tested = scripted()
    tested.module.device = device
    with pytest.raises(ModuleError, match=r"module 'm': its device is '.*', expected a name like cpu") as refused:
        tested.prepare("cpu")
    assert len(str(refused.value)) < 200


# --- the run goes on --------------------------------------------------------------------------------------------------


class Naughty(Module):
    """Sums random draws; returns the answer `bad` in round `round`."""

    ports = (Port("observations", "in", "forward", "observations"),)

    @dataclasses.dataclass(frozen=True)
    class Parameters:
        bad: str = ""
        round: int = 2

    def __init__(self, parameters):
        super().__init__(parameters)
        self.weights = np.zeros(3)

    def update(self, inbox, context):
        self.weights = self.weights + context.generator.normal(size=3)
        bad = self.parameters.bad if context.round == self.parameters.round else ""
        outputs = {"list": {"z": [1.0]}, "scalar": {"z": np.array(1.0)}, "path": {"../z": np.zeros(2)}}
        self.extra = {"state": {"extra": {3: 4}}, "name": {"__metadata__": np.zeros(2)}}.get(bad, {})
        metrics = {"round": 1.0} if bad == "metric" else {"evidence": 0.0}
        return None if bad == "none" else Outbox(metrics=metrics, outputs=outputs.get(bad, {"z": self.weights.copy()}))

    def recognize(self, inbox, context):
        return Outbox()

    def state(self):
        return {"weights": self.weights.copy(), **self.extra}

    def load_state(self, state):
        self.weights = state["weights"].copy()


def model(bad=""):
    data = ModuleSpec("data", "tests.support.toy_modules:Source")
    naughty = ModuleSpec("m", "tests.actors.backends.test_result_checks:Naughty", {"bad": bad})
    return Graph([data, naughty], [Connection("data", "m")], Schedule(3, (Step("m"),)))


def coordinator(path, bad=""):
    return Coordinator(model(bad), InProcessBackend(), checkpoints=Checkpoints(path))


@pytest.mark.parametrize("bad", ["none", "list", "scalar", "path", "metric", "state", "name"])
def test_a_bad_answer_is_not_committed_and_the_run_is_continued_with_the_same_bits(bad, tmp_path):
    start = {"data": {"values": np.zeros((4, 2))}}
    undisturbed = coordinator(tmp_path / "undisturbed")
    undisturbed.start(start)
    undisturbed.run_rounds()
    failing = coordinator(tmp_path / "run", bad)
    failing.start(start)
    with pytest.raises(ModuleError, match="module 'm', round 2, step 0: "):
        failing.run_rounds()
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.names() == ["round-000", "round-001"]
    with pytest.raises(ModuleError, match="module 'm', round 2, step 0: "):  # the module itself has its former state
        failing.update("m", 2, 0)
    resumed = coordinator(tmp_path / "run")
    resumed.resume()
    resumed.run_rounds()
    for name in ("round-002", "round-003"):
        records = [Checkpoints(tmp_path / each).manifest(name).modules["m"].files for each in ("undisturbed", "run")]
        assert [file.digest for file in records[0].values()] == [file.digest for file in records[1].values()]


def test_the_module_keeps_its_former_state_after_a_refused_answer():
    made = Coordinator(model("list"), InProcessBackend())
    made.start({"data": {"values": np.zeros((4, 2))}})
    made.update("m", 1, 0)
    before = made.state("m")["weights"].copy()
    with pytest.raises(ModuleError):
        made.update("m", 2, 0)
    np.testing.assert_array_equal(made._backend._hosts["m"].module.weights, before)


# --- classes whose methods do not tell the truth ----------------------------------------------------------------------


class Changing(str):
    """A name that is another text once it is converted."""

    def __str__(self):
        return "../../x"

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return False

    def __len__(self):
        return 1

    def isprintable(self):
        return True

    def __contains__(self, other):
        return False


class Endless(dict):
    def __len__(self):
        return 1

    def items(self):
        return ((f"a{i}", 1.0) for i in itertools.count())


class EndlessList(list):
    def __iter__(self):
        return itertools.repeat(OutgoingMessage("p", {}))


class Failing(dict):
    def items(self):
        raise RuntimeError("no")


class FailingNumber(float):
    def __float__(self):
        raise MemoryError


WIDE = np.broadcast_to(np.zeros(1), (10**9, 1000))
"""8 TB as it would be stored, 8 bytes in memory."""


def test_names_are_the_texts_that_were_checked():
    assert ask(scripted(Outbox(metrics={Changing("ok"): 1.0}))).metrics == {"ok": 1.0}
    assert list(ask(scripted(Outbox(outputs={Changing("ok"): np.zeros(2)}))).outputs) == ["ok"]
    assert list(check_state("here", {Changing("ok"): 1})) == ["ok"]
    for outbox in (Outbox(metrics={Changing("round"): 1.0}), Outbox(outputs={Changing("../x"): np.zeros(2)})):
        with pytest.raises(ModuleError, match=f"{WHERE}: an? (metric|output) has the name"):
            ask(scripted(outbox))


@pytest.mark.parametrize(
    ("outbox", "problem"),
    [
        (Outbox(metrics=Endless()), f"returned more than {MAX_METRICS} metrics"),
        (Outbox(outputs=Endless()), f"returned more than {MAX_OUTPUTS} outputs"),
        (Outbox(EndlessList()), f"returned more than {MAX_MESSAGES} messages"),
        (Outbox([OutgoingMessage("p", Endless())]), f"message on port 'p': returned more than {MAX_ARRAYS} arrays"),
        (Outbox(metrics=Failing()), r"the metrics cannot be read from a .*Failing \(RuntimeError\)"),
        (Outbox(metrics={"a": FailingNumber(1)}), r"a is a .*FailingNumber without a value \(MemoryError\)"),
        (Outbox(outputs={"a": WIDE}), "the outputs have 8000000000000 bytes, at most 68719476736 are stored"),
    ],
)
def test_what_does_not_end_or_fails_or_is_too_large_is_refused(outbox, problem):
    with pytest.raises(ModuleError, match=f"{WHERE}: {problem}"):
        ask(scripted(outbox))


def test_a_state_that_does_not_end_or_is_too_large_is_refused():
    with pytest.raises(ModuleError, match=f"more than {MAX_STATE_ENTRIES} entries"):
        check_state("here", Endless())
    with pytest.raises(ModuleError, match="the arrays of the state have 8000000000000 bytes"):
        check_state("here", {"a": WIDE})


def test_a_text_that_ends_the_process_is_no_text():
    class EndingError(Exception):
        def __str__(self):
            raise SystemExit(3)

    assert "EndingError: its text cannot be read (SystemExit)" in str(bound_exception(EndingError()))
