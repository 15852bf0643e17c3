"""The MLDA module: learns topics shared by several modalities of the same rows, histograms and class posteriors."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, ClassVar

import numpy as np

from actors.errors import ModuleError
from actors.kernels.mlda import variational
from actors.kernels.mlda.calibration import (
    PredictionCalibration,
    calibrate_exponents,
    calibrate_prediction,
    calibrated_prediction,
    match_words,
)
from actors.kernels.mlda.gibbs import compile_kernels, count, counts_from_words
from actors.kernels.mlda.row_updates import Corpus, Settings
from actors.module import Context, Inbox, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import LABELS
from actors.modules.mlda.answers import (
    PREDICTION_PORTS,
    InferredRows,
    KnownModality,
    compose_outbox,
    log_distributions,
    log_prior_of,
    prediction_calibration,
    word_distributions,
)
from actors.modules.mlda.parameters import (
    CONCENTRATIONS,
    MAX_CHANGE,
    MLDAParameters,
    concentrations,
    current_exponents,
    estimated_names,
)
from actors.modules.mlda.sampler import (
    SampleAverages,
    SamplerState,
    assign_new_tokens,
    class_log_likelihood,
    expect_unobserved,
    fold_in_rows,
    initialise_topics,
    predict_modality,
    run_sweeps,
    topic_scores,
)
from actors.modules.mlda.shared import SharedMLDA
from actors.modules.mlda.tokens import (
    Modality,
    ModalityState,
    Vocabulary,
    carry_over_topics,
    find_unobserved,
    join_modalities,
    proportions_problem,
    read_modalities,
    rounding_problem,
    rows_without_tokens,
    split_by_modality,
    unobserved_tokens,
)
from actors.sharing.chunks import row_count
from actors.sharing.driver import answer_alone, update_alone
from actors.types import Array, FloatArray, State

STATE_ARRAYS, STATE_SCALARS = ("tokens", "words", "topics", "counts"), ("total", "sender", "kind")
"""Fields of :class:`actors.modules.mlda.tokens.ModalityState`, in the state as ``tokens.NAME`` and so on."""


class MLDA(SharedMLDA):
    """Learn topics shared by several modalities with multimodal latent Dirichlet allocation.

    Learning is collapsed Gibbs sampling (:mod:`actors.kernels.mlda.gibbs`), or variational Bayes
    (:mod:`actors.kernels.mlda.variational`). Each sender is a modality: histograms of
    words (observations, flattened where they have more dimensions), or class posteriors, whose classes are the words.
    Row d has θ_d ~ Dirichlet(α); a token of modality m draws its topic from θ_d and its word from φ_mk ~ Dirichlet(β).
    The row's class is one more draw from θ_d, and messages from above are priors ψ_d over it, so that
    P(class k | d) ∝ ψ_d(k) p(tokens of d | class k): priors multiply, and the message up to a module is the likelihood
    times the priors of the other modules. A ψ_d certain of topic k makes θ_d ~ Dirichlet(α + e_k).

    Upwards, ``log_prob + log_norm`` is log p(tokens of d | class k) plus the logarithm of those priors. The likelihood
    is the normalised average over samples, times a lower bound of the row's predictive likelihood p(tokens of d) (of
    the tokens in their order, with the word distributions of the other rows). Its mean under a uniform prior is that
    bound.

    Downwards, a sender of class posteriors receives the distribution of its word given the row's other modalities and
    the priors from above, and a sender of histograms their reconstruction from the row's topics. Rows that are missing
    in a modality are predicted too.

    Outputs: ``class`` and ``Pdz`` of P(class k | d), and ``Pzw_NAME`` (K, V), each topic's word distribution in
    modality NAME.

    Of a row in which some counts of a histogram are missing, the others are used, as a multinomial distribution over
    their words (:mod:`actors.kernels.mlda.unobserved`, :mod:`actors.kernels.mlda.variational`). A weight is then the
    number of the observed tokens.

    When a row's tokens change between updates, the j-th token of a word keeps the topic of the row's previous j-th
    token of that word; topics of further tokens are drawn given all that are kept.

    Parameters
    ----------
    parameters : MLDAParameters
        topics (or classes) : int
            K.
        iterations (or itr) : int
            Sweeps per update. With 0 nothing is learnt: topics stay, and messages are computed from each row folded in
            on its own.
        alpha, beta : float or "estimated"
            Concentrations of the Dirichlet distributions over a row's topics and over a topic's words (of all
            modalities). ``estimated`` starts at 0.1 and raises the likelihood of the topics, or of the words given the
            topics, by a step of Minka's fixed point after each sweep (:mod:`actors.kernels.mlda.concentration`).
        burn_in : int
            Additional sweeps in the first update.
        samples : int
            Number of final sweeps that are averaged in the messages.
        start : {"rows", "tokens"}
            Initial topics of the first update: ``rows`` assigns whole rows while the temperature is lowered, ``tokens``
            draws each token's topic uniformly, which ends in much worse optima where rows form classes.
        restarts : int
            Number of starts by rows, of which the most probable is taken.
        weights : mapping of str to int
            Modality → tokens per row, to which its histograms are scaled; each is one observation. Without a weight, a
            histogram's counts are used as they are (rounded), and class posteriors get 100 tokens.
        calibrate : bool
            Whether modalities without a weight count as many observations as agree with the other modalities
            (:func:`actors.kernels.mlda.calibration.calibrate_exponents`; there must be others), and whether messages
            down to senders of class posteriors are made as confident as they agree with these senders
            (:func:`actors.kernels.mlda.calibration.calibrate_prediction`). Neither uses labels. Otherwise each token is
            one observation, and messages are sent as they are.
        engine : {"gibbs", "vb"}
            Sampled topics of tokens, or expected numbers of tokens by variational Bayes, with the metric ``bound``, a
            lower bound of the log evidence of the rows' effective tokens under the priors from above.

    Notes
    -----
    With ``vb`` workers can share the rows (:mod:`actors.modules.mlda.shared`); their number does not change any bit.
    What differs from ``gibbs``:

    - Counts are real numbers. Histograms and class posteriors are not rounded to tokens; histograms that are
      proportions are refused without a weight all the same. The effective number of a modality's tokens multiplies
      their number, also in the topics of a row, and not only the exponents of their words.
    - ``iterations`` is the largest number of passes: they end when the bound rises by less than 1e-6 nats a row. A pass
      that would lower it is not made. ``samples`` has no meaning.
    - The first topics are found by ``start`` among the rows of a sample, in which rows have at most 1,000 tokens of a
      modality. All else is deterministic. No topic of a token is kept: later updates continue from the topics' words.
    - Estimated concentrations maximise the bound in every pass, given the rows and topics inferred.
    - Calibrations follow from sums over rows, the exponents of several modalities at once.
    """

    Parameters: ClassVar[type[Any]] = MLDAParameters
    missing_values = True
    learning_parameters = ("iterations", "burn_in", "start", "restarts")
    fixed_parameters = ("topics",)
    ports = (
        Port("observations", "in", "forward", "observations", optional=True, several=True),
        Port("class_posteriors", "in", "forward", "class_posteriors", optional=True),
        Port("topic_prior", "in", "backward", "transition_prior", optional=True),
        Port(LABELS, "in", "forward", "transition_prior", optional=True, several=True, beside=True),
        Port("topic_posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
        Port("reconstructions", "out", "backward", "reconstructions", per_receiver=True),
    )

    @classmethod
    def check_observations(cls, parameters: MLDAParameters, values: Array, source: str, learns: bool) -> None:  # noqa: ARG003
        """Raise ModuleError for histograms with negative counts, or that are none: those that rounding would change.

        With engine ``vb``, which does not round, those that are proportions.
        """
        if not source:
            return
        histograms = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        find_problem = proportions_problem if parameters.engine == "vb" else rounding_problem
        if histograms.min() < 0:
            row = int(histograms.min(axis=1).argmin())
            raise ModuleError(
                f"histograms of {source} have the negative value {histograms.min():g} in row {row + 1}; counts are 0 "
                "or above"
            )
        if source not in parameters.weights and (problem := find_problem(histograms, source)):
            raise ModuleError(problem)

    def __init__(self, parameters: MLDAParameters) -> None:
        super().__init__(parameters)
        self._states: dict[str, ModalityState] = {}
        self._estimated: dict[str, float] = {}  # of the concentrations that are estimated
        self._exponents: dict[str, float] = {}  # of the modalities that were calibrated
        self._predictions: dict[str, PredictionCalibration] = {}  # of the messages down, by modality
        self._topic_shares: FloatArray | None = None  # of engine `vb`, and where counts are missing

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()
        if self.parameters.engine == "vb":
            variational.compile_kernels()

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn the topics; send class posteriors up and predictions down.

        Raises
        ------
        ModuleError
            If the messages do not match the parameters, each other or the modalities learnt before.
        """
        parameters = self._at(context)
        if parameters.engine == "vb":
            _check_rows(inbox)
            learnt, outbox = update_alone(self, self.state(), inbox, context)
            self.load_state(learnt)
            return outbox
        modalities = self._read_modalities(inbox, parameters, context)
        sampler = self._training_state(modalities, inbox, parameters, context)
        iterations, calibrates = parameters.iterations, parameters.calibrate and context.learn
        new = {modality.name for modality in modalities} - set(self._states)
        if self._states:
            sampler = assign_new_tokens(sampler, context)
            if not all(state.has_tokens for state in self._states.values()):  # the counts included those of `vb`
                counts = count(sampler.corpus, sampler.topics, parameters.topics, sampler.settings.beta)
                sampler = expect_unobserved(sampler._replace(counts=counts))
        else:
            sampler = initialise_topics(sampler, parameters.start, parameters.restarts, context)
            iterations += parameters.burn_in
        calibrates = calibrates and iterations > 0
        if not parameters.calibrate:
            self._exponents = {}  # an earlier update may have chosen some
        estimated = estimated_names(parameters)

        def recalibrate(state: SamplerState) -> SamplerState:
            return self._choose_exponents(state, parameters) if calibrates else state

        sampler, averages = run_sweeps(
            sampler, iterations if context.learn else 0, parameters.samples, context, estimated, recalibrate
        )
        self._estimated = {name: getattr(sampler.settings, name) for name in estimated}
        self._states = split_by_modality(
            sampler.modalities, sampler.vocabulary, sampler.order, sampler.topics, sampler.counts
        )
        predictions = self._predict_below(sampler, context, calibrates, new)
        if averages is None:
            averages = fold_in_rows(sampler, parameters.samples, context)
        # Where counts are missing, the observed tokens alone do not tell the topic shares of a row.
        lacks = sampler.unobserved is not None
        self._topic_shares = averages.shares[~sampler.missing].mean(axis=0) if lacks else None
        return self._outbox(inbox, context, sampler, averages, predictions, learning=True)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Infer the classes of new rows with the learnt topics; modalities may be missing in any or all rows.

        Raises
        ------
        ModuleError
            If the MLDA is untrained or the messages do not match the modalities learnt.
        """
        if not self._states:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        parameters = self._at(context)
        if parameters.engine == "vb":
            _check_rows(inbox)
            return answer_alone(self, self.state(), inbox, context)
        modalities = self._read_modalities(inbox, parameters, context)
        for modality in modalities:
            if modality.name not in self._states:
                raise ModuleError(
                    f"module {context.module!r} has learnt {' and '.join(self._states)}, but not {modality.name}"
                )
        vocabulary = Vocabulary({name: len(state.counts) for name, state in self._states.items()})
        corpus, order = join_modalities(modalities, vocabulary)
        corpus = self._with_exponents(corpus, vocabulary, modalities, parameters)
        words = np.concatenate([state.counts for state in self._states.values()]).astype(np.float64)
        sampler = SamplerState(
            modalities,
            vocabulary,
            corpus,
            order,
            rows_without_tokens(modalities),
            *log_prior_of(inbox, len(modalities[0].tokens), parameters.topics),
            np.full(len(corpus.words), -1, dtype=np.int32),
            counts_from_words(corpus, words, self._concentrations(parameters).beta),
            self._concentrations(parameters),
            find_unobserved(modalities, vocabulary),
        )
        predictions = self._predict_below(sampler, context, calibrates=False)
        averages = fold_in_rows(sampler, parameters.samples, context)
        return self._outbox(inbox, context, sampler, averages, predictions, learning=False)

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Send the word distributions of each row's topic to the senders of class posteriors; output ``class`` (N,).

        The topic is distributed as the prior from above; without one it is drawn by the mean of the learnt rows'
        expected topic shares, in which a row with many tokens counts as much as one with few.

        Raises
        ------
        ModuleError
            If the MLDA is untrained.
        """
        if not self._states:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        parameters = self._at(context)
        log_prior, has_prior = log_prior_of(inbox, context.rows, parameters.topics)
        topics = np.exp(log_prior)
        if not has_prior:
            shares = self._mean_topic_shares(parameters)
            drawn = context.generator.choice(parameters.topics, context.rows, p=shares / shares.sum())
            topics = np.eye(parameters.topics)[drawn]
        messages, known = [], self._known(self._concentrations(parameters).beta)
        for name, state in self._states.items():
            port = PREDICTION_PORTS[state.kind]
            if port == "transition_prior" and state.sender in context.receivers.get(port, ()):
                words = topics @ known[name].words
                messages.append(OutgoingMessage(port, {"log_prob": log_distributions(words)}, state.sender))
        return Outbox(messages, outputs={"class": topics.argmax(axis=1)})

    def state(self) -> State:
        """Return copies of each modality's state (:class:`actors.modules.mlda.tokens.ModalityState`).

        The keys are ``tokens.NAME``, ``words.NAME`` and so on. Where calibrated, ``exponent.NAME`` is the effective
        number of a modality's tokens relative to their number, ``prediction.NAME`` exponent, lapse rate and sharpness
        of the message down, and ``prediction_mean.NAME`` the mean message. Engine ``vb`` keeps no tokens with their
        words and topics, but the mean topic shares of a row as ``topic_shares``. Where counts are missing, ``gibbs``
        keeps these too, and ``counts.NAME`` has the unobserved tokens beside those of ``topics.NAME``.
        """
        state: State = {}
        for name, modality in self._states.items():
            arrays = STATE_ARRAYS if modality.has_tokens else ("counts",)
            state |= {f"{attribute}.{name}": getattr(modality, attribute).copy() for attribute in arrays}
            state |= {f"{attribute}.{name}": getattr(modality, attribute) for attribute in STATE_SCALARS}
        for name, calibration in self._predictions.items():
            state |= {
                f"prediction.{name}": np.array(calibration[:3]),
                f"prediction_mean.{name}": calibration.mean.copy(),
            }
        if self._topic_shares is not None:
            state["topic_shares"] = self._topic_shares.copy()
        return state | self._estimated | {f"exponent.{name}": value for name, value in self._exponents.items()}

    def state_without_rows(self) -> State:
        """Return the state without the tokens of each row, their words and topics, but with the mean topic shares.

        One row without tokens stands for all, as a modality without any is one that engine ``vb`` learnt.
        """
        state = self.state()
        for name, modality in self._states.items():
            if modality.has_tokens:
                state |= {f"tokens.{name}": np.zeros(1, np.int64)}
                state |= {f"{each}.{name}": np.empty(0, np.int32) for each in ("words", "topics")}
        return {**state, "topic_shares": self._mean_topic_shares(self.parameters)} if state else {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; the empty state is that of an untrained MLDA.

        Raises
        ------
        ModuleError
            If the state has another number of topics.
        """
        names = sorted(key.removeprefix("counts.") for key in state if key.startswith("counts."))
        states = {}
        for name in names:
            tokens, words, topics = (
                np.array(state.get(f"{attribute}.{name}", np.empty(0, dtype)))
                for attribute, dtype in zip(STATE_ARRAYS, (np.int64, np.int32, np.int32), strict=False)
            )
            counts = np.array(state[f"counts.{name}"])
            total, sender, kind = (state[f"{attribute}.{name}"] for attribute in STATE_SCALARS)
            states[name] = ModalityState(tokens, words, topics, counts, float(total), str(sender), str(kind))
            if counts.shape[1] != self.parameters.topics:
                raise ModuleError(f"the state has {counts.shape[1]} topics, this MLDA {self.parameters.topics}")
        self._states = states
        self._topic_shares = np.array(state["topic_shares"]) if "topic_shares" in state else None
        self._estimated = {name: float(state[name]) for name in CONCENTRATIONS if name in state}
        self._exponents = {name: float(state[key]) for name in names if (key := f"exponent.{name}") in state}
        self._predictions = {
            name: prediction_calibration(state[key], state[f"prediction_mean.{name}"])
            for name in names
            if (key := f"prediction.{name}") in state
        }

    # --- helpers --------------------------------------------------------------------------------------------------

    def _training_state(
        self, modalities: list[Modality], inbox: Inbox, parameters: MLDAParameters, context: Context
    ) -> SamplerState:
        """Return the sampler's state with the topics that the tokens had before the update."""
        missing = rows_without_tokens(modalities)
        if missing.all():
            raise ModuleError(
                f"module {context.module!r}: every row is missing or empty: there is nothing to learn from"
            )
        for state in self._states.values():
            if state.has_tokens and len(state.tokens) != len(missing):
                raise ModuleError(
                    f"module {context.module!r} has topics of {len(state.tokens)} rows, but received {len(missing)} "
                    "rows; start a new run"
                )
        vocabulary = Vocabulary({modality.name: modality.size for modality in modalities})
        corpus, order = join_modalities(modalities, vocabulary)
        corpus = self._with_exponents(corpus, vocabulary, modalities, parameters)
        with_tokens = {name: state for name, state in self._states.items() if state.has_tokens}
        topics = carry_over_topics(modalities, with_tokens, order)
        settings = self._concentrations(parameters)
        counts = count(corpus, topics, parameters.topics, settings.beta)
        lacking = find_unobserved(modalities, vocabulary)
        if lacking is not None:
            words = counts.words
            for m, name in enumerate(vocabulary.sizes):
                if name in with_tokens and lacking.tokens[:, m].any():
                    words[vocabulary.word_slice(name)] += unobserved_tokens(with_tokens[name])
            counts = counts_from_words(corpus, words, settings.beta)
        if len(with_tokens) < len(self._states):  # new tokens are assigned by what engine `vb` has learnt
            words = counts.words
            for name, state in self._states.items():
                if name in vocabulary.sizes:
                    words[vocabulary.word_slice(name)] = state.counts
            counts = counts_from_words(corpus, words, settings.beta)
        prior = log_prior_of(inbox, len(missing), parameters.topics)
        return SamplerState(modalities, vocabulary, corpus, order, missing, *prior, topics, counts, settings, lacking)

    def _with_exponents(
        self, corpus: Corpus, vocabulary: Vocabulary, modalities: list[Modality], parameters: MLDAParameters
    ) -> Corpus:
        """Return the corpus with the exponents of its modalities (:func:`current_exponents`)."""
        kinds = dict.fromkeys(vocabulary.sizes, "") | {modality.name: modality.kind for modality in modalities}
        exponents = current_exponents(kinds, self._exponents, self._states, parameters)
        return corpus._replace(exponents=np.array(list(exponents.values())))

    def _choose_exponents(self, sampler: SamplerState, parameters: MLDAParameters) -> SamplerState:
        """Return the state with calibrated exponents of the modalities without a weight, if there are several."""
        names = list(sampler.vocabulary.sizes)
        free = np.array([name not in parameters.weights for name in names])
        if len(names) < 2 or not free.any():
            return sampler
        scores = topic_scores(sampler)
        before = sampler.corpus.exponents
        exponents = calibrate_exponents(scores, sampler.log_prior, before, free)
        # Topics that are still being found agree too little: one calibration does not decide.
        exponents = np.clip(exponents, before / MAX_CHANGE, before * MAX_CHANGE)
        self._exponents = {name: float(exponents[i]) for i, name in enumerate(names) if free[i]}
        return sampler._replace(corpus=sampler.corpus._replace(exponents=exponents))

    def _concentrations(self, parameters: MLDAParameters) -> Settings:
        """Return α and β."""
        return concentrations(parameters, self._estimated)

    def _known(self, beta: float) -> dict[str, KnownModality]:
        """Return the word distributions and mean sums of all modalities."""
        known = {}
        for name, state in self._states.items():
            effective = 1.0 if state.has_tokens else self._exponents.get(name, 1.0)
            counts: FloatArray = effective * state.counts.astype(np.float64)
            known[name] = KnownModality(word_distributions(counts, beta), state.total)
        return known

    def _read_modalities(self, inbox: Inbox, parameters: MLDAParameters, context: Context) -> list[Modality]:
        """Return the modalities' tokens, checked against the modalities learnt before."""
        below = [context.receivers.get(port, ()) for port in ("transition_prior", "reconstructions")]
        modalities = read_modalities(inbox, parameters.weights, context, {*self._states, *sum(below, ())})
        for modality in modalities:
            state = self._states.get(modality.name)
            if state is not None and len(state.counts) != modality.size:
                raise ModuleError(
                    f"{modality.message.header.route}: received {modality.size} words or classes, "
                    f"but {context.module!r} has learnt {len(state.counts)}"
                )
        return modalities

    def _mean_topic_shares(self, parameters: MLDAParameters) -> FloatArray:
        """Return E[θ_d | topics of row d's tokens] = (n_dk + α) / (n_d + K α), mean over the rows with tokens, (K,)."""
        if self._topic_shares is not None:
            return self._topic_shares
        K, rows = parameters.topics, len(next(iter(self._states.values())).tokens)
        counts = np.zeros(rows * K, dtype=np.int64)
        for state in self._states.values():
            cells = np.repeat(np.arange(rows), state.tokens) * K + state.topics
            counts += np.bincount(cells, minlength=rows * K)
        n = counts.reshape(rows, K)[counts.reshape(rows, K).sum(axis=1) > 0] + self._concentrations(parameters).alpha
        shares: FloatArray = (n / n.sum(axis=1, keepdims=True)).mean(axis=0)
        return shares

    def _outbox(
        self,
        inbox: Inbox,
        context: Context,
        sampler: SamplerState,
        averages: SampleAverages,
        predictions: Mapping[str, FloatArray],
        *,
        learning: bool,
    ) -> Outbox:
        """Combine the rows' likelihoods with the priors from above; return messages, metrics and outputs.

        `predictions` are the distributions of the words of senders of class posteriors, by modality.
        """
        likelihood = class_log_likelihood(sampler, averages)
        rows = InferredRows(sampler.missing, sampler.log_prior, likelihood, averages.shares, predictions)
        outbox = compose_outbox(inbox, context, sampler.modalities, rows, self._known(sampler.settings.beta))
        metrics = {**outbox.metrics, **self._estimated} if learning else {}
        return Outbox(outbox.messages, metrics, outbox.outputs)

    def _predict_below(
        self, sampler: SamplerState, context: Context, calibrates: bool, new: Container[str] = ()
    ) -> dict[str, FloatArray]:
        """Return the calibrated predictions (N, V) of the word of each sender of class posteriors, by modality.

        With `calibrates`, their calibrations are chosen anew, where there is anything to predict a modality from. While
        a new modality is annealed, its first prediction is that of :func:`match_words`.
        """
        parameters, predictions = self._at(context), {}
        informed = len(sampler.vocabulary.sizes) > 1 or sampler.has_prior
        for modality in sampler.modalities:
            name, port = modality.name, PREDICTION_PORTS[modality.kind]
            if port != "transition_prior" or modality.sender not in context.receivers.get(port, ()):
                continue
            folded = predict_modality(sampler, name, parameters.samples, context)
            words, shown = folded.words, modality.tokens > 0
            if calibrates and informed and context.temperature < 1.0 and name in new:
                counts = sampler.counts.words[sampler.vocabulary.word_slice(name)]
                predictions[name] = folded.shares @ match_words(word_distributions(counts, sampler.settings.beta))
                continue
            if calibrates and informed and shown.any():
                belief = np.asarray(modality.message["log_prob"], dtype=np.float64)
                self._predictions[name] = calibrate_prediction(words[shown], belief[shown])
            elif calibrates or not parameters.calibrate:
                self._predictions.pop(name, None)
            calibration = self._predictions.get(name)
            predictions[name] = words if calibration is None else calibrated_prediction(words, calibration)
        return predictions


def _check_rows(inbox: Inbox) -> None:
    """Raise ModuleError if messages have different numbers of rows."""
    messages = list(inbox)  # without any, reading them fails
    for message in messages[1:]:
        first = messages[0]
        if (came := row_count(message)) != (expected := row_count(first)):
            raise ModuleError(
                f"{message.header.route}: {came} rows came, {expected} from {first.header.sender}; all messages need "
                "the same rows (mask missing ones)"
            )
