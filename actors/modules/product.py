"""The product module: combines several modules that share one latent class but label it differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import AliasChoices, Field

from actors.errors import ModuleError
from actors.kernels.label_alignment import align
from actors.module import Context, Inbox, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import (
    LABELS,
    CombinedPosteriors,
    add_floor,
    combine_posteriors,
    combine_priors,
    joint_prior,
    known_classes,
    label_prior,
    log_normalisers,
    normalise_rows,
    present_norms,
    sender_likelihoods,
)
from actors.sharing.contract import MergeableModule
from actors.sharing.shard import Statistics
from actors.types import FloatArray, IntArray, State

PRIOR = "joint_prior"

_PERMUTATION = "permutation."


@dataclass(frozen=True)
class ProductParameters:
    """See :class:`Product`."""

    iterations: Annotated[int, Field(ge=0, validation_alias=AliasChoices("iterations", "itr"))] = 100
    lapse: Annotated[float, Field(ge=1e-6, lt=1)] = 0.01


class _JointPosterior(NamedTuple):
    """The combination of all messages, in the joint labels.

    Attributes
    ----------
    combined : CombinedPosteriors
        The class posteriors from below.
    log_prior : ndarray (N, K) float64, or None
        The product of the priors from above.
    log_posterior : ndarray (N, K) float64
        Both together; rows are log-distributions.
    norms : ndarray (N,) float64
        Log-normalisers of the posterior; 0 for missing rows.
    """

    combined: CombinedPosteriors
    log_prior: FloatArray | None
    log_posterior: FloatArray
    norms: FloatArray


class Product(MergeableModule[ProductParameters]):
    """Combine the class posteriors of several modules that share one latent class, in aligned labels.

    The modules below classify different views of the same rows, each with labels of its own. An update aligns them
    (:mod:`actors.kernels.label_alignment`). The joint labels are those of the first sender in order of connection, or
    of a sender that was the only one at first.

    Upwards goes the product of all likelihoods and of every prior except the receiver's own. Downwards goes to each
    sender, in its own labels, the product of the other likelihoods and all priors. Each sender thereby keeps the labels
    for which the permutations were inferred; later updates start from these and change them only if others explain the
    rows better.

    Labels of some rows name the joint classes: they take part in the alignment as a sender would whose labels are the
    joint ones, and multiply with the priors.

    Priors from above take no part in the alignment: they derive from posteriors in the previous alignment, and so would
    only confirm it.

    With one sender its message is passed on, and without a prior the message back to it is uniform. A row that is
    missing for a sender (its mask) is left to the others. Messages upwards are untempered; the likelihoods of the other
    senders, on their way downwards, are raised to the power of this module's temperature.

    Parameters
    ----------
    parameters : ProductParameters
        iterations (or itr) : int
            Maximum number of passes over the senders per update; the first without a change is the last. With 0 the
            permutations are kept.
        lapse : float
            Lapse rate of every sender in the alignment: the share of rows that it is assumed to misclassify.
    """

    Parameters: ClassVar[type[Any]] = ProductParameters
    learning_parameters = ("iterations",)
    own_classes = True
    ports = (
        Port("class_posteriors", "in", "forward", "class_posteriors"),
        Port(PRIOR, "in", "backward", "transition_prior", optional=True),
        Port(LABELS, "in", "forward", "transition_prior", optional=True, several=True, beside=True),
        Port("joint_posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
    )

    def __init__(self, parameters: ProductParameters) -> None:
        super().__init__(parameters)
        self._permutations: dict[str, IntArray] = {}  # by sender: its label (K,) of each joint class
        self._frequencies: FloatArray | None = None  # (K,), the mean posterior
        self._rows: FloatArray | None = None  # (1,), the number of rows that it is the mean of

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Align the labels; send the joint posterior upwards, and the product of the other senders to each sender.

        In an update that does not learn, the labels of a sender without a permutation are taken for the joint labels.

        Raises
        ------
        ModuleError
            If the messages do not fit each other or what was learnt before, or exclude each other in a row.
        """
        parameters, likelihoods = self.at(context), sender_likelihoods(inbox)
        self._check_classes(likelihoods, context)
        permutations = self._permutations
        learn = context.learn and parameters.iterations > 0
        if learn:
            start, inputs = [permutations.get(sender) for sender in likelihoods], list(likelihoods.values())
            if (told := label_prior(inbox, inputs[0].shape)) is not None:
                start, inputs = [np.arange(told.shape[1]), *start], [normalise_rows(told), *inputs]
            aligned = align(inputs, start, parameters.lapse, parameters.iterations)[-len(likelihoods) :]
            self._permutations = permutations = {**permutations, **dict(zip(likelihoods, aligned, strict=True))}
        joint = _combine(inbox, likelihoods, permutations)
        if learn:
            present = slice(None) if joint.combined.mask is None else ~joint.combined.mask
            posterior = np.exp(joint.log_posterior[present])
            self._frequencies = posterior.mean(axis=0) if len(posterior) else None
            self._rows = np.array([float(len(posterior))]) if len(posterior) else None
        evidence = joint.combined.log_norm + float(joint.norms.sum())
        return _compose_outbox(joint, inbox, permutations, context, {"evidence": evidence})

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Combine the posteriors of new rows, by the learnt permutations.

        Raises
        ------
        ModuleError
            If nothing was learnt yet, if a sender has no permutation, or as in :meth:`update`.
        """
        if not self._permutations:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        likelihoods = sender_likelihoods(inbox)
        self._check_classes(likelihoods, context)
        unknown = [sender for sender in likelihoods if sender not in self._permutations]
        if unknown:
            raise ModuleError(
                f"module {context.module!r} has learnt the labels of {', '.join(self._permutations)}, not those of "
                f"{', '.join(unknown)}: let it learn with all its senders first"
            )
        return _compose_outbox(_combine(inbox, likelihoods, self._permutations), inbox, self._permutations, context, {})

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Send a prior to all senders, in their labels: that from above, or of drawn classes; output ``class`` (N,).

        Without a prior from above, classes are drawn by their frequencies in the last update that learnt.

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
        log_prior = combine_priors(inbox, PRIOR, (context.rows, K))
        if log_prior is None:
            drawn = context.generator.choice(K, context.rows, p=self._frequencies / self._frequencies.sum())
            log_prior = np.where(np.eye(K, dtype=np.bool_)[drawn], 0.0, -np.inf)
        messages = [
            OutgoingMessage(
                "transition_prior", {"log_prob": _in_sender_labels(log_prior, self._permutations[receiver])}, receiver
            )
            for receiver in context.receivers.get("transition_prior", ())
            if receiver in self._permutations
        ]
        return Outbox(messages, outputs={"class": log_prior.argmax(axis=1)})

    def state(self) -> State:
        """Return copies of the permutations, by sender, and of the class frequencies with their number of rows."""
        permutations = {_PERMUTATION + sender: labels.copy() for sender, labels in self._permutations.items()}
        arrays = {"frequencies": self._frequencies, "rows": self._rows}
        return {**permutations, **{name: array.copy() for name, array in arrays.items() if array is not None}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; an empty one is that of a product that has learnt nothing.

        Raises
        ------
        ModuleError
            If its permutations are not valid, or of different lengths.
        """
        permutations = {
            name.removeprefix(_PERMUTATION): np.array(labels, dtype=np.int64)
            for name, labels in state.items()
            if name.startswith(_PERMUTATION)
        }
        classes = max((len(labels) for labels in permutations.values()), default=0)
        for sender, labels in permutations.items():
            if not np.array_equal(np.sort(labels), np.arange(classes)):
                raise ModuleError(f"the state has no permutation of {classes} classes for {sender}, but {labels}")
        self._permutations = permutations
        frequencies = state.get("frequencies")
        self._frequencies = None if frequencies is None else np.array(frequencies, dtype=np.float64)
        rows = state.get("rows")
        self._rows = None if rows is None else np.array(rows, dtype=np.float64)

    # --- runs that are merged -------------------------------------------------------------------------------------

    def statistics_of(self, learnt: State) -> Statistics:
        """Return the sum of the posteriors of the rows, and the permutations.

        Raises
        ------
        ModuleError
            If the state lacks the number of rows.
        """
        if "rows" not in learnt:
            raise ModuleError("has a state without the number of rows, as earlier versions wrote it: train it again")
        permutations = {name: each for name, each in learnt.items() if name.startswith(_PERMUTATION)}
        return {**permutations, "rows": learnt["rows"], "posteriors": learnt["rows"] * learnt["frequencies"]}

    def learnt_from(self, statistics: Statistics) -> State:
        """Return the permutations, and the mean posterior of the rows of all runs."""
        permutations = {name: each for name, each in statistics.items() if name.startswith(_PERMUTATION)}
        rows = statistics["rows"]
        return {**permutations, "frequencies": statistics["posteriors"] / rows, "rows": rows}

    def merge(self, left: Statistics, right: Statistics) -> Statistics:
        """Return the sums of both; their permutations are the same."""
        return {**left, **{name: left[name] + right[name] for name in ("rows", "posteriors")}}

    def renumber(self, statistics: Statistics, classes: IntArray) -> Statistics:
        """Return the statistics with joint class `classes[k]` as class k."""
        return {name: each if name == "rows" else each[classes] for name, each in statistics.items()}

    def renumber_inputs(self, statistics: Statistics, below: Mapping[str, IntArray]) -> Statistics:
        """Return the statistics in which label `below[sender][k]` of a sender has the number k."""
        labels = {_PERMUTATION + sender: np.argsort(classes) for sender, classes in below.items()}
        return {name: labels[name][each] if name in labels else each for name, each in statistics.items()}

    def joint_classes(self, left: Statistics, right: Statistics) -> IntArray:
        """Return the joint class of the right run that joins the labels of the left run's class k.

        Raises
        ------
        ModuleError
            If joint classes of one run join labels that belong to different joint classes in the other.
        """
        senders = [name for name in left if name.startswith(_PERMUTATION)]
        found: list[IntArray] = [np.argsort(right[name])[left[name]] for name in senders]
        for sender, own in zip(senders, found, strict=True):
            if (differing := np.flatnonzero(own != found[0])).size:
                first, other = (name.removeprefix(_PERMUTATION) for name in (senders[0], sender))
                raise ModuleError(
                    f"joint class {differing[0]} of the first run joins a class of {first} and one of {other} that "
                    "are in different joint classes of a further run: the runs disagree on what belongs together"
                )
        return found[0]

    def _check_classes(self, likelihoods: Mapping[str, FloatArray], context: Context) -> None:
        """Raise ModuleError if the likelihoods have another number of classes than the permutations."""
        came = next(iter(likelihoods.values())).shape[1]
        learnt = next((len(labels) for labels in self._permutations.values()), came)
        if came != learnt:
            senders = " and ".join(likelihoods)
            raise ModuleError(f"{came} classes came from {senders}, {context.module!r} has learnt {learnt}")


