"""Modules that derive from the sound module and violate the contract in one way each."""

import copy
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from actors.errors import ModuleError
from actors.messaging.message import rows_of
from actors.module import Outbox, OutgoingMessage
from tests.support.sharded_modules import KMeans as SoundShared
from tests.support.sound_module import Sound

# --- its declaration ----------------------------------------------------------------------------------------------


class NoDocstring(Sound):
    __doc__ = None


class InvalidDefault(Sound):
    """Has a default value outside its own bounds."""

    @dataclass(frozen=True)
    class Parameters:
        classes: Annotated[int, Field(ge=3)] = 2
        rate: Annotated[float, Field(gt=0)] = 0.5


# --- its results --------------------------------------------------------------------------------------------------


class ChangedMessages(Sound):
    """Changes the messages of the sound module."""

    def make_outbox(self, *arguments):
        outbox = super().make_outbox(*arguments)
        return Outbox(self.change_messages([*outbox.messages]), outbox.metrics, outbox.outputs)

    def change_messages(self, messages):
        return messages


class Unnormalised(ChangedMessages):
    """Sends scores that are not normalised."""

    def change_messages(self, messages):
        first = messages[0]
        return [
            OutgoingMessage(first.port, {**first.arrays, "log_prob": first.arrays["log_prob"] + 1.0}, first.receiver),
            *messages[1:],
        ]


class UndeclaredPort(ChangedMessages):
    """Sends a message on a port that it does not declare."""

    def change_messages(self, messages):
        return [*messages, OutgoingMessage("reconstruction", messages[-1].arrays)]


class NaNMetric(Sound):
    """Returns a metric that is NaN."""

    def make_outbox(self, *arguments):
        outbox = super().make_outbox(*arguments)
        return Outbox(outbox.messages, {"evidence": float("nan")}, outbox.outputs)


class LearnsFromMaskedRows(Sound):
    """Learns from rows that are missing."""

    def read(self, inbox, context):
        X, _, pictures, prior = super().read(inbox, context)
        return X, np.ones(len(X), bool), pictures, prior


class DropsTheMask(Sound):
    """Does not pass the mask on."""

    def row_arrays(self, message):
        return {name: array for name, array in rows_of(message).items() if name != "mask"}


class DropsTheLengths(Sound):
    """Does not pass the lengths of sequences on."""

    def row_arrays(self, message):
        return {name: array for name, array in rows_of(message).items() if name != "lengths"}


# --- its state ----------------------------------------------------------------------------------------------------


class NestedState(Sound):
    """Has a dict in its state."""

    def state(self):
        return {"all": super().state()}

    def load_state(self, state):
        super().load_state(state.get("all", {}))


class TextArrayInState(Sound):
    """Has an array of text in its state, which cannot be saved in a commit."""

    def state(self):
        return {**super().state(), "words": np.array(["a", "b"])}

    def load_state(self, state):
        super().load_state({name: array for name, array in state.items() if name != "words"})


class IncompleteLoad(Sound):
    """Keeps an array that it learnt itself when a state is loaded."""

    def load_state(self, state):
        own = self.start
        super().load_state(state)
        if own is not None and state:
            self.start = own


class RaisesOnEmptyState(Sound):
    """Raises an exception when an empty state is loaded."""

    def load_state(self, state):
        super().load_state({name: state[name] for name in ("start", "centres", "velocity")} | dict(state))


class IgnoresEmptyState(Sound):
    """Ignores an empty state instead of resetting itself."""

    def load_state(self, state):
        if state:
            super().load_state(state)


class SharesStateArrays(Sound):
    """Returns its own arrays as its state, not copies."""

    def state(self):
        return {name: getattr(self, name) for name in self.state_names if getattr(self, name) is not None}


class IncompleteState(Sound):
    """Omits its velocity from its state."""

    state_names = ("start", "centres", "average")

    def load_state(self, state):
        super().load_state(state)
        self.velocity = None if self.centres is None else np.zeros_like(self.centres)


class KeepsReadOnlyArrays(Sound):
    """Keeps the read-only arrays of a loaded state and writes into them."""

    def load_state(self, state):
        self.reset()
        for name, array in state.items():
            setattr(self, name, array)


OFFSETS = {}


class StateInAGlobalVariable(Sound):
    """Keeps a part of what it learnt in a global variable of the process."""

    def update(self, inbox, context):
        offset = OFFSETS.setdefault((context.run, context.seed), context.generator.normal())
        outbox = super().update(inbox, context)
        self.centres += offset
        return outbox


# --- its random draws ---------------------------------------------------------------------------------------------


class DrawsFromGlobalGenerator(Sound):
    """Draws from the global generator of numpy."""

    def draw_centres(self, context, width):
        return np.random.normal(size=(self.parameters.classes, width))  # noqa: NPY002 (the error to be detected)


class SeedsGlobalGenerator(Sound):
    """Seeds the global generator of numpy."""

    def draw_centres(self, context, width):
        np.random.seed(context.seed)  # noqa: NPY002 (the error to be detected)
        return super().draw_centres(context, width)


