"""The MLDA whose rows workers share: variational Bayes by passes over chunks of rows.

A pass of the kind *fit* is one iteration: expected tokens by word and topic are summed over rows, and are the next
topics. *Agreement* and *exponents* choose the effective numbers of tokens, a few times in an update. *Means* and
*predictions* calibrate the messages down at its end. Between passes, the parameters are what a state contains, and:

================== ================================================================================================
``phase``          The kind of the next pass; ``done`` after the last one.
``before_…``       The topics from which a row's part of the present topics' counts follows.
``new.NAME``       That the modality was not known before the update.
``means…``         What the second pass of a calibration needs from the first one.
================== ================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from actors.errors import ModuleError, NonFiniteError
from actors.kernels.mlda.calibration import (
    best_exponents,
    best_prediction,
    calibrated_prediction,
    exponent_fits,
    exponent_posteriors,
    match_words,
    prediction_fits,
    prediction_means,
)
from actors.kernels.mlda.gibbs import count
from actors.kernels.mlda.gibbs import start as start_by_rows
from actors.kernels.mlda.variational import (
    MIN_RISE,
    CountRows,
    ExpectedSums,
    Topics,
    Words,
    answer,
    best_alpha,
    best_beta,
    class_scores,
    expect,
    make_rows,
    make_words,
    topic_bound,
)
from actors.module import Context, Inbox, Outbox
from actors.modules.mlda.answers import (
    PREDICTION_PORTS,
    InferredRows,
    KnownModality,
    compose_outbox,
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
from actors.modules.mlda.sampler import CALIBRATIONS, MAX_CONCENTRATION, MIN_CONCENTRATION
from actors.modules.mlda.tokens import (
    CountedModality,
    Vocabulary,
    join_modalities,
    proportions_problem,
    read_counts,
    tokenize_counts,
)
from actors.sharing.chunks import Chunk
from actors.sharing.contract import ShardedModule
from actors.sharing.shard import Statistics
from actors.types import BoolArray, FloatArray, State

FIT, AGREEMENT, EXPONENTS, MEANS, PREDICTIONS, DONE = "fit", "agreement", "exponents", "means", "predictions", "done"

START_TOKENS = 1000
"""Most tokens of a modality in one row of the start."""

SCALARS = ("total", "sender", "kind")
"""What the state has of each modality besides its counts."""

NOTHING = "every row is missing or empty: there is nothing to learn from"


class _Rows(NamedTuple):
    """The rows of a chunk: their modalities, cells and words, and the priors from above."""

    modalities: list[CountedModality]
    cells: CountRows
    words: Words
    missing: BoolArray
    log_prior: FloatArray
    has_prior: bool

    @property
    def names(self) -> list[str]:
        """Names of the modalities."""
        return [modality.name for modality in self.modalities]


class SharedMLDA(ShardedModule[MLDAParameters]):
    """The engine ``vb`` of the MLDA, for workers that share its rows; abstract."""

    row_outputs = ("class", "Pdz")

    @classmethod
    def unshared_setting(cls, parameters: MLDAParameters) -> str | None:
        """Return which parameter needs all rows in one process; None if workers can share them."""
        if parameters.engine == "gibbs":
            return "learns by engine 'gibbs', which needs all rows in one process; use engine: vb"
        return None

    # --- the contract ---------------------------------------------------------------------------------------------

    def start(self, inbox: Inbox, context: Context) -> State:
        """Return the topics of the rows of a sample, found as by the engine ``gibbs``.

        Raises
        ------
        ModuleError
            If the sample does not allow it.
        """
        parameters = self._shared_parameters(context)
        modalities = self._read(inbox, {}, parameters, context)
        for modality in modalities:
            if modality.name not in parameters.weights and (
                problem := proportions_problem(modality.counts, modality.name)
            ):
                raise ModuleError(f"module {context.module!r}: {modality.message.header.route}: {problem}")
        if not any(modality.counts.any() for modality in modalities):
            raise ModuleError(f"module {context.module!r}: {NOTHING}")
        tokens = [tokenize_counts(modality, START_TOKENS) for modality in modalities]
        vocabulary = Vocabulary({modality.name: modality.size for modality in modalities})
        kinds = {modality.name: modality.kind for modality in modalities}
        exponents = current_exponents(kinds, {}, (), parameters)
        corpus, _ = join_modalities(tokens, vocabulary)
        corpus = corpus._replace(exponents=np.array(list(exponents.values())))
        log_prior, has_prior = log_prior_of(inbox, len(tokens[0].totals), parameters.topics)
        settings = concentrations(parameters, {})
        if parameters.start == "rows":
            tempered = settings._replace(temperature=context.temperature if has_prior else 1.0)
            counts = start_by_rows(corpus, np.exp(log_prior), tempered, context.generator, parameters.restarts)[1]
        else:
            topics = context.generator.integers(0, parameters.topics, len(corpus.words), dtype=np.int32)
            counts = count(corpus, topics, parameters.topics, settings.beta)
        learnt: State = {"phase": FIT if self._limit(parameters, context, first=True) else DONE, "first": True}
        for modality in modalities:
            name, shown = modality.name, modality.totals > 0
            learnt |= {
                f"counts.{name}": counts.words[vocabulary.word_slice(name)].copy(),
                f"total.{name}": float(modality.totals[shown].mean()) if shown.any() else 0.0,
                f"sender.{name}": modality.sender,
                f"kind.{name}": modality.kind,
                f"new.{name}": True,
            }
        return learnt | self._stored_exponents(exponents, parameters)

    def accumulate(self, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        """Return the sums of one pass, of the kind that is next.

        Raises
        ------
        ModuleError
            If the rows do not fit what was learnt.
        """
        parameters, phase = self._shared_parameters(context), learnt.get("phase", FIT)
        with self._named(chunk):
            rows = self._rows_of(chunk.inbox, learnt, parameters, context)
        if phase == FIT:
            return self._expected_sums(rows, learnt, parameters, context)
        before = self._before(rows, learnt, parameters, context)
        if phase in (AGREEMENT, EXPONENTS):
            topics = self._topics(rows, learnt, parameters)
            scores = class_scores(rows.cells, rows.words, topics, rows.log_prior, before)
            if phase == AGREEMENT:
                return exponent_posteriors(scores)
            return exponent_fits(scores, rows.log_prior, topics.exponents, learnt["means"])
        sums: dict[str, FloatArray] = {}
        for modality in self._predicted(rows, context):
            name, shown = modality.name, modality.counts.any(axis=1)
            _, words = self._predict(rows, name, learnt, parameters, before)
            belief = np.asarray(modality.message["log_prob"], dtype=np.float64)[shown]
            if phase == MEANS:
                own = prediction_means(words[shown], belief)
            else:
                own = prediction_fits(words[shown], belief, learnt[f"means.{name}"], learnt[f"means_belief.{name}"])
            sums |= {f"{key}.{name}": value for key, value in own.items()}
        return sums

    def maximise(self, statistics: Statistics, learnt: State, context: Context) -> State:
        """Return the parameters for the next pass.

        Raises
        ------
        ModuleError
            If the sums do not allow it.
        """
        parameters, phase = self._shared_parameters(context), learnt.get("phase", FIT)
        if phase == FIT:
            return self._improved(statistics, learnt, parameters, context)
        if phase == AGREEMENT:
            means = statistics["posteriors"] / np.maximum(statistics["shown"], 1.0)[:, None, None]
            return {**learnt, "phase": EXPONENTS, "means": np.where(means > 0.0, means, 1.0)}
        if phase == EXPONENTS:
            return self._with_exponents_chosen(statistics, learnt, parameters, context)
        names = [key.split(".", 1)[1] for key in statistics if key.startswith("shown." if phase == MEANS else "fits.")]
        if phase == MEANS:
            after = {**learnt, "phase": PREDICTIONS}
            for name in names:
                shown = max(float(statistics[f"shown.{name}"][0]), 1.0)
                mean = statistics[f"prediction.{name}"] / shown
                after[f"shown.{name}"] = float(statistics[f"shown.{name}"][0])
                after[f"means.{name}"] = mean / total if (total := mean.sum()) else mean
                after[f"means_belief.{name}"] = statistics[f"belief.{name}"] / shown
            return after
        after = {**learnt, "phase": DONE}
        for name in names:
            annealed = context.temperature < 1.0 and f"new.{name}" in learnt
            if learnt[f"shown.{name}"] and not annealed:
                chosen = best_prediction(statistics[f"fits.{name}"], learnt[f"means.{name}"])
                after |= {f"prediction.{name}": np.array(chosen[:3]), f"prediction_mean.{name}": chosen.mean.copy()}
        return after

    def is_finished(self, learnt: State, passes: int, context: Context) -> bool:  # noqa: ARG002 (phases say it)
        """Return whether no kind of pass is left."""
        if "phase" in learnt:
            return bool(learnt["phase"] == DONE)
        return not self._limit(self._shared_parameters(context), context, first=False)

    def respond(self, chunk: Chunk, learnt: State, context: Context) -> Outbox:
        """Return messages, outputs and metrics of one chunk.

        Raises
        ------
        ModuleError
            If the rows do not fit what was learnt.
        """
        parameters, learning = self._shared_parameters(context), context.mode != "recognize"
        with self._named(chunk):
            rows = self._rows_of(chunk.inbox, learnt, parameters, context)
        if not learning:
            for name in rows.names:
                if f"counts.{name}" not in learnt:
                    known = " and ".join(_names(learnt))
                    raise ModuleError(f"module {context.module!r} has learnt {known}, but not {name}")
        before = self._before(rows, learnt, parameters, context) if learning else None
        topics = self._topics(rows, learnt, parameters)
        answers = answer(rows.cells, rows.words, topics, rows.log_prior, before)
        predictions = {
            modality.name: self._prediction(rows, modality.name, learnt, parameters, context, before)
            for modality in self._predicted(rows, context)
        }
        inferred = InferredRows(rows.missing, rows.log_prior, answers.likelihood, answers.shares, predictions)
        known_words = self._known_words(learnt, parameters)
        outbox = compose_outbox(chunk.inbox, context, rows.modalities, inferred, known_words)
        return outbox if learning else Outbox(outbox.messages, {}, outbox.outputs)

    def finish(self, sums: Mapping[str, float], learnt: State, context: Context) -> Mapping[str, float]:
        """Return the metrics of an update: evidence, bound and estimated concentrations."""
        if context.mode == "recognize":
            return {}
        parameters = self._shared_parameters(context)
        metrics = {**sums, **{name: learnt[name] for name in estimated_names(parameters) if name in learnt}}
        if "bound" in learnt and (context.temperature == 1.0 or not learnt["with_prior"]):
            metrics["bound"] = learnt["bound"]
        return metrics

    # --- passes ---------------------------------------------------------------------------------------------------

    def _limit(self, parameters: MLDAParameters, context: Context, *, first: bool) -> int:
        """Return the largest number of iterations of an update."""
        return parameters.iterations + (parameters.burn_in if first else 0) if context.learn else 0

    def _expected_sums(
        self, rows: _Rows, learnt: State, parameters: MLDAParameters, context: Context
    ) -> dict[str, FloatArray]:
        """Return the sums of one iteration; the names of those of a modality have its kind and sender."""
        temperature = context.temperature if rows.has_prior else 1.0
        sums = expect(rows.cells, rows.words, self._topics(rows, learnt, parameters), rows.log_prior, temperature)
        statistics = {
            "shares": sums.shares,
            **{name: np.array([getattr(sums, name)]) for name in ("bound", "log_shares", "rows")},
            "with_prior": np.array([float(rows.has_prior)]),
        }
        counts = np.split(sums.counts, np.cumsum(rows.words.sizes).astype(np.int64)[:-1])
        for modality, own in zip(rows.modalities, counts, strict=True):
            present = modality.totals[modality.totals > 0]
            key = f"{modality.kind}/{modality.sender}/{modality.name}"
            statistics |= {f"counts/{key}": own, f"totals/{key}": np.array([present.sum(), float(len(present))])}
        return statistics

    def _improved(self, sums: Statistics, learnt: State, parameters: MLDAParameters, context: Context) -> State:
        """Return the parameters after an iteration; without it, if it does not raise the bound."""
        if not sums["rows"][0]:
            raise ModuleError(f"module {context.module!r}: {NOTHING}")
        keys = [key.split("/", 3)[1:] for key in sums if key.startswith("counts/")]
        names = [name for _, _, name in keys]
        with_prior, rows = bool(sums["with_prior"][0]), float(sums["rows"][0])
        words = make_words([len(sums[f"counts/{'/'.join(key)}"]) for key in keys])
        exponents = self._exponents_of(names, [kind for kind, _, _ in keys], learnt, parameters)
        used = self._assembled(names, [int(size) for size in words.sizes], learnt, exponents, parameters)
        temperature = context.temperature if with_prior else 1.0
        objective = float(sums["bound"][0]) + temperature * topic_bound(used, words)
        done, limit = int(learnt.get("done", 0)) + 1, self._limit(parameters, context, first="first" in learnt)
        before = float(learnt.get("objective", -np.inf))
        if objective < before:
            context.report(done, limit, objective=before)
            return self._after_fit({**learnt, "done": limit, "ended": True}, parameters, context)
        context.report(done, limit, objective=objective)
        after: State = {
            "phase": FIT,
            "done": done,
            "objective": objective,
            "bound": objective,
            "ended": objective - before < MIN_RISE * rows,
            "with_prior": with_prior,
            "topic_shares": sums["shares"] / rows,
            **({"first": True} if "first" in learnt else {}),
            **{f"before_exponent.{name}": exponents[name] for name in names},
            "before_alpha": used.alpha,
            "before_beta": used.beta,
            **self._stored_exponents(exponents, parameters),
        }
        for key, name in zip(keys, names, strict=True):
            own, (total, shown) = "/".join(key), sums[f"totals/{'/'.join(key)}"]
            after |= {
                f"counts.{name}": sums[f"counts/{own}"],
                f"before_counts.{name}": learnt.get(f"counts.{name}", np.zeros_like(sums[f"counts/{own}"])),
                f"total.{name}": float(total / shown) if shown else 0.0,
                f"kind.{name}": key[0],
                f"sender.{name}": key[1],
                **{k: learnt[k] for k in (f"prediction.{name}", f"prediction_mean.{name}") if k in learnt},
            }
            if f"new.{name}" in learnt or f"counts.{name}" not in learnt:
                after[f"new.{name}"] = True
        after |= self._estimates(
            ExpectedSums(used.counts, sums["shares"], 0.0, float(sums["log_shares"][0]), rows), after, words, parameters
        )
        every = max(1, limit // CALIBRATIONS)
        if self._chooses_exponents(names, parameters) and (done % every == 0 or after["ended"] or done >= limit):
            return {**after, "phase": AGREEMENT}
        return after if done < limit and not after["ended"] else self._after_fit(after, parameters, context)

    def _estimates(
        self, sums: ExpectedSums, after: State, words: Words, parameters: MLDAParameters
    ) -> dict[str, float]:
        """Return the concentrations that are estimated, which maximise the bound of the iteration."""
        limits, chosen, result = (MIN_CONCENTRATION, MAX_CONCENTRATION), estimated_names(parameters), {}
        if "alpha" in chosen:
            result["alpha"] = best_alpha(sums, float(after["before_alpha"]), limits)
        if "beta" in chosen:
            names = _names(after)
            exponents = {name: float(after[f"before_exponent.{name}"]) for name in names}
            sizes, own = [int(size) for size in words.sizes], {**after, "beta": after["before_beta"]}
            result["beta"] = best_beta(self._assembled(names, sizes, own, exponents, parameters), words, limits)
        return result

    def _with_exponents_chosen(
        self, sums: Statistics, learnt: State, parameters: MLDAParameters, context: Context
    ) -> State:
        """Return the parameters with the chosen exponents; learning goes on if they have changed."""
        names = _names(learnt)
        before = np.array([float(learnt[f"before_exponent.{name}"]) for name in names])
        free = np.array([name not in parameters.weights for name in names])
        # Topics that are still being found agree too little: one calibration does not decide.
        chosen = np.clip(best_exponents(sums["fits"], before, free), before / MAX_CHANGE, before * MAX_CHANGE)
        after = {key: each for key, each in learnt.items() if key != "means"}
        after |= {f"exponent.{name}": float(chosen[n]) for n, name in enumerate(names) if free[n]}
        changed = bool((chosen != before).any())
        limit = self._limit(parameters, context, first="first" in learnt)
        if learnt["done"] >= limit or (learnt["ended"] and not changed):
            return self._after_fit(after, parameters, context)
        # Another number of tokens is another bound.
        return {**after, "phase": FIT, **({"objective": -np.inf} if changed else {})}

    def _after_fit(self, learnt: State, parameters: MLDAParameters, context: Context) -> State:
        """Return the parameters for what follows the last iteration; calibrations that are not made are dropped."""
        names = _names(learnt)
        predicted = [
            name for name in names if self._is_predicted(learnt[f"kind.{name}"], learnt[f"sender.{name}"], context)
        ]
        informed = len(names) > 1 or learnt["with_prior"]
        annealed = [name for name in predicted if informed and context.temperature < 1.0 and f"new.{name}" in learnt]
        chosen = [name for name in predicted if name not in annealed] if parameters.calibrate else names
        kept = {
            key: each
            for key, each in learnt.items()
            if not any(key in (f"prediction.{name}", f"prediction_mean.{name}") for name in chosen)
        }
        if parameters.calibrate and informed and set(chosen):
            return {**kept, "phase": MEANS}
        return {**kept, "phase": DONE}

    # --- rows of a chunk ------------------------------------------------------------------------------------------

    def _rows_of(self, inbox: Inbox, learnt: State, parameters: MLDAParameters, context: Context) -> _Rows:
        modalities = self._read(inbox, learnt, parameters, context)
        cells = make_rows([each.counts for each in modalities], [each.absent for each in modalities])
        log_prior, has_prior = log_prior_of(inbox, len(cells.starts) - 1, parameters.topics)
        words = make_words([modality.size for modality in modalities])
        return _Rows(modalities, cells, words, np.diff(cells.starts) == 0, log_prior, has_prior)

    def _read(self, inbox: Inbox, learnt: State, parameters: MLDAParameters, context: Context) -> list[CountedModality]:
        """Return the counts of the modalities, checked against those learnt before."""
        below = [context.receivers.get(port, ()) for port in ("transition_prior", "reconstructions")]
        modalities = read_counts(inbox, parameters.weights, context, {*_names(learnt), *sum(below, ())})
        for modality in modalities:
            counts = learnt.get(f"counts.{modality.name}")
            if counts is not None and len(counts) != modality.size:
                raise ModuleError(
                    f"{modality.message.header.route}: received {modality.size} words or classes, "
                    f"but {context.module!r} has learnt {len(counts)}"
                )
        return modalities

    def _predicted(self, rows: _Rows, context: Context) -> list[CountedModality]:
        """Return the class posteriors to whose senders predictions are sent."""
        return [each for each in rows.modalities if self._is_predicted(each.kind, each.sender, context)]

    def _is_predicted(self, kind: str, sender: str, context: Context) -> bool:
        port = PREDICTION_PORTS[kind]
        return port == "transition_prior" and sender in context.receivers.get(port, ())

    def _predict(
        self, rows: _Rows, name: str, learnt: State, parameters: MLDAParameters, before: tuple[Topics, float] | None
    ) -> tuple[FloatArray, FloatArray]:
        """Return topic shares (N, K) and word distributions (N, V) of the rows without a modality."""
        topics, without = self._topics(rows, learnt, parameters), rows.names.index(name)
        answers = answer(rows.cells, rows.words, topics, rows.log_prior, before, without)
        return answers.shares, answers.words

    def _prediction(
        self,
        rows: _Rows,
        name: str,
        learnt: State,
        parameters: MLDAParameters,
        context: Context,
        before: tuple[Topics, float] | None,
    ) -> FloatArray:
        """Return the calibrated prediction (N, V) of the word of a sender of class posteriors."""
        shares, words = self._predict(rows, name, learnt, parameters, before)
        informed = len(rows.names) > 1 or rows.has_prior
        learning = parameters.calibrate and "before_alpha" in learnt
        if learning and informed and context.temperature < 1.0 and f"new.{name}" in learnt:
            own = self._known_words(learnt, parameters)[name].words
            return shares @ match_words(own)
        if f"prediction.{name}" not in learnt:
            return words
        values, mean = learnt[f"prediction.{name}"], learnt[f"prediction_mean.{name}"]
        return calibrated_prediction(words, prediction_calibration(values, mean))

    # --- topics ---------------------------------------------------------------------------------------------------

    def _topics(self, rows: _Rows, learnt: State, parameters: MLDAParameters) -> Topics:
        """Return the topics of the modalities of these rows."""
        kinds = [modality.kind for modality in rows.modalities]
        exponents = self._exponents_of(rows.names, kinds, learnt, parameters)
        sizes = [modality.size for modality in rows.modalities]
        return self._assembled(rows.names, sizes, learnt, exponents, parameters)

    def _before(self, rows: _Rows, learnt: State, parameters: MLDAParameters, context: Context) -> tuple[Topics, float]:
        """Return topics and temperature of the iteration that gave the present counts, or else the present ones."""
        if "before_alpha" not in learnt:
            return self._topics(rows, learnt, parameters), 1.0
        own = {key.removeprefix("before_"): each for key, each in learnt.items() if key.startswith("before_")}
        exponents = {name: float(own[f"exponent.{name}"]) for name in rows.names}
        counts = np.concatenate([own[f"counts.{name}"] for name in rows.names]).astype(np.float64)
        topics = Topics(counts, np.array([exponents[name] for name in rows.names]), own["alpha"], own["beta"])
        return topics, context.temperature if rows.has_prior else 1.0

    def _assembled(
        self,
        names: list[str],
        sizes: list[int],
        learnt: State,
        exponents: Mapping[str, float],
        parameters: MLDAParameters,
    ) -> Topics:
        """Return the topics of these modalities; one that is new has no counts."""
        settings, K = concentrations(parameters, _estimated(learnt)), parameters.topics
        counts = [learnt.get(f"counts.{name}", np.zeros((size, K))) for name, size in zip(names, sizes, strict=True)]
        own = np.array([exponents[name] for name in names])
        return Topics(np.concatenate(counts).astype(np.float64), own, settings.alpha, settings.beta)

    def _exponents_of(
        self, names: list[str], kinds: list[str], learnt: State, parameters: MLDAParameters
    ) -> dict[str, float]:
        stored = {name: float(learnt[f"exponent.{name}"]) for name in names if f"exponent.{name}" in learnt}
        return current_exponents(dict(zip(names, kinds, strict=True)), stored, _names(learnt), parameters)

    def _stored_exponents(self, exponents: Mapping[str, float], parameters: MLDAParameters) -> dict[str, float]:
        """Return the exponents of the modalities that are calibrated, as entries of a state."""
        names = list(exponents)
        if not self._chooses_exponents(names, parameters):
            return {}
        return {f"exponent.{name}": exponents[name] for name in names if name not in parameters.weights}

    def _chooses_exponents(self, names: list[str], parameters: MLDAParameters) -> bool:
        return parameters.calibrate and len(names) > 1 and any(name not in parameters.weights for name in names)

    def _known_words(self, learnt: State, parameters: MLDAParameters) -> dict[str, KnownModality]:
        """Return the word distributions and mean sums of all modalities that were learnt."""
        beta, known = concentrations(parameters, _estimated(learnt)).beta, {}
        for name in _names(learnt):
            exponent = float(learnt.get(f"exponent.{name}", 1.0)) if parameters.calibrate else 1.0
            exponent = 1.0 if name in parameters.weights else exponent
            known[name] = KnownModality(
                word_distributions(exponent * learnt[f"counts.{name}"], beta), float(learnt[f"total.{name}"])
            )
        return known

    # --- helpers --------------------------------------------------------------------------------------------------

    def _at(self, context: Context) -> MLDAParameters:
        parameters = self.at(context)
        if parameters.topics != self.parameters.topics:
            raise ModuleError("the number of topics cannot be set for a step: tokens keep their topics between steps")
        return parameters

    def _shared_parameters(self, context: Context) -> MLDAParameters:
        parameters = self._at(context)
        if problem := self.unshared_setting(parameters):
            raise ModuleError(f"module {context.module!r} {problem}")
        return parameters

    @contextmanager
    def _named(self, chunk: Chunk) -> Iterator[None]:
        """Name the rows of the chunk in errors, which count from its first row."""
        try:
            yield
        except NonFiniteError:
            raise
        except ModuleError as error:
            if len(chunk) == chunk.total:
                raise
            part = f"in rows {chunk.rows.start} to {chunk.rows.stop - 1}, counted from the first of these: "
            raise ModuleError(f"{part}{error}") from error


def _names(learnt: Mapping[str, Any]) -> list[str]:
    """Return the names of the modalities that were learnt, sorted."""
    return sorted(key.removeprefix("counts.") for key in learnt if key.startswith("counts."))


def _estimated(learnt: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(learnt[name]) for name in CONCENTRATIONS if name in learnt}
