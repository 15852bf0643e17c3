"""Chains and moves: copies of a block's modules learn in parallel, and the one with the most evidence is kept.

Independent of the modules' types: a module reports ``evidence``, and may propose other starting points
(:meth:`actors.module.Module.propose`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

from actors.coordination.backend import Backend, ChainCall, MessageRef, ModuleResult, Ref, ResultRef, Task
from actors.coordination.events import ChainFinished, ChainSelected, Emit, ModuleDied, ModuleProposed, ignore
from actors.coordination.router import Router, seconds_waited
from actors.coordination.schedule_runner import OnStep, ScheduleRunner, evidence_of, score_of
from actors.errors import GraphError, ModuleDiedError, ModuleFailedError
from actors.graph.schedule import Block, Item, Position, Step
from actors.graph.spec import Sharing
from actors.sharing.chunks import row_count_of

PROPOSALS = 4
"""Number of proposals that are tried in parallel in one move."""

EVIDENCE_TOLERANCE = 0.01
"""Of chains whose evidences differ by less (in nats), the one with the highest score is selected."""

MOVE_EXCHANGES = 8
"""Maximum number of exchanges of a chain that starts from a proposal: it is nearer to an optimum than a fresh one."""

MOVE_TEMPERATURE = 0.5
"""Minimum of the temperature τ of a chain that starts from a proposal."""


@dataclass(frozen=True)
class ChainResult:
    """The result of a chain: its number and origin, the results of the block's modules, its evidence and score."""

    chain: int
    origin: str
    results: Mapping[str, ResultRef]
    evidence: float
    score: float


class ChainStart(NamedTuple):
    """A chain that is to be run: its number, its origin, its block, whether it learns, and what it starts from."""

    chain: int
    origin: str
    block: Block
    learn: bool
    results: Mapping[str, ResultRef]


@dataclass(frozen=True)
class PendingChain:
    """A submitted chain, with the arguments to submit it again."""

    call: ChainCall
    objects: Sequence[Ref | None]
    task: Task[Mapping[str, ResultRef]]
    submitted: float