def _combine(
    inbox: Inbox, likelihoods: Mapping[str, FloatArray], permutations: Mapping[str, IntArray]
) -> _JointPosterior:
    """Combine all messages in the joint labels; `likelihoods` (N, K) are in the senders' labels."""
    aligned = {
        s: log_prob[:, permutations[s]] if s in permutations else log_prob for s, log_prob in likelihoods.items()
    }
    combined = combine_posteriors(inbox.all("class_posteriors"), aligned)
    rows, classes = combined.log_prob.shape
    told = label_prior(inbox, (rows, classes))
    log_prior = _with_labels(combine_priors(inbox, PRIOR, (rows, classes)), told)
    if told is not None and combined.mask is not None:  # a missing row that has a label says something
        combined = combined._replace(mask=combined.mask & (known_classes(told) < 0))
    scores = combined.log_prob + (-np.log(classes) if log_prior is None else log_prior)
    norms = log_normalisers(scores, [*likelihoods, *inbox.all(PRIOR)])
    return _JointPosterior(combined, log_prior, scores - norms[:, None], present_norms(norms, combined.mask))


def _compose_outbox(
    joint: _JointPosterior,
    inbox: Inbox,
    permutations: Mapping[str, IntArray],
    context: Context,
    metrics: Mapping[str, float],
) -> Outbox:
    """Return the extrinsic message to each receiver above and below, without what that receiver sent."""
    combined, messages = joint.combined, []
    for receiver in context.receivers.get("joint_posteriors", ()):
        told = label_prior(inbox, combined.log_prob.shape)
        others = _with_labels(combine_priors(inbox, PRIOR, combined.log_prob.shape, without=receiver), told)
        scores = combined.log_prob if others is None else combined.log_prob + others
        norms = np.logaddexp.reduce(scores, axis=1)
        log_norm = combined.row_norms + present_norms(norms, combined.mask)
        arrays = {"log_prob": scores - norms[:, None], "log_norm": log_norm, **combined.row_arrays}
        messages.append(OutgoingMessage("joint_posteriors", arrays, receiver))
    for receiver in context.receivers.get("transition_prior", ()):
        if receiver not in combined.by_sender:  # its labels are unknown before its first message
            continue
        other_likelihoods = [log_prob for sender, log_prob in combined.by_sender.items() if sender != receiver]
        cavity = np.zeros_like(combined.log_prob) if joint.log_prior is None else joint.log_prior
        if other_likelihoods:
            cavity = cavity + context.temperature * np.sum(other_likelihoods, axis=0)
        message = add_floor(normalise_rows(cavity))
        if receiver in permutations:
            message = _in_sender_labels(message, permutations[receiver])
        messages.append(OutgoingMessage("transition_prior", {"log_prob": message, **combined.row_arrays}, receiver))
    posterior = np.exp(joint.log_posterior)
    return Outbox(messages, metrics, {"class": joint.log_posterior.argmax(axis=1), "Pdz": posterior})


def _with_labels(above: FloatArray | None, told: FloatArray | None) -> FloatArray | None:
    """Return the product of priors from above and labels (N, K), as log-distributions; None without either."""
    product = joint_prior(above, told)
    return product if product is None or told is None else normalise_rows(product)


def _in_sender_labels(log_prob: FloatArray, labels: IntArray) -> FloatArray:
    """Return log_prob (N, K) with its columns in the sender's labels: joint class k is the sender's labels[k]."""
    return log_prob[:, np.argsort(labels)]
