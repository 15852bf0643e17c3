"""Cases of an exchange of GMM and MM as in ``configs/mnist.yaml``, and of the mixture's kernels.

Rows are made: a cycle of ten classes of 18 dimensions, 3,000 rows. `Exchange` holds both modules in their hosts, as an
in-process run does, and calls them in turn with each other's messages.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from actors.backends.module_host import ModuleHost
from actors.coordination.backend import ModuleCall, ModuleResult
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.kernels.log_rows import softmax_of_rows
from actors.kernels.markov import inference
from actors.kernels.mixture import gibbs, gibbs_sweep, niw, variational
from actors.kernels.mixture.calibration import LAPSES, TEMPERATURES, calibrate
from actors.messaging.codec import make_message, pack_header
from actors.messaging.message import Header, Message
from tests.benchmarks.harness import Case

K, D = 10, 18
GMM: dict[str, Any] = {"classes": K, "iterations": 2, "start": "sequence", "calibrate": True}
MARKOV: dict[str, Any] = {"rule": "smoothed", "test_order": True}


def made_rows(rows: int, seed: int = 0) -> np.ndarray:
    """Return rows (N, D) float64 of overlapping Gaussian classes that follow each other in a cycle."""
    generator = np.random.default_rng(seed)
    centres = 0.8 * generator.normal(size=(K, D))
    return centres[np.arange(rows) % K] + generator.normal(size=(rows, D))


class Exchange:
    """A GMM and an MM in their hosts, and the latest messages between them.

    Parameters
    ----------
    rows : ndarray (N, D)
    """

    def __init__(self, rows: np.ndarray) -> None:
        specs = [ModuleSpec("data", "observation"), ModuleSpec("gmm", "gmm", GMM), ModuleSpec("mm", "markov", MARKOV)]
        schedule = Schedule(1, (Step("gmm"), Step("mm")))
        self.graph = Graph(specs, [Connection("data", "gmm"), Connection("gmm", "mm")], schedule)
        self.hosts = {name: ModuleHost(self.graph.modules[name], self.graph.slots(name)) for name in ("gmm", "mm")}
        for host in self.hosts.values():
            host.prepare("cpu")
        given = make_message(Header("observations", "data", "observations", run="run"), {"values": rows})
        self._messages: dict[tuple[str, str], Message] = {("data", "observations"): given}
        self._sequence = 0

    def update(self, name: str) -> ModuleResult[Any, Message]:
        """Update a module with the latest messages."""
        inbox = [
            (message, route.in_port)
            for route in self.graph.routes_to(name)
            for (sender, _), message in self._messages.items()
            if sender == route.sender and message.header.port == route.out_port
            if message.header.receiver in ("", name)
        ]
        self._sequence += 1
        call = ModuleCall(
            *("update", "run", 0, 1, 1, self._sequence, self.graph.receivers(name)),
            exchange=self._sequence,
            order_above=name == "gmm",
            headers=tuple(pack_header(message.header) for message, _ in inbox),
            ports=tuple(port for _, port in inbox),
        )
        result = self.hosts[name].call(call, [dict(message.arrays) for message, _ in inbox])
        self._messages |= {(name, slot): message for slot, message in result.messages.items()}
        return result

    def run(self) -> None:
        """Update both."""
        self.update("gmm")
        self.update("mm")


def bare_mixture(rows: np.ndarray, labels: np.ndarray, log_prior: np.ndarray) -> Callable[[], object]:
    """Return a call of the kernels that a GMM's update needs: two sweeps, leave-one-out densities, a softmax."""
    prior = niw.NIWPrior(rows.mean(axis=0), 1.0, D + 2.0, np.full(D, 0.1))
    generator = np.random.default_rng(0)

    def run() -> object:
        given = {"log_bias": log_prior, "use_counts": False}
        z, factors = gibbs.gibbs(rows, labels, K, prior, 1.0, 2, generator, **given)
        return softmax(niw.log_predictive_loo(rows, z, factors, prior) + log_prior, axis=1)

    return run


