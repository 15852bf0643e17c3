"""The schedule runner: lets modules learn in the order of the schedule, step by step and block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from actors.coordination.backend import ResultRef
from actors.coordination.events import BlockFinished, Emit, UpdateFinished, UpdateStarted, ignore
from actors.coordination.placement import worker_name
from actors.coordination.router import Router, seconds_waited
from actors.graph.schedule import Block, Item, Position, Step, leaves

OnStep = Callable[[int, Step, Position], None]


class ScheduleRunner:
    """Runs steps and blocks over a router.

    Parameters
    ----------
    router : Router
    emit : callable, optional
        Receives UpdateStarted, UpdateFinished and BlockFinished.
    on_step : callable, optional
        Called with (number, step, position) after each step of a schedule.

    Attributes
    ----------
    active : tuple of str
        The modules that are being updated.
    """

    def __init__(self, router: Router, *, emit: Emit = ignore, on_step: OnStep | None = None) -> None:
        self.router = router
        self.active: tuple[str, ...] = ()
        self._emit = emit
        self._on_step = on_step or (lambda _number, _step, _position: None)

    def run_steps(self, steps: Sequence[Item], position: Position) -> None:
        """Run steps in the order of the schedule."""
        for batch in self.router.graph.batches(steps, position.first):
            self.run_batch(batch, position)

    def run_batch(self, batch: Sequence[tuple[int, Item]], position: Position) -> None:
        """Run neighbouring steps that exchange no message, or a block (:meth:`actors.graph.graph.Graph.batches`)."""
        index, item = batch[0]
        if isinstance(item, Block):
            self.run_block(item, replace(position, first=index))
        else:
            steps_here = [(index, step) for index, step in batch if isinstance(step, Step)]
            self.run_updates(steps_here, position)
            for number, step in steps_here:
                self._on_step(number, step, position)

    def run_block(self, block: Block, position: Position) -> None:
        """Repeat a block's steps until its exchanges are done or no longer change the score."""
        modules = [name for name in self.router.graph.modules if name in block.modules]
        score, exchange = math.nan, 0
        for exchange in range(block.repeat):
            self.run_steps(block.steps, position.within(block, exchange))
            before, score = score, score_of(self.router.results[name] for name in modules)
            converged = block.tolerance is not None and abs(score - before) < block.tolerance
            if converged and block.temperature(exchange) == block.anneal[1]:
                break
        evidence = evidence_of(block, self.router.results)
        reported = None if math.isnan(evidence) else evidence
        self._emit(BlockFinished(position.round, position.first, exchange + 1, reported))

    def run_updates(self, batch: Sequence[tuple[int, Step]], position: Position) -> None:
        """Update modules that exchange no message in parallel."""
        router = self.router
        for _, step in batch:
            router.supervisor.await_prepared(step.module)
        self.active = tuple(step.module for _, step in batch)
        pending = []
        try:
            for index, step in batch:
                self._emit(UpdateStarted.at(index, step.module, position))
                pending.append(router.submit("update", step, replace(position, first=index)))
            for (index, step), call in zip(batch, pending, strict=True):
                result = router.collect(call)
                shards = {worker_name(step.module, rank): each for rank, each in enumerate(result.shards)}
                router.store(step.module, result)
                self._emit(
                    UpdateFinished.at(
                        index,
                        step.module,
                        position,
                        seconds=result.seconds,
                        message_bytes=sum(message.header.nbytes for message in result.messages.values()),
                        metrics=result.metrics,
                        waited_seconds=seconds_waited(result.ended, result.seconds, call.submitted),
                        worker_rows={name: float(each.rows) for name, each in shards.items()},
                        worker_seconds={name: each.seconds for name, each in shards.items()},
                    )
                )
        finally:  # a status call on a failed run must not wait for the answer of a dead module
            self.active = ()


def evidence_of(block: Block, results: Mapping[str, ResultRef]) -> float:
    """Return the evidence of the block's last module that reports one, NaN where none does."""
    reported = (results[step.module].metrics.get("evidence") for step in reversed(leaves([block])))
    return next((evidence for evidence in reported if evidence is not None), math.nan)


def score_of(results: Iterable[ResultRef]) -> float:
    """Return the score by which exchanges and rounds are compared, in nats.

    It approximates the log-density of the input of the lowest module: the evidence of the most abstract module that
    reports one, plus the ``score`` metrics of the others; NaN if no module reports either.

    Parameters
    ----------
    results : iterable of ResultRef
        In order of connection.
    """
    reported = [result.metrics for result in results]
    top = next((metrics for metrics in reversed(reported) if "evidence" in metrics), None)
    parts = [metrics["score"] for metrics in reported if metrics is not top and "score" in metrics]
    if top is None and not parts:
        return math.nan
    return sum(parts) + (0.0 if top is None else top["evidence"])
