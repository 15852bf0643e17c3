"""Checks of modules whose rows workers can share: sums add up, and no bit depends on the number of workers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from actors.backends.shard_host import ShardHost, call_group
from actors.conformance.base import BaseChecks, Case
from actors.conformance.harness import MODULE, find_difference
from actors.conformance.sample_messages import PortMessages
from actors.coordination.backend import ModuleResult
from actors.errors import MessageError, ModuleError
from actors.graph.registry import make_parameters
from actors.graph.spec import Sharing
from actors.module import Context, Inbox, Mode
from actors.sharing.chunks import Extent, whole_arrays
from actors.sharing.contract import NOT_FROM_SUMS, MergeableModule, ShardedModule, sharing_problem
from actors.sharing.driver import LocalWorkers, accumulate_once, learn, open_group, respond, start_on_sample
from actors.sharing.shard import Shard, Statistics
from actors.types import State

CHUNK_ROWS = 5
"""Rows of a chunk in the checks: the messages have several chunks, the last of which has fewer rows."""

TOLERANCE = 1e-9
"""Largest difference of sums over the same rows in other chunks, relative to the largest value in a chunk."""


MERGED_TOLERANCE = 1e-7
"""Largest difference of merged parameters, relative to their largest value: they may be results of a decomposition."""


class SharingChecks(BaseChecks):
    """Checks of :class:`actors.sharing.contract.ShardedModule`; skipped for other modules."""

    def test_any_number_of_workers_gives_the_same_bits(self) -> None:
        """Updates and recognition by 1, 2, 3 and more workers, one for each chunk, are bitwise equal."""
        for case in self._shared_cases():
            chunks = -(-self.rows // CHUNK_ROWS)
            alone = self._run_group(1, case)
            for workers in sorted({2, 3, chunks}):
                failure = f"{workers} workers give other results than one"
                self.check_equal(alone, self._run_group(workers, case), failure)

    def test_its_statistics_add_up(self) -> None:
        """The sums over chunks are those over all rows as one chunk.

        Not applicable where the statistics depend on random draws, since each chunk has its own.
        """
        for case in self._shared_cases():
            module, inbox = self._module(), self._inbox(case.first_messages)
            context = Context(MODULE, receivers=self.harness.receivers, sweep=0)
            learnt = self._start(module, inbox, context)
            whole, _ = self._sums(module, inbox, learnt, self.rows, context)
            if find_difference(whole, self._sums(module, inbox, learnt, self.rows, replace(context, seed=1))[0]):
                self.skip("its statistics depend on random draws")
            parts, scales = self._sums(module, inbox, learnt, CHUNK_ROWS, context)
            if whole.keys() != parts.keys():
                self.fail(f"the statistics have other names in other chunks: {sorted(whole.keys() ^ parts.keys())}")
            for name, value in whole.items():
                if not np.allclose(parts[name], value, rtol=0.0, atol=TOLERANCE * scales[name]):
                    self.fail(f"the statistics {name!r} of chunks do not add up to those of all rows; return sums")

    def test_a_pass_does_not_change_the_parameters(self) -> None:
        """accumulate, maximise and respond return what is new, and leave the given parameters as they are."""
        for case in self._shared_cases():
            module, inbox = self._module(), self._inbox(case.first_messages)
            context = Context(MODULE, receivers=self.harness.receivers, sweep=0)
            learnt = self._start(module, inbox, context)
            before = copy.deepcopy(dict(learnt))
            workers, _ = self._open(module, inbox, CHUNK_ROWS, context)
            failure = "a pass changes the parameters that it was given; return new ones"
            workers.call(0, "maximise", 0, *accumulate_once(workers, learnt), returns=2)
            self.check_equal(before, dict(learnt), failure)
            final, passes = learn(workers, learnt)
            after = copy.deepcopy(dict(final))
            respond(workers, final, passes)
            self.check_equal(after, dict(final), failure)

    def test_runs_that_it_has_learnt_in_can_be_merged(self) -> None:
        """Parameters made from merged statistics lead back to themselves, whichever runs are merged first.

        Not applicable where statistics do not follow from what was learnt (:meth:`MergeableModule.statistics_of`).
        """
        for case in self._shared_cases():
            inbox, statistics = self._inbox(case.first_messages), list[Statistics]()
            if type(self._module()).statistics_of is MergeableModule.statistics_of:
                self.skip(f"a module that {NOT_FROM_SUMS}")
            for seed in range(3):
                module, context = self._module(), Context(MODULE, receivers=self.harness.receivers, seed=seed)
                workers, shards = self._open(module, inbox, CHUNK_ROWS, context)
                module.load_state(learn(workers, start_on_sample(module, shards, context, self.rows))[0])
                try:
                    statistics.append(module.statistics_of(module.state()))
                except ModuleError as error:
                    self.skip(f"a module that {error}")
            module, (one, two, three) = self._module(), statistics
            rows = [float(each["rows"][0]) for each in statistics]
            merged = module.learnt_from(module.merge(module.merge(one, two), three))
            again = module.statistics_of(merged)
            if not np.isclose(again["rows"][0], sum(rows)):
                self.fail(f"the rows of merged runs are {again['rows'][0]}, those of each run {rows}")
            failure = "parameters made from merged statistics are other ones when they are made of these again"
            self._check_close(merged, module.learnt_from(again), failure)
            other = module.learnt_from(module.merge(one, module.merge(two, three)))
            self._check_close(merged, other, "merged parameters depend on which runs are merged first")

    # --- helpers --------------------------------------------------------------------------------------------------

    def _check_close(self, expected: State, found: State, failure: str) -> None:
        """Check that two states are the same up to rounding."""
        if expected.keys() != found.keys():
            self.fail(f"{failure}: {sorted(expected.keys() ^ found.keys())}")
        for name, value in expected.items():
            scale = np.abs(np.asarray(value, dtype=np.float64)).max(initial=0.0)
            if not np.allclose(found[name], value, rtol=0.0, atol=MERGED_TOLERANCE * scale):
                self.fail(f"{failure}: {name}")

    def _shared_cases(self) -> Sequence[Case]:
        cls = self.harness.cls
        if problem := sharing_problem(cls, make_parameters(cls, self.parameters)):
            self.skip(f"a module {problem}")
        return self.cases_with_input()

    def _module(self) -> ShardedModule[Any]:
        module = self.harness.new_module()
        assert isinstance(module, ShardedModule)
        return module

    def _inbox(self, messages: PortMessages) -> Inbox:
        return Inbox([self.harness.make_message(port, arrays) for port, arrays in messages.items()])

    def _start(self, module: ShardedModule[Any], inbox: Inbox, context: Context) -> State:
        _, shards = self._open(module, inbox, self.rows, context)
        return start_on_sample(module, shards, context, self.rows)

    def _open(
        self, module: ShardedModule[Any], inbox: Inbox, size: int, context: Context
    ) -> tuple[LocalWorkers, list[Shard]]:
        whole = Extent(self.rows, size)
        return open_group([module], inbox, [whole.part(0, 1)], context)

    def _sums(
        self, module: ShardedModule[Any], inbox: Inbox, learnt: State, size: int, context: Context
    ) -> tuple[Statistics, dict[str, float]]:
        """Return the sums over all rows in chunks of this size, and the largest value of each in a chunk."""
        whole = Extent(self.rows, size)
        extents = [whole.part(worker, whole.chunks) for worker in range(whole.chunks)]
        # One after the other: the instance is the same.
        workers, _ = open_group([module] * whole.chunks, inbox, extents, context, threads=False)
        parts = [workers.get(part) for part in accumulate_once(workers, learnt)]
        total: Statistics = workers.get(workers.call(0, "total", *parts))
        own = [statistics for part in parts for statistics in part.values() if statistics]
        return total, {name: max(np.abs(each[name]).max(initial=0.0) for each in own) for name in total}

    def _run_group(self, workers: int, case: Case) -> dict[str, Any]:
        """Return state, messages, outputs and metrics of two updates and of a recognition."""
        spec = replace(self.harness.graph.modules[MODULE], sharing=Sharing(workers, CHUNK_ROWS, self.rows))
        hosts = [ShardHost(spec, self.harness.graph.slots(MODULE)) for _ in range(workers)]
        for host in hosts:
            host.prepare("cpu")
        results: dict[str, Any] = {}
        later = case.later_messages
        steps: list[tuple[Mode, PortMessages, int]] = [
            ("update", case.first_messages, 1),
            ("update", later, 2),
            ("recognize", later, 3),
        ]
        for mode, messages, round in steps:
            call, arrays = self.harness.make_call(mode, messages, round=round)
            try:
                results |= _parts_of(call_group(hosts, call, arrays), f"{mode} {round}")
            except (ModuleError, MessageError) as error:
                self.fail(f"{mode} by {workers} workers is refused: {error}")
        return results


def _parts_of(result: ModuleResult[Any, Any], name: str) -> dict[str, Any]:
    """Return the parts of a group's result, with messages joined, under names for failure sentences."""
    messages = {slot: whole_arrays(sent.header.kind, sent.arrays) for slot, sent in result.messages.items()}
    parts = {"state": result.state, "output": result.outputs, "metric": dict(result.metrics), "message": messages}
    return {f"{what} of {name}": value for what, value in parts.items()}
