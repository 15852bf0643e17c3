"""Which class variable a module has, where a model has several: syllables, and above them the words that they form."""

from __future__ import annotations

from collections.abc import Mapping

from actors.graph.graph import Graph
from actors.types import Array

_REGIMES = "regime_posteriors"
"""The port of ``switching_markov`` whose messages are about its regimes, not about its classes."""


def modules_of_regimes(graph: Graph) -> frozenset[str]:
    """Return the modules whose classes are the regimes of a module below, and no clusters of rows."""
    return frozenset(route.receiver for route in graph.routes if route.out_port == _REGIMES)


def generated_classes(graph: Graph, outputs: Mapping[str, Mapping[str, Array]]) -> Array | None:
    """Return the class (N,) of each generated row: the first output ``class`` that is not about regimes."""
    module = module_of_classes(graph, outputs)
    return None if module is None else outputs[module]["class"]


def module_of_classes(graph: Graph, outputs: Mapping[str, Mapping[str, Array]]) -> str | None:
    """Return the first module with an output ``class`` that is not about regimes."""
    above = modules_of_regimes(graph)
    return next((name for name, own in outputs.items() if "class" in own and name not in above), None)
