"""Parameters that a step sets and that what it learnt depends on: kept with the module's state.

A step's parameters apply to its update. Those that only control how an update learns
(:attr:`actors.module.Module.learning_parameters`) end with it. The others, such as a likelihood or a pseudo-count,
also determine what the learnt state means. They apply to whatever uses that state (recognition, prediction,
generation, updates that learn nothing) until the next update that learns. A commit contains them as one entry of the
module's state, absent where no step sets any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from actors.coordination.backend import ModuleCall
from actors.errors import ModuleError
from actors.graph.registry import ValidatedParameters, make_parameters
from actors.module import Module
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
        learns = call.mode == "update"
        if learns and module.learning_parameters:
            amount = module.learning_parameters[0]
            learns = call.overrides.get(amount, getattr(module.parameters, amount)) != 0
        return dict(call.overrides) if learns else {**self._kept, **call.overrides}

    def keep(self, module: Module[Any], applied: Mapping[str, Any]) -> None:
        """Keep the parameters, of those that applied to an update, that its state depends on."""
        self._kept = {name: value for name, value in applied.items() if name not in module.learning_parameters}

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
        if ENTRY not in state:
            return state
        try:
            kept = json.loads(str(state[ENTRY]))
            made = make_parameters(type(module), {**ValidatedParameters.of(module.parameters), **kept})
            self._kept = {name: getattr(made, name) for name in kept}
        except (ValueError, TypeError, RecursionError, AttributeError, ValidationError) as error:
            reason = str(error).partition("\n")[0]
            raise ModuleError(f"the state's parameters of a step are not those of this module: {reason}") from error
        return {name: value for name, value in state.items() if name != ENTRY}
