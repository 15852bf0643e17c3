"""Modules like the sound one, each of which does one thing wrong."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from actors.errors import ModuleError
from actors.messaging.message import rows_of
from actors.module import Outbox, OutgoingMessage
from tests.support.sound_module import Sound

# --- what it says of itself ---------------------------------------------------------------------------------------


class Undocumented(Sound):
    __doc__ = None


class BadDefault(Sound):
    """Has a default that its own bounds refuse."""

    @dataclass(frozen=True)
    class Parameters:
        classes: Annotated[int, Field(ge=3)] = 2
        rate: Annotated[float, Field(gt=0)] = 0.5


# --- what it sends ------------------------------------------------------------------------------------------------


class Changed(Sound):
    """Changes what the sound one answers."""

    def answer(self, *given):
        outbox = super().answer(*given)
        return Outbox(self.changed([*outbox.messages]), outbox.metrics, outbox.outputs)

    def changed(self, messages):
        return messages


class Unnormalised(Changed):
    """Sends scores that are no distributions."""

    def changed(self, messages):
        first = messages[0]
        return [
            OutgoingMessage(first.port, {**first.arrays, "log_prob": first.arrays["log_prob"] + 1.0}, first.receiver),
            *messages[1:],
        ]


class Misspelling(Changed):
    """Sends on a port that it has not declared."""

    def changed(self, messages):
        return [*messages, OutgoingMessage("reconstruction", messages[-1].arrays)]


class Infinite(Sound):
    """Has a figure that is no number."""

    def answer(self, *given):
        outbox = super().answer(*given)
        return Outbox(outbox.messages, {"evidence": float("nan")}, outbox.outputs)


class Maskless(Sound):
    """Learns from rows that are missing."""

    def read(self, inbox, context):
        X, _, pictures, prior = super().read(inbox, context)
        return X, np.ones(len(X), bool), pictures, prior


class DropsTheMask(Sound):
    """Keeps from others which rows are missing."""

    def rows(self, message):
        return {name: array for name, array in rows_of(message).items() if name != "mask"}


class DropsTheLengths(Sound):
    """Keeps from others where sequences end."""

    def rows(self, message):
        return {name: array for name, array in rows_of(message).items() if name != "lengths"}


# --- what it keeps ------------------------------------------------------------------------------------------------


class Nested(Sound):
    """Has a dict within its state."""

    def state(self):
        return {"all": super().state()}

    def load_state(self, state):
        super().load_state(state.get("all", {}))


class Wordy(Sound):
    """Has an array of words in its state, which no commit holds."""

    def state(self):
        return {**super().state(), "words": np.array(["a", "b"])}

    def load_state(self, state):
        super().load_state({name: array for name, array in state.items() if name != "words"})


class Stale(Sound):
    """Keeps, when it takes over a state, what it had learnt itself."""

    def load_state(self, state):
        own = self.start
        super().load_state(state)
        if own is not None and state:
            self.start = own


class Unempty(Sound):
    """Has never thought of an empty state."""

    def load_state(self, state):
        super().load_state({name: state[name] for name in ("start", "centres", "velocity")} | dict(state))


class Clinging(Sound):
    """Takes an empty state for none, and stays as it is."""

    def load_state(self, state):
        if state:
            super().load_state(state)


class Aliasing(Sound):
    """Gives its live arrays away."""

    def state(self):
        return {name: getattr(self, name) for name in self.arrays if getattr(self, name) is not None}


class Forgetful(Sound):
    """Does not keep its velocity."""

    arrays = ("start", "centres", "average")

    def load_state(self, state):
        super().load_state(state)
        self.velocity = None if self.centres is None else np.zeros_like(self.centres)


class Borrowing(Sound):
    """Goes on in the arrays that it was given, which are read-only."""

    def load_state(self, state):
        self.forget()
        for name, array in state.items():
            setattr(self, name, array)


OFFSETS = {}


class Elsewhere(Sound):
    """Keeps something where only this process finds it."""

    def update(self, inbox, context):
        offset = OFFSETS.setdefault((context.run, context.seed), context.generator.normal())
        outbox = super().update(inbox, context)
        self.centres += offset
        return outbox


# --- where its draws come from ------------------------------------------------------------------------------------


class Unseeded(Sound):
    """Draws from numpy's own generator."""

    def draw(self, context, width):
        return np.random.normal(size=(self.parameters.classes, width))  # noqa: NPY002 (that is what is wrong)


class Reseeding(Sound):
    """Seeds numpy's own generator, for everybody."""

    def draw(self, context, width):
        np.random.seed(context.seed)  # noqa: NPY002 (that is what is wrong)
        return super().draw(context, width)


# --- what it does to its messages, and what it makes of them ------------------------------------------------------


