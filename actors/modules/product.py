"""The product: joins several modules that share one latent variable, each of which has its own names for its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import AliasChoices, Field

from actors.errors import ModuleError
from actors.kernels.label_alignment import align
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import Evidence, floored, joined, likelihoods, normalised, normalisers, prior_from
from actors.types import FloatArray, IntArray, State

PRIOR = "joint_prior"

_PERMUTATION = "permutation."


@dataclass(frozen=True)
class ProductParameters:
    """See :class:`Product`."""

    iterations: Annotated[int, Field(ge=0, validation_alias=AliasChoices("iterations", "itr"))] = 100
    lapse: Annotated[float, Field(ge=1e-6, lt=1)] = 0.01


class _Joint(NamedTuple):
    """What came, in the joint labels: from below; the product of all priors, None without any; and both together.

    The posterior (N, K) is log-distributions; its normalisers (N,) are 0 for missing rows.
    """

    evidence: Evidence
    log_prior: FloatArray | None
    log_posterior: FloatArray
    norms: FloatArray


class Product(Module[ProductParameters]):
    """The product of what several modules say of one class that they share.

    They have classified the same rows, seen in different ways, and number their classes each in its own way. An update
    finds which class of one is which of another's (:mod:`actors.kernels.label_alignment`). The first sender names the
    joint classes (the first in order of connection; whoever came alone at first keeps naming them).

    Upwards goes the product of all likelihoods and of every prior but the receiver's own. Downwards goes to each sender
    what all others know, in the sender's own labels: the product of the other likelihoods and all priors. So each comes
    to name its classes as it did when the permutations were found, and later updates, which start from these, keep
    them, unless others explain the rows better.

    Priors from above take no part in the alignment: they were made of the same posteriors as these were aligned
    before, so they would vote for what is already there.

    With one sender it passes on what it hears, and without a prior it has nothing to say to that sender: the
    message is uniform. What a sender does not know of a row (its mask) it leaves to the others. Messages travel
    untempered; the likelihoods of the others, as they go down, are raised to the temperature of this module's context.

    Parameters
    ----------
    parameters : ProductParameters
        iterations (or itr) : int
            Passes over the senders an update, at most: the first that changes nothing is the last. With 0 the
            permutations stay as they are.
        lapse : float
            The share of rows that each sender is taken to be wrong about while permutations are looked for.
    """

    Parameters: ClassVar[type[Any]] = ProductParameters
    ports = (
        Port("class_posteriors", "in", "forward", "class_posteriors"),
        Port(PRIOR, "in", "backward", "transition_prior", optional=True),
        Port("joint_posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
    )

    def __init__(self, parameters: ProductParameters) -> None:
        super().__init__(parameters)
        self._permutations: dict[str, IntArray] = {}  # by sender: its own label (K,) of each joint class
        self._frequencies: FloatArray | None = None  # (K,), the mean posterior

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Find the permutations; send the joint posterior up and to each sender what the others know.

        A sender of which nothing was learnt yet is taken at its word (its labels are the joint ones) where nothing
        is to be learnt.

        Raises
        ------
        ModuleError
            If the messages don't fit each other or what was learnt before, or exclude each other in a row.
        """
        parameters, own = self.at(context), likelihoods(inbox)
        self._check_classes(own, context)
        permutations = self._permutations
        learn = context.learn and parameters.iterations > 0
        if learn:
            start = [permutations.get(sender) for sender in own]
            found = align(list(own.values()), start, parameters.lapse, parameters.iterations)
            self._permutations = permutations = {**permutations, **dict(zip(own, found, strict=True))}
        joint = _join(inbox, own, permutations)
        if learn:
            seen = slice(None) if joint.evidence.mask is None else ~joint.evidence.mask
            posterior = np.exp(joint.log_posterior[seen])
            self._frequencies = posterior.mean(axis=0) if len(posterior) else None
        evidence = joint.evidence.log_norm + float(joint.norms.sum())
        return _outbox(joint, inbox, permutations, context, {"evidence": evidence})

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Join what is said of new rows, by the permutations that were learnt.

        Raises
        ------
        ModuleError
            If a sender was unknown when the permutations were learnt, or as in :meth:`update`.
        """
        if not self._permutations:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        own = likelihoods(inbox)
        self._check_classes(own, context)
        unknown = [sender for sender in own if sender not in self._permutations]
        if unknown:
            raise ModuleError(
                f"module {context.module!r} has learnt the labels of {', '.join(self._permutations)}, not those of "
                f"{', '.join(unknown)}: let it learn with all its senders first"
            )
        return _outbox(_join(inbox, own, self._permutations), inbox, self._permutations, context, {})

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Tell all senders, in their labels, of one class a row: that of the priors, or drawn; output ``class`` (N,).

        Without a prior from above, classes are drawn by how frequent they were when the module learnt.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the priors are of other rows or classes.
        """
        if self._frequencies is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        K = len(self._frequencies)
        log_prior = prior_from(inbox, PRIOR, (context.rows, K))
        if log_prior is None:
            drawn = context.generator.choice(K, context.rows, p=self._frequencies / self._frequencies.sum())
            log_prior = np.where(np.eye(K, dtype=np.bool_)[drawn], 0.0, -np.inf)
        messages = [
            OutgoingMessage(
                "transition_prior", {"log_prob": _as_named(log_prior, self._permutations[receiver])}, receiver
            )
            for receiver in context.receivers.get("transition_prior", ())
            if receiver in self._permutations
        ]
        return Outbox(messages, outputs={"class": log_prior.argmax(axis=1)})

    def state(self) -> State:
        """Return copies of the permutations, by sender, and of the classes' frequencies."""
        permutations = {_PERMUTATION + sender: labels.copy() for sender, labels in self._permutations.items()}
        return permutations if self._frequencies is None else {**permutations, "frequencies": self._frequencies.copy()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an empty one is that of a product that has learnt nothing.

        Raises
        ------
        ModuleError
            If what it calls permutations are none, or of different lengths.
        """
        found = {
            name.removeprefix(_PERMUTATION): np.array(labels, dtype=np.int64)
            for name, labels in state.items()
            if name.startswith(_PERMUTATION)
        }
        classes = max((len(labels) for labels in found.values()), default=0)
        for sender, labels in found.items():
            if not np.array_equal(np.sort(labels), np.arange(classes)):
                raise ModuleError(f"the state has no permutation of {classes} classes for {sender}, but {labels}")
        self._permutations = found
        frequencies = state.get("frequencies")
        self._frequencies = None if frequencies is None else np.array(frequencies, dtype=np.float64)

    def _check_classes(self, own: Mapping[str, FloatArray], context: Context) -> None:
        came = next(iter(own.values())).shape[1]
        learnt = next((len(labels) for labels in self._permutations.values()), came)
        if came != learnt:
            senders = " and ".join(own)
            raise ModuleError(f"{came} classes came from {senders}, {context.module!r} has learnt {learnt}")


def _join(inbox: Inbox, own: Mapping[str, FloatArray], permutations: Mapping[str, IntArray]) -> _Joint:
    """Multiply all that came, each sender's likelihood (N, K) in the joint labels."""
    named = {s: log_prob[:, permutations[s]] if s in permutations else log_prob for s, log_prob in own.items()}
    evidence = joined(inbox.all("class_posteriors"), named)
    rows, classes = evidence.log_prob.shape
    log_prior = prior_from(inbox, PRIOR, (rows, classes))
    scores = evidence.log_prob + (-np.log(classes) if log_prior is None else log_prior)
    norms = normalisers(scores, [*own, *inbox.all(PRIOR)])
    return _Joint(evidence, log_prior, scores - norms[:, None], _of_those_seen(norms, evidence))


def _outbox(
    joint: _Joint,
    inbox: Inbox,
    permutations: Mapping[str, IntArray],
    context: Context,
    metrics: Mapping[str, float],
) -> Outbox:
    """Address what came to those above and below: to each what it does not know from itself."""
    evidence, messages = joint.evidence, []
    for receiver in context.receivers.get("joint_posteriors", ()):
        others = prior_from(inbox, PRIOR, evidence.log_prob.shape, without=receiver)
        scores = evidence.log_prob if others is None else evidence.log_prob + others
        norms = np.logaddexp.reduce(scores, axis=1)
        log_norm = evidence.row_norms + _of_those_seen(norms, evidence)
        arrays = {"log_prob": scores - norms[:, None], "log_norm": log_norm, **evidence.rows}
        messages.append(OutgoingMessage("joint_posteriors", arrays, receiver))
    for receiver in context.receivers.get("transition_prior", ()):
        if receiver not in evidence.by_sender:  # has not spoken yet, so that nothing is known of its labels
            continue
        others_said = [log_prob for sender, log_prob in evidence.by_sender.items() if sender != receiver]
        cavity = np.zeros_like(evidence.log_prob) if joint.log_prior is None else joint.log_prior
        if others_said:
            cavity = cavity + context.temperature * np.sum(others_said, axis=0)
        message = floored(normalised(cavity))
        if receiver in permutations:
            message = _as_named(message, permutations[receiver])
        messages.append(OutgoingMessage("transition_prior", {"log_prob": message, **evidence.rows}, receiver))
    posterior = np.exp(joint.log_posterior)
    return Outbox(messages, metrics, {"class": joint.log_posterior.argmax(axis=1), "Pdz": posterior})


def _of_those_seen(norms: FloatArray, evidence: Evidence) -> FloatArray:
    """Return norms (N,), zero for rows that nobody saw."""
    return norms if evidence.mask is None else np.where(evidence.mask, 0.0, norms)


def _as_named(of_joint: FloatArray, labels: IntArray) -> FloatArray:
    """Return columns (N, K) in the joint labels as a sender names them, whose label of joint class k is labels[k]."""
    return of_joint[:, np.argsort(labels)]