# --- its messages -------------------------------------------------------------------------------------------------


class WritesIntoMessages(Sound):
    """Writes into the arrays of a message."""

    def update(self, inbox, context):
        mean = inbox.require("rows")["mean"] if inbox.first("rows") else None
        if mean is not None:
            mean -= 1.0
        return super().update(inbox, context)


class MakesMessagesWritable(Sound):
    """Makes the arrays of a message writable and writes into them."""

    def update(self, inbox, context):
        if inbox.first("rows"):
            mean = inbox.require("rows")["mean"]
            mean.flags.writeable = True
            mean -= 1.0
        return super().update(inbox, context)


class RequiresOptionalMessage(Sound):
    """Requires a message on a port that it declares optional."""

    def read(self, inbox, context):
        inbox.require("rows")
        inbox.all("pictures")["below"]
        return super().read(inbox, context)


class RaisesKeyErrorWithoutMessage(Sound):
    """Raises a KeyError if there is no message."""

    def read(self, inbox, context):
        inbox.all("rows")["below"]
        return super().read(inbox, context)


class AcceptsAbsentMessage(Sound):
    """Returns an empty outbox without its required message."""

    def update(self, inbox, context):
        return super().update(inbox, context) if inbox.first("rows") else Outbox()


class RefusesMaskedRows(Sound):
    """Refuses recognition if every row is masked."""

    def recognize(self, inbox, context):
        message = inbox.first("rows")
        if message is not None and message.mask is not None and message.mask.all():
            raise ModuleError("every row is missing")
        return super().recognize(inbox, context)


class NeedsSeveralRows(Sound):
    """Needs at least as many rows as dimensions."""

    def learn(self, X, responsibilities):
        np.linalg.cholesky(np.cov(X.T, ddof=0))
        super().learn(X, responsibilities)


class DividesBySequenceRows(Sound):
    """Divides by the number of unmasked rows of each sequence."""

    def update(self, inbox, context):
        outbox = super().update(inbox, context)
        message = inbox.require("rows")
        if message.lengths is not None and message.mask is not None:
            starts = np.cumsum(message.lengths) - message.lengths
            self.centres += 0.0 / np.add.reduceat((~message.mask).astype(float), starts).min()
            outbox = self.recognize(inbox, context)
        return outbox


class ChecksNoShape(Sound):
    """Does not check the shapes of its messages."""

    def check_shapes(self, X, pictures, prior, context):
        pass


class TruncatesPrior(Sound):
    """Uses a part of a prior that is too large."""

    def check_shapes(self, X, pictures, prior, context):
        super().check_shapes(X, pictures, None, context)

    def scores(self, X, prior):
        return super().scores(X, prior[: len(X), : self.parameters.classes])


class IgnoresPrior(Sound):
    """Ignores its prior, whose shape therefore need not fit."""

    def read(self, inbox, context):
        return super().read(type(inbox)([message for message in inbox if message.header.port != "prior"]), context)


class ChangesBeforeRefusal(Sound):
    """Changes its state before it refuses its messages."""

    def check_shapes(self, X, pictures, prior, context):
        if self.velocity is not None:
            self.velocity *= 1.5
        super().check_shapes(X, pictures, prior, context)

    def recognize(self, inbox, context):
        velocity = self.velocity
        self.velocity = None
        try:
            return super().recognize(inbox, context)
        finally:
            self.velocity = velocity


# --- modes that must not change it --------------------------------------------------------------------------------


class LearnsAtRecognition(Sound):
    """Learns at recognition."""

    def recognize(self, inbox, context):
        outbox = super().recognize(inbox, context)
        self.centres += 0.1
        return outbox


class UnrepeatableRecognition(Sound):
    """Returns another result at each recognition."""

    calls = 0

    def recognize(self, inbox, context):
        outbox = super().recognize(inbox, context)
        self.calls += 1
        return Outbox(outbox.messages, {"calls": float(self.calls)}, outbox.outputs)


class RemembersRecognition(Sound):
    """Learns differently after a recognition, outside its state."""

    factor = 1.0

    def recognize(self, inbox, context):
        outbox = super().recognize(inbox, context)
        self.factor = 2.0
        return outbox

    def learn(self, X, responsibilities):
        super().learn(X * self.factor, responsibilities)


class LearnsWhileGenerating(Sound):
    """Changes its state in generate."""

    def generate(self, inbox, context):
        if self.centres is not None:
            self.centres += 0.1
        return Outbox()


class RecognizesUntrained(Sound):
    """Recognizes without having been trained."""

    def recognize(self, inbox, context):
        X, _, _, prior = self.read(inbox, context)
        return self.make_outbox(inbox, context, X, prior)


class NeedsToLearn(Sound):
    """Divides by zero in an update without learning."""

    def update(self, inbox, context):
        outbox = super().update(inbox, context)
        return Outbox(outbox.messages, {"loss": 1.0 / int(context.learn)}, outbox.outputs)