class Scribbling(Sound):
    """Writes into what it is given."""

    def update(self, inbox, context):
        mean = inbox.require("rows")["mean"] if inbox.first("rows") else None
        if mean is not None:
            mean -= 1.0
        return super().update(inbox, context)


class PickingTheLock(Sound):
    """Writes into what it is given, having made it writable."""

    def update(self, inbox, context):
        if inbox.first("rows"):
            mean = inbox.require("rows")["mean"]
            mean.flags.writeable = True
            mean -= 1.0
        return super().update(inbox, context)


class Needy(Sound):
    """Cannot do without what it calls optional."""

    def read(self, inbox, context):
        inbox.require("rows")
        inbox.all("pictures")["below"]
        return super().read(inbox, context)


class Blunt(Sound):
    """Takes for granted that there is a message."""

    def read(self, inbox, context):
        inbox.all("rows")["below"]
        return super().read(inbox, context)


class Guessing(Sound):
    """Makes up the message that it says it needs."""

    def update(self, inbox, context):
        return super().update(inbox, context) if inbox.first("rows") else Outbox()


class Demanding(Sound):
    """Wants to see a row at recognition."""

    def recognize(self, inbox, context):
        message = inbox.first("rows")
        if message is not None and message.mask is not None and message.mask.all():
            raise ModuleError("every row is missing")
        return super().recognize(inbox, context)


class Crowded(Sound):
    """Needs as many rows as there are dimensions."""

    def learn(self, X, responsibilities):
        np.linalg.cholesky(np.cov(X.T, ddof=0))
        super().learn(X, responsibilities)


class PerSequence(Sound):
    """Divides by how many rows of each sequence were seen."""

    def update(self, inbox, context):
        outbox = super().update(inbox, context)
        message = inbox.require("rows")
        if message.lengths is not None and message.mask is not None:
            starts = np.cumsum(message.lengths) - message.lengths
            self.centres += 0.0 / np.add.reduceat((~message.mask).astype(float), starts).min()
            outbox = self.recognize(inbox, context)
        return outbox


class Careless(Sound):
    """Trusts that its messages fit each other."""

    def check(self, X, pictures, prior, context):
        pass


class Truncating(Sound):
    """Takes of a prior that is too large what it needs."""

    def check(self, X, pictures, prior, context):
        super().check(X, pictures, None, context)

    def scores(self, X, prior):
        return super().scores(X, prior[: len(X), : self.parameters.classes])


class Deaf(Sound):
    """Makes nothing of its prior, so that it need not fit."""

    def read(self, inbox, context):
        return super().read(type(inbox)([message for message in inbox if message.header.port != "prior"]), context)


class Rash(Sound):
    """Has changed before it finds out that its messages do not fit."""

    def check(self, X, pictures, prior, context):
        if self.velocity is not None:
            self.velocity *= 1.5
        super().check(X, pictures, prior, context)

    def recognize(self, inbox, context):
        velocity = self.velocity
        self.velocity = None
        try:
            return super().recognize(inbox, context)
        finally:
            self.velocity = velocity


# --- what answering does to it ------------------------------------------------------------------------------------


class Curious(Sound):
    """Learns at recognition."""

    def recognize(self, inbox, context):
        outbox = super().recognize(inbox, context)
        self.centres += 0.1
        return outbox


class Moody(Sound):
    """Answers otherwise when it is asked again."""

    asked = 0

    def recognize(self, inbox, context):
        outbox = super().recognize(inbox, context)
        self.asked += 1
        return Outbox(outbox.messages, {"asked": float(self.asked)}, outbox.outputs)


class Tracing(Sound):
    """Remembers outside its state that it was asked."""

    hurry = 1.0

    def recognize(self, inbox, context):
        outbox = super().recognize(inbox, context)
        self.hurry = 2.0
        return outbox

    def learn(self, X, responsibilities):
        super().learn(X * self.hurry, responsibilities)


class Dreaming(Sound):
    """Changes while it generates."""

    def generate(self, inbox, context):
        if self.centres is not None:
            self.centres += 0.1
        return Outbox()


class Presumptuous(Sound):
    """Takes for granted that it has learnt something."""

    def recognize(self, inbox, context):
        X, _, _, prior = self.read(inbox, context)
        return self.answer(inbox, context, X, prior)


class Stubborn(Sound):
    """Counts on having learnt in every update."""

    def update(self, inbox, context):
        outbox = super().update(inbox, context)
        return Outbox(outbox.messages, {"loss": 1.0 / int(context.learn)}, outbox.outputs)


class Boastful(Sound):
    """Says that it has done more than there is to do."""

    def update(self, inbox, context):
        context.report(3, 2)
        return super().update(inbox, context)
