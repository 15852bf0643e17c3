"""Chains and moves: copies of a block's modules that start side by side, of which the one with most evidence stays.

Nothing here knows what the modules are. They report ``evidence``; they may propose other starts
(:meth:`actors.module.Module.propose`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from actors.backends.module_host import Answer
from actors.coordination.backend import ChainCall, Ref, Result, Task, Transport
from actors.coordination.router import Held, Letter, Router, evidence_of, held_of, score_of
from actors.errors import GraphError, ModuleDiedError, ModuleFailedError
from actors.graph.schedule import Block, Position, Step
from actors.messaging.codec import pack_header, unpack_header

PROPOSALS = 4
"""So many proposals of a module are tried side by side in one move."""

ALIKE = 0.01
"""Evidences that differ by less (in nats) say nothing about which chain is the better one; the score does."""

MOVE_EXCHANGES = 8
MOVE_TEMPERATURE = 0.5
"""A proposal is nearer to its goal than a fresh start is: at most so many exchanges, τ from no lower than this."""


@dataclass(frozen=True)
class Candidate:
    """Where a chain ended: its number, how it began, what is held of the block's modules, and what that is worth."""

    chain: int
    origin: str
    held: Mapping[str, Held]
    evidence: float
    score: float


@dataclass(frozen=True)
class Sent:
    """A chain that runs, such that it can be run again."""

    call: ChainCall
    objects: Sequence[Ref]
    task: Task


class ChainRouter(Router):
    """A router whose blocks may have chains and moves."""

    def walk(self, block: Block, position: Position) -> None:
        """Take the block's steps; of several chains keep the best."""
        if block.competes:
            self._compete(block, position)
        else:
            super().walk(block, position)

    def _compete(self, block: Block, position: Position) -> None:
        """Run the chains, adopt the best, and make moves from there as long as they help."""
        best, accepted = self._best_of_chains(block, position), 0
        for move in range(block.moves):
            challengers = self._challengers(block, position, best, move)
            helpful = [challenger for challenger in challengers if challenger.evidence > best.evidence]
            if not helpful:
                break
            best, accepted = self._adopt(_best_of(helpful)), accepted + 1
        fields = {"round": position.round, "step": position.first, "chain": best.chain, "origin": best.origin}
        self._emit("selected", {**fields, "evidence": best.evidence, "moves": accepted})

    def _best_of_chains(self, block: Block, position: Position) -> Candidate:
        """Run fresh chains beside the modules themselves, which go on from the incumbent; adopt the best."""
        plain = replace(block, chains=0, moves=0)
        incumbent = {name: self.held[name] for name in block.modules}
        known = any(held.state is not None for held in incumbent.values())
        # Where nothing is known yet, the modules themselves are one of the fresh chains.
        fresh = range(1, block.chains + known)
        nothing = dict.fromkeys(block.modules, Held())
        tasks = [(n, "afresh", self._send(plain, _numbered(position, block, n), nothing)) for n in fresh]
        if known:
            again = replace(plain, repeat=1, anneal=(1.0, 1.0))
            asked = replace(_numbered(position, block, 0), learn=False)
            tasks.insert(0, (0, "incumbent", self._send(again, asked, incumbent)))
        warm = replace(plain, anneal=(block.anneal[1], block.anneal[1])) if known else plain
        super().walk(warm, _numbered(position, block, 0))
        here = {name: self.held[name] for name in block.modules}
        candidates = [self._candidate(block, position, n, origin, self._receive(task)) for n, origin, task in tasks]
        routed = self._candidate(block, position, 0, "continued" if known else "afresh", here)
        candidates.insert(int(known), routed)
        best = _best_of(candidates)
        return best if best is routed else self._adopt(best)

    def _challengers(self, block: Block, position: Position, best: Candidate, move: int) -> list[Candidate]:
        """Run a chain from each start that the modules propose, given what the best chain has learnt."""
        first, last = block.anneal
        shorter = replace(
            block,
            chains=0,
            moves=0,
            repeat=min(block.repeat, MOVE_EXCHANGES),
            anneal=(max(first, min(last, MOVE_TEMPERATURE)), last),
        )
        tasks: list[tuple[int, Sent]] = []
        for module, letters in self._proposals(block, position):
            number = block.chains + 1 + move * PROPOSALS + len(tasks)
            proposed = Held(letters={**best.held[module].letters, **letters})
            asked = _numbered(position, block, number)
            tasks.append((number, self._send(shorter, asked, {**best.held, module: proposed})))
        origin = f"move {move + 1}"
        return [self._candidate(block, position, n, origin, self._receive(task)) for n, task in tasks]

    def _proposals(self, block: Block, position: Position) -> Iterator[tuple[str, dict[str, Letter]]]:
        """Ask the block's modules for messages to start from; at most :data:`PROPOSALS` in all."""
        proposers = [name for name in block.modules if name in self.graph.proposers]
        left = PROPOSALS
        for module in proposers:
            for asked in [self.submit("propose", Step(module), position, proposal=n) for n in range(left)]:
                letters = self.receive(asked).letters
                if letters:
                    left -= 1
                    yield module, dict(letters)

    def _candidate(
        self, block: Block, position: Position, chain: int, origin: str, held: Mapping[str, Held]
    ) -> Candidate:
        evidence = evidence_of(block, held)
        if math.isnan(evidence):
            raise GraphError(
                f"step {position.first} is a block with chains or moves, which are chosen by evidence, "
                f"but none of its modules ({', '.join(block.modules)}) reports one"
            )
        fields = {"round": position.round, "step": position.first, "chain": chain, "origin": origin}
        self._emit("chain", {**fields, "evidence": evidence})
        score = score_of(held[name] for name in self.graph.modules if name in held)
        return Candidate(chain, origin, held, evidence, score)

    def _send(self, block: Block, position: Position, start: Mapping[str, Held]) -> Sent:
        """Have a chain of the block begin from what is held in `start`, and from the latest messages from outside."""
        letters: dict[tuple[str, str], Letter] = {}
        for route in (route for name in block.modules for route in self.graph.routes_to(name)):
            found = self.letter(route, start)
            if found is not None:
                letters[route.sender, found[0]] = found[1]
        heads = tuple((*way, pack_header(letter.header)) for way, letter in letters.items())
        call = ChainCall(self.graph, block, position, self.run, self.seed, self.sequence, heads)
        states = [start[name].state for name in block.modules]
        objects = [*states, *(letter.arrays for letter in letters.values())]
        return Sent(call, objects, self._transport.chain(call, objects))

    def _receive(self, sent: Sent) -> dict[str, Held]:
        """Wait for a chain; where its process dies, have it run again."""
        task = sent.task
        for lost in count(1):
            try:
                results = self._transport.chained(task)
                break
            except ModuleDiedError as error:
                who = f"chain {sent.call.position.chain} (round {sent.call.position.round})"
                self._emit("lost", {"module": who, "doing": "its exchanges", "times": lost, "reason": str(error)})
                if lost >= self.recovery.tries:
                    raise ModuleFailedError(f"{who} died {lost} times: {error}") from error
                task = self._transport.chain(sent.call, sent.objects)
        for name, result in results.items():
            self.seconds[name] += result.answer.seconds
        return {name: held_of(self.graph, name, result) for name, result in results.items()}

    def _adopt(self, candidate: Candidate) -> Candidate:
        """Let the modules themselves go on from where a chain ended."""
        for name, held in candidate.held.items():
            self.held[name] = held
            self.hand_over(name)
            sent = (letter.header.sequence for letter in held.letters.values())
            self.sequence = max(self.sequence, *sent, 0)
        return candidate