class ChainRunner(ScheduleRunner):
    """Runs a schedule whose blocks may have chains and moves.

    Parameters
    ----------
    router : Router
    backend : Backend
        Runs the chains.
    emit : callable, optional
        Receives ChainFinished, ModuleProposed, ChainSelected, ModuleDied, and what a schedule runner emits.
    on_step : callable, optional
    """

    def __init__(self, router: Router, backend: Backend, *, emit: Emit = ignore, on_step: OnStep | None = None) -> None:
        super().__init__(router, emit=emit, on_step=on_step)
        self._backend = backend
        self._chains_prepared = False

    def run_batch(self, batch: Sequence[tuple[int, Item]], position: Position) -> None:
        """Run neighbouring steps, or a block; while the first steps learn, let processes for chains be started."""
        if not self._chains_prepared:
            self._chains_prepared = True
            self._prepare_chains([item.module for _, item in batch if isinstance(item, Step)])
        super().run_batch(batch, position)

    def _prepare_chains(self, modules: Sequence[str]) -> None:
        """Prepare for the chains of the first block that has any, once the modules that learn before are prepared."""
        schedule = self.router.graph.schedule
        block = next((item for item in schedule.steps if isinstance(item, Block) and item.competes), None)
        if block is None or not modules:
            return
        for module in modules:
            self.router.supervisor.await_prepared(module)
        # In the first round the modules themselves run one of the chains; in later ones the incumbent is another.
        chains = block.chains + 1 if schedule.rounds > 1 else block.chains - 1
        self._backend.prepare_chains(block, max(chains, PROPOSALS if block.moves else 0))

    def run_block(self, block: Block, position: Position) -> None:
        """Run the block's steps; if it has chains or moves, keep the best chain."""
        if block.competes:
            self._run_chains(block, position)
        else:
            super().run_block(block, position)

    def _run_chains(self, block: Block, position: Position) -> None:
        """Run the chains, adopt the best, then make moves from it as long as they raise the evidence."""
        sample = self._sample(block)
        if sample is not None:
            self._run_chains_on_sample(block, position, sample)
            return
        best, accepted = self._best_of_chains(block, position), 0
        for move in range(block.moves):
            better = [each for each in self._moves(block, position, best, move) if each.evidence > best.evidence]
            if not better:
                break
            best, accepted = self._adopt(_best_of(better)), accepted + 1
        self._emit(
            ChainSelected(position.round, position.first, best.chain, best.origin, best.evidence, moves=accepted)
        )

    def _best_of_chains(self, block: Block, position: Position) -> ChainResult:
        """Run fresh chains beside the modules, which continue the incumbent; adopt the best.

        The incumbent is the state before the block. It competes unchanged and continued.
        """
        single = replace(block, chains=0, moves=0)
        incumbent = {name: self.router.results[name] for name in block.modules}
        has_incumbent = any(result.state is not None for result in incumbent.values())
        # In the first round, there is no incumbent: the modules themselves are one of the fresh chains.
        fresh = range(1, block.chains + has_incumbent)
        untrained: dict[str, ResultRef] = {name: ModuleResult() for name in block.modules}
        pending = [(n, "afresh", self._submit(single, _numbered(position, block, n), untrained)) for n in fresh]
        if has_incumbent:
            again = replace(single, repeat=1, anneal=(1.0, 1.0))
            rescored = replace(_numbered(position, block, 0), learn=False)
            pending.insert(0, (0, "incumbent", self._submit(again, rescored, incumbent)))
        own = replace(single, anneal=(block.anneal[1], block.anneal[1])) if has_incumbent else single
        super().run_block(own, _numbered(position, block, 0))
        own_results = {name: self.router.results[name] for name in block.modules}
        results = [self._collected(block, position, n, origin, chain) for n, origin, chain in pending]
        own_result = self._chain_result(block, position, 0, "continued" if has_incumbent else "afresh", own_results)
        results.insert(int(has_incumbent), own_result)
        best = _best_of(results)
        return best if best is own_result else self._adopt(best)

    def _sample(self, block: Block) -> Sharing | None:
        """Return the sample on which a block's chains run: if workers share the rows of each of its modules."""
        shared = [self.router.graph.modules[name].sharing for name in block.modules]
        sharing = shared[0]
        received = [message.header for name in block.modules for _, message in self.router.route_messages_to(name)]
        if sharing is None or None in shared or not received:
            return None
        return sharing if max(map(row_count_of, received)) > sharing.sample_rows else None

    def _run_chains_on_sample(self, block: Block, position: Position, sample: Sharing) -> None:
        """Choose among chains, and then moves, on a sample of the rows; learn from all rows with what was chosen.

        The evidence of all of them, the incumbent included, is that of the sample.
        """
        single, modules = replace(block, chains=0, moves=0), block.modules
        last = replace(single, anneal=(block.anneal[1], block.anneal[1]))
        again = replace(last, repeat=1)
        incumbent = {name: self.router.results[name] for name in modules}
        has_incumbent = any(result.state is not None for result in incumbent.values())
        untrained: dict[str, ResultRef] = {name: ModuleResult() for name in modules}
        starts: list[ChainStart] = [
            ChainStart(n, "afresh", single, True, untrained)
            for n in range(int(has_incumbent), block.chains + has_incumbent)
        ]
        if has_incumbent:
            starts = [
                ChainStart(0, "incumbent", again, False, incumbent),
                ChainStart(0, "continued", last, True, incumbent),
                *starts,
            ]
        best, accepted = self._best_on_sample(block, position, starts, sample), 0
        self._learn_from(best, last, position)
        for move in range(block.moves):
            now = {name: self.router.results[name] for name in modules}
            rescored = self._best_on_sample(block, position, [ChainStart(0, "incumbent", again, False, now)], sample)
            proposed = self._proposed_starts(block, position, now, move)
            found = self._best_on_sample(block, position, proposed, sample) if proposed else rescored
            if not found.evidence > rescored.evidence:
                break
            best, accepted = found, accepted + 1
            self._learn_from(best, last, position)
        self._emit(
            ChainSelected(position.round, position.first, best.chain, best.origin, best.evidence, moves=accepted)
        )

    def _best_on_sample(
        self,
        block: Block,
        position: Position,
        starts: Sequence[ChainStart],
        sample: Sharing,
    ) -> ChainResult:
        """Run chains on a sample, each with its number, origin, block and start; return the best."""
        pending = []
        for start in starts:
            at = replace(_numbered(position, block, start.chain), learn=start.learn)
            pending.append((start.chain, start.origin, self._submit(start.block, at, start.results, sample)))
        return _best_of([self._collected(block, position, n, origin, chain) for n, origin, chain in pending])

    def _learn_from(self, chosen: ChainResult, block: Block, position: Position) -> None:
        """Let the modules learn from all rows, from the states that were learnt on the sample."""
        if chosen.origin == "incumbent":
            return
        for name, result in chosen.results.items():
            self.router.store(name, replace(self.router.results[name], state=result.state))
            self.router.supervisor.push_state(name)
        super().run_block(block, position)

    def _moves(self, block: Block, position: Position, best: ChainResult, move: int) -> list[ChainResult]:
        """Run a chain from each proposal of the modules, given the results of the best chain."""
        starts = self._proposed_starts(block, position, best.results, move)
        pending = [
            (each.chain, each.origin, self._submit(each.block, _numbered(position, block, each.chain), each.results))
            for each in starts
        ]
        return [self._collected(block, position, n, origin, chain) for n, origin, chain in pending]

    def _proposed_starts(
        self, block: Block, position: Position, results: Mapping[str, ResultRef], move: int
    ) -> list[ChainStart]:
        """Return the start of a chain from each proposal of the modules."""
        first, last = block.anneal
        shorter = replace(
            block,
            chains=0,
            moves=0,
            repeat=min(block.repeat, MOVE_EXCHANGES),
            anneal=(max(first, min(last, MOVE_TEMPERATURE)), last),
        )
        starts: list[ChainStart] = []
        for module, messages in self._proposals(block, position):
            number = block.chains + 1 + move * PROPOSALS + len(starts)
            proposed: ResultRef = ModuleResult(messages={**results[module].messages, **messages})
            starts.append(ChainStart(number, f"move {move + 1}", shorter, True, {**results, module: proposed}))
        return starts

    def _proposals(self, block: Block, position: Position) -> Iterator[tuple[str, dict[str, MessageRef]]]:
        """Yield the proposals of the block's modules, at most :data:`PROPOSALS` in total."""
        proposers = [name for name in block.modules if name in self.router.graph.proposers]
        left = PROPOSALS
        for module in proposers:
            calls = [self.router.submit("propose", Step(module), position, proposal=n) for n in range(left)]
            for call in calls:
                result = self.router.collect(call)
                waited = seconds_waited(result.ended, result.seconds, call.submitted)
                self._emit(ModuleProposed(position.round, position.first, module, result.seconds, waited))
                if messages := result.messages:
                    left -= 1
                    yield module, dict(messages)

    def _collected(
        self, block: Block, position: Position, number: int, origin: str, chain: PendingChain
    ) -> ChainResult:
        """Wait for a chain and return its result."""
        results = self._collect(chain)
        seconds, ended = sum(each.seconds for each in results.values()), max(each.ended for each in results.values())
        waited = seconds_waited(ended, seconds, chain.submitted)
        return self._chain_result(block, position, number, origin, results, (seconds, waited))

    def _chain_result(
        self,
        block: Block,
        position: Position,
        chain: int,
        origin: str,
        results: Mapping[str, ResultRef],
        times: tuple[float, float] = (0.0, 0.0),
    ) -> ChainResult:
        """Return a chain's result, and report it with the seconds for which it computed, and has waited since."""
        evidence = evidence_of(block, results)
        if math.isnan(evidence):
            raise GraphError(
                f"step {position.first} is a block with chains or moves, which are chosen by evidence, "
                f"but none of its modules ({', '.join(block.modules)}) reports one"
            )
        self._emit(ChainFinished(position.round, position.first, chain, origin, evidence, *times))
        score = score_of(results[name] for name in self.router.graph.modules if name in results)
        return ChainResult(chain, origin, results, evidence, score)

    def _submit(
        self, block: Block, position: Position, start: Mapping[str, ResultRef], sample: Sharing | None = None
    ) -> PendingChain:
        """Submit a chain of the block, starting from the results in `start` and the latest messages from outside."""
        router = self.router
        messages: dict[tuple[str, str], MessageRef] = {}
        for route in (route for name in block.modules for route in router.graph.routes_to(name)):
            latest = router.latest_message(route, start)
            if latest is not None:
                messages[route.sender, latest[0]] = latest[1]
        sent = tuple((sender, slot, message.packed_header) for (sender, slot), message in messages.items())
        call = ChainCall(router.graph, block, position, router.run, router.seed, router.sequence, sent, sample)
        states = [start[name].state for name in block.modules]
        objects = [*states, *(message.arrays for message in messages.values())]
        submitted = time.monotonic()
        return PendingChain(call, objects, self._backend.submit_chain(call, objects), submitted)

    def _collect(self, pending: PendingChain) -> Mapping[str, ResultRef]:
        """Wait for a chain; where its process dies, run it again."""
        task = pending.task
        tries = self.router.supervisor.policy.tries
        for deaths in count(1):
            try:
                results = self._backend.collect(task)
                break
            except ModuleDiedError as error:
                chain = f"chain {pending.call.position.chain} (round {pending.call.position.round})"
                self._emit(ModuleDied(chain, "its exchanges", deaths, str(error)))
                if deaths >= tries:
                    raise ModuleFailedError(f"{chain} died {deaths} times: {error}") from error
                task = self._backend.submit_chain(pending.call, pending.objects)
        self.router.add_seconds(results)
        return results

    def _adopt(self, chain: ChainResult) -> ChainResult:
        """Let the modules themselves continue from the results of a chain."""
        self.router.adopt(chain.results)
        return chain