def bare_markov(evidence: np.ndarray, T: np.ndarray, initial: np.ndarray) -> Callable[[], object]:
    """Return a call of the kernels that a MM's update needs: five re-estimations, one full pass and Viterbi."""

    def run() -> object:
        for _ in range(5):
            inference.transition_probabilities(inference.forward_backward(evidence, T, initial).transitions, 0.1)
        return inference.forward_backward(evidence, T, initial), inference.viterbi(evidence, T, initial)

    return run


def calibrate_by_grid(log_likelihood: np.ndarray, weights: np.ndarray, log_cavity: np.ndarray) -> tuple[float, float]:
    """Choose temperature and lapse rate as `calibrate` does, by a pass over all rows for each pair."""
    best = (-np.inf, 1.0, 0.0)
    for temperature in TEMPERATURES:
        sharp = softmax(temperature * log_likelihood + np.log(weights), axis=1)
        for lapse in LAPSES:
            posterior = (1.0 - lapse) * sharp + lapse * weights
            score = logsumexp(log_cavity + np.log(posterior) - np.log(posterior.mean(axis=0)), axis=1).sum()
            best = max(best, (float(score), temperature, lapse))
    return best[1], best[2]


def mixture_cases(rows: int) -> list[Case]:
    """Return an iteration of variational Bayes and a sweep beside an iteration of scikit-learn's EM."""
    X = made_rows(rows)
    prior = niw.NIWPrior(X.mean(axis=0), 1.0, D + 2.0, np.full(D, 0.1))
    labels = np.arange(rows) % K
    start = variational.one_hot_responsibilities(labels, K)
    factors, tables = niw.posterior_from_labels(X, labels, K, prior), gibbs_sweep.make_tables(prior, rows)
    bias, mask, generator = np.zeros((rows, K)), np.zeros(rows, np.bool_), np.random.default_rng(0)
    learner = GaussianMixture(K, max_iter=1, means_init=np.array([X[labels == k].mean(axis=0) for k in range(K)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is only to have parameters
        learner.fit(X)

    def em() -> None:
        _, log_responsibilities = learner._e_step(X)
        learner._m_step(X, log_responsibilities)

    def vb() -> None:
        posterior = variational.posterior_from_responsibilities(X, start, prior)
        scores = variational.expected_log_weights(posterior.counts, 1.0)
        softmax_of_rows(scores + variational.expected_log_density(X, posterior, prior))

    def sweep() -> None:
        gibbs_sweep.sweep(X, bias, labels, generator.random(rows), mask, factors, tables)

    size = f"{rows:,} rows, {D} dimensions, {K} classes"
    return [
        Case(f"vb iteration, {size}", vb, em, "scikit-learn's EM"),
        Case(f"collapsed Gibbs sweep, {size}", sweep, em, "scikit-learn's EM"),
    ]


def cases() -> list[Case]:
    """Return the cases: calibration, updates of GMM and MM, and their kernels."""
    X = made_rows(3_000)
    exchange = Exchange(X)
    for _ in range(3):
        exchange.run()
    gmm, mm = exchange.update("gmm"), exchange.update("mm")
    log_prior = np.array(mm.messages["transition_prior.gmm"]["log_prob"])
    evidence = np.array(gmm.messages["class_posteriors.mm"]["log_prob"])
    labels, T, initial = np.array(gmm.outputs["class"]), np.array(mm.outputs["trans_prob"]), np.full(K, 1.0 / K)
    loo, weights = 3.0 * evidence, np.full(K, 1.0 / K)
    size = f"3,000 rows, {D} dimensions, {K} classes"
    return [
        Case(
            f"calibrate, {size}",
            lambda: calibrate(loo, weights, log_prior),
            lambda: calibrate_by_grid(loo, weights, log_prior),
            "a softmax for each pair",
        ),
        Case(
            f"update of a GMM, {size}",
            lambda: exchange.update("gmm"),
            bare_mixture(X, labels, log_prior),
            "its kernels",
        ),
        Case(
            f"update of a MM, {size}", lambda: exchange.update("mm"), bare_markov(evidence, T, initial), "its kernels"
        ),
        *mixture_cases(3_000),
        *mixture_cases(100_000),
    ]
