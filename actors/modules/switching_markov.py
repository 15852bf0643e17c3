"""A Markov model whose transitions depend on a regime of each row, which a Markov model above learns to predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from actors.errors import ModuleError
from actors.kernels.inversion import draw_chain, draw_rows
from actors.kernels.markov.inference import transition_probabilities
from actors.kernels.markov.switching import (
    WINDOWS,
    SwitchingResult,
    compile_kernels,
    start_counts,
    switching_forward_backward,
)
from actors.kernels.sequences import boundaries
from actors.limits import MAX_REGIMES
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import (
    CombinedPosteriors,
    add_floor,
    combine_posteriors,
    combine_priors,
    normalise_with_norms,
    present_norms,
    sender_likelihoods,
    temper,
)
from actors.modules.markov_answers import (
    compose_messages,
    log_evidence_of_sequences,
    one_hot_log_prob,
    present,
    unordered_message,
)
from actors.types import FloatArray, State

PRIOR, REGIMES = "regime_prior", "regime_posteriors"


@dataclass(frozen=True)
class SwitchingMarkovParameters:
    """See :class:`SwitchingMarkov`."""

    regimes: Annotated[int, Field(ge=1, le=MAX_REGIMES)] = 2
    inner_iterations: Annotated[int, Field(ge=0)] = 5
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    initial: Literal["uniform", "learnt"] = "uniform"
    window: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"


class SwitchingMarkov(Module[SwitchingMarkovParameters]):
    """Learn a transition matrix for each regime, and send upwards what each row says of its regime.

    p(z_t | z_{t-1}, r_t) = A^{r_t}[z_{t-1}, z_t]: the lower chain of a hierarchical hidden Markov model, such as the
    syllables of words. A ``markov`` above it (``connections: [mm -> words]``) is the upper chain, p(r_t | r_{t-1}), and
    knows nothing of this one: as from a mixture, it receives the likelihoods of the regimes, and sends each row a prior
    of its regime given all other rows. Given these priors, inference here is exact
    (:mod:`actors.kernels.markov.switching`).

    The output ``regime`` (N,) is the most probable regime of each row, with ``Pregime`` (N, R), ``Pdz`` (N, K) the
    posterior of the classes below, and ``regime_trans_prob`` (R, K, K) the matrices; ``trans_prob`` (K, K) is their
    mean.

    Parameters
    ----------
    parameters : SwitchingMarkovParameters
        regimes : int
            R, the number of classes that the module above sees.
        inner_iterations : int
            Passes of forward-backward and re-estimation per update; with 0 the matrices are kept.
        alpha : float
            Pseudo-count of each transition in each regime.
        initial : {"uniform", "learnt"}
            Distribution of the first class of a sequence; a first row has no regime.
        window : int or "auto"
            Rows of the windows that are compared at the start, until a first prior comes; with ``auto`` another one of
            12, 6, 24 and 48 in each chain of a block.
    """

    Parameters: ClassVar[type[Any]] = SwitchingMarkovParameters
    learning_parameters = ("inner_iterations",)
    fixed_parameters = ("regimes",)
    uses_order = True
    ports = (
        Port("class_posteriors", "in", "forward", "class_posteriors"),
        Port(PRIOR, "in", "backward", "transition_prior", optional=True),
        Port(REGIMES, "out", "forward", "class_posteriors", per_receiver=True),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
    )

    def __init__(self, parameters: SwitchingMarkovParameters) -> None:
        super().__init__(parameters)
        self._counts: FloatArray | None = None  # expected transitions, (R, K, K)
        self._initial_counts: FloatArray | None = None  # expected first classes, (K,)
        self._class_counts: FloatArray | None = None  # expected rows of each class, (K,)
        self._regime_counts: FloatArray | None = None  # expected rows of each regime, (R,)

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn the matrices, given the priors of the regimes; send messages both ways.

        Until a first prior has come, the matrices are those of windows of rows that are alike.

        Raises
        ------
        ModuleError
            If the messages do not fit what was learnt before, or exclude each other.
        """
        parameters, combined = self.at(context), self._combined(inbox, context)
        tempered = temper(combined.log_prob, context.temperature)
        log_prior = self._prior(inbox, len(tempered))
        if self._counts is None or (log_prior is None and context.learn and parameters.inner_iterations):
            self._start(tempered, combined, parameters, context)
        try:
            for done in range(parameters.inner_iterations if context.learn and log_prior is not None else 0):
                fit = self._infer(tempered, combined, log_prior, parameters)
                self._counts, self._initial_counts = fit.transitions, fit.initial
                context.report(done + 1, parameters.inner_iterations, log_likelihood=fit.log_likelihood)
            down = fit = self._infer(tempered, combined, log_prior, parameters)
            if tempered is not combined.log_prob:
                fit = self._infer(combined.log_prob, combined, log_prior, parameters)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        if context.learn:
            self._class_counts = present(fit.posterior, combined.mask).sum(axis=0)
            self._regime_counts = self._regime_posterior(fit, log_prior).sum(axis=0)
        return self._answer(inbox, combined, fit, log_prior, add_floor(down.log_cavity), context)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Infer classes and regimes of new rows; rows without an order have the frequencies of both.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the messages do not fit.
        """
        if self._counts is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        combined = self._combined(inbox, context)
        if not context.ordered:
            return self._recognize_unordered(combined, context)
        log_prior, parameters = self._prior(inbox, len(combined.log_prob)), self.at(context)
        try:
            fit = self._infer(temper(combined.log_prob, context.temperature), combined, log_prior, parameters)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        return self._answer(inbox, combined, fit, log_prior, add_floor(fit.log_cavity), context)

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Draw classes by the regimes that came from above, or by their frequencies; output ``class`` (N,).

        Raises
        ------
        ModuleError
            If nothing was learnt yet.
        """
        if self._counts is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        message = inbox.first(PRIOR)
        rows, uniforms = context.rows, context.generator.random((context.rows, 2))
        prior = np.tile(self._frequencies, (rows, 1)) if message is None else np.exp(np.asarray(message["log_prob"]))
        regimes = draw_rows(np.cumsum(prior, axis=1), uniforms[:, 0])
        initial = self._first(self.at(context))
        classes = draw_chain(initial, self._matrices(self.at(context)), uniforms[:, 1], regimes)
        log_prob = one_hot_log_prob(classes, len(initial))
        messages = [
            OutgoingMessage("transition_prior", {"log_prob": log_prob}, receiver)
            for receiver in context.receivers.get("transition_prior", ())
        ]
        return Outbox(messages, outputs={"class": classes, "regime": regimes})

    def state(self) -> State:
        """Return copies of the expected counts."""
        arrays = {
            "transitions": self._counts,
            "initial_counts": self._initial_counts,
            "class_counts": self._class_counts,
            "regime_counts": self._regime_counts,
        }
        return {name: array.copy() for name, array in arrays.items() if array is not None}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; an empty one is that of a model that has learnt nothing."""
        arrays = {name: np.array(array, dtype=np.float64) for name, array in state.items()}
        self._counts, self._initial_counts = arrays.get("transitions"), arrays.get("initial_counts")
        self._class_counts, self._regime_counts = arrays.get("class_counts"), arrays.get("regime_counts")

    # --- helpers --------------------------------------------------------------------------------------------------

    @property
    def _frequencies(self) -> FloatArray:
        """The share (R,) of the rows in each regime; equal shares before anything is known."""
        R = self.parameters.regimes
        counts = np.zeros(R) if self._regime_counts is None else self._regime_counts
        shares: FloatArray = (counts + 1.0) / (counts + 1.0).sum()
        return shares

    def _matrices(self, parameters: SwitchingMarkovParameters) -> FloatArray:
        """Return the transition probabilities (R, K, K)."""
        assert self._counts is not None
        return np.stack([transition_probabilities(counts, parameters.alpha) for counts in self._counts])

    def _first(self, parameters: SwitchingMarkovParameters) -> FloatArray:
        """Return the distribution (K,) of first classes."""
        assert self._counts is not None
        K = self._counts.shape[1]
        if parameters.initial == "uniform" or self._initial_counts is None:
            return np.full(K, 1.0 / K)
        return transition_probabilities(self._initial_counts, parameters.alpha)

    def _combined(self, inbox: Inbox, context: Context) -> CombinedPosteriors:
        """Return the product of the class posteriors from below."""
        by_sender, first = sender_likelihoods(inbox), inbox.require("class_posteriors")
        classes = first["log_prob"].shape[1]
        if self._counts is not None and self._counts.shape[1] != classes:
            raise ModuleError(
                f"{first.header.route}: {classes} classes came, {context.module!r} has learnt {self._counts.shape[1]}"
            )
        return combine_posteriors(inbox.all("class_posteriors"), by_sender)

    def _prior(self, inbox: Inbox, rows: int) -> FloatArray | None:
        """Return the priors (N, R) of the regimes from above, None if none came."""
        return combine_priors(inbox, PRIOR, (rows, self.parameters.regimes))

    def _start(
        self,
        log_prob: FloatArray,
        combined: CombinedPosteriors,
        parameters: SwitchingMarkovParameters,
        context: Context,
    ) -> None:
        """Set the matrices from windows of rows that are alike."""
        window = WINDOWS[context.chain % len(WINDOWS)] if parameters.window == "auto" else parameters.window
        starts = boundaries(len(log_prob), combined.lengths)
        self._counts = start_counts(log_prob, parameters.regimes, window, starts, context.generator)
        self._initial_counts = np.exp(log_prob[starts[:-1]]).sum(axis=0)
        self._regime_counts = None

    def _infer(
        self,
        log_prob: FloatArray,
        combined: CombinedPosteriors,
        log_prior: FloatArray | None,
        parameters: SwitchingMarkovParameters,
    ) -> SwitchingResult:
        prior = np.tile(self._frequencies, (len(log_prob), 1)) if log_prior is None else np.exp(log_prior)
        matrices, initial = self._matrices(parameters), self._first(parameters)
        return switching_forward_backward(log_prob, matrices, prior, initial, combined.lengths, combined.mask)

    def _regime_posterior(self, fit: SwitchingResult, log_prior: FloatArray | None) -> FloatArray:
        """Return the posterior (N, R) of the regimes."""
        log_weights = np.log(self._frequencies) if log_prior is None else log_prior
        posterior: FloatArray = np.exp(normalise_with_norms(fit.log_regimes + log_weights)[0])
        return posterior

    def _answer(
        self,
        inbox: Inbox,
        combined: CombinedPosteriors,
        fit: SwitchingResult,
        log_prior: FloatArray | None,
        log_message: FloatArray,
        context: Context,
    ) -> Outbox:
        """Return messages, outputs and, of an update, the evidence."""
        row_norms = fit.row_log_likelihood + combined.row_norms
        messages = compose_messages(log_message, combined.by_sender, combined.row_arrays, context, extrinsic=True)
        for receiver in context.receivers.get(REGIMES, ()):
            others = combine_priors(inbox, PRIOR, fit.log_regimes.shape, receiver)
            up, up_norm = normalise_with_norms(fit.log_regimes if others is None else fit.log_regimes + others)
            norms = present_norms(up_norm + row_norms, combined.mask)
            arrays = {"log_prob": up, "log_norm": norms, **combined.row_arrays}
            messages.append(OutgoingMessage(REGIMES, arrays, receiver))
        posterior, matrices = self._regime_posterior(fit, log_prior), self._matrices(self.at(context))
        outputs = {
            "regime": posterior.argmax(axis=1),
            "Pregime": posterior,
            "regime_trans_prob": matrices,
            "trans_prob": np.tensordot(self._frequencies, matrices, axes=1),
            "msg": np.exp(log_message),
        }
        if context.mode == "recognize":
            evidence = log_evidence_of_sequences(fit.row_log_likelihood, combined)
            outputs |= {"filtered": fit.filtered, "smoothed": fit.posterior, "log_evidence": evidence}
            return Outbox(messages, outputs=outputs)
        return Outbox(messages, {"evidence": float(row_norms.sum())}, {**outputs, "Pdz": fit.posterior})

    def _recognize_unordered(self, combined: CombinedPosteriors, context: Context) -> Outbox:
        """Answer for rows without an order: the frequencies of classes downwards, nothing of regimes upwards."""
        assert self._counts is not None
        rows, R = len(combined.log_prob), self.parameters.regimes
        log_message = unordered_message(rows, self._counts.sum(axis=0), self._class_counts, None)
        log_posterior, by_row = normalise_with_norms(combined.log_prob + log_message)
        posterior = np.exp(log_posterior)
        messages = compose_messages(log_message, combined.by_sender, combined.row_arrays, context, extrinsic=True)
        norms = present_norms(by_row + combined.row_norms + np.log(R), combined.mask)
        arrays = {"log_prob": np.full((rows, R), -np.log(R)), "log_norm": norms, **combined.row_arrays}
        messages += [OutgoingMessage(REGIMES, arrays, receiver) for receiver in context.receivers.get(REGIMES, ())]
        outputs = {"msg": np.exp(log_message), "filtered": posterior, "smoothed": posterior}
        return Outbox(messages, outputs={**outputs, "log_evidence": log_evidence_of_sequences(by_row, combined)})
