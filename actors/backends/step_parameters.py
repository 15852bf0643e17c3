"""Parameters that a step sets and that what it learnt depends on: kept with the module's state.

A step's parameters apply to its update. Those that only control how an update learns
(:attr:`actors.module.Module.learning_parameters`) end with it. The others, such as a likelihood or a pseudo-count,
also determine what the learnt state means. They apply to whatever uses that state (recognition, prediction,
generation, updates that learn nothing) until the next update that learns. A commit contains them as one entry of the
module's state, absent where no step sets any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from actors.coordination.backend import ModuleCall
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import ValidatedParameters, find, make_parameters
from actors.module import Module
from actors.sharing.contract import sharing_problem
from actors.types import State

ENTRY = "__set__"
"""Name of the entry of a state that holds the parameters, as a JSON object."""


class StepParameters:
    """The parameters set by steps that the present state of one module depends on."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def clear(self) -> None:
        """Forget all parameters, with the state that depends on them."""
        self._kept = {}

    def for_call(self, module: Module[Any], call: ModuleCall) -> dict[str, Any]:
        """Return the parameters that apply to a call instead of the module's own ones."""
        learns = call.mode == "update" and _learns(type(module), module.parameters, call.overrides)
        return dict(call.overrides) if learns else {**self._kept, **call.overrides}

    def keep(self, module: Module[Any], applied: Mapping[str, Any]) -> None:
        """Keep the parameters, of those that applied to an update, that its state depends on."""
        self._kept = _lasting(type(module), applied)

    def add_to(self, state: State, where: str) -> State:
        """Return a module's state with the entry that contains the parameters.

        Raises
        ------
        ModuleError
            If a value has no form in JSON.
        """
        if not self._kept:
            return state
        try:
            return {**state, ENTRY: json.dumps(to_jsonable_python(self._kept), sort_keys=True)}
        except PydanticSerializationError as error:
            names = ", ".join(self._kept)
            raise ModuleError(f"{where}: the step's {names} cannot be kept with what it learns: {error}") from error

    def take_from(self, state: State, module: Module[Any]) -> State:
        """Take the parameters from a state; return the module's own part of it.

        Raises
        ------
        ModuleError
            If the entry does not contain parameters of the module.
        """
        self._kept = {}
        self._kept = kept_in(state, type(module), module.parameters)
        return {name: value for name, value in state.items() if name != ENTRY}


def kept_in(state: State, cls: type[Module[Any]], own: Any) -> dict[str, Any]:
    """Return the parameters of steps that a state contains.

    Parameters
    ----------
    state : mapping
        State of a module of type `cls`.
    cls : type
    own : cls.Parameters
        The module's own parameters.

    Raises
    ------
    ModuleError
        If the entry does not contain parameters of the module.
    """
    if ENTRY not in state:
        return {}
    try:
        kept = json.loads(str(state[ENTRY]))
        made = make_parameters(cls, {**ValidatedParameters.of(own), **kept})
        return {name: getattr(made, name) for name in kept}
    except (ValueError, TypeError, RecursionError, AttributeError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise ModuleError(f"the state's parameters of a step are not those of this module: {reason}") from error


def parameters_by_step(cls: type[Module[Any]], own: Any, steps: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the parameters that apply to the updates of a module, each once, in the order of their first use.

    Parameters
    ----------
    cls : type
        The module's type.
    own : cls.Parameters
        The module's own parameters.
    steps : sequence of mapping
        What each step of a round sets for the module, validated.
    """
    applied: list[dict[str, Any]] = [] if steps else [{}]
    kept: dict[str, Any] = {}
    for overrides in (*steps, *steps):  # the first steps of a round follow the last ones of the round before
        if _learns(cls, own, overrides):
            each, kept = dict(overrides), _lasting(cls, overrides)
        else:
            each = {**kept, **overrides}
        if each not in applied:
            applied.append(each)
    return [replace(own, **each) if each else own for each in applied]


def sharing_problems(graph: Graph) -> dict[str, str]:
    """Return, by module, why workers cannot share its rows with the parameters of each of its steps."""
    problems: dict[str, str] = {}
    steps = graph.schedule.leaves()
    for name, spec in graph.modules.items():
        if spec.sharing is None:
            continue
        cls = find(spec.type)
        own = make_parameters(cls, spec.parameters)
        for parameters in parameters_by_step(cls, own, [step.overrides for step in steps if step.module == name]):
            if problem := sharing_problem(cls, parameters):
                problems[name] = f"module {name!r} {problem}"
    return problems


def _learns(cls: type[Module[Any]], own: Any, overrides: Mapping[str, Any]) -> bool:
    """Return whether an update learns: its amount of learning, such as a number of sweeps, is not zero."""
    if not cls.learning_parameters:
        return True
    amount = cls.learning_parameters[0]
    return bool(overrides.get(amount, getattr(own, amount)) != 0)


def _lasting(cls: type[Module[Any]], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a step's parameters that what it learns depends on."""
    return {name: value for name, value in overrides.items() if name not in cls.learning_parameters}