def _best_of(candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate with the most evidence; of those that are alike in it, the one with the highest score."""
    most = max(candidate.evidence for candidate in candidates)
    alike = [candidate for candidate in candidates if candidate.evidence > most - ALIKE]
    return max(alike, key=lambda candidate: candidate.score)


def _numbered(position: Position, block: Block, number: int) -> Position:
    """Return the position with the chain's number, unlike that of any chain of a block around."""
    return replace(position, chain=position.chain * (block.chains + 1 + block.moves * PROPOSALS) + number)


def run_chain(call: ChainCall, objects: Sequence[Ref], transport: Transport) -> dict[str, Result]:
    """Go through a block.

    Parameters
    ----------
    call : ChainCall
    objects : sequence
        The call's.
    transport : Transport
        For copies of the block's modules.

    Returns
    -------
    dict of str to Result
        For each of the block's modules its last answer, with the seconds of all its updates.
    """
    modules = call.block.modules
    router = ChainRouter(call.graph, transport, run=call.run, seed=call.seed)
    router.sequence = call.sequence
    transport.start(call.graph)
    states, bodies = objects[: len(modules)], objects[len(modules) :]
    known = {name: state for name, state in zip(modules, states, strict=True) if state is not None}
    router.load(known)
    for (sender, slot, head), arrays in zip(call.heads, bodies, strict=True):
        held = router.held[sender]
        router.held[sender] = replace(held, letters={**held.letters, slot: Letter(unpack_header(head), arrays)})
    router.walk(call.block, call.position)
    results = {}
    for name in modules:
        held = router.held[name]
        letters = [held.letters.get(slot.name) for slot in call.graph.slots(name)]
        heads = tuple(pack_header(letter.header) if letter else None for letter in letters)
        answer = Answer(heads, held.metrics, router.seconds[name])
        messages = tuple(letter.arrays if letter else None for letter in letters)
        results[name] = Result(answer, held.state, held.outputs, messages)
    return results
