"""What would have fitted: words for connections over which nothing can be said, and for inputs that nobody feeds.

Modules are given as their ports by name. Where no module of the model fits, the built-in types that would are named;
they are looked at only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from actors.errors import ModuleError
from actors.graph.registry import BUILT_IN, find
from actors.module import Direction, Pass, Port

Pairs = Sequence[tuple[str, str]]
"""Connections, the lower module first."""


def misfit(lower: str, upper: str, ports: Mapping[str, Sequence[Port]], connections: Pairs) -> str:
    """Say why nothing goes from `lower` up to `upper`, and which modules would fit either of them.

    Parameters
    ----------
    lower, upper : str
    ports : mapping of str to sequence of Port
        Of every module of the model.
    connections : sequence of (str, str)
        All that are drawn.
    """
    sent, heard = _those(ports[lower], "out", "forward"), _those(ports[upper], "in", "forward")
    said = f"{lower} sends {_spoken(sent)} upwards, {upper} receives {_spoken(heard)} from below"
    if _kinds(_those(ports[upper], "out", "forward")) & _kinds(_those(ports[lower], "in", "forward")):
        return f"{said}; the other way round, {upper} -> {lower}, it would fit"
    others = {name: found for name, found in ports.items() if name not in (lower, upper)}
    takers = _speakers(others, "in", "forward", _kinds(sent))
    senders = _speakers(others, "out", "forward", _kinds(heard))
    if sent:
        who = _listed(takers) or _by_type("in", "forward", _kinds(sent))
        said += f"; what {lower} sends goes into {who}"
    if heard:
        who = _listed(senders) or _by_type("out", "forward", _kinds(heard))
        said += f"; what {upper} receives comes from {who}"
    between = next((name for name in takers if name in senders), None)
    if between is None:
        return said
    drawn = [(lower, between), (between, upper)]
    lacking = " and ".join(" -> ".join(pair) for pair in drawn if pair not in connections)
    if lacking:
        return f"{said}: connect {lacking}"
    return f"{said}: {lower} -> {between} -> {upper} is connected, so leave {lower} -> {upper} out"


def hunger(name: str, port: Port, ports: Mapping[str, Sequence[Port]], connections: Pairs) -> str:
    """Say that nothing comes to a required input, and who of the model could send it.

    Parameters
    ----------
    name : str
    port : Port
        The input.
    ports : mapping of str to sequence of Port
        Of every module of the model.
    connections : sequence of (str, str)
    """
    said = f"nothing sends {port.kind} to its port {port.name!r}"
    # Whoever hears of the module already would close a cycle by being on its other side.
    closing = {name, *_reached(name, connections if port.pass_ == "forward" else [(b, a) for a, b in connections])}
    others = {other: found for other, found in ports.items() if other not in closing}
    senders = _speakers(others, "out", port.pass_, {port.kind})
    if not senders:
        return f"{said}; it comes from {_by_type('out', port.pass_, {port.kind})}"
    said = f"{said}; it comes from {_listed(senders)}"
    if port.pass_ == "forward":
        return f"{said}: connect {next(iter(senders))} -> {name}"
    sent = _kinds(_those(ports[name], "out", "forward"))
    fits = next((other for other in senders if sent & _kinds(_those(ports[other], "in", "forward"))), None)
    return f"{said}: connect {name} -> {fits}" if fits else f"{said}, to which {name} sends nothing that it would take"


def _those(ports: Iterable[Port], direction: Direction, pass_: Pass) -> list[Port]:
    return [port for port in ports if (port.direction, port.pass_) == (direction, pass_)]


def _kinds(ports: Iterable[Port]) -> set[str]:
    return {port.kind for port in ports}


def _speakers(
    ports: Mapping[str, Sequence[Port]], direction: Direction, pass_: Pass, kinds: set[str]
) -> dict[str, list[Port]]:
    """Return who has ports of such kinds, with these."""
    found = {
        name: [port for port in _those(own, direction, pass_) if port.kind in kinds] for name, own in ports.items()
    }
    return {name: fitting for name, fitting in found.items() if fitting}


def _by_type(direction: Direction, pass_: Pass, kinds: set[str]) -> str:
    """Say that no module of the model has such a port, and which built-in types do."""
    own: dict[str, Sequence[Port]] = {}
    for name in BUILT_IN:
        try:
            own[name] = find(name).ports
        except ModuleError:  # what is wrong with it is said to whoever asks for it
            continue
    found = _listed(_speakers(own, direction, pass_, kinds))
    return f"no module of this model, but {found} of the built-in types" if found else "no module of this model"


def _listed(speakers: Mapping[str, Sequence[Port]]) -> str:
    return " or ".join(f"{name} ({', '.join(map(_worded, ports))})" for name, ports in speakers.items())


def _spoken(ports: Iterable[Port]) -> str:
    return " and ".join(map(_worded, ports)) or "nothing"


def _worded(port: Port) -> str:
    return f"{port.kind} on port {port.name}"


def _reached(name: str, connections: Pairs) -> set[str]:
    """Return the modules to which connections lead from `name`, over however many."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        here = ahead.pop()
        new = {upper for lower, upper in connections if lower == here} - found
        found |= new
        ahead += new
    return found