def _best_of(chains: Sequence[ChainResult]) -> ChainResult:
    """Return the chain with the most evidence; of those with about the same, the one with the highest score."""
    most = max(chain.evidence for chain in chains)
    candidates = [chain for chain in chains if chain.evidence > most - EVIDENCE_TOLERANCE]
    return max(candidates, key=lambda chain: chain.score)


def _numbered(position: Position, block: Block, number: int) -> Position:
    """Return the position with the chain's number, distinct from those of the chains of an enclosing block."""
    return replace(position, chain=position.chain * (block.chains + 1 + block.moves * PROPOSALS) + number)


def run_chain(call: ChainCall, objects: Sequence[Ref | None], backend: Backend) -> dict[str, ResultRef]:
    """Run a block as a chain.

    Parameters
    ----------
    call : ChainCall
    objects : sequence of Ref
        The states and arrays of the call (see :class:`actors.coordination.backend.ChainCall`).
    backend : Backend
        Hosts the chain's copies of the block's modules.

    Returns
    -------
    dict of str to ResultRef
        The last result of each of the block's modules, with the seconds of all its updates.
    """
    modules = call.block.modules
    router = Router(call.graph, backend, run=call.run, seed=call.seed)
    backend.start(call.graph)
    states, arrays = objects[: len(modules)], objects[len(modules) :]
    router.begin({name: state for name, state in zip(modules, states, strict=True) if state is not None})
    router.sequence = call.sequence
    for (sender, slot, packed_header), body in zip(call.messages, arrays, strict=True):
        assert body is not None  # a message has arrays
        result = router.results[sender]
        message = MessageRef(packed_header, body)
        router.store(sender, replace(result, messages={**result.messages, slot: message}))
    ChainRunner(router, backend).run_block(call.block, call.position)
    return {name: replace(router.results[name], seconds=router.seconds[name]) for name in modules}
