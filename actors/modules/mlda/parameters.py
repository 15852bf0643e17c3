"""Parameters of the MLDA, and what both of its engines derive from them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from actors.kernels.mlda.row_updates import Settings
from actors.modules.mlda.sampler import MAX_CONCENTRATION, MIN_CONCENTRATION, StartMethod
from actors.modules.mlda.tokens import POSTERIOR_TOKENS

CONCENTRATIONS, ESTIMATED = ("alpha", "beta"), "estimated"
"""Parameters, and keys of the state if they are estimated; and the value that asks for it."""

FIRST_ESTIMATE = 0.1
"""α and β before the first sweep, if they are estimated."""

MAX_CHANGE = 2.0
"""Largest factor by which one calibration changes an exponent."""

Concentration = Annotated[float, Field(ge=MIN_CONCENTRATION, le=MAX_CONCENTRATION, allow_inf_nan=False)]
Engine = Literal["gibbs", "vb"]


@dataclass(frozen=True)
class MLDAParameters:
    """Parameters of :class:`actors.modules.mlda.mlda.MLDA`, which describes them."""

    topics: Annotated[int, Field(ge=1, validation_alias=AliasChoices("topics", "classes"))] = 10
    iterations: Annotated[int, Field(ge=0, validation_alias=AliasChoices("iterations", "itr"))] = 100
    alpha: Concentration | Literal["estimated"] = 0.1
    beta: Concentration | Literal["estimated"] = 0.1
    burn_in: Annotated[int, Field(ge=0)] = 0
    samples: Annotated[int, Field(ge=1)] = 10
    start: StartMethod = "rows"
    restarts: Annotated[int, Field(ge=1)] = 5
    weights: Mapping[str, Annotated[int, Field(ge=1)]] = field(default_factory=dict)
    calibrate: bool = True
    engine: Engine = "gibbs"


def estimated_names(parameters: MLDAParameters) -> list[str]:
    """Return which of the concentrations are estimated."""
    return [name for name in CONCENTRATIONS if getattr(parameters, name) == ESTIMATED]


def concentrations(parameters: MLDAParameters, estimated: Mapping[str, float]) -> Settings:
    """Return α and β: as given, as estimated last, or as a first estimate starts."""
    values = [
        estimated.get(name, FIRST_ESTIMATE) if given == ESTIMATED else float(given)
        for name, given in zip(CONCENTRATIONS, (parameters.alpha, parameters.beta), strict=True)
    ]
    return Settings(values[0], values[1], 1.0)


def current_exponents(
    kinds: Mapping[str, str], learnt: Mapping[str, float], known: Container[str], parameters: MLDAParameters
) -> dict[str, float]:
    """Return the exponents of modalities: as calibrated last (`learnt`), or the first ones.

    Class posteriors that are not `known` start as one observation where there are other modalities, all else with every
    token. `kinds` has the kind of each modality, empty for one without a message.
    """
    exponents = dict.fromkeys(kinds, 1.0)
    if parameters.calibrate:
        for name, kind in kinds.items():
            if kind == "class_posteriors" and len(kinds) > 1 and name not in known:
                exponents[name] = 1.0 / POSTERIOR_TOKENS
        exponents |= {name: value for name, value in learnt.items() if name in exponents}
        exponents |= {name: 1.0 for name in parameters.weights if name in exponents}
    return exponents