class InvalidProgress(Sound):
    """Reports more progress than the total."""

    def update(self, inbox, context):
        context.report(3, 2)
        return super().update(inbox, context)


# --- names and types that a run cannot keep -----------------------------------------------------------------------


class ChangedOutbox(Sound):
    """Returns other metrics or outputs than the sound module."""

    metrics, outputs = {}, {}

    def make_outbox(self, *arguments):
        outbox = super().make_outbox(*arguments)
        return Outbox(outbox.messages, {**outbox.metrics, **self.metrics}, {**outbox.outputs, **self.outputs})


class MetricOfTheEvent(ChangedOutbox):
    """Has a metric with the name of a field of the event."""

    metrics = {"round": 3.0}


class MetricWithSpace(ChangedOutbox):
    """Has a metric whose name is not an identifier."""

    metrics = {"mean loss": 3.0}


class TextMetric(ChangedOutbox):
    """Has a metric that is a text."""

    metrics = {"loss": "=1+1"}


class ListOutput(ChangedOutbox):
    """Has an output that is a list."""

    outputs = {"history": [1.0, 2.0]}


class ScalarOutput(ChangedOutbox):
    """Has an output without dimensions."""

    outputs = {"total": np.array(3.0)}


class MaskedOutput(ChangedOutbox):
    """Has an output that is a masked array."""

    outputs = {"total": np.ma.masked_equal([1.0, 2.0], 2.0)}


class OutputElsewhere(ChangedOutbox):
    """Has an output whose name is a path."""

    outputs = {"../../total": np.zeros(3)}


class OutputsOfOneFile(ChangedOutbox):
    """Has two outputs whose names differ in case alone."""

    outputs = {"Class": np.zeros(3)}


class MaskedMessage(ChangedMessages):
    """Sends a masked array."""

    def change_messages(self, messages):
        last = messages[-1]
        values = np.ma.masked_invalid(last.arrays["values"])
        return [*messages[:-1], OutgoingMessage(last.port, {**last.arrays, "values": values})]


class GeneratesScalars(Sound):
    """Returns an output without dimensions when it generates."""

    def generate(self, inbox, context):
        return Outbox(outputs={"x": np.array(1.0)})


class ReturnsItsOwnArrays(Sound):
    """Returns its own arrays as its state; it never writes into them, but makes new ones."""

    def state(self):
        return {name: getattr(self, name) for name in self.state_names if getattr(self, name) is not None}

    def learn(self, X, responsibilities):
        self.velocity, self.centres = self.velocity.copy(), self.centres.copy()
        super().learn(X, responsibilities)


class ExtraInState(Sound):
    """Has an entry in its state that a commit would change."""

    extra = {}

    def state(self):
        return {**super().state(), **copy.deepcopy(self.extra)}

    def load_state(self, state):
        super().load_state({name: array for name, array in state.items() if name not in self.extra})


class TupleInState(ExtraInState):
    """Has a tuple in its state, which would come back as a list."""

    extra = {"shape": (8, 8)}


class MaskedArrayInState(ExtraInState):
    """Has a masked array in its state, which would come back without its mask."""

    extra = {"seen": np.ma.masked_equal([1.0, 2.0], 2.0)}


class ReservedNameInState(ExtraInState):
    """Has an array in its state that could never be read."""

    extra = {"__metadata__": np.zeros(2)}


class IntegerNameInState(ExtraInState):
    """Has an integer as a name in its state, which would come back as a text."""

    extra = {3: 4}


# --- rows that workers share --------------------------------------------------------------------------------------


class RemembersChunks(SoundShared):
    """Adds to the score the number of chunks that its worker had before."""

    def respond(self, chunk, learnt, context):
        outbox = super().respond(chunk, learnt, context)
        self.before = getattr(self, "before", 0) + 1 if chunk.index else 0
        return Outbox(outbox.messages, {"score": outbox.metrics["score"] + self.before}, outbox.outputs)


class AveragesRows(SoundShared):
    """Returns means over the rows of a chunk in place of sums."""

    def accumulate(self, chunk, learnt, context):
        return {name: value / len(chunk) for name, value in super().accumulate(chunk, learnt, context).items()}


class ChangesParameters(SoundShared):
    """Writes the new parameters into the old ones."""

    def maximise(self, statistics, learnt, context):
        learnt["centres"][:] = super().maximise(statistics, learnt, context)["centres"]
        return learnt


class MergesMeans(SoundShared):
    """Returns means of the classes in place of sums, as what it has learnt from."""

    def maximise(self, statistics, learnt, context):
        return {**super().maximise(statistics, learnt, context), "members": statistics["rows"]}

    def statistics_of(self, learnt):
        members = learnt["members"]
        return {"rows": np.array([members.sum()]), "members": members, "sums": learnt["centres"]}

    def learnt_from(self, statistics):
        members = np.maximum(statistics["members"], 1.0)
        return {"centres": statistics["sums"] / members[:, None], "members": statistics["members"]}
