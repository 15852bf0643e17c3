"""Error messages for connections without a common message kind and for missing inputs, with suggested remedies.

Modules are given as their ports by name. Where no module of the model fits, the built-in types that would fit are
named; they are imported only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from actors.errors import ModuleError
from actors.graph.registry import BUILT_IN, find
from actors.module import Direction, Pass, Port

Pairs = Sequence[tuple[str, str]]
"""Connections, the lower module first."""


def incompatible_ports_message(lower: str, upper: str, ports: Mapping[str, Sequence[Port]], connections: Pairs) -> str:
    """Explain why no message goes from `lower` up to `upper`, and name the modules that would fit either of them.

    Parameters
    ----------
    lower, upper : str
    ports : mapping of str to sequence of Port
        Of every module of the model.
    connections : sequence of (str, str)
        All connections of the model.
    """
    outputs, inputs = _select(ports[lower], "out", "forward"), _select(ports[upper], "in", "forward")
    text = f"{lower} sends {_format_ports(outputs)} upwards, {upper} receives {_format_ports(inputs)} from below"
    if _kinds(_select(ports[upper], "out", "forward")) & _kinds(_select(ports[lower], "in", "forward")):
        return f"{text}; the other way round, {upper} -> {lower}, it would fit"
    others = {name: own for name, own in ports.items() if name not in (lower, upper)}
    receivers = _modules_with(others, "in", "forward", _kinds(outputs))
    senders = _modules_with(others, "out", "forward", _kinds(inputs))
    if outputs:
        names = _format_modules(receivers) or _built_in_types_message("in", "forward", _kinds(outputs))
        text += f"; what {lower} sends goes into {names}"
    if inputs:
        names = _format_modules(senders) or _built_in_types_message("out", "forward", _kinds(inputs))
        text += f"; what {upper} receives comes from {names}"
    between = next((name for name in receivers if name in senders), None)
    if between is None:
        return text
    missing = [pair for pair in ((lower, between), (between, upper)) if pair not in connections]
    if missing:
        return f"{text}: connect {' and '.join(' -> '.join(pair) for pair in missing)}"
    return f"{text}: {lower} -> {between} -> {upper} is connected, so leave {lower} -> {upper} out"


def missing_input_message(name: str, port: Port, ports: Mapping[str, Sequence[Port]], connections: Pairs) -> str:
    """Explain that a required input has no sender, and name the modules of the model that could be one.

    Parameters
    ----------
    name : str
    port : Port
        The input.
    ports : mapping of str to sequence of Port
        Of every module of the model.
    connections : sequence of (str, str)
    """
    text = f"nothing sends {port.kind} to its port {port.name!r}"
    # A sender on the other side of the module would close a cycle.
    closing = {name, *_reachable(name, connections if port.pass_ == "forward" else [(b, a) for a, b in connections])}
    others = {other: own for other, own in ports.items() if other not in closing}
    senders = _modules_with(others, "out", port.pass_, {port.kind})
    if not senders:
        return f"{text}; it comes from {_built_in_types_message('out', port.pass_, {port.kind})}"
    text = f"{text}; it comes from {_format_modules(senders)}"
    if port.pass_ == "forward":
        return f"{text}: connect {next(iter(senders))} -> {name}"
    sent = _kinds(_select(ports[name], "out", "forward"))
    fits = next((other for other in senders if sent & _kinds(_select(ports[other], "in", "forward"))), None)
    return f"{text}: connect {name} -> {fits}" if fits else f"{text}, to which {name} sends nothing that it accepts"


def _select(ports: Iterable[Port], direction: Direction, pass_: Pass) -> list[Port]:
    return [port for port in ports if (port.direction, port.pass_) == (direction, pass_)]


def _kinds(ports: Iterable[Port]) -> set[str]:
    return {port.kind for port in ports}


def _modules_with(
    ports: Mapping[str, Sequence[Port]], direction: Direction, pass_: Pass, kinds: set[str]
) -> dict[str, list[Port]]:
    """Return the modules that have ports of these kinds, with these ports."""
    fitting = {
        name: [port for port in _select(own, direction, pass_) if port.kind in kinds] for name, own in ports.items()
    }
    return {name: selected for name, selected in fitting.items() if selected}


def _built_in_types_message(direction: Direction, pass_: Pass, kinds: set[str]) -> str:
    """Return the text that no module of the model has such a port, with the built-in types that have one."""
    ports: dict[str, Sequence[Port]] = {}
    for name in BUILT_IN:
        try:
            ports[name] = find(name).ports
        except ModuleError:  # a type that cannot be imported here cannot be suggested
            continue
    types = _format_modules(_modules_with(ports, direction, pass_, kinds))
    return f"no module of this model, but {types} of the built-in types" if types else "no module of this model"


def _format_modules(modules: Mapping[str, Sequence[Port]]) -> str:
    return " or ".join(f"{name} ({', '.join(map(_format_port, ports))})" for name, ports in modules.items())


def _format_ports(ports: Iterable[Port]) -> str:
    return " and ".join(map(_format_port, ports)) or "nothing"


def _format_port(port: Port) -> str:
    return f"{port.kind} on port {port.name}"


def _reachable(name: str, connections: Pairs) -> set[str]:
    """Return the modules that are reachable from `name` over connections."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        new = {upper for lower, upper in connections if lower == here} - reached
        reached |= new
        waiting += new
    return reached
